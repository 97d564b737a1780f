"""SchedulePruner: an Optuna pruner that knows what rates a trial has still ahead of it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrtune.errors import InputError, nearest
from lrtune.schedule import Schedule
from lrtune.search.forecast import FEATURES, Forecast, Scale, features, forecast
from lrtune.search.running import better
from lrtune.search.space import SCHEDULE
from lrtune.search.store import AVERAGED, START

Array = NDArray[np.float64]

EPSILON = 0.2  # of these and the next two, see ``scripts/bench/pruning.py``
STARTUP = 5  # trials that must be over
WARMUP = 0.1  # of the run, in which no trial ends
# A family's first trial is judged by this share of epsilon, and all of them the more carefully the
# fewer trials are known: with so many known, by half of it.
FIRST, CAUTION = 0.25, 5


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a trial is to end, and what it rests on.

    Attributes:
        prune: whether it is to end.
        reason: in words.
        final: the median of its final value, as forecast; None without a forecast.
        low: 5 % quantile of it, on the side of the better values.
        high: 95 % quantile.
        best: the best final value so far, which it had to beat.
        probability: that it will.
        threshold: below which it ends.
        ahead: features of its remaining rates, by name.
        trials: that the forecast was learnt from.
    """

    prune: bool
    reason: str
    final: float | None = None
    low: float | None = None
    high: float | None = None
    best: float | None = None
    probability: float | None = None
    threshold: float | None = None
    ahead: dict[str, float] = field(default_factory=dict)
    trials: int = 0


@dataclass(slots=True)
class _Curve:
    """A trial that is over, as the forecast needs it."""

    steps: Array  # (n,)
    shown: Array  # (n, 1 + features): value and features at each
    final: float

    def at(self, step: int) -> Array:
        """What it showed after so many updates, between reports in proportion."""
        place = int(np.searchsorted(self.steps, step))
        if self.steps[place] == step:
            found: Array = self.shown[place]
            return found
        return np.array([np.interp(step, self.steps, column) for column in self.shown.T])


