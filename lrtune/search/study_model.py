"""StudyModel: what the trials of a study tell the model of schedules, each trial read once."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrtune.errors import InputError
from lrtune.model.decide import DRAWS, promising
from lrtune.model.features import NAMES, Scale, features
from lrtune.model.forecast import (
    AHEAD,
    Forecast,
    Gain,
    ShorterTraining,
    design,
    learn_gain,
    shorter_training,
)
from lrtune.model.surrogate import Observations, PeakGuess, Surrogate
from lrtune.model.transfer import Transfer
from lrtune.schedule import Schedule
from lrtune.search.space import is_schedule_param, schedule_of, unit
from lrtune.search.storage import AVERAGED, START, Belief, as_they_ended, was_cut_short

Array = NDArray[np.float64]

ONE_AT_A_TIME = threading.RLock()  # threads of one study; of all, as samplers are pickled
LOST = 0.5  # standard deviation of what a diverged trial counts as, on a Scale
TAIL = 1.645  # standard deviations to the 5 % and 95 % quantiles


@dataclass(slots=True)
class _Curve:
    """A trial as the forecast needs it."""

    schedule: Schedule
    total: int
    steps: NDArray[np.int64]  # (n,)
    values: Array  # (n,)
    averaged: bool
    final: float | None = None  # None unless trained to its end
    at: dict[int, Array] = field(default_factory=dict)  # by step: signal and design (8,)
    forecast: Forecast | None = None  # as long as no other trial has come to its end
    shorter: tuple[ShorterTraining, ...] | None = None  # None: not computed yet

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


class _Trial(NamedTuple):
    """A trial that is over and carries a schedule."""

    number: int  # in the study
    params: dict[str, Any]
    schedule: Schedule
    others: dict[str, float]  # parameters beside the schedule, 0 ... 1
    x: Array  # features
    curve: _Curve | None  # None: diverged


class StudyModel:
    """Reads a study; forgets nothing, asks the storage for nothing twice.

    What it tells is a function of the trials and the order in which they ended.
    """

    def __init__(
        self, total: int, transfer: Transfer, beside: Mapping[str, BaseDistribution] | None = None
    ) -> None:
        """Start with nothing read.

        Args:
            total: updates of a full trial.
            transfer: what other tasks teach.
            beside: parameters beside the schedule that are known before any trial has them.
        """
        if type(total) is not int or total < 1:
            raise InputError(f"total={total!r}: the updates of a full trial, a whole number")
        self.total = total
        self._transfer = transfer
        self._beside = dict(beside or {})
        self._begin("", True)

    def _begin(self, study: str, minimize: bool) -> None:
        self._study, self._minimize = study, minimize
        self._seen: set[int] = set()  # numbers of the trials that are over
        self.over: list[_Trial] = []  # in the order in which they ended
        self._whole: list[_Curve] = []
        self._under_way: dict[int, _Curve] = {}  # by number, as they were looked at last
        self.scale = Scale(1.0, 0.0, 0.0)  # on which values are compared
        self._gains: dict[tuple[int, bool], Gain] = {}
        self.others = dict(self._beside)  # parameters beside the schedule
        self.without_schedule = 0  # trials that are over and carry none

    def read(
        self,
        study: optuna.Study,
        asked: int | None = None,
        after: Callable[[], None] = lambda: None,
    ) -> list[FrozenTrial]:
        """Take in the trials that are over but ``asked``; of another study, from the first one on.

        ``after`` is called after each. Returns the trials that are under way.
        """
        if study.study_name != self._study:
            self._begin(study.study_name, study.direction == StudyDirection.MINIMIZE)
        trials = study.get_trials(deepcopy=False)
        others = [t for t in trials if t.number not in self._seen and t.number != asked]
        over = [t for t in others if t.state.is_finished()]
        for trial in as_they_ended(over):
            self._take(trial)
            self._seen.add(trial.number)
            self._rescale()
            after()
        return [t for t in others if t.state == TrialState.RUNNING]

    @property
    def count(self) -> int:
        """Trials that are over."""
        return len(self.over)

    @property
    def whole_rows(self) -> list[int]:
        """Which rows of ``over`` came to their end."""
        curves = enumerate(trial.curve for trial in self.over)
        return [row for row, curve in curves if curve and curve.final is not None]

    @property
    def best(self) -> float | None:
        """The best final value on the scale; None before a trial came to its end."""
        finals = [curve.final for curve in self._whole]
        return float(self.scale.to(np.array(finals)).min()) if finals else None

    @property
    def _curves(self) -> list[_Curve]:
        return [trial.curve for trial in self.over if trial.curve is not None]

    def observations(self) -> Observations:
        """The final values of the trials that are over, in the order in which they ended.

        After them come estimates of shorter trainings, where trials overfit.
        """
        self._forecast_all()
        y, variance = np.full(self.count, np.nan), np.zeros(self.count)
        x, shorter = self.x(), list[ShorterTraining]()
        for row, (*_, curve) in enumerate(self.over):
            if curve is None:
                continue
            if curve.final is None:
                if curve.forecast is not None:
                    y[row], variance[row] = curve.forecast.mean, curve.forecast.variance
                continue
            y[row] = self.scale.to(curve.final)
            if curve.shorter is None:
                signal = self.scale.to(curve.values)
                own = shorter_training(x[row], curve.rates, curve.steps, signal, float(y[row]))
                curve.shorter = () if own is None else (own,)
            shorter += curve.shorter
        lost = np.isnan(y)
        y[lost], variance[lost] = self._worst(y[~lost]), LOST**2
        return Observations(x, y, variance).with_others(shorter)

    def _worst(self, y: Array) -> float:
        """What a diverged trial counts as: no better than what the others began with."""
        firsts = [curve.values[0] for curve in self._curves if len(curve.values)]
        shown = self.scale.to(np.array(firsts)) if firsts else np.zeros(1)
        return float(max([*y, float(np.median(shown))]))

    def x(self) -> Array:
        """Features of the trials that are over, those of ``others`` behind: (n, features)."""
        return self._table([t.x for t in self.over], [t.others for t in self.over])

    def x_of(self, trials: list[FrozenTrial]) -> Array:
        """Likewise of other trials; those without a schedule are left out."""
        pairs = [(schedule_of(trial), _others(trial)) for trial in trials]
        known = [(features(schedule), others) for schedule, others in pairs if schedule]
        return self._table([x for x, _ in known], [others for _, others in known])

    def _table(self, x: Sequence[Array], others: Sequence[dict[str, float]]) -> Array:
        places = [[own.get(name, 0.5) for name in self.others] for own in others]
        left = np.array(x).reshape(len(x), len(NAMES))
        return np.hstack([left, np.array(places).reshape(len(x), len(self.others))])

    def curve_of(self, trial: FrozenTrial, schedule: Schedule) -> _Curve:
        """A trial as the forecast needs it; reports that are not finite are left out.

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
        curve = _Curve(schedule, self.total, steps, values, averaged)
        before = self._under_way.get(trial.number)
        if before is not None and np.array_equal(before.values, values[: len(before.values)]):
            curve.at = before.at
        self._under_way[trial.number] = curve
        return curve

    def forecast(self, curve: _Curve) -> Forecast | None:
        """What it ends with; None where it has shown nothing yet."""
        step = int(curve.steps[-1]) if len(curve.steps) else 0
        seen = curve.look(step, self.scale)
        if seen is None:
            return None
        return self._gain(step, curve.averaged).forecast(float(seen[0]), seen[1:])

    def _forecast_all(self) -> None:
        """Forecast all trials that were cut short; those together that ended at the same step."""
        groups: dict[tuple[int, bool], list[_Curve]] = {}
        for curve in self._curves:
            if curve.final is None and curve.forecast is None:
                groups.setdefault((int(curve.steps[-1]), curve.averaged), []).append(curve)
        for (step, averaged), curves in groups.items():
            looks = np.array([curve.look(step, self.scale) for curve in curves])
            forecasts = self._gain(step, averaged).forecasts(looks[:, 0], looks[:, 1:])
            for curve, forecast in zip(curves, forecasts, strict=True):
                curve.forecast = forecast

    def _gain(self, step: int, averaged: bool) -> Gain:
        """What trials still gain after so many updates."""
        if (step, averaged) not in self._gains:
            looks, finals = [], []
            for curve in self._whole:
                seen = curve.look(step, self.scale) if curve.averaged == averaged else None
                if seen is not None:
                    looks.append(seen)
                    finals.append(curve.final)
            table = np.array(looks).reshape(len(looks), 1 + len(AHEAD))
            # Sums must not depend on the order.
            order: NDArray[np.intp] = np.lexsort(table.T) if looks else np.empty(0, np.intp)
            known = table[order, 1:], table[order, 0], self.scale.to(np.array(finals))[order]
            gain = learn_gain(self._transfer, averaged, step / self.total, *known)
            self._gains[step, averaged] = gain
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
            if not is_schedule_param(name) and name not in self.others:
                self.others[name] = distribution
                self._forget(shorter=True)  # its features have one number less
        curve: _Curve | None = self.curve_of(trial, schedule)
        assert curve is not None
        del self._under_way[trial.number]
        curve.final = trial.values[0] if trial.state == TrialState.COMPLETE else None
        silent = curve.final is None and not len(curve.steps)
        if trial.state == TrialState.FAIL or diverged or silent:
            curve = None
        elif curve.final is not None:
            self._whole.append(curve)
            self._forget(forecasts=True)
        x = features(schedule)
        self.over.append(_Trial(trial.number, trial.params, schedule, _others(trial), x, curve))

    def _rescale(self) -> None:
        """Find the scale of all values; what was learnt on another one is forgotten."""
        curves = self._curves
        finals = [curve.final for curve in curves if curve.final is not None]
        values = np.concatenate([*(curve.values for curve in curves), finals])
        scale = Scale.of(values, self._minimize)
        if scale != self.scale:
            self.scale = scale
            self._forget(forecasts=True, shorter=True)
            for curve in (*curves, *self._under_way.values()):
                curve.at.clear()

    def _forget(self, forecasts: bool = False, shorter: bool = False) -> None:
        if forecasts:
            self._gains.clear()
        for curve in self._curves:
            curve.forecast = None if forecasts else curve.forecast
            curve.shorter = None if shorter else curve.shorter


