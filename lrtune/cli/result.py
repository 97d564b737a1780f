"""What came out of a run: the verdict or the ranking, the winner, where it is written."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pandas import DataFrame, isna
from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from lrtune.cli.console import console_of, copyable, say
from lrtune.format import aligned, count
from lrtune.run.best_json import best_json
from lrtune.run.folder import Run
from lrtune.verdict.recommendation import Recommendation, as_json, of_verdict, recommendation
from lrtune.verdict.summary import beside, by_end, by_family
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import since, time_to_target, words

TOP = 8  # families in the ranking
DIGITS = 3  # of a figure; report and files have more
LEAD = {"winner": "winner", "tie": "first of the tie"}  # what the first is, by a verdict's place


def show(folder: Path, machine: bool) -> None:
    """Print the result of a run again: as ``lrtune search`` did, or as JSON."""
    run, console = Run(folder), console_of()
    if not machine:
        print_result(run, console)
        return
    trials, verdict = run.trials(), run.verdict()
    newer = "" if verdict is None else since(verdict, len(trials))
    found = {
        "run": str(folder),
        "answer": as_json(recommendation(trials, run.told, verdict)),
        "best": best_json(trials, run.settings, verdict),
        "verdict": verdict and verdict.to_json(),
        "since": newer or None,
    }
    print(json.dumps(found, indent=2))


def print_result(run: Run, console: Console) -> None:
    """What to use, what it gains, how sure that is; what it rests on, and where it is written."""
    trials, verdict = run.trials(), run.verdict()
    found = recommendation(trials, run.told, verdict)
    if found is None:
        say(console, "no trial reached the end: there is no winner; the report says why")
    else:
        print_answer(found, console)
    if verdict is not None:
        print_table(verdict, console)
        if newer := since(verdict, len(trials)):
            say(console, newer)
    elif found is not None:
        _print_ranking(run, trials, console)
    ended = [f"{row['trials']} {row['end']}" for row in by_end(trials).to_dict("records")]
    say(console, f"trials: {', '.join(ended)}")
    copyable(console, f"report: {run.folder / 'report.html'}")


def print_answer(found: Recommendation, console: Console) -> None:
    """Its lines and its warnings."""
    (_, use), *others, (label, command) = found.lines
    say(console, use)
    for name, text in others:
        say(console, f"{name:<7} {text}")
    copyable(console, f"{label:<7} {command}")
    for warning in found.warnings:
        say(console, f"Warning: {warning}")


def lead(verdict: Verdict | None, trials: DataFrame) -> str:
    """What a run's best schedule is, by its verdict or else by its trials."""
    place = "" if verdict is None else verdict.answer.place
    whole = trials["state"].eq("complete").any()
    found = (
        "best trial of the search" if whole else "best forecast, no trial having reached its end"
    )
    return LEAD.get(place, found)


def _print_ranking(run: Run, trials: DataFrame, console: Console) -> None:
    """The families as the search alone ranks them."""
    objective = run.settings["objective"]
    families = by_family(trials, objective["direction"])
    best = trials.set_index("number")
    other = _beside(objective, run.settings["metrics"])
    shown = {"best": short, "median": short, "trials": count, "pruned": count, "diverged": count}
    table = table_of("family", *shown, *map(words, other), "best peak_lr")
    for row in families.head(TOP).to_dict("records"):
        figures = [as_text(row[name]) for name, as_text in shown.items()]
        known = not isna(row["number"])
        figures += [short(beside(best.loc[row["number"]], m)) if known else "–" for m in other]
        table.add_row(row["family"], *figures, short(row["peak_lr"]))
    say(
        console,
        f"validation {words(objective['name'])} by family; best: as expected on another seed",
    )
    console.print(table)
    if len(families) > TOP:
        say(console, f"and {len(families) - TOP} families more: see the report")


def print_verdict(verdict: Verdict, console: Console, trials: int) -> None:
    """Of a verdict alone: what it says, the finalists, and whether the search went on since."""
    for line in of_verdict(verdict):
        say(console, line)
    print_table(verdict, console)
    if newer := since(verdict, trials):
        say(console, newer)


def print_table(verdict: Verdict, console: Console) -> None:
    """The finalists."""
    objective = verdict.objective
    unit = f", {objective.unit}" if objective.unit else ""
    other = list(dict.fromkeys(name for row in verdict.families for name in row.metrics))[:1]
    heads = ("score", "95 % interval", "behind", *map(words, other), "seeds")
    table = table_of("family", "", *heads)
    for row in verdict.families:
        ends = f"{short(row.low)} to {short(row.high)}"
        gap = "" if row.gap == 0 else short(row.gap)
        others = [short(row.metrics.get(name)) for name in other]
        seeds = str(row.seeds) if not row.lost else f"{row.lost} of {row.seeds} lost"
        table.add_row(row.family, row.place, short(row.mean), ends, gap, *others, seeds)
    what = f"{verdict.split} {words(objective.name)}{unit}"
    say(console, f"finals: {what}, {verdict.horizon:,} updates")
    console.print(table)
    if verdict.plan.target:
        say(console, time_to_target(verdict))


def short(value: float | None) -> str:
    """A figure for a person: all of DIGITS, trailing zeros too; a dash for none."""
    return "–" if value is None else aligned(value, DIGITS)


def _beside(objective: Mapping[str, Any], metrics: Iterable[str]) -> list[str]:
    """The metric that is shown beside the objective: accuracy, where classes are told apart."""
    return [name for name in metrics if name != objective["name"]][:1]


def table_of(*names: str) -> Table:
    """An empty table; all but the first column and those without a name hold figures."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        justify: JustifyMethod = "left" if name in (names[0], "") else "right"
        table.add_column(name, justify=justify, no_wrap=name == names[0])
    return table
