"""The first screen of the report: what to use, what it gains, how sure that is, and its code."""

from dataclasses import dataclass

import pandas as pd

from lrtune.errors import InputError
from lrtune.export import export
from lrtune.format import count, number, plural
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.recommendation import recommendation, since
from lrtune.verdict.settings import RunSettings
from lrtune.verdict.summary import by_end
from lrtune.verdict.verdict import Verdict

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
class Answer:
    """What a run says, in words."""

    use: str  # what to use, or that there is no winner
    lines: list[tuple[str, str]]  # labels and texts: gain, sure, valid, cost, use it
    warnings: list[str]  # sentences, the gravest first
    notes: list[str]  # what to do next


@dataclass(frozen=True, slots=True)
class Export:
    """Code for a framework; without source, ``why`` says why there is none."""

    target: str
    label: str
    source: str = ""
    why: str = ""


def answer(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None = None) -> Answer:
    """The answer: its lines and its warnings; or why there is none."""
    found = recommendation(trials, run, verdict)
    if found is None:
        low, high = (number(rate, 3) for rate in run.peak_lr)
        way_out = ["The reasons are listed under Early stopping."]
        if (trials["state"] == "diverged").sum() >= len(trials) / 2:
            way_out = [f"Most trials diverged: search lower peak rates than {low} to {high}."]
        return Answer(f"No winner. {nothing(trials)}", [], [], way_out if len(trials) else [])
    (_, use), *lines = found.lines
    newer = "" if verdict is None else since(verdict, len(trials))
    return Answer(use, lines, found.warnings, [newer] if newer else [])


def nothing(trials: pd.DataFrame) -> str:
    """Why there is no winner and nothing to draw."""
    if trials.empty:
        return "No trial has ended yet."
    ends = by_end(trials)
    how = ", ".join(f"{n} {end}" for end, n in zip(ends["end"], ends["trials"], strict=True) if n)
    return f"None of the {plural(len(trials), 'trial', 'trials')} ran to a value: {how}."


def subtitle(trials: pd.DataFrame, run: RunSettings) -> list[str]:
    """What was searched: the data, the model, the horizon, how much was tried."""
    task = run.task
    tried = plural(len(trials), "trial", "trials")
    kinds = plural(trials["family"].nunique(), "family", "families")
    horizon = f"{count(run.horizon)} updates ({number(run.epochs, 3)} epochs)"
    return [task.data, task.model, horizon, f"{tried} of {kinds}"]


def exports(best: BestSchedule) -> list[Export]:
    """The code of a schedule for every framework, over the run's horizon."""
    several = []
    for target, label in LABELS.items():
        try:
            source = export(
                best.schedule, to=target, total=best.horizon, optimizer=best.found_optimizer
            )
        except InputError as error:
            several.append(Export(target, label, why=str(error)))
        else:
            several.append(Export(target, label, best.comments + source))
    return several
