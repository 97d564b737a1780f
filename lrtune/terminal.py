"""What the commands print."""

import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Family, Knob

if TYPE_CHECKING:  # these bring torch and Optuna, which most commands do without
    from pandas import DataFrame

    from lrtune.config import StudyFile
    from lrtune.engine import RangeTest
    from lrtune.run import Run

BLOCKS = " ▁▂▃▄▅▆▇█"
TOP = 8  # families in the table at the end


def console_of() -> Console:
    """Where commands print."""
    return Console(highlight=False, markup=False)  # names are the user's, and never markup


def search_in_terminal(study: "StudyFile", command: str) -> None:
    """Run the search that ``study`` asks for and show how it goes and what came out."""
    import optuna

    from lrtune.config import load, parse_time, plan_of, stopping
    from lrtune.confirmation import confirm, finalists_of
    from lrtune.display import Display, FinalsDisplay
    from lrtune.results.quickest import check_target
    from lrtune.search import SEARCHABLE, Space
    from lrtune.search.prior import published
    from lrtune.search.race import ROUND
    from lrtune.tuning import tune

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = console_of()
    names = tuple(SEARCHABLE if study.families is None else study.families)
    Space(names)  # looks at them before anything is said
    trials, seconds = study.trials, None if study.time is None else parse_time(study.time)
    if trials is None and study.updates is None and seconds is None:
        trials = ROUND * len(names)
        console.print(f"budget: {trials} trials, {ROUND} a family (--trials, --updates, --time)")
    task = load(study)
    console.print(
        f"{task.name}: {task.train.samples:,} training and {task.val.samples:,} "
        f"validation samples, model {task.model_name}, {task.optimizer}, "
        f"{task.horizon:,} updates a trial",
        soft_wrap=True,
    )
    for note in task.notes:
        console.print(f"  {note}", soft_wrap=True)
    plan = plan_of(
        task.objective.name, study.seeds, study.max_seeds, study.indifference, study.goal
    )
    if plan.target is not None:
        check_target(plan.target, [metric.name for metric in task.metrics])
    with Display(console, task.objective.name) as display:
        run = tune(
            task,
            trials=trials,
            updates=study.updates,
            seconds=seconds,
            families=names,
            peak_lr=study.peak_lr,
            warmup=study.warmup,
            seed=study.seed,
            out=study.out,
            storage=study.storage,
            device=study.device,
            engine=study.engine,
            slots=study.slots,
            **stopping(study),
            prior=None if study.no_prior else published(),
            asked=study.model_dump(exclude_unset=True),
            command=command,
            watch=display,
            tell=console.print,
        )
    if not study.no_confirm and finalists_of(run):
        with FinalsDisplay(console) as finals:
            confirm(run, task, plan=plan, device=study.device, watch=finals, tell=console.print)
    print_result(run, console)


def print_result(run: "Run", console: Console) -> None:
    """Who won, by how much over whom, and where it is written."""
    from lrtune.results.early import spared
    from lrtune.results.summary import by_end, saved

    best, trials, verdict = run.best(), run.trials(), run.verdict()
    if verdict is not None:
        from lrtune.verdicts import print_verdict

        print_verdict(verdict, console)
    elif best is not None:
        _print_ranking(run, trials, console)
    if best is None:
        console.print("no trial reached the end: there is no winner; the report says why")
    else:
        tie = verdict is not None and verdict["answer"]["place"] == "tie"
        console.print(f"{'first of the tie' if tie else 'winner'}: {best}", soft_wrap=True)
        console.print(
            f"  its torch code: lrtune export {shlex.quote(str(run.folder / 'best.json'))}",
            soft_wrap=True,
        )
    ended = [f"{row['trials']} {row['end']}" for row in by_end(trials).to_dict("records")]
    console.print(f"trials: {', '.join(ended)}", soft_wrap=True)
    for said in (spared(trials, run.settings["horizon"]), saved(trials)):
        if said:
            console.print(said, soft_wrap=True)
    console.print(f"  report:         {run.folder / 'report.html'}", soft_wrap=True)


def _print_ranking(run: "Run", trials: "DataFrame", console: Console) -> None:
    """The families as the search alone ranks them."""
    from lrtune.results.summary import by_family

    objective = run.settings["objective"]
    families = by_family(trials, objective["direction"])
    table = Table(title=f"validation {objective['name']} by family, one seed", title_justify="left")
    shown = ("best", "median", "trials", "pruned", "diverged")
    for name in ("family", *shown, "best peak_lr"):
        table.add_column(name, justify="left" if name == "family" else "right")
    for row in families.head(TOP).to_dict("records"):
        figures = (f"{row[name]:.4g}" for name in shown)
        table.add_row(row["family"], *figures, f"{row['peak_lr']:.3g}")
    console.print(table)
    if len(families) > TOP:
        console.print(f"and {len(families) - TOP} families more: see the report")


