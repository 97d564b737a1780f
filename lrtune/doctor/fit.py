"""The family and settings that give the rates of a log: least squares in log rate."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import least_squares

from lrtune.doctor.log import Log, distinct
from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule
from lrtune.schedule.family import Array

TIGHT = 2e-3  # of the peak: what a log that rounds its rates is off by
ENOUGH = 5  # rates without which every family fits
POINTS = 120  # that are fitted
TRIED = 4  # starts that are followed: the best of those a family has
FIRST = 15  # evaluations after which a fit must be near
NEAR = 0.1  # in log rate
SOFT = 1e-3  # of the peak: log(rate + this), so that a rate of zero does not outweigh all others

# The simplest first; again where the floor is above zero.
CANDIDATES = (
    ("constant", False), ("linear", False), ("cosine", False), ("linear", True), ("cosine", True),
    ("step", False), ("multistep", False), ("exponential", False), ("one_cycle", False),
    ("cosine_restarts", True), ("cyclic", False), ("wsd", True), ("inverse_sqrt", False),
    ("inverse_time", False), ("polynomial", False), ("polynomial", True), ("rex", False),
    ("tanh", True),
)  # fmt: skip
# Families with an end: their horizon is fitted too, since that is what is wrong most often.
ENDING = ("linear", "cosine", "one_cycle", "wsd", "polynomial", "rex")
OWN_RISE = ("one_cycle", "cyclic")  # no warmup comes before it
RISING = (*OWN_RISE, "cosine", "cosine_restarts")
# Knobs that resolve to whole updates, and to which parameter: while they are fitted they may slide.
COUNTS = {"T_0": "T_0", "T_max": "T_max", "decay": "decay_steps", "step_size_up": "step_size_up"}

Knobs: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FamilyFit:
    """A family laid through the rates of a log."""

    family: str  # its name
    worst: float  # the largest difference, as a fraction of the highest rate
    warmup: float  # updates of the linear rise before the body
    horizon: float | None  # updates, warmup included; None: the family has no end
    rates: Array  # float64[n], at the updates of the log
    later: float  # the rate at the end of the run
    schedule: Schedule | None  # what can be copied; None where the settings do not come out whole
    total: int  # the horizon of that schedule

    @property
    def tight(self) -> bool:
        """Whether it explains the rates, rather than resembles them."""
        return self.worst < TIGHT


def fit(log: Log, families: Container[str] = FAMILIES) -> FamilyFit | None:
    """The simplest family that explains the rates, else the one that resembles them most.

    None where there are too few rates, or none that a schedule can have.
    """
    valid = log.rates.min() >= 0 and 1e-100 < log.rates.max() < 1e100  # and no NaN
    if len(log.at) < ENOUGH or not valid:
        return None
    logs = [log]
    if log.at[0] >= 1:  # the rate may have been logged after the scheduler's step
        logs.append(replace(log, at=log.at - 1))
    best: FamilyFit | None = None
    for each in logs:
        features = CurveFeatures.of(each)
        for family, floor in CANDIDATES:
            if family not in families or not (features.falls or family in RISING):
                continue
            with np.errstate(all="ignore"):
                attempt = _fitted(features, family, floor, each)
            if attempt is not None and attempt.tight:
                return attempt
            if attempt is not None and (best is None or attempt.worst < best.worst):
                best = attempt
    return best


@dataclass(frozen=True, slots=True)
class CurveFeatures:
    """What is read off a log before any family is laid through it."""

    top: float  # the highest rate
    end: float  # updates of the run
    first: float  # of the line through a linear rise; slope 0 without one
    slope: float
    hidden: float  # the first update that was logged, where a warmup may be over by then; else 0
    turn: float  # the update of the first highest rate
    low: float  # the lowest rate from there on, as a fraction of the top
    changes: Array  # updates after the rise at which the rate changes; the first 64
    drop: float  # the factor of the median change, where all are drops; else 0
    restarts: Array  # updates at which the rate jumps up
    rests: tuple[float, float]  # where the rate begins to stay until the end; its lowest
    falls: bool  # whether the rate never rises but in the warmup

    @classmethod
    def of(cls, log: Log) -> "CurveFeatures":
        """Read them off a log whose rates are finite, none below zero and one above."""
        t, y = log.at, log.rates
        top = float(y.max())
        # Where rates are seldom logged, the first peak may have been missed by a little.
        crest = (y >= 0.9 * top) & (np.r_[y[1:], y[-1]] < y)
        peak = int(np.argmax(crest | (y >= top * (1 - 1e-7))))
        first, slope = _line(t[:peak], y[:peak], top)
        begin = peak if slope else 0
        moved = np.flatnonzero(np.abs(np.diff(y)) > 1e-9 * top) + 1
        changes = moved[moved > begin][:64]
        drops = y[changes] / np.maximum(y[np.r_[begin, changes][:-1]], 1e-300 * top)
        even = 0 < drops.size <= 60 and drops.max() < 1 and drops.min() > 0
        rises = np.flatnonzero(np.diff(y[peak:]) > 1e-6 * top)
        restarts = np.flatnonzero(np.diff(y) > 0.3 * top) + 1
        stays = float(t[moved[-1]]) if moved.size else 0.0
        return cls(
            top, log.end, first, slope,
            hidden=float(t[0]) if peak == 0 and t[0] > 0 else 0.0,
            turn=float(t[peak]),
            low=float(y[peak:].min()) / top,
            changes=t[changes],
            drop=float(np.median(drops)) if even else 0.0,
            restarts=t[restarts[restarts > peak]],
            rests=(stays, float(t[peak + rises[0]] if rises.size else t[-1])),
            falls=not rises.size and (bool(slope) or peak == 0),
        )  # fmt: skip

    def warmup(self, family: str, peak: float) -> float:
        """Updates until the rise reaches a peak; 0 without a rise, or where the body begins so."""
        rises = self.slope and family not in OWN_RISE
        return max(0.0, (peak - self.first) / self.slope) if rises else 0.0

    def starts(self, family: str, floor: bool, n: float) -> list[Knobs]:
        """Knobs to begin with: as they are read off, else three of the range that is searched."""
        warmup = self.warmup(family, self.top)
        sizes = np.diff(np.r_[warmup, self.changes])
        even = sizes.size and sizes[0] > 1 and np.ptp(sizes) <= 1
        if family in ("step", "multistep") and not (self.drop and (even or family == "multistep")):
            return []
        at = self.restarts - warmup
        cycles = np.r_[at[:1], at[-1:] / max(1, at.size)]
        # A cycle need not be whole: it ends between two rates.
        values: dict[str, Sequence[Any]] = {
            "T_0": [float(cycle - part) / n for cycle in cycles for part in (0, 0.25, 0.5, 0.75)],
            "T_max": [1],
            "step_size_up": [self.turn / n],
            "pct_start": [(self.turn + 1) / n, 0.3],
            "gamma": [self.drop or 0.3],
            "decay_power": [0.5, 1.0],
            **dict.fromkeys(("end_factor", "eta_min"), [min(self.low, 0.99)] if floor else [0]),
        }
        # torch's cosine rises again past its end.
        ranges: dict[str, Sequence[Any]] = {"past": [False, True][: 1 + (family == "cosine")]}
        for knob in FAMILIES[family].knobs:
            spaced = np.geomspace if knob.scale == "log" else np.linspace
            if knob.name in values or knob.scale == "choice":
                ranges[knob.name] = values.get(knob.name, knob.choices)
            elif knob.length == 1 and knob.name != "step_size":
                three = spaced(knob.low, knob.high, 3).tolist()
                ranges[knob.name] = [1, 2, 3] if knob.scale == "int" else three
        starts = [dict(zip(ranges, start, strict=True)) for start in product(*ranges.values())]
        left_out = [knob for knob in FAMILIES[family].knobs if knob.only[0]]
        return [
            start
            for start in starts
            if all(k.counts(start) or start[k.name] == ranges[k.name][0] for k in left_out)
        ]


def _line(t: Array, y: Array, top: float) -> tuple[float, float]:
    """Intercept and slope of a rise that is a straight line; 0, 0 if there is none."""
    if t.size == 1:  # a rise from zero, or from wherever the first update was
        return (0.0, float(y[0] / t[0])) if t[0] > 0 else (float(y[0]), float(top - y[0]))
    slope, first = np.polyfit(t, y, 1) if t.size else (0.0, 0.0)
    straight = slope > 0 and np.abs(first + slope * t - y).max() < 1e-3 * top
    return (float(first), float(slope)) if straight else (0.0, 0.0)


class _Model:
    """A family as a function of numbers: peak, length of the body, knobs, hidden warmup."""

    def __init__(self, f: CurveFeatures, family: str, n: float, knobs: Knobs) -> None:
        self.features, self.row, self.past = f, FAMILIES[family], knobs.pop("past")
        self.knobs = {knob.name: knob.default for knob in self.row.knobs} | knobs
        given = {"peak": (f.top, f.top / 3, f.top * 3, True)}  # start, lowest, highest, by its log
        if family in ENDING:
            given["n"] = n, 1.0, 1e11, True
        for knob in self.row.knobs:
            if isinstance(knobs.get(knob.name), float) and knob.counts(knobs):
                low, high, log = *knob.valid, knob.scale == "log"
                given[knob.name] = knobs[knob.name], max(low, 1e-9) if log else low, high, log
        if f.hidden and family not in OWN_RISE:
            given["warmup"] = 0.0, 0.0, f.hidden, False
        self.names, self.logs = list(given), np.array([log for *_, log in given.values()])
        start, self.low, self.high = (
            np.where(self.logs, np.log(np.maximum(values, 1e-300)), values)
            for values in list(zip(*given.values(), strict=True))[:3]
        )
        self.start = np.clip(start, self.low + 1e-9, self.high - 1e-9)

    def settings(self, x: Array) -> Knobs:
        """Peak, updates of the warmup and of the body (n), and knobs."""
        given = dict(zip(self.names, np.where(self.logs, np.exp(x), x).tolist(), strict=True))
        given.setdefault("warmup", self.features.warmup(self.row.name, given["peak"]))
        given.setdefault("n", max(1.0, self.features.end - given["warmup"]))
        return self.knobs | given

    def rates(self, x: Array, at: Array) -> Array:
        """The rates at these updates."""
        given, f = self.settings(x), self.features
        peak, warmup, n = given["peak"], given["warmup"], given["n"]
        s = np.maximum(at - warmup, 0.0)
        if self.row.name in ("constant", "step", "multistep"):  # each drop is where it was seen
            drops = np.searchsorted(f.changes - warmup, s, side="right")
            ratio = np.asarray(float(given.get("gamma", 1.0)) ** drops)
        else:
            assert self.row.body is not None
            if self.row.name in ENDING and not self.past:
                s = np.minimum(s, n - (self.row.name == "one_cycle"))
            knobs: Any = {name: given[name] for name in self.knobs}
            params = self.row.resolve(knobs, n, 1.0)
            params |= {COUNTS[name]: given[name] * n for name in COUNTS.keys() & self.knobs.keys()}
            ratio = self.row.body(s, int(s.max(initial=0.0)) + 2, 1.0, **params)
        body = peak * np.where(np.isfinite(ratio), np.maximum(ratio, 0.0), 1e3)
        rise = f.first + f.slope * at if f.slope else peak * at / max(warmup, 1e-9)
        return np.where(at < warmup, rise, body)

    def schedule(self, x: Array, total: int) -> Schedule | None:
        """What can be copied; None where no Schedule has such settings."""
        given, f = self.settings(x), self.features
        rise = round(given["warmup"])
        n = max(1, total - rise)
        if self.row.name == "step":
            given["step_size"] = float(np.median(np.diff(np.r_[rise, f.changes]))) / n
        given["milestones"] = [float(f"{(at - rise) / n:.10g}") for at in f.changes]
        for name, value in given.items():  # as a person would copy it; updates come out whole
            if isinstance(value, float):
                whole = name in COUNTS or name == "step_size"
                given[name] = float(f"{round(value * n) / n:.10g}" if whole else f"{value:.5g}")
        try:
            return Schedule(
                self.row.name,
                peak_lr=given["peak"],
                warmup=float(f"{rise / total:.8g}"),
                warmup_start=min(1.0, max(f.first / given["peak"], 1e-9)) if rise else 0.01,
                knobs={
                    knob.name: given[knob.name] for knob in self.row.knobs if knob.counts(given)
                },
            )
        except InputError:
            return None


def _fitted(f: CurveFeatures, family: str, floor: bool, log: Log) -> FamilyFit | None:
    """The family with the knobs that come nearest; None where it has none to try."""
    warmup = f.warmup(family, f.top)
    run, ends = f.end - warmup, family in ENDING
    others = (*(rest - warmup for rest in f.rests), run / 2, run / 4, run / 8, 2 * run, 5 * run)
    lengths = dict.fromkeys(max(2.0, n) for n in (run, *(others if ends else ())))
    models = [_Model(f, family, n, knobs) for n in lengths for knobs in f.starts(family, floor, n)]
    if not models:
        return None
    # Fewer levels than settings, and a horizon comes out of any rates.
    settings = len(models[0].start) + 2 * (warmup > 0) - bool(f.hidden)
    if len(models[0].start) + 2 > len(log.at) or (ends and len(distinct(log.rates)) <= settings):
        return None
    at, rates = log.at, log.rates
    if len(at) > POINTS:  # evenly, with both sides of every larger jump
        jumps = np.argsort(np.abs(np.diff(rates)))[-20:]
        kept = np.unique(np.r_[np.linspace(0, len(at) - 1, POINTS).astype(int), jumps, jumps + 1])
        at, rates = at[kept], rates[kept]

    def off(x: Array, model: _Model) -> Array:
        return np.asarray(np.log((model.rates(x, at) + SOFT * f.top) / (rates + SOFT * f.top)))

    models.sort(key=lambda model: float(np.sum(off(model.start, model) ** 2)))
    results = []
    for model in models[:TRIED]:
        given: Knobs = {"bounds": (model.low, model.high), "args": (model,)}
        solution = least_squares(off, model.start, max_nfev=FIRST, **given)
        if np.sqrt(2 * solution.cost / len(at)) < NEAR:
            solution = least_squares(off, solution.x, max_nfev=60, xtol=1e-12, ftol=1e-12, **given)
        results.append((float(solution.cost), model, solution.x))
    _, model, x = min(results, key=lambda result: result[0])
    best, fitted = model.settings(x), model.rates(x, log.at)
    horizon = best["warmup"] + best["n"] if ends else None
    total = round(horizon or log.end)
    later = float(model.rates(x, np.array([log.end - 1]))[0])
    worst = float(np.max(np.abs(fitted - log.rates))) / f.top
    schedule = model.schedule(x, total)
    return FamilyFit(family, worst, best["warmup"], horizon, fitted, later, schedule, total)
