"""The command line: a thin coat over the library."""

import atexit
import gc
import inspect
import io
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable
from functools import partial, wraps
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic.fields import FieldInfo
from typer.exceptions import TyperException

from lrtune.cli.console import console_of, copyable, harmless, named, print_table, say, sparkline
from lrtune.errors import InputError, Stopped
from lrtune.files import shown
from lrtune.format import Table
from lrtune.run.study_file import CLUSTER, StudyFile, read_study
from lrtune.tasks.options import REPEATED, TaskOptions, flag, plain, validate

if TYPE_CHECKING:
    from lrtune.schedule import Knob

WHAT = "a data set's name, a folder of images, a table, a text, file.py:function"
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(help="a folder that `lrtune search` made")]
TaskOrStudy = Annotated[str, typer.Argument(help=f"{WHAT}, a study file (.toml)", metavar="TASK")]
AnotherHorizon = Annotated[int | None, typer.Option(help="updates, of another horizon")]
Figure = Annotated[Path | None, typer.Option(help="a figure: an .html file")]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="also write the finalists for TensorBoard")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="print the result alone")]
Json = Annotated[
    bool, typer.Option("--json", help="one JSON object per line on stdout, see lrtune guide events")
]
Command = TypeVar("Command", bound=Callable[..., None])

# Which fields of a study file are options of which command.
OF_A_GUESS = (*TaskOptions.model_fields, "task", "families", "peak_lr", "warmup", "out", "device")
OF_A_RANGE_TEST = [n for n in (*TaskOptions.model_fields, "device") if n not in ("epochs", "ema")]
OF_A_CONFIRMATION = ("baseline", "margin", "tensorboard", "slots", "device", *CLUSTER)
GUIDES = Path(__file__).parents[1] / "guides"
INTERRUPTED = 130  # what typer returns after Ctrl-C
FOUND = 3  # doctor: something is wrong with what was looked at


def main() -> None:
    """Run a command; exit code 2 for the user's mistakes, 130 after Ctrl-C, 1 for ours.

    1 too where the machine has no more memory or disk, the head of a cluster is gone, another
    session of the run has taken over, or code of the user's calls sys.exit();
    doctor ends with 3 where it finds something wrong.
    """
    atexit.register(gc.freeze)  # else the end waits for a search through all that torch loaded
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ▁▂▃ shows ???, not an error
    try:
        code = app(prog_name="lrtune", standalone_mode=False)
    except (InputError, TyperException) as error:
        message = error.format_message() if isinstance(error, TyperException) else str(error)
        code = _fail(message, 2)
    except Stopped as error:
        code = _fail(str(error), 1)
    except ImportError as error:  # of an installation that is not whole
        if (error.name or "lrtune").startswith("lrtune"):
            raise
        code = _fail(f"{error.name} cannot be imported ({error}): pip install it again", 1)
    except SystemExit as error:  # of a loss or a data set; ours return their code
        *_, last = traceback.extract_tb(error.__traceback__)
        where = f"{last.filename}, line {last.lineno}"
        code = _fail(f"{where}: sys.exit({error.code!r}) ended the search; what ran is kept", 1)
    except OSError as error:  # a full disk, say: neither the user's mistake nor a bug
        code = _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except Exception as error:
        from lrtune.engine.device_task import (
            is_out_of_memory,  # brings torch, as whoever raised it did
        )

        if not is_out_of_memory(error):
            raise
        code = _fail(
            f"out of memory: {str(error)[:200]}: the same command again goes on where a search "
            "stopped; fewer --slots or a smaller --batch-size need less",
            1,
        )
    if code == INTERRUPTED:
        _fail("stopped; a search goes on from here with the same command", code)
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    print("lrtune:", harmless(" ".join(message.split())), file=sys.stderr)
    return code


