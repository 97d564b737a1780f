"""Studies made by hand, in which a loss follows its rate: what the pruner is asked about."""

import math
from collections.abc import Callable

import optuna
from optuna.pruners import BasePruner
from optuna.trial import TrialState, create_trial

import lrtune
from lrtune import Schedule, SchedulePruner
from lrtune.search.early_stopping import Decision, rates_ahead
from lrtune.search.space import SCHEDULE
from lrtune.search.storage import AVERAGED

optuna.logging.set_verbosity(optuna.logging.WARNING)
TOTAL, EVERY = 400, 20
STEPS = range(EVERY, TOTAL + 1, EVERY)
Reports = dict[int, float]


def constant(peak_lr: float = 0.1) -> Schedule:
    return Schedule("constant", peak_lr=peak_lr)


def cosine(floor: float = 0.0) -> Schedule:
    return Schedule("cosine", peak_lr=0.1, knobs={"T_max": 1.0, "eta_min": floor})


def wsd(decay: float = 0.1) -> Schedule:
    return Schedule("wsd", peak_lr=0.1, knobs={"decay": decay})


def cyclic(base_lr: float = 0.05) -> Schedule:
    """At its top after 50, 150, 250, 350 updates; it ends at its lowest."""
    return Schedule("cyclic", peak_lr=0.1, knobs={"base_lr": base_lr, "step_size_up": 0.125})


def losses(schedule: Schedule, skill: float = 1.0) -> Reports:
    """A loss that goes down as the rate does: the noise of the updates, as it is in training."""
    rates = rates_ahead(schedule, TOTAL) / schedule.peak_lr
    return {s: skill * (0.2 + 0.8 * rates[s - 1] ** 0.5) * (1 + 20 / s) for s in STEPS}


class Bench:
    """A study with trials that are over, and one that is asked about."""

    def __init__(
        self,
        shown: Callable[[float], float] = lambda loss: loss,
        direction: str = "minimize",
        **study: object,
    ) -> None:
        self.study = optuna.create_study(direction=direction, **study)
        self.shown = shown

    def add(
        self,
        schedule: Schedule | None,
        reports: Reports,
        state: TrialState = TrialState.COMPLETE,
    ) -> int:
        """A trial as it is in the storage; its number."""
        reports = {step: self.shown(loss) for step, loss in reports.items()}
        carried = {} if schedule is None else {SCHEDULE: schedule.to_json()}
        self.study.add_trial(
            create_trial(
                state=state,
                value=reports[max(reports)] if state == TrialState.COMPLETE else None,
                intermediate_values=reports,
                user_attrs={**carried, AVERAGED: True},
            )
        )
        return len(self.study.trials) - 1

    def run_up_to(
        self, step: int, schedule: Schedule | None, skill: float = 1.0, **other: Reports
    ) -> int:
        """A trial that is under way; its number."""
        curve = other.get("curve") or losses(schedule or constant(), skill)
        reports = {s: loss for s, loss in curve.items() if s <= step}
        return self.add(schedule, reports, TrialState.RUNNING)

    def decide(self, number: int, pruner: SchedulePruner | None = None) -> Decision:
        trial = self.study.get_trials(deepcopy=False)[number]
        return (pruner or SchedulePruner(TOTAL)).decide(self.study, trial)

    def asked(self, step: int, schedule: Schedule, skill: float = 1.0) -> Decision:
        """About a new trial that has come so far."""
        return self.decide(self.run_up_to(step, schedule, skill))


def bench(*families: Callable[[float], Schedule], **changed: object) -> Bench:
    """Six trials of each family are over, some better than others."""
    made = Bench(**changed)
    for i in range(6):
        for family in families:
            schedule = family(0.05 + 0.02 * i)
            made.add(schedule, losses(schedule, skill=1 + 0.03 * i))
    return made


def optuna_prunes(pruner: BasePruner, made: Bench, number: int) -> bool:
    return pruner.prune(made.study, made.study.trials[number])


def objective(averages: bool) -> Callable[[optuna.Trial], float]:
    """Anyone's: a loss that follows the rate, averaged weights that are ahead of it."""

    def train(trial: optuna.Trial) -> float:
        schedule = lrtune.suggest(trial, families=["cosine", "constant"], peak_lr=(1e-3, 1.0))
        skill = 1 + abs(math.log(schedule.peak_lr / 0.05))
        for step, loss in losses(schedule, skill).items():
            lrtune.report(trial, loss, step, averaged=0.8 * loss if averages else None)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    return train


def study_with(pruner: BasePruner) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)
