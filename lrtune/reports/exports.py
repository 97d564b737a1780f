"""The recommended schedule, and its code for each framework."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lrtune.errors import InputError
from lrtune.export import FoundOptimizer, export
from lrtune.format import limited
from lrtune.schedule import Schedule
from lrtune.verdict.recommendation import described_training
from lrtune.verdict.summary import recommended
from lrtune.verdict.verdict import Verdict

LINE = 400  # characters of a comment, whose names come from anyone
# What the targets of lrtune.export are called; those that most people use come first.
LABELS = {
    "torch": "PyTorch",
    "huggingface": "Hugging Face",
    "lightning": "Lightning",
    "keras": "Keras",
    "optax": "optax",
    "timm": "timm",
}


@dataclass(frozen=True, slots=True)
class Chosen:
    """The schedule to use."""

    schedule: Schedule  # what best.json holds
    resolved: Mapping[str, Any]  # its settings at the horizon
    where: str  # which trial it is from, as a sentence


@dataclass(frozen=True, slots=True)
class Export:
    """Code for a framework; without source, ``why`` says why there is none."""

    target: str
    label: str
    source: str = ""
    why: str = ""

    @property
    def anchor(self) -> str:
        """Where the code is on the page."""
        return f"code-{self.target}"


def chosen(
    trials: pd.DataFrame, run: Mapping[str, Any], verdict: Verdict | None = None
) -> Chosen | None:
    """The schedule to use; None where no trial came to anything.

    Args:
        trials: the search's table.
        run: what was searched (run.json).
        verdict: what the finals said, if there were any.
    """
    if verdict is not None and verdict.decided:
        row = verdict.recommended
        whose = row.family if row.trial is None else f"{row.family}, trial {row.trial}"
        if verdict.answer.place == "tie":
            whose += ", recommended of those that cannot be told apart"
        return Chosen(row.schedule, row.resolved, f"{whose}.")
    best = recommended(trials, run["objective"]["direction"])
    if best is None:
        return None
    by = ""
    if best["state"] != "complete":
        by = ", by its forecast, for none was trained to its end"
    schedule, resolved = Schedule.from_json(best["schedule"]), json.loads(best["resolved"])
    return Chosen(schedule, resolved, f"Trial {best['number']}{by}.")


def exports(schedule: Schedule, run: Mapping[str, Any]) -> list[Export]:
    """The code of a schedule for every framework, over the run's horizon."""
    return [_export(schedule, run, target) for target in LABELS]


def _export(schedule: Schedule, run: Mapping[str, Any], target: str) -> Export:
    optimizer = FoundOptimizer.of(run)
    try:
        source = export(schedule, to=target, total=run["horizon"], optimizer=optimizer)
    except InputError as error:
        return Export(target, LABELS[target], why=str(error))
    return Export(target, LABELS[target], found_with(run) + source)


def found_with(run: Mapping[str, Any], found: Mapping[str, Any] | None = None) -> str:
    """What a peak rate belongs to, as comments over code that is copied.

    Args:
        run: what was searched (run.json), or best.json.
        found: of best.json: with the number of the trial.
    """
    task = run["task"]
    training = described_training(run["optimizer"], task["batch_size"], run["horizon"])
    clipped = f", gradients clipped at norm {task['clip_norm']:g}" if task["clip_norm"] else ""
    without = "Guessed for" if "guess" in run else "Found in"
    by = f"Found by trial {found['trial']} of" if found else without
    lines = (
        f"The peak rate holds for {training}{clipped}.",
        f"{by} {run['study']}: {task['name']}, model {task['model']}, by lrtune "
        f"{run['versions']['lrtune']}.",
    )
    return "".join(f"# {limited(' '.join(line.split()), LINE)}\n" for line in lines)