def examples(*lines: str) -> str:
    r"""What a command's help ends with; \b keeps the lines apart."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def with_options(names: Iterable[str]) -> Callable[[Command], Command]:
    """Give a command an option for each of these keys of a study file.

    The command gets those that were typed as ``**given``. A key of several values is typed with
    commas between, or once per value where it is ``REPEATED``.
    """
    fields = {name: StudyFile.model_fields[name] for name in names}

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**typed: Any) -> None:
            values = {name: typed.pop(name) for name in fields}
            given = {name: value for name, value in values.items() if value is not None}
            command(**typed, **{n: _parsed(n, value, fields[n]) for n, value in given.items()})

        own = [p for p in inspect.signature(command).parameters.values() if p.kind != p.VAR_KEYWORD]
        options = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field)
            )
            for name, field in fields.items()
        ]
        run.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
        return run  # type: ignore[return-value]

    return decorate


def _option(name: str, field: FieldInfo) -> Any:
    kind = plain(field.annotation)
    typed = kind if kind in (bool, int, float) else str
    if field.json_schema_extra == REPEATED:
        typed = list[str]
    default = field.get_default()
    text = ",".join(map(str, default)) if isinstance(default, tuple) else default
    shown = f" [{text}]" if type(default) in (str, int, float, tuple) else ""
    return Annotated[typed | None, typer.Option(flag(name), help=f"{field.description}{shown}")]


def _parsed(name: str, value: Any, field: FieldInfo) -> Any:
    """A value as the study file has it."""
    kind = plain(field.annotation)
    if kind == list[str] and isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    if kind == tuple[float, float]:
        try:
            low, high = (float(part) for part in value.split(","))
        except ValueError as error:
            must = "must be two numbers with a comma between, such as 0.001,0.3"
            raise InputError(f"{flag(name)} {must} (got {value!r})") from error
        return [low, high]
    return value


def _study(what: str, given: dict[str, Any]) -> StudyFile:
    """A task by its name, or a study file, and the options that were typed."""
    keys = read_study(Path(what)) if what.endswith(".toml") else {"task": what}
    return validate(StudyFile, keys | given, what, typed=given)


def _command() -> str:
    return shlex.join(["lrtune", *sys.argv[1:]])


@app.callback(invoke_without_command=True)
def lrtune(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Which learning-rate schedule wins on your task, and by how much."""
    if version:
        print(f"lrtune {version_of('lrtune')}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    epilog=examples(
        "lrtune search digits",
        "lrtune search sales.csv --target price --budget 20",
        "lrtune search studies/digits.toml --time 10m --families cosine,wsd,one_cycle",
    )
)
@with_options(StudyFile.model_fields)
def search(what: TaskOrStudy, quiet: Quiet = False, json: Json = False, **given: Any) -> None:
    """Find the learning-rate schedule that wins on a task.

    The same command goes on where a search stopped.
    """
    from lrtune.cli.events import listening
    from lrtune.run.tune import search

    with listening(quiet, json) as listener:
        search(_study(what, given), listener, _command())


@app.command(
    epilog=examples("lrtune guess digits", "lrtune guess sales.csv --families cosine,linear")
)
@with_options(OF_A_GUESS)
def guess(what: TaskOrStudy, **given: Any) -> None:
    """Recommend a schedule in seconds, without a search.

    It rests on a range test and on what other tasks taught.
    """
    from lrtune.export import export
    from lrtune.run.guess import cost, guess
    from lrtune.run.study_file import load
    from lrtune.verdict.best import read_best
    from lrtune.verdict.recommendation import described

    console, study = console_of(), _study(what, given)
    task = load(study)
    say(console, f"{named(task.name)}: {named(task.model_name)}, {task.optimizer_name}")
    for note in task.notes:
        say(console, f"  {note}")
    path = guess(task, study, lambda line: say(console, line))
    (schedule, best), costs = read_best(path), cost()
    assert best is not None
    say(console, f"guess: {described(schedule, task.horizon)}")
    say(
        console,
        f"such guesses end within {costs['half']:g} % of the best of 160 schedules on half of "
        f"{costs['tasks']} recorded tasks, within {costs['nine_of_ten']:g} % on nine of ten",
    )
    print("\n" + best.comments + export(schedule, to="torch", total=task.horizon))
    copyable(console, f"wrote {shlex.quote(str(path))}; lrtune search tries it first")


@app.command(epilog=examples("lrtune guide data"))
def guide(
    name: Annotated[
        str | None, typer.Argument(help="one guide; all their titles if not given")
    ] = None,
) -> None:
    """Read a guide, or list them."""
    from rich.markdown import Markdown

    from lrtune.errors import nearest

    guides = {path.stem: path.read_text("utf-8") for path in sorted(GUIDES.glob("*.md"))}
    console = console_of()
    if name is None:
        for stem, text in guides.items():
            say(console, f"{stem:<9} {text.splitlines()[0].partition(': ')[2]}")
    elif name not in guides:
        raise InputError(f"guide {name!r}: no such guide{nearest(name, guides)}")
    elif console.is_terminal:
        console.print(Markdown(guides[name]))
    else:
        print(guides[name], end="")


