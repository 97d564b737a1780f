"""The command line: a thin coat over the library."""

import io
import shlex
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from lrtune.cli.console import harmless
from lrtune.cli.options import with_options
from lrtune.errors import InputError
from lrtune.run.study_file import StudyFile, read_study
from lrtune.tasks.options import TaskOptions, validate

WHAT = "a data set's name, a folder of images, a table, a text, file.py:function"
app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(help="a folder that `lrtune search` made")]
TaskOrStudy = Annotated[str, typer.Argument(help=f"{WHAT}, a study file (.toml)", metavar="TASK")]
AnotherHorizon = Annotated[int | None, typer.Option(help="updates, of another horizon")]
Picture = Annotated[Path | None, typer.Option(help="a figure: an .html file")]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="also write the finalists for TensorBoard")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="print the result alone")]
Json = Annotated[
    bool, typer.Option("--json", help="one JSON object per line on stdout, see the README")
]


def examples(*lines: str) -> str:
    r"""What a command's help ends with; \b keeps the lines apart."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


# Which fields of a study file are options of which command.
OF_A_GUESS = (*TaskOptions.model_fields, "task", "families", "peak_lr", "warmup", "out", "device")
OF_A_RANGE_TEST = [n for n in (*TaskOptions.model_fields, "device") if n not in ("epochs", "ema")]
OF_FINALS = ("baseline", "margin", "goal", "device", "tensorboard")
INTERRUPTED = 130  # what typer returns after Ctrl-C
FOUND = 3  # doctor: something is wrong with what was looked at


def main() -> None:
    """Run a command; exit code 2 for the user's mistakes, 130 after Ctrl-C, 1 for ours.

    1 too where the machine has no more memory or disk;
    doctor ends with 3 where it finds something wrong.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ▁▂▃ shows ???, not an error
    try:
        code = app(prog_name="lrtune", standalone_mode=False)
    except (InputError, TyperException) as error:
        said = error.format_message() if isinstance(error, TyperException) else str(error)
        code = _fail(said, 2)
    except OSError as error:  # a full disk, say: neither the user's mistake nor a bug
        code = _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    except Exception as error:
        code = _fail(_no_room(error), 1)
    if code == INTERRUPTED:
        _fail("stopped; a search goes on from here with the same command", code)
    sys.exit(code)


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


def _say(line: str) -> None:
    print(harmless(line))


def _no_room(error: Exception) -> str:
    """What to say where memory has run out; any other error goes on."""
    from lrtune.engine.device_task import is_out_of_memory  # brings torch, which raised it

    if not is_out_of_memory(error):
        raise error
    said = " ".join(str(error).split())[:200]
    return (
        f"out of memory: {said}: the same command again goes on where a search stopped; "
        "fewer --slots or a smaller --batch-size need less"
    )


def _fail(message: str, code: int) -> int:
    print("lrtune:", harmless(" ".join(message.split())), file=sys.stderr)
    return code


@app.command(
    epilog=examples(
        "lrtune search digits",
        "lrtune search sales.csv --target price --budget 20",
        "lrtune search studies/digits.toml --time 10m --families cosine,wsd,one_cycle",
    )
)
@with_options(StudyFile, StudyFile.model_fields)
def search(what: TaskOrStudy, quiet: Quiet = False, json: Json = False, **given: Any) -> None:
    """Find the learning-rate schedule that wins on a task.

    The same command goes on where a search stopped.
    """
    from lrtune.cli.search import listening
    from lrtune.cli.search import search as begin

    with listening(quiet, json) as listener:
        begin(_study(what, given), _command(), listener)


@app.command(
    epilog=examples("lrtune guess digits", "lrtune guess sales.csv --families cosine,linear")
)
@with_options(StudyFile, OF_A_GUESS)
def guess(what: TaskOrStudy, **given: Any) -> None:
    """Recommend a schedule in seconds, without a search.

    It rests on a range test and on what other tasks taught.
    """
    from lrtune.cli.guess import print_guess

    print_guess(_study(what, given))


def _study(what: str, given: dict[str, Any]) -> StudyFile:
    """A task by its name, or a study file, and the options that were typed."""
    from_file = what.endswith(".toml")
    keys = read_study(Path(what)) if from_file else {"task": what}
    return validate(StudyFile, keys | given, what, typed=given)


def _command() -> str:
    return shlex.join(["lrtune", *sys.argv[1:]])


@app.command()
def families(
    name: Annotated[str | None, typer.Argument(help="one family; all of them if not given")] = None,
) -> None:
    """List the schedule families, or the knobs of one."""
    from lrtune.cli.families import print_families, print_family
    from lrtune.errors import nearest
    from lrtune.schedule import FAMILIES

    if name is None:
        print_families()
    elif name in FAMILIES:
        print_family(FAMILIES[name])
    else:
        raise InputError(f"family {name!r}: no such family{nearest(name, FAMILIES)}")


@app.command(epilog=examples("lrtune preview cosine:warmup=0.1 wsd --total 1000"))
def preview(
    schedules: Annotated[
        list[str],
        typer.Argument(help="cosine, cosine:peak_lr=0.1,warmup=0.05, or a best.json; one or more"),
    ],
    total: Annotated[int, typer.Option(help="updates")] = 1000,
    out: Picture = None,
) -> None:
    """Draw schedules side by side, in the terminal or to a file."""
    from lrtune.cli.preview import print_schedules
    from lrtune.schedule import load, parse

    drawn = [load(text) if text.endswith(".json") else parse(text) for text in schedules]
    if out is not None:
        from lrtune.reports import plot_style, rates

        plot_style.check_path(out)
        print(harmless(f"wrote {plot_style.save(rates.preview(drawn, total), out)}"))
        return
    print_schedules(drawn, total)


