"""FamilySampler: which family next is the race's decision; its knobs are the sampler's."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from lrtune.search.space import FAMILY, Space
from lrtune.search.store import index_of, unique_trials

ROUND = 6  # trials a family gets before the worse half of the families drops out
SURVIVORS = 2
REMEMBERED = 200  # trials of a family that its sampler is shown: keeps the cost of an ask bounded


@dataclass
class Standing:
    """What the race knows of a family.

    Attributes:
        started: trials given to it.
        scores: of each trial that is over, in the order in which they were given; lower is better,
            infinity for one that has no value.
    """

    started: int = 0
    scores: list[float] = field(default_factory=list)


def still_racing(standings: Mapping[str, Standing]) -> list[str]:
    """The families that may still be given trials.

    Sequential halving (Karnin 2013): every family still in gets ROUND trials, the better half by
    its best score stays, until SURVIVORS are left. Families are compared at equal numbers of
    trials only, so that none wins by having had more tries.
    """
    racing = list(standings)
    trials = ROUND
    while len(racing) > SURVIVORS and all(len(standings[f].scores) >= trials for f in racing):
        best = {family: min(standings[family].scores[:trials]) for family in racing}
        racing = sorted(racing, key=best.__getitem__)[: max(SURVIVORS, (len(racing) + 1) // 2)]
        trials += ROUND
    return [family for family in standings if family in racing]


def next_family(standings: Mapping[str, Standing]) -> str:
    """Of the families still racing, the one with the fewest trials; the first of equals."""
    return min(still_racing(standings), key=lambda family: standings[family].started)


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=ROUND, constant_liar=True)


class FamilySampler(BaseSampler):
    """Families in equal shares, then a race; inside a family, knobs jointly from its own trials.

    What it draws is a function of (seed, index of the trial, the trials told so far), so a search
    that was stopped goes on as if it had not been.

    Args:
        space: the families and ranges that are searched.
        seed: of all draws.
        knobs: makes the sampler of a family's knobs from a seed; any Optuna sampler.
    """

    def __init__(
        self, space: Space, seed: int = 0, knobs: Callable[[int], BaseSampler] = _tpe
    ) -> None:
        self._space = space
        self._seed = seed
        self._knobs = knobs

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choose the family, unless it is given; the space is that family's own."""
        family = trial.params.get(FAMILY)
        if family is None:
            family = next_family(self._standings(study, trial))
        choice = CategoricalDistribution(self._space.families)
        return {FAMILY: choice, **self._space.distributions(family)}

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The family chosen and all its knobs at once."""
        knobs = {name: d for name, d in search_space.items() if name != FAMILY}
        family = next(iter(knobs)).partition(".")[0]
        own = [t for t in _others(study, trial) if t.params.get(FAMILY) == family]
        sampler = self._knobs(self._seed_of(trial))
        return {FAMILY: family, **_study_of(own, knobs, study.direction, sampler).ask(knobs).params}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """For parameters outside the space, such as others in a user's own objective."""
        sampler = RandomSampler(seed=self._seed_of(trial) ^ sum(param_name.encode()))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _seed_of(self, trial: FrozenTrial) -> int:
        return int(np.random.SeedSequence([self._seed, index_of(trial)]).generate_state(1)[0])

    def _standings(self, study: optuna.Study, asked: FrozenTrial) -> dict[str, Standing]:
        sign = 1 if study.direction == StudyDirection.MINIMIZE else -1
        standings = {family: Standing() for family in self._space.families}
        for trial in _others(study, asked):
            if (standing := standings.get(trial.params.get(FAMILY, ""))) is not None:
                standing.started += 1
                if trial.state == TrialState.COMPLETE:
                    standing.scores.append(sign * trial.values[0])
                elif trial.state.is_finished():
                    standing.scores.append(float("inf"))
        return standings


def _others(study: optuna.Study, asked: FrozenTrial) -> list[FrozenTrial]:
    return [trial for trial in unique_trials(study) if trial.number != asked.number]


def _study_of(
    trials: Sequence[FrozenTrial],
    space: Mapping[str, BaseDistribution],
    direction: StudyDirection,
    sampler: BaseSampler,
) -> optuna.Study:
    """A study in memory that holds these trials alone, so that any sampler sees one space."""
    study = optuna.create_study(direction=direction, sampler=sampler)
    usable = [t for t in trials if t.state != TrialState.FAIL and space.keys() <= t.params.keys()]
    for trial in _remembered(usable, direction):
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                values=trial.values if trial.state == TrialState.COMPLETE else None,
                params={name: trial.params[name] for name in space},
                distributions=dict(space),
                intermediate_values=dict(list(trial.intermediate_values.items())[-1:]),
                constraints=trial.constraints,
            )
        )
    return study


def _remembered(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """The better half and the newer half of what may be remembered; all where that is enough."""
    if len(trials) <= REMEMBERED:
        return list(trials)
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    half = REMEMBERED // 2
    newer = {t.number for t in trials[-half:]}
    older = [t for t in trials[:-half] if t.state == TrialState.COMPLETE]
    best = {t.number for t in sorted(older, key=lambda t: sign * t.values[0])[:half]}
    return [t for t in trials if t.number in newer | best]