@app.command()
def families(
    name: Annotated[str | None, typer.Argument(help="one family; all of them if not given")] = None,
) -> None:
    """List the schedule families, or the knobs of one."""
    from lrtune.errors import nearest
    from lrtune.schedule import FAMILIES

    console = console_of()
    if name is None:
        heads = ["family", "shape", "knobs", "source"]
        rows: list[tuple[object, ...]] = [
            (family.name, family.doc, ", ".join(knob.name for knob in family.knobs), family.source)
            for family in FAMILIES.values()
        ]
        print_table(console, Table(heads, rows, numeric=len(heads)))
        return
    if name not in FAMILIES:
        raise InputError(f"family {name!r}: no such family{nearest(name, FAMILIES)}")
    family = FAMILIES[name]
    say(console, f"{family.name}: {family.doc}")
    loop = "closed loop: follows the validation metric" if family.closed_loop else "open loop"
    warmup = "takes a warmup" if family.takes_warmup else "takes no warmup"
    say(console, f"torch: {family.torch}   source: {family.source}   {loop}, {warmup}")
    heads = ["knob", "default", "searched", "admissible", "what"]
    rows = [
        (knob.name, "-" if knob.default is None else knob.default, *_ranges(knob), knob.doc)
        for knob in (*family.knobs, *family.optional)
    ]
    if rows:
        print_table(console, Table(heads, rows, numeric=len(heads)))
    if family.optional:
        together = " and ".join(knob.name for knob in family.optional)
        say(console, f"{together}: together or not at all; searched with --cycle-momentum")


def _ranges(knob: "Knob") -> tuple[str, str]:
    """What is searched, and what is admissible."""
    if knob.scale in ("choice", "schedules", "function"):
        words = ", ".join(knob.choices) or "-"
        return words, words
    many = f", {knob.length} numbers" if knob.length > 1 else ""
    low, high = knob.valid
    return f"{knob.low:g} to {knob.high:g}, {knob.scale}{many}", f"{low:g} to {high:g}"


@app.command(epilog=examples("lrtune preview cosine:warmup=0.1 wsd --total 1000"))
def preview(
    schedules: Annotated[
        list[str],
        typer.Argument(help="cosine, cosine:peak_lr=0.1,warmup=0.05, or a best.json; one or more"),
    ],
    total: Annotated[int, typer.Option(help="updates")] = 1000,
) -> None:
    """Draw schedules."""
    from lrtune.schedule import load, parse
    from lrtune.verdict.recommendation import described

    drawn = [load(text) if text.endswith(".json") else parse(text) for text in schedules]
    console = console_of()
    for schedule in drawn:
        closed = schedule.closed_loop
        curve = schedule.controller(total).rates if closed else schedule.rates(total)
        say(console, f"{sparkline(curve.tolist())}  {described(schedule, total)}")
    if names := ", ".join(dict.fromkeys(s.family for s in drawn if s.closed_loop)):
        say(console, f"{names}: drawn as if the validation metric never let it change the rate")


@app.command()
@with_options(OF_A_RANGE_TEST)
def range_test(
    task: Annotated[str, typer.Argument(help=WHAT)],
    low: Annotated[float, typer.Option(help="first rate")] = 1e-6,
    high: Annotated[float, typer.Option(help="last rate")] = 10.0,
    updates: Annotated[int, typer.Option(help="length of the sweep")] = 240,
    seeds: Annotated[int, typer.Option(help="how many sweeps")] = 3,
    out: Figure = None,
    **given: Any,
) -> None:
    """Find the rates that train at all: a sweep from low to high."""
    from lrtune.cli.result import print_range_test
    from lrtune.engine import range_test as sweep
    from lrtune.engine.features import with_features
    from lrtune.run.run_json import range_test_facts
    from lrtune.run.study_file import engine_of, load

    study = validate(StudyFile, {"task": task} | given, task, typed=given)
    device = engine_of(study).devices[0]
    trained, _ = with_features(load(study), device, partial(say, console_of()))
    test = sweep(
        trained,
        low=low,
        high=high,
        updates=updates,
        seeds=range(seeds),
        device=device,
        slots=1,  # on one device one after the other is as quick
    )
    print_range_test(test, console_of())
    if out is not None:
        from lrtune.reports import figures, plot_style

        print(harmless(plot_style.save(figures.range_test(range_test_facts(test)), out)))


@app.command(epilog=examples("lrtune confirm runs/digits-mlp-sgd-862 --budget 20"))
@with_options(OF_A_CONFIRMATION)
def confirm(
    run: RunFolder,
    budget: Annotated[
        float | None, typer.Option(help="whole trainings, more than there are [20]")
    ] = None,
    total: AnotherHorizon = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="run code that run.json names outside of this folder")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
    **given: Any,
) -> None:
    """Train the best schedules again on fresh seeds: the verdict."""
    from lrtune.cli.events import listening
    from lrtune.run.confirm import confirm_study

    with listening(quiet, json) as listener:
        confirm_study(
            run, given, listener, total=total, trainings=budget, command=_command(), trust=trust
        )


