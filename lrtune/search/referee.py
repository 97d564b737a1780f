"""Referee: whether a trial ends at a validation, and how."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.pruners import NopPruner

from lrtune.engine import Progress
from lrtune.errors import InputError
from lrtune.model.scale import Scale
from lrtune.search.pruner import Decision, SchedulePruner
from lrtune.search.record import Ending, Judge, Record
from lrtune.search.stopping import diverged, plateaued
from lrtune.search.store import AUDIT, START
from lrtune.search.training import ActiveTrial
from lrtune.tasks import Task

PATIENCE = 0.2  # validations without a gain, as a share of all, see ``scripts/bench/replay.py``
MIN_DELTA = 0.002
LIKELY = 0.5  # a plateaued trial that beats the best with more than that is trained on
AUDITED = 0.03
LEAST_PATIENCE = 3  # validations, where there are few
AUDITED_FIRST = 10  # one of the first trials to be pruned is audited, if there are so many


@dataclass(frozen=True, slots=True)
class Rules:
    """When a trial ends before its horizon, beside the pruner's rule.

    Attributes:
        patience: validations without an improvement, after which a trial may have plateaued;
            0: never. None has before another was trained to its end.
        min_delta: the least improvement, as a share of the value.
        audit: share of the trials to be pruned that are trained to the end instead.
    """

    patience: int = 0
    min_delta: float = MIN_DELTA
    audit: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if type(self.patience) is not int or self.patience < 0:
            raise InputError(f"patience={self.patience!r}: a number of validations, 0 for no limit")
        if not 0 <= self.min_delta < 1:
            raise InputError(f"min_delta={self.min_delta!r}: a share of the value in [0, 1)")
        if not 0 <= self.audit <= 1:
            raise InputError(f"audit={self.audit!r}: a share of the pruned trials, 0 to 1")


NEVER = Rules()


class Referee:
    """Divergence, the horizon, the pruner, the plateau: in this order."""

    def __init__(
        self, study: optuna.Study, task: Task, rules: Rules, judge: Judge, seed: int
    ) -> None:
        self._study = study
        self._objective = task.objective.name
        self._minimize = task.objective.direction == "minimize"
        self._rules = rules
        self._judge = judge
        self._seed = seed
        # Asking a pruner that never prunes reads the storage again each time, for nothing.
        self._may_prune = not isinstance(study.pruner, NopPruner)
        self._prunings = 0  # trials pruned
        self._audited: set[int] = set()  # those that were to be, and are trained on
        self._best: float | None = None  # final value

    def remember(self, record: Record) -> None:
        """Count a trial that is over."""
        self._prunings += record.state == "pruned"
        if record.audit is not None:
            self._audited.add(record.number)
        if record.value is not None:
            known = [value for value in (self._best, record.value) if value is not None]
            self._best = min(known) if self._minimize else max(known)

    def take_up(self, running: ActiveTrial) -> None:
        """Tell Optuna again what was seen before of a trial, for to Optuna it is a new one."""
        running.audit = running.trial.user_attrs.get(AUDIT)
        if running.audit is not None:
            self._audited.add(running.index)
        signals = running.signals(self._objective, self._minimize, self._judge)
        for update, signal in zip(running.curves.step, signals, strict=True):
            running.trial.report(signal, update)
            if self._may_prune:
                running.trial.should_prune()  # it went on then; some pruners note that it may

    def ending(self, running: ActiveTrial, progress: Progress) -> Ending | None:
        """Report a validation, which is in the trial's curves; None where it goes on."""
        value = progress.metrics[self._objective]
        why = diverged(running.curves.loss, running.untrained.loss)
        if why is None and not math.isfinite(value):
            why = f"{self._objective} is {value}"
        if why is not None:
            return Ending("diverged", why)
        signals = running.signals(self._objective, self._minimize, self._judge)
        running.trial.report(signals[-1], progress.update)
        if progress.update == len(running.rates):
            return Ending("complete", "reached the horizon")
        if running.audit is not None:
            return None
        # A trial that a kill cut short and that starts anew went on here, with less known.
        if running.updates < running.trial.user_attrs[START].get("survived", 0):
            return None
        ending = self._pruned(running)
        if ending is not None or running.audit is not None:
            return ending
        return self._plateaued(running, signals)

    def _pruned(self, running: ActiveTrial) -> Ending | None:
        if not self._may_prune or not running.trial.should_prune():
            return None
        pruner = self._study.pruner
        ending = Ending("pruned", f"by {type(pruner).__name__}")
        if isinstance(pruner, SchedulePruner):
            decision = pruner.decisions[running.trial.number]
            ending = Ending("pruned", decision.reason, figures_of(decision))
        if not self._audits(running.index):
            return ending
        evidence = {"best": self._best, **ending.evidence}
        running.audit = {"update": running.updates, "reason": ending.reason, **evidence}
        self._audited.add(running.index)
        running.trial.set_user_attr(AUDIT, running.audit)
        return None

    def _audits(self, index: int) -> bool:
        """Whether this trial is trained to the end all the same: drawn by seed and index."""
        if self._rules.audit == 0:
            return False
        first = int(np.random.default_rng([self._seed]).integers(AUDITED_FIRST))
        if not self._audited and self._prunings >= first:
            return True
        draw = np.random.default_rng([self._seed, index]).random()
        return bool(draw < self._rules.audit)

    def _plateaued(self, running: ActiveTrial, signals: list[float]) -> Ending | None:
        if self._rules.patience == 0 or self._best is None:  # something must come to its end
            return None
        rates, update = running.rates, running.updates
        why = plateaued(
            Scale.of(np.array(signals), self._minimize).to(np.array(signals)).tolist(),
            None if running.controller is not None else rates[update - 1 :],
            float(rates[update:].sum() / rates.sum()),
            patience=self._rules.patience,
            min_delta=self._rules.min_delta,
        )
        if why is None:
            return None
        evidence = self._forecast(running)
        if (evidence.get("probability") or 0) > LIKELY:  # only its end can tell
            return None
        return Ending("plateaued", why, evidence)

    def _forecast(self, running: ActiveTrial) -> dict[str, Any]:
        """The figures of what a trial that ends here would have come to; none of other pruners."""
        if not isinstance(self._study.pruner, SchedulePruner):
            return {}
        trial = self._study.get_trials(deepcopy=False)[running.trial.number]
        return figures_of(self._study.pruner.decide(self._study, trial))


def figures_of(decision: Decision) -> dict[str, Any]:
    """What a decision rests on, as a Record keeps it."""
    figures = asdict(decision)
    del figures["prune"], figures["reason"]
    return figures
