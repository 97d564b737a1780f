"""SchedulePruner: an Optuna pruner that knows what rates a trial has still ahead of it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from lrtune.errors import InputError, nearest
from lrtune.model.decide import EPSILON, stop
from lrtune.model.forecast import AHEAD, ahead
from lrtune.model.transfer import Transfer, published
from lrtune.search.record import better
from lrtune.search.store import AVERAGED, START
from lrtune.search.study_model import ONE_AT_A_TIME, StudyModel, rates_ahead, schedule_of


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
        trials: whole trainings that the forecast was learnt from, beside other tasks.
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
        self, total: int, *, epsilon: float = EPSILON, transfer: Transfer | None = None
    ) -> None:
        """Set the rule.

        Args:
            total: updates of a full trial, its horizon.
            epsilon: prune where the best final value is beaten with less than this probability.
            transfer: what other tasks teach; what comes with lrtune where None.

        Raises:
            InputError: for a value that makes no sense.
        """
        if not 0 < epsilon < 1:
            raise InputError(f"epsilon={epsilon!r}: a probability, between 0 and 1")
        self.decisions: dict[int, Decision] = {}  # the last one of each trial, by its number
        self._total = total
        self._epsilon = epsilon
        self._model = StudyModel(total, published() if transfer is None else transfer)
        self._warned = False

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """See BasePruner."""
        with ONE_AT_A_TIME:
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
        curve = self._model.curve_of(trial, schedule)
        value = trial.intermediate_values[step]
        if not np.isfinite(value):
            return Decision(True, f"the value is {value}")
        self._warn(trial)
        self._model.read(study, trial.number)
        best = self._model.best
        forecast = self._model.forecast(curve)
        if forecast is None or step == self._total:
            return Decision(False, "nothing seen yet, or at the end")
        whole, scale = self._model.whole, self._model.scale
        final, low, high = (
            scale.back(place)
            for place in (forecast.mean, forecast.quantile(0.05), forecast.quantile(0.95))
        )
        if best is None:
            return Decision(False, "nothing to compare with", final, low, high)
        bar = scale.back(best)
        verdict = stop(forecast, best, step / self._total, self._epsilon)
        at = ahead(rates_ahead(schedule, self._total), [step])[0]
        return Decision(
            verdict.now,
            f"would end at about {final:.4g} ({low:.4g} to {high:.4g}), the best at {bar:.4g}: "
            f"beats it with probability {verdict.probability:.2g}, ended below {self._epsilon:.2g}",
            final,
            low,
            high,
            bar,
            verdict.probability,
            self._epsilon,
            dict(zip(AHEAD[1:4], at.tolist(), strict=True)),
            whole,
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


# Pruners by name: (updates of a full trial, updates between validations, epsilon, transfer). All of
# them see the better of current and averaged weights, Optuna's own too.
PRUNERS: dict[str, Callable[[int, int, float, Transfer], BasePruner]] = {
    "schedule": lambda total, every, epsilon, transfer: SchedulePruner(
        total, epsilon=epsilon, transfer=transfer
    ),
    "halving": lambda total, every, *_: SuccessiveHalvingPruner(
        min_resource=max(every, round(0.13 * total)), reduction_factor=3
    ),
    "hyperband": lambda total, every, *_: HyperbandPruner(
        min_resource=every, max_resource=total, reduction_factor=3
    ),
    "median": lambda total, every, *_: MedianPruner(n_warmup_steps=round(0.3 * total)),
    "none": lambda total, every, *_: NopPruner(),
}


def make_pruner(
    name: str,
    total: int,
    every: int,
    epsilon: float = EPSILON,
    transfer: Transfer | None = None,
) -> BasePruner:
    """A pruner by its name.

    Raises:
        InputError: none of PRUNERS.
    """
    if name not in PRUNERS:
        raise InputError(f"pruner {name!r}: one of {', '.join(PRUNERS)}{nearest(name, PRUNERS)}")
    return PRUNERS[name](total, every, epsilon, published() if transfer is None else transfer)