class SchedulePruner(BasePruner):
    """Ends a trial whose final value is unlikely to beat the best one, as forecast.

    For any Optuna study whose trials carry a schedule, which ``lrtune.suggest`` sees to, with any
    training loop. Report with ``lrtune.report(trial, value, step, averaged=...)``; steps are
    updates. It reads only what Optuna stores, so that any number of workers decide alike.

    Example:
        >>> pruner = SchedulePruner(total=100)
        >>> study = optuna.create_study(pruner=pruner)
    """

    def __init__(
        self,
        total: int,
        *,
        epsilon: float = EPSILON,
        startup: int = STARTUP,
        warmup: float = WARMUP,
    ) -> None:
        """Set the rule.

        Args:
            total: updates of a full trial, its horizon.
            epsilon: prune where the best final value is beaten with less than this probability.
            startup: trials that must be complete before any is pruned.
            warmup: share of the run in which none is pruned.

        Raises:
            InputError: for a value that makes no sense.
        """
        if type(total) is not int or total < 1:
            raise InputError(f"total={total!r}: the updates of a full trial, a whole number")
        if not 0 < epsilon < 1:
            raise InputError(f"epsilon={epsilon!r}: a probability, between 0 and 1")
        if type(startup) is not int or startup < 3:
            raise InputError(f"startup={startup!r}: a whole number of trials, at least 3")
        if not 0 <= warmup < 1:
            raise InputError(f"warmup={warmup!r}: a share of the run in [0, 1)")
        self.decisions: dict[int, Decision] = {}  # the last one of each trial, by its number
        self._total = total
        self._epsilon = epsilon
        self._startup = startup
        self._warmup = warmup
        self._study = ""
        self._open: set[int] = set()  # numbers of trials that were not over when last seen
        self._read_to = 0  # trials whose number is below this are known, or open
        self._families: dict[int, str] = {}  # by number
        self._known: dict[int, _Curve] = {}  # by number, of complete trials
        self._at: dict[int, _Known] = {}  # by step
        self._warned = False

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """See BasePruner."""
        decision = self.decide(study, trial)
        self.decisions[trial.number] = decision
        return decision.prune

    def decide(self, study: optuna.Study, trial: FrozenTrial) -> Decision:
        """Whether this trial is to end at its last report, and why.

        Raises:
            InputError: a step beyond ``total``.
        """
        step = trial.last_step
        schedule = schedule_of(trial)
        if not step or schedule is None:
            return Decision(False, "no schedule" if step else "nothing reported after an update")
        self._check(step)
        value = trial.intermediate_values[step]
        if not np.isfinite(value):
            return Decision(True, f"the value is {value}")
        self._warn(trial)
        if step < self._warmup * self._total or step == self._total:
            return Decision(False, "at the beginning or at the end")
        trials = self._read(study)
        epsilon = self._epsilon
        if self._is_first(trials, trial, schedule.family):
            epsilon *= FIRST
        known = self._known_at(step)
        count = len(known.finals)
        if count < self._startup:
            return Decision(False, f"{count} trials are complete")
        epsilon *= count / (count + CAUTION)
        minimize = study.direction == StudyDirection.MINIMIZE
        finals = np.array([curve.final for curve in self._known.values()])
        # Sums must not depend on the order in which trials were read.
        shown, aims = np.array(known.shown), np.array(known.finals)
        order = np.lexsort([*shown.T, aims])
        shown, aims = shown[order], aims[order]
        scale = Scale.of(np.concatenate([finals, shown[:, 0], [value]]), minimize)
        ahead = features(rates_ahead(schedule, self._total), [step])[0]
        gains = scale.to(aims) - scale.to(shown[:, 0])
        found = forecast(gains, shown[:, 1:], float(scale.to(value)), ahead)
        return self._judge(found, scale, finals, ahead, epsilon, count)

    def _judge(
        self,
        found: Forecast,
        scale: Scale,
        finals: Array,
        ahead: Array,
        epsilon: float,
        trials: int,
    ) -> Decision:
        best = float(finals.min() if scale.sign > 0 else finals.max())
        chance = found.below(float(scale.to(best)))
        final = scale.back(found.mean)
        low, high = (scale.back(found.quantile(p)) for p in (0.05, 0.95))
        return Decision(
            chance < epsilon,
            f"would end at about {final:.4g} ({low:.4g} to {high:.4g}), the best at {best:.4g}: "
            f"beats it with probability {chance:.2g}, and {epsilon:.2g} is asked for",
            final,
            low,
            high,
            best,
            chance,
            epsilon,
            dict(zip(FEATURES, ahead.tolist(), strict=True)),
            trials,
        )

    def _check(self, step: int) -> None:
        if step > self._total:
            raise InputError(f"step {step}: expected an update, at most total={self._total}")

    def _read(self, study: optuna.Study) -> list[FrozenTrial]:
        """Take in the trials that are new or over; of another study, from the first one on."""
        if study.study_name != self._study:
            self._study = study.study_name
            self._families, self._open, self._read_to = {}, set(), 0
            self._known, self._at = {}, {}
        trials = study.get_trials(deepcopy=False)
        self._open.update(range(self._read_to, len(trials)))
        self._read_to = len(trials)
        for trial in (trials[number] for number in sorted(self._open)):
            over = trial.state.is_finished()
            if trial.number in self._families and not over:
                continue
            self._open -= {trial.number} if over else set()
            schedule = schedule_of(trial)
            if schedule is not None:
                self._families[trial.number] = schedule.family
                if trial.state == TrialState.COMPLETE:
                    self._learn(trial, schedule)
        return trials

    def _learn(self, trial: FrozenTrial, schedule: Schedule) -> None:
        """Keep what a complete trial showed on its way."""
        steps = np.array(sorted(step for step in trial.intermediate_values if step > 0))
        self._check(int(steps.max(initial=1)))
        values = np.array([trial.intermediate_values[step] for step in steps])
        final = float(trial.values[0])
        if len(steps) and np.isfinite(values).all() and np.isfinite(final):
            ahead = features(rates_ahead(schedule, self._total), steps)
            self._known[trial.number] = _Curve(steps, np.column_stack([values, ahead]), final)

    def _known_at(self, step: int) -> "_Known":
        """The complete trials as they were after so many updates; each is looked at once."""
        known = self._at.setdefault(step, _Known())
        for number in sorted(self._known.keys() - known.seen):
            curve = self._known[number]
            known.seen.add(number)
            if curve.steps[0] <= step <= curve.steps[-1]:
                known.shown.append(curve.at(step))
                known.finals.append(curve.final)
        return known

    def _is_first(self, trials: list[FrozenTrial], trial: FrozenTrial, family: str) -> bool:
        """Whether no trial of its family came before it, those aside that failed."""
        return not any(
            name == family and n < trial.number and trials[n].state != TrialState.FAIL
            for n, name in self._families.items()
        )

    def _warn(self, trial: FrozenTrial) -> None:
        if self._warned or trial.user_attrs.keys() & {START, AVERAGED}:
            return
        self._warned = True
        warnings.warn(
            "no value of averaged weights is reported: a schedule whose rate is still high looks "
            "worse than it is, and more of the best trials are pruned: give averaged= to "
            "lrtune.report",
            stacklevel=2,
        )