@app.command(epilog=examples("lrtune show runs/digits-mlp-sgd-862 --total 5000"))
@with_options(("margin",))
def show(
    run: RunFolder,
    total: AnotherHorizon = None,
    json: Annotated[
        bool, typer.Option("--json", help="what best.json and verdict.json hold, as JSON")
    ] = False,
    **given: Any,
) -> None:
    """Print the result again, or the verdict on another horizon."""
    from lrtune.cli.result import show, show_json, show_verdict

    if json and (given or total is not None):
        raise InputError("--json: shows the files of the run: leave out --total and --margin")
    if json:
        show_json(run)
    elif given or total is not None:
        show_verdict(run, total, **given)
    else:
        show(run)


@app.command(epilog=examples("lrtune compare runs/ --out compare.parquet"))
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="runs with a verdict, verdicts, or folders of them", metavar="RUN"),
    ],
    out: Annotated[Path | None, typer.Option(help="the whole table: a .parquet file")] = None,
) -> None:
    """Compare schedules across the verdicts of several runs."""
    from lrtune.cli.result import print_comparison
    from lrtune.reports.compare import find_verdicts, table

    console, rows = console_of(), table(find_verdicts(runs))
    print_comparison(rows, console)
    if out is not None:
        _write(out, rows.to_parquet(index=False))
        copyable(console, f"wrote {out}")


def _write(out: Path, content: bytes) -> None:
    path = out.resolve()
    in_run = (path.parent / "run.json").exists()
    if in_run and path.exists() and path.suffix not in (".py", ".csv"):
        raise InputError(f"out={str(out)!r}: a file of the run: give another file")
    try:
        out.write_bytes(content)
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error


@app.command()
def report(run: RunFolder, tensorboard: Tensorboard = False) -> None:
    """Write the files of a run's results again."""
    from lrtune.run.folder import Run, locked_if_free

    opened = Run(run)
    with locked_if_free(opened.folder):
        events = opened.write_tensorboard() if tensorboard else None
        opened.write()
    print(harmless(f"wrote {shown(opened.folder / 'report.html')}"))
    if events is not None:
        print(harmless(f"wrote {events}: tensorboard --logdir {shlex.quote(str(events))}"))
    elif tensorboard:
        print("nothing for TensorBoard: no trial came to a value")


@app.command()
def dashboard(
    run: RunFolder,
    port: Annotated[
        int | None, typer.Option(help="on this machine alone; 0: any that is free [8080 or any]")
    ] = None,
) -> None:
    """Serve the run's study in optuna-dashboard; Ctrl-C ends it."""
    from lrtune.reports.dashboard import serve
    from lrtune.run.folder import Run, locked_if_free

    opened = Run(run)
    with locked_if_free(opened.folder):
        pass  # a search may go on beside it
    serve(opened.storage, opened.settings.study, opened.settings.objective, port)


@app.command(epilog=examples("lrtune export runs/digits-mlp-sgd-862 --to keras --out lr.py"))
def export(
    best: Annotated[
        Path,
        typer.Argument(
            help="a run's folder, a best.json, or a schedule's own JSON", metavar="RUN|FILE"
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="torch, lightning, huggingface, timm, keras, optax: source code; csv, json: rates",
            metavar="TARGET",
        ),
    ] = "torch",
    total: Annotated[int | None, typer.Option(help="updates; best.json's own if not given")] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="of a closed loop: the rates that the trial had")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="a file; the terminal if not given")] = None,
) -> None:
    """Write a schedule as source code, or as a table of rates.

    The code needs nothing but the framework it is for.
    """
    from lrtune.export import TABLES
    from lrtune.export import export as text_of
    from lrtune.verdict.best import best_in, read_best, replayed

    best = best_in(best)
    if out is not None and out.exists() and out.samefile(best):
        raise InputError(f"out={str(out)!r}: is the schedule itself: give another file")
    schedule, document = read_best(best)
    if replay:
        schedule = replayed(best)
    if total is None:
        if document is None:
            raise InputError(f"{best}: says no horizon: give --total, the number of updates")
        total = document.horizon
    optimizer = None if document is None else document.found_optimizer
    text = text_of(schedule, to=to, total=total, optimizer=optimizer)
    if document is not None and to not in TABLES:
        text = document.comments + text
    if out is None:
        print(text, end="")
        return
    _write(out, text.encode())
    print(harmless(f"wrote {out}"))


@app.command(epilog=examples("lrtune doctor trainer_state.json", "lrtune doctor last.ckpt"))
def doctor(
    what: Annotated[
        Path,
        typer.Argument(
            help="trainer_state.json, CSV, JSON lines, TensorBoard events, a checkpoint; a folder",
            metavar="LOG|CHECKPOINT",
        ),
    ],
    total: Annotated[int | None, typer.Option(help="updates of the run, if not in there")] = None,
) -> None:
    """Say what is wrong with the learning rates of a training.

    The exit code is 3 if something is.
    """
    from lrtune.cli.result import print_diagnoses
    from lrtune.doctor import examine

    if print_diagnoses(examine(what, total=total), console_of()):
        raise typer.Exit(FOUND)
