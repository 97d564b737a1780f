"""A run: a folder that holds a search and what it found."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from filelock import FileLock, Timeout
from sqlalchemy.engine import make_url

from lrtune.engine import Choice, RangeTest
from lrtune.errors import InputError
from lrtune.results.verdict import read_verdict
from lrtune.schedule import Schedule
from lrtune.search import frame, load_study, records
from lrtune.search.final import read_finals

FORMAT = 1
LEAST_FREE = 64 << 20  # bytes
VERDICT, FINALS, QUALIFIERS = "verdict.json", "finals.jsonl", "qualifiers.jsonl"


class Run:
    """A folder with ``run.json``, the journal, and the results."""

    def __init__(self, folder: str | Path) -> None:
        """Open a run that exists.

        Raises:
            InputError: if there is none, or a newer lrtune made it.
        """
        self.folder = Path(folder)
        self.settings = _read_settings(self.folder / "run.json")

    @property
    def journal(self) -> Path:
        """Optuna's journal; optuna-dashboard opens it."""
        return self.folder / "journal.log"

    @property
    def storage(self) -> str | Path:
        """Where the study is kept: the journal, or the URL that was given."""
        return self.settings["storage"] or self.journal

    @property
    def choice(self) -> Choice:
        """The pool that trained it.

        Raises:
            InputError: run.json does not say.
        """
        try:
            return Choice.from_json(self.settings["engine"])
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.folder / 'run.json'}: damaged: engine: {error}") from error

    def study(self) -> optuna.Study:
        """The Optuna study, to read."""
        return load_study(self.storage, self.settings["study"])

    def trials(self) -> pd.DataFrame:
        """One row a trial that is over, in the order in which they started."""
        return frame(records(self.study()))

    def finals(self) -> pd.DataFrame:
        """One row a final that is over, see ``lrtune.search.final.read_finals``."""
        return read_finals(self.folder / FINALS)

    def qualifiers(self) -> pd.DataFrame:
        """One row a qualifier that is over, as the finals; judged on validation."""
        return read_finals(self.folder / QUALIFIERS)

    def verdict(self, total: int | None = None) -> dict[str, Any] | None:
        """The verdict on a horizon, the search's own where None; None before there is one."""
        path = self._verdict_path(total or self.settings["horizon"])
        if not path.exists():
            return None
        return read_verdict(path.read_text(encoding="utf-8"), str(path))

    @property
    def horizons(self) -> list[int]:
        """The horizons on which there is a verdict."""
        names = [path.stem.rpartition("-")[2] for path in self.folder.glob("verdict-*.json")]
        others = [int(name) for name in names if name.isdecimal()]
        own = [self.settings["horizon"]] if (self.folder / VERDICT).exists() else []
        return sorted(own + others)

    def write_verdict(self, verdict: dict[str, Any]) -> None:
        """Keep a verdict, and what follows from it."""
        write_json(self._verdict_path(verdict["horizon"]), verdict)
        self.write()

    def _verdict_path(self, horizon: int) -> Path:
        own = horizon == self.settings["horizon"]
        return self.folder / (VERDICT if own else f"verdict-{horizon}.json")

    def best(self) -> Schedule | None:
        """The verdict's winner, or before one the schedule of the best trial, if there is any."""
        found = self._best_json(self.trials())
        return None if found is None else Schedule.from_dict(found["schedule"])

    def write(self) -> None:
        """Write ``trials.parquet``, ``best.json`` and ``report.html``, each whole or not at all."""
        from lrtune.results import report

        trials = self.trials()
        parquet = self.folder / "trials.parquet.part"
        trials.to_parquet(parquet, index=False)
        os.replace(parquet, self.folder / "trials.parquet")
        best = self._best_json(trials)
        if best is not None:
            write_json(self.folder / "best.json", best)
        page, shown = self.folder / "report.html", self._settings_to_show()
        report.write(page, trials, shown, self.verdict(), self.finals())

    def _settings_to_show(self) -> dict[str, Any]:
        """Without the password of a storage: the report is passed on."""
        url = self.settings["storage"]
        if url is None:
            return self.settings
        hidden = make_url(url).render_as_string(hide_password=True)
        command = self.settings["command"].replace(url, hidden)
        return self.settings | {"storage": hidden, "command": command}

    def _best_json(self, trials: pd.DataFrame) -> dict[str, Any] | None:
        """The winner and how sure it is."""
        from lrtune.results.answer import short
        from lrtune.results.summary import beside, best

        if trials.empty:
            return None
        verdict = self.verdict()
        settled = verdict is not None and verdict["answer"]["place"] in ("winner", "tie")
        row = best(trials, self.settings["objective"]["direction"])
        if verdict is not None and settled:
            row = trials[trials["number"] == verdict["families"][0]["trial"]].iloc[0]
        if row is None:
            return None
        seen = {name: beside(row, name) for name in self.settings["metrics"]}
        metrics = {name: value if np.isfinite(value) else None for name, value in seen.items()}
        kept = ("study", "task", "horizon", "unit", "epochs", "objective", "optimizer", "versions")
        return {
            "format": FORMAT,
            "schedule": json.loads(row["schedule"]),
            "resolved": json.loads(row["resolved"]),
            "found": {
                "trial": int(row["number"]),
                "seed": int(row["seed"]),
                "split": "val",
                "metrics": metrics,
            },
            "verdict": None if verdict is None else short(verdict),
            **{name: self.settings[name] for name in kept},
        }


