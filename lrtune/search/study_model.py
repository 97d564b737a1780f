"""StudyModel: what the trials of a study say to the model of schedules, each read once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrtune.errors import InputError
from lrtune.model.features import NAMES, features
from lrtune.model.forecast import AHEAD, Forecast, Gain, design, learn_gain
from lrtune.model.overfit import Less, less
from lrtune.model.scale import Scale
from lrtune.model.surrogate import Observations
from lrtune.model.transfer import Transfer
from lrtune.schedule import FAMILIES, Schedule
from lrtune.search.space import FAMILY, SCHEDULE
from lrtune.search.store import AVERAGED, START, was_cut_short

Array = NDArray[np.float64]

ONE_AT_A_TIME = threading.RLock()  # threads of one study; of all, as samplers are pickled
LOST = 0.5  # standard deviation of what a diverged trial counts as, on a Scale


@dataclass(slots=True)
class _Curve:
    """A trial as the forecast needs it."""

    schedule: Schedule
    total: int
    steps: NDArray[np.int64]  # (n,)
    values: Array  # (n,)
    averaged: bool
    others: dict[str, float]  # parameters beside the schedule, 0 ... 1
    final: float | None = None  # None unless trained to its end
    at: dict[int, Array] = field(default_factory=dict)  # by step: signal and design (8,)
    ends: Forecast | None = None  # as long as no other trial has come to its end
    told: tuple[Less, ...] | None = None  # see ``less``; None: not looked at yet

    @property
    def rates(self) -> Array:
        """Those of all updates (total,); not kept, for a thousand trials' may fill the memory."""
        return rates_ahead(self.schedule, self.total)

    def look(self, step: int, scale: Scale) -> Array | None:
        """Signal and design (8,) after so many updates; None where nothing was seen there."""
        if step in self.at:
            return self.at[step]
        if not (len(self.steps) and self.steps[0] <= step <= self.steps[-1]):
            return None
        known = self.steps <= step
        steps, values = self.steps[known], self.values[known]
        if steps[-1] < step:  # between two reports in proportion
            steps = np.append(steps, step)
            values = np.append(values, np.interp(step, self.steps, self.values))
        signal = scale.to(values)
        self.at[step] = np.append(signal[-1], design(self.rates, steps, signal)[-1])
        return self.at[step]


