"""What the commands do and print that have to do with verdicts."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console
from rich.table import Table

from lrtune.config import StudyFile, load, parse_goal, plan_of
from lrtune.confirmation import confirm, judged
from lrtune.display import FinalsDisplay
from lrtune.errors import InputError
from lrtune.options import validate
from lrtune.results.answer import sentences
from lrtune.results.canvas import words
from lrtune.results.horizons import agreement, outlook
from lrtune.results.markup import number
from lrtune.results.verdict import finalists_in, plan_in
from lrtune.run import Run
from lrtune.terminal import console_of


def confirm_in_terminal(
    folder: Path,
    asked: tuple[int | None, int | None, float | None, str | None],
    total: int | None,
    device: str | None,
) -> None:
    """Train the finals of a run that ``lrtune search`` made, and show what came out."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console, run = console_of(), Run(folder)
    keys = run.settings.get("asked")
    if keys is None:
        raise InputError(
            f"{folder}: was made from Python, with a task of its own: lrtune.confirm(run, task)"
        )
    study = validate(StudyFile, keys, str(folder / "run.json"))
    task = load(study)
    names = ("seeds", "max_seeds", "indifference", "goal")
    merged: list[Any] = [
        getattr(study, name) if given is None else given
        for name, given in zip(names, asked, strict=True)
    ]
    with FinalsDisplay(console) as finals:
        found = confirm(
            run,
            task,
            plan=plan_of(task.objective.name, *merged),
            total=total,
            device=study.device if device is None else device,
            watch=finals,
            tell=console.print,
        )
    print_verdict(found, console)


def show_verdict(
    folder: Path, total: int | None, indifference: float | None, goal: str | None
) -> None:
    """Print what is known, of the horizon searched or of another."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console, run = console_of(), Run(folder)
    horizon = run.settings["horizon"] if total is None else total
    told = {h: v for h in run.horizons if (v := run.verdict(h)) is not None}
    found = told.pop(horizon, None)
    others = [v for v in told.values() if v["answer"]["place"] in ("winner", "tie")]
    where = shlex.quote(str(folder))
    if found is None and not others:
        raise InputError(f"{folder}: has no verdict yet: lrtune confirm {where}")
    if found is None:
        console.print(outlook(others, horizon), soft_wrap=True)
        console.print(f"lrtune confirm {where} --total {horizon} finds out", soft_wrap=True)
        best = run.best()
        assert best is not None
        console.print(f"the winner so far, stretched to it: {best}", soft_wrap=True)
        console.print(f"  {best.resolve(horizon)}", soft_wrap=True)
        return
    plan = plan_in(found)
    if indifference is not None:
        plan = replace(plan, indifference=indifference)
    if goal is not None:
        plan = replace(plan, target=parse_goal(goal, run.settings["objective"]["name"]))
    if plan != plan_in(found):
        found = judged(run, plan, horizon, finalists_in(found))
    print_verdict(found, console)
    if found["answer"]["place"] in ("winner", "tie"):
        for other in others:
            console.print(agreement(found, other), soft_wrap=True)


def print_verdict(verdict: Mapping[str, Any], console: Console) -> None:
    """The finalists, and the verdict in words."""
    objective = verdict["objective"]
    unit = f", {objective['unit']}" if objective.get("unit") else ""
    table = Table(
        title=f"finals: {verdict['split']} {words(objective['name'])}{unit}, "
        f"{verdict['horizon']:,} updates",
        title_justify="left",
    )
    for name in ("family", "", "score", "95 % interval", "behind", "best", "seeds"):
        table.add_column(name, justify="left" if name in ("family", "") else "right")
    for row in verdict["families"]:
        ends = f"{number(row['low'], 3)} to {number(row['high'], 3)}"
        chance = "–" if row["best"] is None else f"{row['best']:.0%}"
        gap = "" if row["gap"] == 0 else number(row["gap"], 3)
        seeds = str(row["seeds"]) if not row["lost"] else f"{row['lost']} of {row['seeds']} lost"
        table.add_row(row["family"], row["place"], number(row["mean"]), ends, gap, chance, seeds)
    console.print(table)
    for sentence in sentences(verdict):
        console.print(sentence, soft_wrap=True)
