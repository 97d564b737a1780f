"""StudyModel: what the trials of a study tell the model of schedules, each trial read once."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from lrtune.model.surrogate import Observations, PeakGuess, Surrogate, fitted_at
from lrtune.model.transfer import Transfer
from lrtune.schedule import Schedule
from lrtune.search.space import is_schedule_param, schedule_of, unit
from lrtune.search.storage import AVERAGED, START, Belief, as_they_ended, was_cut_short

Array = NDArray[np.float64]

ONE_AT_A_TIME = threading.RLock()  # threads of one study; of all, as samplers are pickled
LOST = 0.5  # standard deviation of what a diverged trial counts as, on a Scale
TAIL = 1.645  # standard deviations to the 5 % and 95 % quantiles
MOST_WHOLE = 512  # whole trainings, the last ones, that forecasts learn from
FEW, RESCALED = 512, 1.05  # beyond so many trials, a scale of all values is found so much later


class _Rows:
    """A table (n, width) that grows by rows."""

    def __init__(self, width: int) -> None:
        self._kept = np.empty((64, width))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def table(self) -> Array:
        """All rows, a view."""
        return self._kept[: self._count]

    def append(self, row: Array | Sequence[float]) -> None:
        """Add one."""
        if self._count == len(self._kept):
            self._kept = np.concatenate([self._kept, np.empty_like(self._kept)])
        self._kept[self._count] = row
        self._count += 1

    def keep_last(self, count: int) -> None:
        """Drop those before."""
        self._kept = self.table[-count:].copy()
        self._count = len(self._kept)


@dataclass(slots=True)
class _Curve:
    """A trial as the forecast needs it."""

    schedule: Schedule
    total: int
    steps: NDArray[np.int64]  # (n,)
    values: Array  # (n,)
    averaged: bool
    final: float | None = None  # None unless trained to its end
    looks: Array | None = None  # (n, 8) signal and design at each step; not kept for long

    @property
    def rates(self) -> Array:
        """Those of all updates (total,); not kept, for a thousand trials' may fill the memory."""
        return rates_ahead(self.schedule, self.total)

    def look(self, step: int, scale: Scale) -> Array | None:
        """Signal and design (8,) after so many updates; None where nothing was seen there."""
        if not (len(self.steps) and self.steps[0] <= step <= self.steps[-1]):
            return None
        place = int(np.searchsorted(self.steps, step))
        if self.steps[place] == step:
            if self.looks is None:
                self.looks = self._looks(self.steps, scale.to(self.values))
            return np.asarray(self.looks[place])
        # Between two reports in proportion.
        steps = np.append(self.steps[:place], step)
        values = np.append(self.values[:place], np.interp(step, self.steps, self.values))
        return np.asarray(self._looks(steps, scale.to(values))[-1])

    def _looks(self, steps: NDArray[np.int64], signal: Array) -> Array:
        return np.column_stack([signal, design(self.rates, steps, signal)])


class _Trial(NamedTuple):
    """A trial that is over and carries a schedule."""

    number: int  # in the study
    params: dict[str, Any]
    schedule: Schedule
    others: dict[str, float]  # parameters beside the schedule, 0 ... 1
    x: Array  # features
    curve: _Curve | None  # None: diverged


class _Cut:
    """Trials that were cut short after as many updates."""

    def __init__(self) -> None:
        self.rows: list[int] = []  # of ``over``
        self.looks = _Rows(1 + len(AHEAD))  # of the first of these; those of the others are to come
        self.forecast = 0  # so many of them, as far as is known now