def print_families() -> None:
    """The table of families."""
    table = Table()
    for name in ("family", "shape", "knobs", "source"):
        table.add_column(name, overflow="fold", no_wrap=name == "family")
    for family in FAMILIES.values():
        knobs = ", ".join(knob.name for knob in family.knobs)
        table.add_row(family.name, family.doc, knobs, family.source)
    console_of().print(table)


def print_family(family: Family) -> None:
    """One family with its knobs and their ranges."""
    console = console_of()
    console.print(f"{family.name}: {family.doc}")
    loop = "closed loop: follows the validation metric" if family.closed_loop else "open loop"
    warmup = "takes a warmup" if family.takes_warmup else "takes no warmup"
    console.print(f"torch: {family.torch}   source: {family.source}   {loop}, {warmup}")
    if family.knobs:
        table = Table()
        for name in ("knob", "default", "searched", "admissible", "what"):
            table.add_column(name, overflow="fold", no_wrap=name == "knob")
        for knob in family.knobs:
            default = "-" if knob.default is None else str(knob.default)
            table.add_row(knob.name, default, *_ranges(knob), knob.doc)
        console.print(table)


def _ranges(knob: Knob) -> tuple[str, str]:
    if knob.scale == "choice":
        return ", ".join(knob.choices), ", ".join(knob.choices)
    if knob.scale in ("schedules", "function"):
        return "-", "-"
    many = f", {knob.length} numbers" if knob.length > 1 else ""
    low, high = knob.valid
    return f"{knob.low:g} to {knob.high:g}, {knob.scale}{many}", f"{low:g} to {high:g}"


def print_range_test(test: "RangeTest") -> None:
    """The suggestions, or why there are none, over the curve of the first seed."""
    import numpy as np

    shown = test.smoothed[0][np.isfinite(test.smoothed[0])]
    if len(shown):
        print(
            draw(
                shown.tolist(),
                "loss, rates on a log scale",
                test.rates[0],
                test.rates[len(shown) - 1],
            )
        )
    if test.suggestion is None:
        print(f"no suggestion: {test.message}")
        return
    found = test.suggestion
    print(f"base_lr   {found.base_lr:.3g}   the loss begins to fall")
    print(f"valley    {found.valley:.3g}   half-way down the longest fall")
    print(f"steepest  {found.steepest:.3g}   the loss falls fastest")
    print(f"max_lr    {found.max_lr:.3g}   the loss begins to rise for good")


def draw(
    values: Sequence[float],
    what: str,
    first: float,
    last: float,
    width: int = 72,
    height: int = 12,
) -> str:
    """A curve in block characters.

    Args:
        values: positive, at even distances.
        what: is drawn.
        first: label under the first value.
        last: label under the last value.
        width: columns.
        height: rows.
    """
    top = max(values)
    columns = [values[i * len(values) // width] for i in range(width)]
    levels = [round(value / top * height * 8) for value in columns]
    lines = [f"{what:>{10 + len(what)}}"]
    for row in reversed(range(height)):
        cells = "".join(BLOCKS[min(8, max(0, level - row * 8))] for level in levels)
        label = {height - 1: f"{top:.3g}", 0: "0"}.get(row, "")
        lines.append(f"{label:>9} ┤{cells}")
    ends = f"{first:<{width // 2}.4g}{last:>{width - width // 2}.4g}"
    return "\n".join([*lines, f"{'':10}└{'─' * width}", f"{'':11}{ends}"])


def serve_dashboard(run: "Run", port: int) -> None:
    """Serve the run's study on loopback until Ctrl-C; optuna-dashboard has no authentication."""
    run.study()  # a storage that cannot be opened is an error here, not a page that stays empty
    with socket.socket() as probe:
        # The server sets this too: a port that was just in use may be taken again at once.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port={port}: cannot be had ({error}): give another --port"
            ) from error
        port = probe.getsockname()[1]
    storage = run.storage.resolve() if isinstance(run.storage, Path) else run.storage
    beside = Path(sys.executable).with_name("optuna-dashboard")
    program = str(beside) if beside.exists() else shutil.which("optuna-dashboard")
    if program is None:
        raise InputError("optuna-dashboard is not installed here: pip install optuna-dashboard")
    for number in (
        signal.SIGTERM,
        getattr(signal, "SIGHUP", signal.SIGTERM),
    ):  # the server must not outlive this process
        signal.signal(number, signal.default_int_handler)
    server = subprocess.Popen(
        [program, str(storage), "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while server.poll() is None and not _answers(port):
            time.sleep(0.1)
        if server.poll() is None:
            print(f"http://127.0.0.1:{port}/   Ctrl-C ends it", flush=True)
        if server.wait():
            raise RuntimeError(f"optuna-dashboard ended with exit code {server.returncode}")
    except KeyboardInterrupt:
        pass
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
