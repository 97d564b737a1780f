"""EarlyStopping: whether a trial ends at a validation: diverged, pruned, plateaued or complete."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

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
from optuna.trial import BaseTrial, FrozenTrial

from lrtune.engine import Progress
from lrtune.errors import InputError, expect
from lrtune.model.decide import EPSILON, stop
from lrtune.model.features import Scale
from lrtune.model.forecast import AHEAD, ahead
from lrtune.model.transfer import Transfer, published
from lrtune.schedule.family import unknown
from lrtune.search.sampler import SurrogateSampler
from lrtune.search.space import schedule_of
from lrtune.search.storage import AUDIT, AVERAGED, START, Curves, Ending, Judge, Record, better
from lrtune.search.study_model import ONE_AT_A_TIME, StudyModel, rates_ahead
from lrtune.search.trials import ActiveTrial
from lrtune.tasks import Task

PATIENCE = 0.2  # validations without a gain, as a share of all, see ``scripts/bench/replay.py``
LEAST_PATIENCE = 3  # validations, where there are few
MIN_DELTA = 0.002
AUDITED = 0.03
AUDITED_FIRST = 10  # one of the first trials to be pruned is audited, if there are so many
LIKELY = 0.5  # a plateaued trial that beats the best with more than that is trained on

DIVERGENCE_FACTOR = 2.0
DIVERGENCE_VALIDATIONS = 2

# A future is flat where the rate stays within these factors, and spent where less is left.
FALLS_BY, RISES_BY = 2.0, 1.5
LEFT = 0.01
UNFAIR = (
    "no value of averaged weights is reported: a schedule whose rate is still high looks worse "
    "than it is, and more of the best trials are pruned: give averaged= to lrtune.report"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a trial is to end, and what that rests on."""

    prune: bool
    reason: str  # in words
    final: float | None = None  # the median of its final value, as forecast
    low: float | None = None  # 5 % quantile of it, on the side of the better values
    high: float | None = None  # 95 % quantile
    best: float | None = None  # the best final value so far, which it had to beat
    probability: float | None = None  # that it will
    threshold: float | None = None  # of the probability, below which it ends
    ahead: dict[str, float] = field(default_factory=dict)  # features of its rates to come, by name
    trials: int = 0  # whole trainings that the forecast was learnt from, beside other tasks

    @property
    def figures(self) -> dict[str, Any]:
        """What it rests on, as a Record keeps it."""
        return {k: v for k, v in asdict(self).items() if k not in ("prune", "reason")}


class SchedulePruner(BasePruner):
    """Ends a trial whose final value is unlikely to beat the best one, by its forecast.

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
            InputError: ``total`` is no number of updates, or ``epsilon`` is no probability.
        """
        check_epsilon(epsilon)
        self.decisions: dict[int, Decision] = {}  # the last one of each trial, by its number
        self._total = total
        self._epsilon = epsilon
        self._model = StudyModel(total, published() if transfer is None else transfer)
        self._warned = False
        self._followed = False  # whether somebody tells which trials are over
        self._news = True  # whether one is that was not when the study was last read

    def follow(self, model: StudyModel) -> None:
        """Know what a sampler knows of the study, and read it after ``trial_ended`` alone."""
        self._followed = True
        if (model.total, model.transfer) == (self._model.total, self._model.transfer):
            self._model = model

    def trial_ended(self, number: int) -> None:
        """Trial ``number`` of the study is over."""
        self._news = True
        self.decisions.pop(number, None)

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
        step, schedule = trial.last_step, schedule_of(trial)
        if not step or schedule is None:
            return Decision(False, "no schedule" if step else "nothing reported after an update")
        curve = self._model.curve_of(trial, schedule)
        value = trial.intermediate_values[step]
        if not np.isfinite(value):
            return Decision(True, f"the value is {value}")
        if not self._warned and not trial.user_attrs.keys() & {START, AVERAGED}:
            self._warned = True
            warnings.warn(UNFAIR, stacklevel=2)
        if self._news:
            self._model.read(study, trial.number)
            self._news = not self._followed
        best, back = self._model.best, self._model.scale.back
        forecast = self._model.forecast(curve)
        if forecast is None or step == self._total:
            return Decision(False, "nothing seen yet, or at the end")
        places = (forecast.mean, forecast.quantile(0.05), forecast.quantile(0.95))
        final, low, high = map(back, places)
        if best is None:
            return Decision(False, "nothing to compare with", final, low, high)
        now, probability = stop(forecast, best, step / self._total, self._epsilon)
        at = ahead(rates_ahead(schedule, self._total), [step])[0]
        return Decision(
            now,
            f"would end at about {final:.4g} ({low:.4g} to {high:.4g}), the best at "
            f"{back(best):.4g}: beats it with probability {probability:.2g}, ended below "
            f"{self._epsilon:.2g}",
            final,
            low,
            high,
            back(best),
            probability,
            self._epsilon,
            dict(zip(AHEAD[1:4], at.tolist(), strict=True)),
            len(self._model.whole_rows),
        )