def _others(trial: FrozenTrial) -> dict[str, float]:
    own = {name: d for name, d in trial.distributions.items() if not is_schedule_param(name)}
    return {name: unit(distribution, trial.params[name]) for name, distribution in own.items()}


def rates_ahead(schedule: Schedule, total: int) -> Array:
    """Its rates; of a closed loop, whose future is not known, with the rate held."""
    return schedule.controller(total).rates if schedule.closed_loop else schedule.rates(total)


def _diverged(trial: FrozenTrial) -> bool:
    """Whether it did, by a constraint, or because its last value is not finite."""
    if any(value > 0 for value in (trial.constraints or {}).values()):
        return True
    last = [] if trial.last_step is None else [trial.intermediate_values[trial.last_step]]
    return not np.isfinite([*last, *(trial.values or ())]).all()


def beliefs(
    study: optuna.Study, total: int, guess: PeakGuess, transfer: Transfer
) -> dict[int, Belief]:
    """By number in the study, of every trial that is over and carries a schedule."""
    model = StudyModel(total, transfer)
    model.read(study)
    if not model.count:
        return {}
    posterior = Surrogate(transfer, guess).posterior(model.observations())
    x = model.x()
    mean, sd = posterior.mean_and_sd(x)
    rng = np.random.default_rng(0)
    rows = promising(posterior, x, rng)
    winners = rows[posterior.draws(x[rows], DRAWS, rng).argmin(1)]
    shares = np.bincount(winners, minlength=len(x)) / DRAWS
    by_number = {}
    for row, trial in enumerate(model.over):
        places = (mean[row], mean[row] - TAIL * sd[row], mean[row] + TAIL * sd[row])
        value, *ends = (model.scale.back(float(posterior.values(z))) for z in places)
        by_number[trial.number] = Belief(value, min(ends), max(ends), float(shares[row]))
    return by_number