class StudyModel:
    """Reads a study; forgets nothing, asks the storage for nothing twice.

    What it tells is a function of the trials and the order in which they ended.
    """

    def __init__(self, total: int, transfer: Transfer) -> None:
        """Start with nothing read.

        Args:
            total: updates of a full trial, its horizon.
            transfer: what other tasks teach.
        """
        if type(total) is not int or total < 1:
            raise InputError(f"total={total!r}: the updates of a full trial, a whole number")
        self.total = total
        self._transfer = transfer
        self._minimize = True
        self._study = ""
        self._forget()

    def _forget(self) -> None:
        self._seen: set[int] = set()  # numbers of the trials that are over
        self._over: list[_Curve | None] = []  # in the order in which they ended; None: diverged
        self.numbers: list[int] = []  # in the study, of the trials that are over
        self.params: list[dict[str, Any]] = []  # of these
        self._schedules: list[tuple[Schedule, dict[str, float]]] = []
        self._features: list[Array] = []  # of these
        self._whole: list[_Curve] = []
        self._under_way: dict[int, _Curve] = {}  # by number, as they were looked at last
        self._scale = Scale(1.0, 0.0, 0.0)
        self._gains: dict[tuple[int, bool], Gain] = {}
        self.others: dict[str, BaseDistribution] = {}  # parameters beside the schedule
        self.without_schedule = 0  # trials that are over and carry none

    def read(
        self,
        study: optuna.Study,
        asked: int | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> list[FrozenTrial]:
        """Take in the trials that are over; of another study, from the first one on.

        Args:
            study: to read.
            asked: number of a trial that is left out.
            after: called after each trial that was taken in.

        Returns:
            The trials that are under way.
        """
        if study.study_name != self._study:
            self._forget()
            self._study = study.study_name
            self._minimize = study.direction == StudyDirection.MINIMIZE
        trials = study.get_trials(deepcopy=False)
        others = [t for t in trials if t.number not in self._seen and t.number != asked]
        over = [t for t in others if t.state.is_finished()]
        for trial in sorted(over, key=lambda t: (t.datetime_complete, t.number)):
            self._take(trial)
            self._seen.add(trial.number)
            self._rescale()
            after()
        return [t for t in others if t.state == TrialState.RUNNING]

    @property
    def count(self) -> int:
        """Trials that are known."""
        return len(self._over)

    @property
    def best(self) -> float | None:
        """The best final value on the scale; None before a trial came to its end."""
        finals = [curve.final for curve in self._whole]
        return float(self._scale.to(np.array(finals)).min()) if finals else None

    @property
    def scale(self) -> Scale:
        """On which values are compared."""
        return self._scale

    @property
    def whole(self) -> int:
        """Trials that came to their end."""
        return len(self._whole)

    def observations(self) -> Observations:
        """What the trials that are over say, in the order in which they ended.

        Behind them, what less training would have come to where trials overfit.
        """
        self._forecast_all()
        y, variance = np.full(self.count, np.nan), np.zeros(self.count)
        for row, curve in enumerate(self._over):
            if curve is None:
                continue
            if curve.final is not None:
                y[row] = self._scale.to(curve.final)
            elif curve.ends is not None:
                y[row], variance[row] = curve.ends.mean, curve.ends.variance
        lost = np.isnan(y)
        y[lost], variance[lost] = self._worst(y[~lost]), LOST**2
        x, told = self.x(), list[Less]()
        for row, curve in enumerate(self._over):
            if curve is None or curve.final is None:
                continue
            if curve.told is None:
                signal = self._scale.to(curve.values)
                found = less(x[row], curve.rates, curve.steps, signal, float(y[row]))
                curve.told = () if found is None else (found,)
            told += curve.told
        return Observations(x, y, variance).with_others(told)

    def _worst(self, y: Array) -> float:
        """What a diverged trial counts as: no better than what the others began with."""
        firsts = [curve.values[0] for curve in self._over if curve and len(curve.values)]
        shown = self._scale.to(np.array(firsts)) if firsts else np.zeros(1)
        return float(max([*y, float(np.median(shown))]))

    def x(self) -> Array:
        """Features of the trials that are over, those of ``others`` behind: (n, features)."""
        return self._table(self._features, [others for _, others in self._schedules])

    def x_of(self, trials: list[FrozenTrial]) -> Array:
        """Likewise of other trials; those without a schedule are left out."""
        found = [(schedule_of(trial), self._others(trial)) for trial in trials]
        known = [(features(schedule), others) for schedule, others in found if schedule]
        return self._table([x for x, _ in known], [others for _, others in known])

    def _table(self, some: Sequence[Array], others: Sequence[dict[str, float]]) -> Array:
        own = np.array(some).reshape(len(some), len(NAMES))
        places = [[one.get(name, 0.5) for name in self.others] for one in others]
        return np.hstack([own, np.array(places).reshape(len(some), len(self.others))])

    def schedules(self) -> list[Schedule]:
        """Of the trials that are over."""
        return [schedule for schedule, _ in self._schedules]

    def whole_rows(self) -> list[int]:
        """Which of the trials that are over came to their end."""
        return [row for row, curve in enumerate(self._over) if curve and curve.final is not None]

    def curve_of(self, trial: FrozenTrial, schedule: Schedule) -> _Curve:
        """A trial as the forecast needs it; reports that are no numbers are left out.

        Raises:
            InputError: a step beyond the horizon.
        """
        if (last := trial.last_step or 0) > self.total:
            raise InputError(
                f"trial {trial.number}: step {last}: expected an update, at most "
                f"total={self.total}: one study, one horizon"
            )
        reports = sorted(trial.intermediate_values.items())
        seen = [(step, value) for step, value in reports if step > 0 and np.isfinite(value)]
        steps = np.array([step for step, _ in seen], dtype=np.int64)
        values = np.array([value for _, value in seen], dtype=np.float64)
        averaged = bool(trial.user_attrs.keys() & {START, AVERAGED})
        curve = _Curve(schedule, self.total, steps, values, averaged, self._others(trial))
        before = self._under_way.get(trial.number)
        if before is not None and np.array_equal(before.values, values[: len(before.values)]):
            curve.at = before.at
        self._under_way[trial.number] = curve
        return curve

    def forecast(self, curve: _Curve) -> Forecast | None:
        """What it ends with; None where it has shown nothing yet."""
        step = int(curve.steps[-1]) if len(curve.steps) else 0
        seen = curve.look(step, self._scale)
        if seen is None:
            return None
        return self._gain(step, curve.averaged).forecast(float(seen[0]), seen[1:])

    def _forecast_all(self) -> None:
        """What all trials that were cut short end with; those together that ended together."""
        groups: dict[tuple[int, bool], list[_Curve]] = {}
        for curve in self._over:
            if curve is not None and curve.final is None and curve.ends is None:
                groups.setdefault((int(curve.steps[-1]), curve.averaged), []).append(curve)
        for (step, averaged), curves in groups.items():
            looks = np.array([curve.look(step, self._scale) for curve in curves])
            told = self._gain(step, averaged).forecasts(looks[:, 0], looks[:, 1:])
            for curve, ends in zip(curves, told, strict=True):
                curve.ends = ends

    def _gain(self, step: int, averaged: bool) -> Gain:
        """What trials still gain after so many updates."""
        if (step, averaged) not in self._gains:
            looks, finals = [], []
            for curve in self._whole:
                seen = curve.look(step, self._scale) if curve.averaged == averaged else None
                if seen is not None:
                    looks.append(seen)
                    finals.append(curve.final)
            table = np.array(looks).reshape(len(looks), 1 + len(AHEAD))
            # Sums must not depend on the order.
            order: NDArray[np.intp] = np.lexsort(table.T) if looks else np.empty(0, np.intp)
            self._gains[step, averaged] = learn_gain(
                self._transfer,
                averaged,
                step / self.total,
                table[order, 1:],
                table[order, 0],
                self._scale.to(np.array(finals))[order],
            )
        return self._gains[step, averaged]

    def _take(self, trial: FrozenTrial) -> None:
        """Keep what a trial showed that is over."""
        diverged = _diverged(trial)
        # One of a search of ours is repeated, whatever it was about to be told as.
        if was_cut_short(trial) and (START in trial.user_attrs or not diverged):
            return
        schedule = schedule_of(trial)
        if schedule is None:
            self.without_schedule += 1
            return
        for name, distribution in trial.distributions.items():
            if not of_a_schedule(name) and name not in self.others:
                self.others[name] = distribution
                self._forget_told()  # it has one number less
        curve = self.curve_of(trial, schedule)
        del self._under_way[trial.number]
        final = trial.values[0] if trial.state == TrialState.COMPLETE else None
        silent = final is None and not len(curve.steps)
        if trial.state == TrialState.FAIL or diverged or silent:
            self._over.append(None)
        else:
            curve.final = final
            self._over.append(curve)
            if final is not None:
                self._whole.append(curve)
                self._forget_forecasts()
        self.numbers.append(trial.number)
        self.params.append(trial.params)
        self._schedules.append((schedule, curve.others))
        self._features.append(features(schedule))

    def _rescale(self) -> None:
        """Find the scale of all values; what was learnt on another one is forgotten."""
        curves = [curve for curve in self._over if curve is not None]
        finals = [curve.final for curve in curves if curve.final is not None]
        values = np.concatenate([*(curve.values for curve in curves), finals])
        scale = Scale.of(values, self._minimize)
        if scale != self._scale:
            self._scale = scale
            self._forget_forecasts()
            self._forget_told()
            for curve in (*curves, *self._under_way.values()):
                curve.at.clear()

    def _forget_forecasts(self) -> None:
        self._gains.clear()
        for curve in self._over:
            if curve is not None:
                curve.ends = None

    def _forget_told(self) -> None:
        for curve in self._over:
            if curve is not None:
                curve.told = None

    def _others(self, trial: FrozenTrial) -> dict[str, float]:
        found = {}
        for name, value in trial.params.items():
            if not of_a_schedule(name):
                found[name] = unit(trial.distributions[name], value)
        return found


def unit(distribution: BaseDistribution, value: Any) -> float:
    """Where a value lies in its range, 0 ... 1."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices.index(value) / max(1, count - 1)
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if distribution.log:  # type: ignore[attr-defined]
        low, high, value = np.log([low, high, value])
    return float((value - low) / (high - low)) if high > low else 0.5


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value lies in its range."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    return bool(low <= value <= high)


def from_unit(distribution: BaseDistribution, place: float) -> Any:
    """The value at a place in the range, 0 ... 1."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices[min(count - 1, int(place * count))]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    log = distribution.log  # type: ignore[attr-defined]
    ends = np.log([low, high]) if log else np.array([low, high], dtype=np.float64)
    value = float(ends[0] + place * (ends[1] - ends[0]))
    value = float(np.exp(value)) if log else value
    step = distribution.step  # type: ignore[attr-defined]
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return int(value) if isinstance(low, int) else float(value)


def schedule_of(trial: optuna.Trial | FrozenTrial) -> Schedule | None:
    """The schedule that a trial carries."""
    text = trial.user_attrs.get(SCHEDULE)
    return None if text is None else _read(text)


@lru_cache(maxsize=4096)
def _read(text: str) -> Schedule:
    return Schedule.from_json(text)


def rates_ahead(schedule: Schedule, total: int) -> Array:
    """Its rates; of a closed loop, whose future is not known, with the rate held."""
    return schedule.controller(total).rates if schedule.closed_loop else schedule.rates(total)


def of_a_schedule(name: str) -> bool:
    """Whether a parameter is one of a schedule's, by its name."""
    family, dot, _ = name.partition(".")
    return name == FAMILY or (bool(dot) and family in FAMILIES)


def _diverged(trial: FrozenTrial) -> bool:
    """Whether it did, by a constraint, or because the last that it said is no number."""
    if any(value > 0 for value in (trial.constraints or {}).values()):
        return True
    last = [] if trial.last_step is None else [trial.intermediate_values[trial.last_step]]
    return not np.isfinite([*last, *(trial.values or ())]).all()