def report(trial: optuna.Trial, value: float, step: int, *, averaged: float | None = None) -> None:
    """Report a validation to Optuna so that schedules are compared fairly.

    Args:
        trial: of any study.
        value: the objective, of the current weights.
        step: updates done.
        averaged: the objective of an exponential moving average of the weights, over about 5 % of
            the run: close to what the trial would score if its rate came down now. Optuna is told
            the better of the two.

    Raises:
        InputError: ``trial`` is none of Optuna's.
    """
    expect("trial", trial, BaseTrial, "an Optuna trial")
    if averaged is not None:
        if AVERAGED not in trial.user_attrs:
            trial.set_user_attr(AVERAGED, True)
        value = better(value, averaged, trial.study.direction == StudyDirection.MINIMIZE)
    trial.report(value, step)


def check_epsilon(epsilon: object) -> None:
    """Refuse what is no probability."""
    if not isinstance(epsilon, float | int) or not 0 < epsilon < 1:
        raise InputError(f"epsilon={epsilon!r}: a probability, between 0 and 1")


# Pruners by name: (updates of a full trial, updates between validations, epsilon, transfer). All of
# them see the better of current and averaged weights, Optuna's own too.
PRUNERS: dict[str, Callable[[int, int, float, Transfer | None], BasePruner]] = {
    "schedule": lambda total, _, epsilon, transfer: SchedulePruner(
        total, epsilon=epsilon, transfer=transfer
    ),
    "halving": lambda total, every, *_: SuccessiveHalvingPruner(
        min_resource=max(every, round(0.13 * total)), reduction_factor=3
    ),
    "hyperband": lambda total, every, *_: HyperbandPruner(every, total, 3),
    "median": lambda total, every, *_: MedianPruner(n_warmup_steps=round(0.3 * total)),
    "none": lambda total, every, *_: NopPruner(),
}


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a trial ends before its horizon.

    Attributes:
        pruner: a name of PRUNERS or any Optuna pruner; it sees the better of the current and the
            averaged weights.
        epsilon: of the schedule pruner: a trial ends that wins with less than this probability.
        patience: validations without an improvement, after which a trial may have plateaued: a
            fifth of them, at least 3, where None; no trial plateaus where 0, nor before another
            was trained to its end.
        min_delta: the least improvement, as a share of the value.
        audit: share of the trials to be pruned that are trained to the end instead, to check on
            the pruner.

    Raises:
        InputError: a value out of its range, an unknown pruner.
    """

    pruner: BasePruner | str = "schedule"
    epsilon: float = EPSILON
    patience: int | None = None
    min_delta: float = MIN_DELTA
    audit: float = AUDITED

    def __post_init__(self) -> None:
        expect("pruner", self.pruner, BasePruner | str, "a name or an Optuna pruner")
        if isinstance(self.pruner, str) and self.pruner not in PRUNERS:
            raise unknown("pruner", self.pruner, PRUNERS)
        check_epsilon(self.epsilon)
        if self.patience is not None and (type(self.patience) is not int or self.patience < 0):
            raise InputError(f"patience={self.patience!r}: a number of validations, 0 for no limit")
        if not 0 <= self.min_delta < 1:
            raise InputError(f"min_delta={self.min_delta!r}: a share of the value in [0, 1)")
        if not 0 <= self.audit <= 1:
            raise InputError(f"audit={self.audit!r}: a share of the pruned trials, 0 to 1")

    def patience_of(self, validations: int) -> int:
        """The patience of trials with so many validations."""
        share = max(LEAST_PATIENCE, round(PATIENCE * validations))
        return share if self.patience is None else self.patience

    def make_pruner(
        self, total: int, validations: int, transfer: Transfer | None = None
    ) -> BasePruner:
        """Optuna's pruner, for trials of ``total`` updates with so many validations."""
        if not isinstance(self.pruner, str):
            return self.pruner
        return PRUNERS[self.pruner](total, max(1, total // validations), self.epsilon, transfer)

    def settings(self, validations: int) -> dict[str, Any]:
        """As ``run.json`` keeps them: other pruners than ours have their own settings."""
        name = self.pruner if isinstance(self.pruner, str) else type(self.pruner).__name__
        return {
            "pruner": name,
            "epsilon": self.epsilon if name == "schedule" else None,
            "patience": self.patience_of(validations),
            "min_delta": self.min_delta,
            "audit": self.audit,
        }


NEVER = Stopping(pruner="none", patience=0, audit=0.0)


class EarlyStopping:
    """At each validation, in this order: divergence, the horizon, the study's pruner, a plateau."""

    def __init__(
        self, study: optuna.Study, task: Task, stopping: Stopping, judge: Judge, seed: int
    ) -> None:
        self._study = study
        self._objective = task.objective.name
        self._minimize = task.objective.direction == "minimize"
        self._patience = stopping.patience_of(len(task.checkpoints))
        self._stopping = stopping
        self._judge = judge
        self._seed = seed
        # Asking a pruner that never prunes reads the storage again each time, for nothing.
        self._may_prune = not isinstance(study.pruner, NopPruner)
        self._prunings = 0  # trials pruned
        self._audited: set[int] = set()  # those that were to be, and are trained on
        self._best: float | None = None  # final value
        # Reading the study at each report would take longer with every trial.
        self._pruner = study.pruner if isinstance(study.pruner, SchedulePruner) else None
        if self._pruner is not None and isinstance(study.sampler, SurrogateSampler):
            self._pruner.follow(study.sampler.model)

    def remember(self, record: Record) -> None:
        """Count a trial that is over."""
        if self._pruner is not None:
            self._pruner.trial_ended(record.optuna_number)
        self._prunings += record.state == "pruned"
        if record.audit is not None:
            self._audited.add(record.number)
        if record.value is not None:
            known = [value for value in (self._best, record.value) if value is not None]
            self._best = min(known) if self._minimize else max(known)

    def take_up(self, active: ActiveTrial) -> None:
        """Tell Optuna again what was seen before of a trial, for to Optuna it is a new one."""
        active.audit = active.trial.user_attrs.get(AUDIT)
        if active.audit is not None:
            self._audited.add(active.index)
        for update, signal in zip(active.curves.step, self._signals(active.curves), strict=True):
            active.trial.report(signal, update)
            if self._may_prune:
                active.trial.should_prune()  # it went on then; some pruners note that it may

    def _signals(self, curves: Curves) -> list[float]:
        """At each validation the better of current and averaged weights; or the best so far."""
        pairs = zip(curves.metrics.get(self._objective, ()), curves.averaged, strict=True)
        values = [better(value, averaged, self._minimize) for value, averaged in pairs]
        best = min if self._minimize else max
        return values if self._judge == "last" else [*accumulate(values, best)]

    def ending(self, active: ActiveTrial, progress: Progress) -> Ending | None:
        """Report a validation, which is in the trial's curves; None where the trial goes on."""
        why = diverged(active.curves.loss, active.untrained.loss, progress, self._objective)
        if why is not None:
            return Ending("diverged", why)
        signals = self._signals(active.curves)
        active.trial.report(signals[-1], progress.update)
        if progress.update == len(active.rates):
            return Ending("complete", "reached the horizon")
        # A trial that a kill cut short and that starts anew went on here, with less known.
        if active.audit is not None or active.updates < active.survived:
            return None
        ending = self._pruned(active)
        if ending is not None or active.audit is not None:
            return ending
        return self._plateaued(active, signals)

    def _pruned(self, active: ActiveTrial) -> Ending | None:
        if not self._may_prune or not active.trial.should_prune():
            return None
        ending = Ending("pruned", f"by {type(self._study.pruner).__name__}")
        if self._pruner is not None:
            decision = self._pruner.decisions[active.trial.number]
            ending = Ending("pruned", decision.reason, decision.figures)
        if not self._audits(active.index):
            return ending
        evidence = {"best": self._best, **ending.evidence}
        active.audit = {"update": active.updates, "reason": ending.reason, **evidence}
        self._audited.add(active.index)
        active.trial.set_user_attr(AUDIT, active.audit)
        return None

    def _audits(self, index: int) -> bool:
        """Whether this trial is trained to the end all the same: drawn by seed and index."""
        if self._stopping.audit == 0:
            return False
        first = int(np.random.default_rng([self._seed]).integers(AUDITED_FIRST))
        if not self._audited and self._prunings >= first:
            return True
        draw = np.random.default_rng([self._seed, index]).random()
        return bool(draw < self._stopping.audit)

    def _plateaued(self, active: ActiveTrial, signals: list[float]) -> Ending | None:
        if self._patience == 0 or self._best is None:  # something must come to its end
            return None
        rates, update, values = active.rates, active.updates, np.array(signals)
        why = plateaued(
            Scale.of(values, self._minimize).to(values).tolist(),
            None if active.controller is not None else rates[update - 1 :],
            float(rates[update:].sum() / rates.sum()),
            patience=self._patience,
            min_delta=self._stopping.min_delta,
        )
        if why is None:
            return None
        evidence: dict[str, Any] = {}
        if self._pruner is not None:  # what it would have come to
            evidence = self._pruner.decisions[active.trial.number].figures
        if (evidence.get("probability") or 0) > LIKELY:  # only its end can tell
            return None
        return Ending("plateaued", why, evidence)


def diverged(
    losses: Sequence[float],  # at each validation so far: the loss, or any figure to minimise
    untrained: float,  # the same before the first update
    progress: Progress | None = None,  # the last validation
    objective: str = "",  # whose value there must be finite
) -> str | None:
    """Why a training has diverged, or None.

    Not finite once, or above twice the loss of the untrained model for two validations running
    (one alone may be the spike of a rate that is about to fall).
    """
    if losses and not math.isfinite(losses[-1]):
        return f"loss is {losses[-1]} at validation {len(losses)}"
    # A loss that may be negative has no scale that "twice" could mean.
    bound = DIVERGENCE_FACTOR * untrained
    recent = losses[-DIVERGENCE_VALIDATIONS:]
    if untrained > 0 and len(recent) == DIVERGENCE_VALIDATIONS and min(recent) > bound:
        return (
            f"loss {losses[-1]:.4g} above twice that of the untrained model ({untrained:.4g}) "
            f"for {DIVERGENCE_VALIDATIONS} validations"
        )
    if progress is not None and not math.isfinite(value := progress.metrics[objective]):
        return f"{objective} is {value}"
    return None


def plateaued(
    signal: Sequence[float],  # at each validation so far, lower is better, gains are ratios: a log
    ahead: NDArray[np.float64] | None,  # the present rate and all to come; None of a closed loop
    left: float,  # share of the sum of all rates that is to come, 0 ... 1
    *,
    patience: int,  # validations without an improvement
    min_delta: float,  # the least improvement that counts, as a share of the value
) -> str | None:
    """Why a trial will not improve any more, or None.

    A flat curve at a high rate with a decay still to come is no plateau: the rate must stay as it
    is, or be as good as spent. What a closed loop will do is not known: it lowers the rate on a
    plateau.
    """
    if len(signal) <= patience:
        return None
    before, recent = min(signal[:-patience]), min(signal[-patience:])
    if recent < before + math.log1p(-min_delta):
        return None
    reason = f"no better by {min_delta:.1%} in {patience} validation{'s'[: patience > 1]}"
    if left < LEFT:
        return f"{reason}, and {left:.1%} of all rates left"
    if ahead is None:
        return None
    fall, rise = ahead[0] / ahead.min(), ahead.max() / ahead[0]
    if fall < FALLS_BY and rise < RISES_BY:
        return f"{reason}, and the rate stays within a factor {max(fall, rise):.2g}"
    return None
