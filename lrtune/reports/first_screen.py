"""The first screen of the report: what to use, what it gains, how sure that is, and its code."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from lrtune.errors import InputError
from lrtune.export import FoundOptimizer, export
from lrtune.format import count, limited, number, plural, words
from lrtune.reports.figures import far_apart, rates_of
from lrtune.reports.plot_style import Array, look, thin
from lrtune.schedule import Schedule
from lrtune.verdict.recommendation import (
    amount_of,
    described_training,
    range_of,
    recommendation,
    since,
)
from lrtune.verdict.sequential import ALPHA
from lrtune.verdict.settings import RunSettings, Training
from lrtune.verdict.summary import by_end, recommended
from lrtune.verdict.verdict import Verdict

Run = RunSettings

WIDTH, HEIGHT = 400, 150  # of the sketch's own coordinates
POINTS = 200  # of a curve
DECADES = 2.0  # below the lowest peak, on a log axis
ROOM = 0.06  # of the gains' axis, on either side
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
class Answer:
    """What a run says, in words."""

    use: str  # what to use, or that there is no winner
    lines: list[tuple[str, str]]  # labels and texts: gain, sure, valid, cost, use it
    warnings: list[str]  # sentences, the gravest first
    notes: list[str]  # what to do next


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


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of the sketch: its SVG path, and its colour; what it is compared with has none."""

    label: str
    path: str
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Sketch:
    """The rates over the run: the curves, the ends of both axes, in words."""

    curves: Sequence[Curve]
    top: str
    bottom: str
    end: str
    scale: str
    size: str = f"{WIDTH} {HEIGHT}"


@dataclass(frozen=True, slots=True)
class Gain:
    """A row of the gains; places are in percent of the axis."""

    over: str  # the baseline, for a person
    amount: str  # signed, with its unit
    reach: str  # the 95 % interval; empty for one seed
    sure: str  # ``better``, ``worse`` or ``may be chance``
    at: float  # where the gain is
    low: float  # where the interval begins
    high: float  # where it ends


@dataclass(frozen=True, slots=True)
class FirstScreen:
    """All that it holds."""

    answer: Answer
    exports: Sequence[Export] = ()
    sketch: Sketch | None = None  # None where the recommended rates are not known
    metric: str = ""  # of the gains
    gains: Sequence[Gain] = ()
    zero: float = 0.0  # the place where nothing is gained


def first_screen(
    trials: pd.DataFrame, run: Run, verdict: Verdict | None, finals: pd.DataFrame | None
) -> FirstScreen:
    """What the report shows unfolded.

    Args:
        trials: the search's table.
        run: what was searched (run.json).
        verdict: what the finals said, if there were any.
        finals: those that it is of.
    """
    sentences, found = answer(trials, run, verdict), chosen(trials, run, verdict)
    if found is None:
        return FirstScreen(sentences)
    decided = verdict if verdict is not None and verdict.decided else None
    compared = _compared(found.schedule, run, decided)
    sketch = _sketch(compared, run.horizon, (trials, finals))
    screen = FirstScreen(sentences, exports(found.schedule, run), sketch)
    if decided is None:
        return screen
    zero, gains = _gains(decided)
    return replace(screen, metric=words(decided.objective.name), gains=gains, zero=zero)