class StudyModel:
    """Reads a study; forgets nothing, asks the storage for nothing twice.

    What it tells is a function of the trials and the order in which they ended. What a trial costs
    hardly grows with their number: forecasts learn from the last MOST_WHOLE whole trainings.

    Attributes:
        over: the trials that are over, in the order in which they ended.
        whole_rows: which of these came to their end.
        then: what was known when settings were last to be fitted, see ``fitted_at``.
        scale: on which values are compared.
        others: parameters beside the schedule.
        without_schedule: how many trials are over and carry none.
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
        self.transfer = transfer
        self._beside = dict(beside or {})
        self._begin("", True)

    def _begin(self, study: str, minimize: bool) -> None:
        self._study, self._minimize = study, minimize
        self._looked = 0  # trials of the study that were looked at
        self._open: dict[int, None] = {}  # numbers of those of them that are not over, in order
        self._running: dict[int, tuple[int, Array, dict[str, float]]] = {}  # by number, see x_of
        self.over: list[_Trial] = []
        self.whole_rows: list[int] = []
        self.then: Observations | None = None
        self.scale = Scale(1.0, 0.0, 0.0)
        self.others = dict(self._beside)
        self.without_schedule = 0
        self._extreme: float | None = None  # the best of all values
        self._best: float | None = None  # of the final ones
        self._scaled = 0  # trials that were over when the scale was found
        self._whole: list[_Curve] = []
        self._cut: dict[tuple[int, bool], _Cut] = {}  # by last step, and whether averaged
        self._known: dict[tuple[int, bool], _Rows] = {}  # whole trainings at a step, see _known_at
        self._seen: dict[tuple[int, bool], int] = {}  # how many of ``_whole`` were looked at there
        self._gains: dict[tuple[int, bool], Gain] = {}
        self._shorter: list[ShorterTraining] = []  # of the whole trainings
        self._shortened = 0  # so many of these
        self._x = _Rows(len(NAMES) + len(self.others))
        self._y = _Rows(2)  # final value on the scale and variance; NaN of what diverged
        self._firsts = _Rows(1)  # first values of the curves

    def read(self, study: optuna.Study, asked: int | None = None) -> list[FrozenTrial]:
        """Take in the trials that are over but ``asked``; of another study, from the first one on.

        Returns the trials that are under way.
        """
        trials = study.get_trials(deepcopy=False)
        if study.study_name != self._study or len(trials) < self._looked:
            self._begin(study.study_name, study.direction == StudyDirection.MINIMIZE)
        others = [trials[number] for number in self._open] + trials[self._looked :]
        self._open = dict.fromkeys(trial.number for trial in others)
        self._looked = len(trials)
        over = [t for t in others if t.state.is_finished() and t.number != asked]
        over = as_they_ended(over)
        schedules = [self._schedule_of(trial) for trial in over]
        fitted = fitted_at(self.count + sum(schedule is not None for schedule in schedules))
        for trial, schedule in zip(over, schedules, strict=True):
            if schedule is not None:
                self._take(trial, schedule)
                self._rescale()
                if self.count == fitted:
                    self.then = self.observations()
            self._running.pop(trial.number, None)
            del self._open[trial.number]
        return [t for t in others if t.state == TrialState.RUNNING and t.number != asked]

    @property
    def count(self) -> int:
        """Trials that are over."""
        return len(self.over)

    @property
    def best(self) -> float | None:
        """The best final value on the scale; None before a trial came to its end."""
        return None if self._best is None else float(self.scale.to(self._best))

    @property
    def _curves(self) -> list[_Curve]:
        return [trial.curve for trial in self.over if trial.curve is not None]

    def observations(self) -> Observations:
        """The final values of the trials that are over, in the order in which they ended.

        After them come estimates of shorter trainings, where trials overfit.
        """
        self._forecast_all()
        self._shorten_all()
        y, variance = self._y.table.T.copy()
        lost = np.isnan(y)
        if lost.any():
            y[lost], variance[lost] = self._worst(y[~lost]), LOST**2
        known = Observations(self.x(), y, variance)
        return known.with_others(self._shorter[-MOST_WHOLE:])

    def _shorten_all(self) -> None:
        for row in self.whole_rows[self._shortened :]:
            curve, y = self.over[row].curve, float(self._y.table[row, 0])
            assert curve is not None
            signal = self.scale.to(curve.values)
            own = shorter_training(self.x()[row], curve.rates, curve.steps, signal, y)
            self._shorter += [] if own is None else [own]
        self._shortened = len(self.whole_rows)

    def _worst(self, y: Array) -> float:
        """What a diverged trial counts as: no better than what the others began with."""
        firsts = self._firsts.table[:, 0]
        shown = self.scale.to(firsts) if len(firsts) else np.zeros(1)
        return float(y.max(initial=float(np.median(shown))))

    def x(self) -> Array:
        """Features of the trials that are over, those of ``others`` behind: (n, features)."""
        return self._x.table

    def x_of(self, trials: list[FrozenTrial]) -> Array:
        """Likewise of trials that are under way; those without a schedule are left out."""
        known = [own for own in map(self._seen_running, trials) if own is not None]
        return self._table([x for _, x, _ in known], [others for *_, others in known])

    def _seen_running(self, trial: FrozenTrial) -> tuple[int, Array, dict[str, float]] | None:
        """Number of parameters, features, and those beside the schedule."""
        count, seen = len(trial.distributions), self._running.get(trial.number)
        if seen is not None and seen[0] == count:
            return seen
        schedule = schedule_of(trial)
        if schedule is None:
            return None
        self._running[trial.number] = count, features(schedule), _others(trial)
        return self._running[trial.number]

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
        return _Curve(schedule, self.total, steps, values, averaged)

    def forecast(self, curve: _Curve) -> Forecast | None:
        """What it ends with; None where it has shown nothing yet."""
        step = int(curve.steps[-1]) if len(curve.steps) else 0
        seen = curve.look(step, self.scale)
        if seen is None:
            return None
        return self._gain(step, curve.averaged).forecast(float(seen[0]), seen[1:])

    def _forecast_all(self) -> None:
        """Forecast all trials that were cut short; those together that ended at the same step."""
        for (step, averaged), cut in self._cut.items():
            for row in cut.rows[len(cut.looks) :]:
                curve = self.over[row].curve
                assert curve is not None
                seen = curve.look(step, self.scale)
                assert seen is not None
                cut.looks.append(seen)
                curve.looks = None
            if new := cut.rows[cut.forecast :]:
                looks = cut.looks.table[cut.forecast :]
                gain = self._gain(step, averaged)
                self._y.table[new] = gain.moments(looks[:, 0], looks[:, 1:])
                cut.forecast = len(cut.rows)

    def _gain(self, step: int, averaged: bool) -> Gain:
        """What trials still gain after so many updates."""
        if (step, averaged) not in self._gains:
            known = self._known_at(step, averaged)
            table, finals = known[:, :-1], known[:, -1]
            # Sums must not depend on the order.
            order: NDArray[np.intp] = np.lexsort(table.T) if len(table) else np.empty(0, np.intp)
            own = table[order, 1:], table[order, 0], self.scale.to(finals)[order]
            gain = learn_gain(self.transfer, averaged, step / self.total, *own)
            self._gains[step, averaged] = gain
        return self._gains[step, averaged]

    def _known_at(self, step: int, averaged: bool) -> Array:
        """Signal, design and final value (n, 9) of the last whole trainings after so many updates.

        Of those with the same kind of reports that were seen then.
        """
        first, key = max(0, len(self._whole) - MOST_WHOLE), (step, averaged)
        rows = self._known.setdefault(key, _Rows(3 + len(AHEAD)))  # which one, and the above
        for place in range(max(first, self._seen.get(key, 0)), len(self._whole)):
            curve = self._whole[place]
            seen = curve.look(step, self.scale) if curve.averaged == averaged else None
            if seen is not None:
                rows.append([place, *seen, float(curve.final or 0.0)])
        self._seen[key] = len(self._whole)
        if len(rows) > 2 * MOST_WHOLE:
            rows.keep_last(MOST_WHOLE)
        return rows.table[np.searchsorted(rows.table[:, 0], first) :, 1:]

    def _schedule_of(self, trial: FrozenTrial) -> Schedule | None:
        """Of a trial that is over; None where it counts for nothing."""
        # One of a search of ours is repeated, whatever it was about to be told as.
        if was_cut_short(trial) and (START in trial.user_attrs or not _diverged(trial)):
            return None
        schedule = schedule_of(trial)
        self.without_schedule += schedule is None
        return schedule

    def _take(self, trial: FrozenTrial, schedule: Schedule) -> None:
        """Keep what a trial showed that is over."""
        curve: _Curve | None = self.curve_of(trial, schedule)
        assert curve is not None
        curve.final = trial.values[0] if trial.state == TrialState.COMPLETE else None
        silent = curve.final is None and not len(curve.steps)
        if trial.state == TrialState.FAIL or _diverged(trial) or silent:
            curve = None
        x, others, row = features(schedule), _others(trial), self.count
        self.over.append(_Trial(trial.number, trial.params, schedule, others, x, curve))
        self._y.append([np.nan, 0.0])
        if curve is not None:
            self._take_curve(curve, row)
        new = {n: d for n, d in trial.distributions.items() if not is_schedule_param(n)}
        if new.keys() <= self.others.keys():
            self._x.append(self._table([x], [others])[0])
            return
        # All features have a number more.
        self.others |= {name: d for name, d in new.items() if name not in self.others}
        self._x = _Rows(len(NAMES) + len(self.others))
        for own in self._table([t.x for t in self.over], [t.others for t in self.over]):
            self._x.append(own)
        self._shorter, self._shortened = [], 0

    def _take_curve(self, curve: _Curve, row: int) -> None:
        ended = [] if curve.final is None else [curve.final]
        best = min if self._minimize else max
        seen = [*curve.values.tolist(), *ended]
        self._extreme = best([*seen, *([] if self._extreme is None else [self._extreme])])
        if len(curve.values):
            self._firsts.append(curve.values[:1])
        if curve.final is None:
            step = int(curve.steps[-1]), curve.averaged
            self._cut.setdefault(step, _Cut()).rows.append(row)
            return
        self._best = best([*ended, *([] if self._best is None else [self._best])])
        self._y.table[row, 0] = self.scale.to(curve.final)
        self._whole.append(curve)
        self.whole_rows.append(row)
        if len(self._whole) > MOST_WHOLE:
            self._whole[-MOST_WHOLE - 1].looks = None
        self._forget_gains()

    def _forget_gains(self) -> None:
        self._gains.clear()
        for cut in self._cut.values():
            cut.forecast = 0

    def _rescale(self) -> None:
        """Find the scale of all values; what was learnt on another one is forgotten."""
        known = np.array([] if self._extreme is None else [self._extreme])
        scale = Scale.of(known, self._minimize)
        if scale.room:  # the origin is one of the values, which count all
            better = not self.scale.room or scale.origin != self.scale.origin
            if not better and self._scaled > FEW and self.count < RESCALED * self._scaled:
                return
            curves = self._curves
            finals = [curve.final for curve in curves if curve.final is not None]
            values = np.concatenate([*(curve.values for curve in curves), finals])
            scale = Scale.of(values, self._minimize)
        self._scaled = self.count
        if scale == self.scale:
            return
        self.scale = scale
        self._forget_gains()
        self._known.clear()
        self._seen.clear()
        self._shorter, self._shortened = [], 0
        for cut in self._cut.values():
            cut.looks = _Rows(1 + len(AHEAD))
        for row, curve in zip(self.whole_rows, self._whole, strict=True):
            curve.looks = None
            self._y.table[row, 0] = scale.to(float(curve.final or 0.0))


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