@app.command()
@with_options(StudyFile, OF_A_RANGE_TEST)
def range_test(
    task: Annotated[str, typer.Argument(help=WHAT)],
    low: Annotated[float, typer.Option(help="first rate")] = 1e-6,
    high: Annotated[float, typer.Option(help="last rate")] = 10.0,
    updates: Annotated[int, typer.Option(help="length of the sweep")] = 240,
    seeds: Annotated[int, typer.Option(help="how many sweeps")] = 3,
    out: Picture = None,
    **given: Any,
) -> None:
    """Find the rates that train at all: a sweep from low to high."""
    from lrtune.cli.preview import print_range_test
    from lrtune.engine import range_test as sweep
    from lrtune.run.devices import device_of
    from lrtune.run.run_json import range_test_json
    from lrtune.run.study_file import load

    if out is not None:
        from lrtune.reports import plot_style

        plot_style.check_path(out)  # before the sweep, not after it
    study = validate(StudyFile, {"task": task} | given, task, typed=given)
    test = sweep(
        load(study),
        low=low,
        high=high,
        updates=updates,
        seeds=range(seeds),
        device=device_of(study.device),
        slots=1,  # on one device one after the other is as quick
    )
    print_range_test(test)
    if out is not None:
        from lrtune.reports import rates

        print(harmless(f"wrote {plot_style.save(rates.range_test(range_test_json(test)), out)}"))


@app.command(epilog=examples("lrtune confirm runs/digits-mlp-sgd-862 --budget 20"))
@with_options(StudyFile, OF_FINALS)
def confirm(
    run: RunFolder,
    budget: Annotated[
        float | None, typer.Option(help="whole trainings, more than there are [20]")
    ] = None,
    total: AnotherHorizon = None,
    quiet: Quiet = False,
    json: Json = False,
    **given: Any,
) -> None:
    """Train the best schedules again on fresh seeds: the verdict."""
    from lrtune.cli.search import finals, listening

    with listening(quiet, json) as listener:
        finals(run, given, total, budget, _command(), listener)


@app.command()
def show(
    run: RunFolder,
    json: Annotated[
        bool, typer.Option("--json", help="what best.json and verdict.json hold, as JSON")
    ] = False,
) -> None:
    """Print the result of a run again."""
    from lrtune.cli.result import show

    show(run, json)


@app.command(epilog=examples("lrtune verdict runs/digits-mlp-sgd-862 --total 5000"))
@with_options(StudyFile, ("margin", "goal"))
def verdict(run: RunFolder, total: AnotherHorizon = None, **given: Any) -> None:
    """Print the verdict, or what is known of another horizon."""
    from lrtune.cli.verdict import show_verdict

    show_verdict(run, total, **given)


@app.command(epilog=examples("lrtune compare runs/ --out compare.parquet"))
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="runs with a verdict, verdicts, or folders of them", metavar="RUN"),
    ],
    out: Annotated[Path | None, typer.Option(help="the whole table: a .parquet file")] = None,
) -> None:
    """Compare schedules across the verdicts of several runs."""
    from lrtune.cli.compare import print_comparison

    print_comparison(runs, out)


@app.command()
def report(run: RunFolder, tensorboard: Tensorboard = False) -> None:
    """Write the files of a run's results again."""
    from lrtune.run.folder import Run
    from lrtune.run.lock import locked_if_free

    opened = Run(run)
    with locked_if_free(opened.folder, _say):
        events = opened.write_tensorboard() if tensorboard else None
        opened.write()
    print(harmless(f"wrote {opened.folder / 'report.html'}"))
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
    look: Annotated[bool, typer.Option("--open/--no-open", help="the browser")] = True,
) -> None:
    """Open the run in optuna-dashboard; Ctrl-C ends it."""
    from lrtune.reports.dashboard import serve
    from lrtune.run.folder import Run
    from lrtune.run.lock import locked_if_free

    opened = Run(run)
    with locked_if_free(opened.folder, _say):
        pass  # a search may go on beside it
    serve(opened.storage, opened.settings["study"], opened.settings["objective"], port, look)


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
    """Write a schedule for a training framework: source code that needs only that, or a table."""
    from lrtune.export import TABLES
    from lrtune.export import export as text_of
    from lrtune.run.best_json import best_in, found_optimizer, horizon_of, replayed, training_of
    from lrtune.schedule import load

    best = best_in(best)
    if out is not None and out.exists() and out.samefile(best):
        raise InputError(f"out={str(out)!r}: is the schedule itself: give another file")
    schedule = replayed(best) if replay else load(best)
    total = horizon_of(best) if total is None else total
    text = text_of(schedule, to=to, total=total, optimizer=found_optimizer(best))
    if to not in TABLES:
        text = training_of(best) + text
    if out is None:
        print(text, end="")
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written: {error.strerror}") from error
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
    """Say what is wrong with the learning rates of a training run; exit code 3 if something is."""
    from lrtune.cli.doctor import diagnose

    if diagnose(what, total):
        raise typer.Exit(FOUND)