def answer(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Answer:
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


def subtitle(trials: pd.DataFrame, run: Run) -> list[str]:
    """What was searched: the data, the model, the horizon, how much was tried."""
    task = run.task
    tried = plural(len(trials), "trial", "trials")
    kinds = plural(trials["family"].nunique(), "family", "families")
    horizon = f"{count(run.horizon)} updates ({number(run.epochs, 3)} epochs)"
    return [task.data, task.model, horizon, f"{tried} of {kinds}"]


def chosen(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Chosen | None:
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
    best = recommended(trials, run.objective.direction)
    if best is None:
        return None
    complete = best["state"] == "complete"
    by = "" if complete else ", by its forecast, for none was trained to its end"
    schedule, resolved = Schedule.from_json(best["schedule"]), json.loads(best["resolved"])
    return Chosen(schedule, resolved, f"Trial {best['number']}{by}.")


def exports(schedule: Schedule, run: Run) -> list[Export]:
    """The code of a schedule for every framework, over the run's horizon."""
    several = []
    optimizer = FoundOptimizer(run.optimizer.name, run.optimizer.settings, run.task.groups)
    for target, label in LABELS.items():
        try:
            source = export(schedule, to=target, total=run.horizon, optimizer=optimizer)
        except InputError as error:
            several.append(Export(target, label, why=str(error)))
        else:
            several.append(Export(target, label, found_with(run) + source))
    return several


def found_with(run: Training, by: str = "Found in") -> str:
    """What a peak rate belongs to, as comments over code that is copied.

    Args:
        run: what was searched, or what best.json holds of it.
        by: how the comment begins that names the search.
    """
    task = run.task
    training = described_training(run.optimizer, task.batch_size, run.horizon)
    clipped = f", gradients clipped at norm {task.clip_norm:g}" if task.clip_norm else ""
    lines = (
        f"The peak rate holds for {training}{clipped}.",
        f"{by} {run.study}: {task.name}, model {task.model}, by lrtune {run.versions['lrtune']}.",
    )
    return "".join(f"# {limited(' '.join(line.split()), LINE)}\n" for line in lines)


def _compared(schedule: Schedule, run: Run, verdict: Verdict | None) -> list[tuple[str, Schedule]]:
    """What to draw: the recommended schedule, and beside it yours, or the tuned baselines."""
    if verdict is None:
        yours = ((f"your {mine.family}", mine) for mine in run.baselines)
        return [(schedule.family, schedule), *yours]
    rows = {row.family: row for row in verdict.families}
    mine = verdict.recommended.role == "yours"
    compared = [(gain.what, rows[gain.over]) for gain in verdict.answer.gains]
    others = [pair for pair in compared if pair[1].role == "yours"] or compared
    label = f"your {schedule.family}" if mine else schedule.family
    return [(label, schedule), *((what, row.schedule) for what, row in others)]


def _sketch(
    several: Sequence[tuple[str, Schedule]],
    horizon: int,
    tables: Sequence[pd.DataFrame | None],
) -> Sketch | None:
    """The rates over the run, of the first schedule in colour; None where its are not known."""
    lines = [(label, one, _rates(one, horizon, tables)) for label, one in several]
    known = [(label, one, line) for label, one, line in lines if line is not None]
    if lines[0][2] is None:
        return None
    curves = [rates for _, _, (_, rates, _) in known]
    peaks = [float(rates.max()) for rates in curves]
    top, bottom = max(peaks), 0.0
    if far_apart(curves):
        lowest = min(float(rates[rates > 0].min()) for rates in curves)
        bottom = max(lowest, min(peaks) / 10**DECADES)
    return Sketch(
        [
            Curve(
                label,
                _path(line, horizon, bottom, top),
                "" if place else look(one.family).colour,
            )
            for place, (label, one, line) in enumerate(known)
        ],
        number(top, 3),
        number(bottom, 2),
        f"{count(horizon)} updates",
        ", log scale" if bottom else "",
    )


def _rates(
    schedule: Schedule, horizon: int, tables: Sequence[pd.DataFrame | None]
) -> tuple[Array, Array, str] | None:
    """Updates, the rates there and how to join them, as ``rates_of``."""
    if not schedule.closed_loop:
        rates = schedule.rates(horizon)
        at = thin(rates, POINTS)
        return at.astype(float), rates[at], "linear"
    for table in tables:
        if table is not None and len(table) and "rate" in table:
            own = table[table["schedule"] == schedule.to_json()]
            for _, training in own.sort_values("updates").tail(1).iterrows():
                return rates_of(training, horizon)
    return None


def _path(line: tuple[Array, Array, str], horizon: int, bottom: float, top: float) -> str:
    """An SVG path in the sketch's coordinates."""
    updates, rates, join = line
    across = WIDTH * updates / horizon
    if bottom:
        up = np.log(np.maximum(rates, bottom) / bottom) / np.log(top / bottom)
    else:
        up = rates / top
    down = HEIGHT * (1 - up)
    step = "V{1:.1f}H{0:.1f}" if join == "vh" else "L{0:.1f} {1:.1f}"
    first, *rest = zip(across, down, strict=True)
    return "M{:.1f} {:.1f}".format(*first) + "".join(step.format(x, y) for x, y in rest)


def _gains(verdict: Verdict) -> tuple[float, list[Gain]]:
    """Where nothing is gained on the axis, and the gain over each baseline with its interval."""
    rows = verdict.answer.gains
    ends = [(row.gain, row.gain) if math.isnan(row.low) else (row.low, row.high) for row in rows]
    values = [0.0, *(row.gain for row in rows), *(end for pair in ends for end in pair)]
    room = ROOM * ((max(values) - min(values)) or 1.0)
    left, width = min(values) - room, max(values) - min(values) + 2 * room

    def place(value: float) -> float:
        return round(100 * (value - left) / width, 2)

    gains = [
        Gain(
            over=row.what,
            amount=f"{'+' if row.gain > 0 else ''}{amount_of(verdict.objective, row.gain)}",
            reach="" if math.isnan(row.low) else range_of(verdict.objective, low, high),
            sure="better"
            if row.sure
            else "worse"
            if row.gain < 0 and row.p < ALPHA
            else "may be chance",
            at=place(row.gain),
            low=place(low),
            high=place(high),
        )
        for row, (low, high) in zip(rows, ends, strict=True)
    ]
    return place(0.0), gains
