"""What lrtune adds to a study, as optuna-dashboard's page meets it: bytes and seconds.

Run: python scripts/bench/dashboard.py [--trials 1000] [--out studies/results/bench/dashboard.json]
Compares `lrtune dashboard` with plain optuna-dashboard on the same trials without our attributes
and note; medians of interleaved repeats, each from a server that has read nothing yet.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
from madeup import madeup
from optuna.trial import create_trial
from optuna_dashboard import wsgi

import lrtune
from lrtune.reports.dashboard import app_of, publish, server_of
from lrtune.search import frame, records
from lrtune.search.storage import START
from lrtune.search.study import open_storage

TRAINED = 50  # made-up trials; there are as many copies of them as it takes
PAGE = ("/api/meta", "/api/studies", "/api/studies/0?after=0")


def copied(study: optuna.Study, path: Path, times: int, bare: bool) -> optuna.Study:
    """The trials of a study in a journal of their own; bare of all but values and reports."""
    copy = optuna.create_study(
        storage=open_storage(path), study_name=study.study_name, direction=study.direction
    )
    trials = study.get_trials(deepcopy=False)
    for index, trial in enumerate(trials * times):
        start = {START: {**trial.user_attrs[START], "index": index}}
        copy.add_trial(
            create_trial(
                state=trial.state,
                value=trial.value,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={} if bare else {**trial.user_attrs, **start},
            )
        )
    return copy


def asked(base: str, paths: tuple[str, ...]) -> tuple[int, float]:
    """Bytes and seconds of these answers."""
    start, size = time.perf_counter(), 0
    for path in paths:
        with urllib.request.urlopen(base + path) as answer:
            size += len(answer.read())
    return size, time.perf_counter() - start


def page_and_poll(app: Any, trials: int) -> dict[str, tuple[int, float]]:
    with server_of(app, 0, 0) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        base = f"http://127.0.0.1:{server.server_port}"
        found = {"page": asked(base, PAGE)}
        found["poll"] = asked(base, (f"/api/studies/0?after={trials}",))
        server.shutdown()
        serving.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        run = madeup(Path(folder) / "run", TRAINED, stopping=lrtune.Stopping("none"))
        paths = {name: Path(folder) / f"{name}.log" for name in ("lrtune", "plain")}
        times = arguments.trials // TRAINED
        study = copied(run.study(), paths["lrtune"], times, bare=False)
        copied(run.study(), paths["plain"], times, bare=True)
        trials, page = frame(records(study)), run.folder / "report.html"
        publish(study, trials, run.settings, run.verdict(), page)
        reports = [len(trial.intermediate_values) for trial in study.get_trials(deepcopy=False)]
        seen: dict[str, list[dict[str, tuple[int, float]]]] = {"lrtune": [], "plain": []}
        for _ in range(arguments.repeats):
            ours = app_of(open_storage(paths["lrtune"]), {study.study_name: "cross-entropy"})
            seen["lrtune"].append(page_and_poll(ours, len(reports)))
            seen["plain"].append(page_and_poll(wsgi(open_storage(paths["plain"])), len(reports)))
    rows: dict[str, Any] = {}
    for call in ("page", "poll"):
        for place, what in enumerate(("bytes", "seconds")):
            medians = {
                name: statistics.median(one[call][place] for one in many)
                for name, many in seen.items()
            }
            rows[f"{call} {what}"] = {**medians, "ratio": medians["lrtune"] / medians["plain"]}
    found = {
        "trials": len(reports),
        "reports a trial": statistics.mean(reports),
        **rows,
        "repeats": arguments.repeats,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("optuna", "optuna-dashboard")},
    }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
