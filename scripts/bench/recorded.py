"""The recorded tasks of ``studies/results/curves``, as replay and transfer read them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrtune.model.features import features
from lrtune.model.forecast import AHEAD, design
from lrtune.schedule import Schedule

CURVES = Path(__file__).parents[2] / "studies" / "results" / "curves"
# Of the untrained model's loss: what is below counts as that, for then ratios mean nothing.
SOLVED = 0.01
# Tasks of one source of data are left out together: what is learnt has not seen the data at all.
GROUPS = {
    "digits": ("digits",),
    "CIFAR-10": ("cifar10",),
    "Shakespeare": ("shakespeare",),
    "small tables": ("diabetes", "breast", "wine"),
    "tables": ("visits", "affairs", "friedman", "clusters", "patches"),
}


@dataclass(frozen=True)
class Recorded:
    """One task: whole trainings with one seed, a schedule each, and its range test.

    Attributes:
        name: of the task.
        schedules: (n,) of the trainings.
        x: float64 (n, features): of the schedules.
        final: float64 (n,): log of the last validation loss; NaN of those that diverged.
        steps: int64 (validations,): updates done at each.
        signal: float64 (n, validations): log of the better of the losses of current and averaged
            weights; NaN from where a training diverged.
        raw: float64 (n, validations): of the current weights.
        horizon: updates of a whole training.
        sweep: rates (updates,) and losses (seeds, updates) of the range test.
        repeats: log of the last validation loss by schedule's number, of its other seeds.
        about: what was trained.
    """

    name: str
    schedules: list[Schedule]
    x: np.ndarray
    final: np.ndarray
    steps: np.ndarray
    signal: np.ndarray
    raw: np.ndarray
    horizon: int
    sweep: tuple[np.ndarray, np.ndarray]
    repeats: dict[int, list[float]]
    about: dict[str, Any]
    cache: dict[bool, np.ndarray] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The source of its data."""
        return group_of(self.name)

    def shown(self, averaged: bool) -> np.ndarray:
        """(n, validations): log loss of the current weights, or the better of both."""
        return self.signal if averaged else self.raw

    def designs(self, averaged: bool) -> np.ndarray:
        """What forecasts go by, (n, validations, 7); NaN from where a training diverged."""
        if averaged not in self.cache:
            shown = self.shown(averaged)
            self.cache[averaged] = np.full((*shown.shape, len(AHEAD)), np.nan)
            for row, schedule in enumerate(self.schedules):
                sound = np.isfinite(shown[row])
                self.cache[averaged][row, sound] = design(
                    rates_ahead(schedule, self.horizon), self.steps[sound], shown[row, sound]
                )
        return self.cache[averaged]

    @property
    def scale(self) -> tuple[float, float]:
        """Where the best lie, and the distance from there to the median."""
        sound = self.final[np.isfinite(self.final)]
        best = float(np.quantile(sound, 0.03))
        return best, max(1e-4, float(np.median(sound)) - best)


def group_of(name: str) -> str:
    """The source of a task's data."""
    return next(group for group, names in GROUPS.items() if name.split("-")[0] in names)


def rates_ahead(schedule: Schedule, total: int) -> np.ndarray:
    """Its rates; of a closed loop, with the rate held."""
    return schedule.controller(total).rates if schedule.closed_loop else schedule.rates(total)


def read(folder: Path = CURVES) -> list[Recorded]:
    """All tasks of a folder, in the order of their names."""
    return [read_task(path) for path in sorted(folder.glob("*.parquet"))]


def read_task(path: Path) -> Recorded:
    table = pd.read_parquet(path)
    first = table[table["seed"] == 0].sort_values("number", ignore_index=True)
    others = table[(table["seed"] != 0) & (table["state"] == "complete")]
    sweep = pd.read_parquet(path.parent / "range_tests" / path.name)
    schedules = [Schedule.from_json(text) for text in first["schedule"]]
    steps = np.array(max(first["step"], key=len))
    least = SOLVED * float(first["untrained"].median())
    signal, raw = (np.full((len(first), len(steps)), np.nan) for _ in range(2))
    for row, (loss, averaged) in enumerate(zip(first["loss"], first["averaged"], strict=True)):
        with np.errstate(all="ignore"):
            raw[row, : len(loss)] = np.log(np.maximum(loss, least))
            better = np.fmin(loss, averaged)
            signal[row, : len(loss)] = np.log(np.maximum(better, least))
    bad = ~np.isfinite(raw)
    raw[bad], signal[bad] = np.nan, np.nan
    whole = (first["state"] == "complete").to_numpy()
    repeats: dict[int, list[float]] = {}
    for number, loss in zip(others["number"], others["loss"], strict=True):
        repeats.setdefault(number, []).append(float(np.log(max(loss[-1], least))))
    about = {name: first[name].iloc[0] for name in ("model", "optimizer", "batch_size", "samples")}
    return Recorded(
        name=path.stem,
        schedules=schedules,
        x=np.array([features(schedule) for schedule in schedules]),
        final=np.where(whole, raw[:, -1], np.nan),
        steps=steps,
        signal=signal,
        raw=raw,
        horizon=int(first["horizon"].iloc[0]),
        sweep=(np.array(sweep["rate"].iloc[0]), np.stack(sweep["loss"].map(np.array).tolist())),
        repeats=repeats,
        about=about | json.loads(first["settings"].iloc[0]),
    )
