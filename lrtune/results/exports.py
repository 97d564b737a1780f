"""The recommended schedule, and its code for each framework."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lrtune.errors import InputError
from lrtune.export import export
from lrtune.format import limited
from lrtune.results.notes import Verdict
from lrtune.results.plan import decided, recommended_row
from lrtune.results.recommendation import described_training
from lrtune.results.summary import recommended
from lrtune.schedule import Schedule

NAME = 200  # characters of a name in a comment
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
    """The schedule to use.

    Attributes:
        schedule: what best.json holds.
        resolved: its settings at the horizon.
        where: which trial it is from, as a sentence.
    """

    schedule: Schedule
    resolved: Mapping[str, Any]
    where: str


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
    if verdict is not None and decided(verdict):
        row = recommended_row(verdict)
        whose = row["family"] if row["trial"] is None else f"{row['family']}, trial {row['trial']}"
        if verdict["answer"]["place"] == "tie":
            whose += ", the simplest of those that cannot be told apart"
        return Chosen(Schedule.from_dict(row["schedule"]), row["resolved"], f"{whose}.")
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
    try:
        source = export(schedule, to=target, total=run["horizon"])
    except InputError as error:
        return Export(target, LABELS[target], why=str(error))
    return Export(target, LABELS[target], found_with(run) + source)


def found_with(found: Mapping[str, Any]) -> str:
    """Comments on the training that a schedule was found with, from a best.json or a run.json.

    A peak rate belongs to its optimizer: whoever copies the one needs to know the other.
    """
    shown = described_training(found["optimizer"], found["task"]["batch_size"], found["horizon"])
    name, model = (limited(found["task"][key], NAME) for key in ("name", "model"))
    lines = (
        f"The peak rate holds for {shown}.",
        f"Found on {name}, model {model}, by lrtune {found['versions']['lrtune']}.",
    )
    return "".join(f"# {' '.join(line.split())}\n" for line in lines)