@dataclass(slots=True)
class _Known:
    """Complete trials at one step."""

    seen: set[int] = field(default_factory=set)  # their numbers
    shown: list[Array] = field(default_factory=list)  # (1 + features,) of each
    finals: list[float] = field(default_factory=list)


def report(trial: optuna.Trial, value: float, step: int, *, averaged: float | None = None) -> None:
    """Report a validation to Optuna so that schedules are compared fairly.

    Args:
        trial: of any study.
        value: the objective, of the current weights.
        step: updates done.
        averaged: the objective of an exponential moving average of the weights, over about 5 % of
            the run: close to what the trial would score if its rate came down now. The better of
            the two is what Optuna is told.
    """
    if averaged is None:
        trial.report(value, step)
        return
    if AVERAGED not in trial.user_attrs:
        trial.set_user_attr(AVERAGED, True)
    trial.report(better(value, averaged, trial.study.direction == StudyDirection.MINIMIZE), step)


def schedule_of(trial: optuna.Trial | FrozenTrial) -> Schedule | None:
    """The schedule that a trial carries."""
    text = trial.user_attrs.get(SCHEDULE)
    return None if text is None else Schedule.from_json(text)


def rates_ahead(schedule: Schedule, total: int) -> Array:
    """Its rates; of a closed loop, whose future is not known, with the rate held."""
    return schedule.controller(total).rates if schedule.closed_loop else schedule.rates(total)


# Pruners by name: (updates of a full trial, updates between validations, epsilon). All of them see
# the better of current and averaged weights, Optuna's own too.
PRUNERS: dict[str, Callable[[int, int, float], BasePruner]] = {
    "schedule": lambda total, every, epsilon: SchedulePruner(total, epsilon=epsilon),
    "halving": lambda total, every, epsilon: SuccessiveHalvingPruner(
        min_resource=max(every, round(0.13 * total)), reduction_factor=3
    ),
    "hyperband": lambda total, every, epsilon: HyperbandPruner(
        min_resource=every, max_resource=total, reduction_factor=3
    ),
    "median": lambda total, every, epsilon: MedianPruner(n_warmup_steps=round(0.3 * total)),
    "none": lambda total, every, epsilon: NopPruner(),
}


def make_pruner(name: str, total: int, every: int, epsilon: float = EPSILON) -> BasePruner:
    """A pruner by its name.

    Raises:
        InputError: none of PRUNERS.
    """
    if name not in PRUNERS:
        raise InputError(f"pruner {name!r}: one of {', '.join(PRUNERS)}{nearest(name, PRUNERS)}")
    return PRUNERS[name](total, every, epsilon)