def range_test_json(test: RangeTest) -> dict[str, Any]:
    """A range test as ``run.json`` keeps it and the figure reads it; NaN as null."""

    def curve(values: np.typing.NDArray[np.float64]) -> list[float | None]:
        return [float(v) if np.isfinite(v) else None for v in values]

    suggestion = dict.fromkeys(("base_lr", "steepest", "valley", "max_lr"))
    return {
        **(suggestion if test.suggestion is None else asdict(test.suggestion)),
        "rates": curve(test.rates),
        "losses": [curve(losses) for losses in test.smoothed],
        "message": test.message,
    }


# What a run's settings cannot do without.
REQUIRED: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("task", "objective", "metrics", "optimizer", "versions"), dict),
    **dict.fromkeys(("placement", "engine"), dict),
    **dict.fromkeys(("study", "unit", "device", "command", "owner"), str),
    **dict.fromkeys(("families", "peak_lr", "warmup"), list),
    **dict.fromkeys(("horizon", "validations", "seed"), int),
    "epochs": (int, float),
    "storage": (str, type(None)),
    "range_test": (dict, type(None)),
}


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path.parent}: not a run: it has no run.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a run's settings: {error}") from error
    if not isinstance(settings, dict) or type(settings.get("format")) is not int:
        raise InputError(f"{path}: not a run's settings: it says no format")
    if settings["format"] != FORMAT:
        raise InputError(
            f"{path}: format {settings['format']}: this lrtune reads {FORMAT}: "
            "use the lrtune that made it, or a newer one"
        )
    for name, kind in REQUIRED.items():
        if name not in settings or not isinstance(settings[name], kind):
            raise InputError(f"{path}: damaged: {name} is missing or of another type")
    return settings


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(part, path)


def horizon_of(path: Path) -> int:
    """The horizon that a best.json was found with.

    Raises:
        InputError: a schedule alone, which fits any horizon.
    """
    horizon = json.loads(path.read_text(encoding="utf-8")).get("horizon")
    if type(horizon) is not int:
        raise InputError(f"{path}: says no horizon: give --total, the number of updates")
    return horizon


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be and ours until the end; the lock goes with the process."""
    if str(folder) in ("", ".") or folder.resolve() == Path(folder.resolve().anchor):
        raise InputError(f"out={str(folder)!r}: name a folder for the run alone")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0)
        lock.acquire()
    except Timeout as error:
        raise InputError(f"{folder}: another lrtune is at work here; wait for it") from error
    except (OSError, ValueError) as error:
        why = "it is a file" if folder.is_file() else getattr(error, "strerror", error)
        raise InputError(f"out={str(folder)!r}: cannot be a run's folder: {why}") from error
    try:
        if shutil.disk_usage(folder).free < LEAST_FREE:
            raise InputError(f"{folder}: less than {LEAST_FREE >> 20} MiB free on its disk")
        yield
    finally:
        lock.release()
