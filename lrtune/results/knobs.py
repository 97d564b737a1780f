"""A family's knobs as its trials had them, and which of them mattered: fANOVA."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lrtune.results.canvas import Array
from lrtune.results.fanova import fanova
from lrtune.results.summary import forecasts
from lrtune.schedule import FAMILIES

FEWEST = 15  # finished trials, below which a forest of trees finds what is not there
READ = {"number", "family", "state", "value", "peak_lr", "warmup", "evidence"}
SHARED = {"peak_lr": "log", "warmup": "linear"}  # by every family, and their scales


@dataclass(frozen=True, slots=True)
class Knob:
    """One knob of a family over its trials.

    Attributes:
        name: as the family has it; of an entry of a list with its number.
        values: as tried, one a trial.
        log: whether its search was on a log scale.
        choices: the words that it was chosen from; none of a number.
    """

    name: str
    values: "pd.Series[Any]"
    log: bool = False
    choices: tuple[str, ...] = ()

    @property
    def places(self) -> Array:
        """Where the trials lie on the scale on which it was searched."""
        if self.choices:
            return np.array([self.choices.index(str(word)) for word in self.values], dtype=float)
        numbers = self.values.to_numpy(float)
        return np.log10(numbers) if self.log else numbers


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of the differences between scores each knob explains by itself.

    Attributes:
        names: of the knobs, the most important one first.
        mean: shares of the variance, over the trees of the forest.
        low: lower quartile over the trees, each grown on a resample of the trials.
        high: upper quartile.
        why: why there is nothing to say; empty where there is.
    """

    names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    why: str = ""


def scored(trials: pd.DataFrame, family: str) -> pd.DataFrame:
    """A family's trials that have a score: final, or of those that ended before it as forecast.

    Returns:
        Its rows, `value` filled in, with `finished`: whether the value is one that was reached.
    """
    kept = [name for name in trials if name in READ or str(name).startswith(f"{family}.")]
    own = trials.loc[trials["family"] == family, kept]
    finished = own["state"] == "complete"
    value = own["value"].astype(float).where(finished, forecasts(own))
    own = own.assign(value=value, finished=finished)
    known: pd.DataFrame = own[np.isfinite(value)].sort_values("number")
    return known


def knobs_of(own: pd.DataFrame, family: str) -> list[Knob]:
    """The knobs of a family that differ between its trials, `peak_lr` first."""
    docs = {}
    if family in FAMILIES:
        row = FAMILIES[family]
        docs = {knob.name: knob for knob in (*row.knobs, *row.optional)}
    found = []
    for name in (*SHARED, *_own_names(own, family)):
        values = own.get(name if name in SHARED else f"{family}.{name}")
        if values is None or values.isna().any() or values.nunique() < 2:
            continue
        knob = docs.get(re.sub(r"_\d+$", "", name)) or docs.get(name)
        scale = SHARED.get(name) or (knob.scale if knob else "linear")
        if scale == "choice" or not pd.api.types.is_numeric_dtype(values):
            found.append(Knob(name, values, choices=tuple(sorted(map(str, values.unique())))))
        else:
            found.append(Knob(name, values, log=scale == "log" and bool((values > 0).all())))
    return found


def _own_names(own: pd.DataFrame, family: str) -> list[str]:
    names = [str(name) for name in own.columns if str(name).startswith(f"{family}.")]
    return [name for full in names if (name := full.removeprefix(f"{family}.")) not in SHARED]


def importance(own: pd.DataFrame, family: str, objective: Mapping[str, Any]) -> Importance:
    """What mattered among a family's finished trials.

    Args:
        own: see ``scored``.
        family: whose.
        objective: name and direction of the value.
    """
    done = own[own["finished"]]
    if len(done) < FEWEST:
        return Importance(why=f"{len(done)} finished, and at least {FEWEST} are needed")
    knobs = knobs_of(done, family)
    if len(knobs) < 2:
        return Importance(why="fewer than two knobs differ between them")
    values = done["value"].to_numpy(float)
    if objective["direction"] == "minimize" and (values > 0).all():
        values = np.log(values)  # a loss far off must not outweigh those near the best
    shares = fanova(np.column_stack([knob.places for knob in knobs]), values)
    if shares is None:
        return Importance(why="the knobs do not tell good trials from bad ones")
    order = np.argsort(-shares.mean(0), kind="stable")
    low, high = np.quantile(shares, [0.25, 0.75], axis=0)
    mean, low, high = (tuple(row[order].tolist()) for row in (shares.mean(0), low, high))
    return Importance(tuple(knobs[at].name for at in order), mean, low, high)
