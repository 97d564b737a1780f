"""FamilySampler: which family next is the race's decision; its knobs are the sampler's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from lrtune.search.history import History
from lrtune.search.peak import BRANCHES, Peak
from lrtune.search.prior import Prior
from lrtune.search.race import ROUND, next_family, still_racing
from lrtune.search.space import FAMILY, SPLINE, Space, as_spline
from lrtune.search.store import index_of

STARTUP = 4  # trials of a family drawn at random before TPE has something to go by


class _JointTPE(TPESampler):
    """TPE where every trial has every parameter: nothing to intersect, which costs a fifth."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        trials = study.get_trials(deepcopy=False)
        first = next((t.distributions for t in trials if t.state.is_finished()), {})
        return {name: d for name, d in sorted(first.items()) if not d.single()}


def _tpe(seed: int) -> BaseSampler:
    return _JointTPE(seed=seed, n_startup_trials=STARTUP, constant_liar=True)


class FamilySampler(BaseSampler):
    """Families in equal shares, then a race; inside a family, knobs jointly from its own trials.

    Once in a round the free-form spline is given the shape of the best trial so far, from where
    its own trials go on: it is to show what any shape could still win.

    What it draws is a function of (seed, index of the trial, the trials that run, those told so
    far and their order), so a search that was stopped goes on as if it had not been.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        knobs: Callable[[int], BaseSampler] = _tpe,
        prior: Prior | None = None,
    ) -> None:
        """Make a sampler for one study.

        Args:
            space: the families and ranges that are searched.
            seed: of all draws.
            knobs: makes the sampler of a family's knobs from a seed; any Optuna sampler will do.
            prior: says each family's first trial; none where None.
        """
        self._space = space
        self._seed = seed
        self._knobs = knobs
        self._prior = prior
        self._history = History(space)

    def draw(
        self, study: optuna.Study, index: int
    ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Parameters and their distributions for a trial that does not exist yet.

        Adding the trial with them costs one entry of a journal, where suggesting them one by one
        costs one each. Once the peak of the flat families is settled, those that end in drops or
        a decay are drawn there, so that a search can train what they share once.
        """
        self._history.read(study)
        family = next_family(self._history.standings)
        knobs = self._space.distributions(family)
        params = {FAMILY: family, **self._draw_knobs(family, knobs, index)}
        if family in BRANCHES and (peak := self.peak) is not None:
            params |= {f"{family}.peak_lr": peak.peak_lr, f"{family}.warmup": peak.warmup}
        return params, {FAMILY: CategoricalDistribution(self._space.families), **knobs}

    @property
    def racing(self) -> list[str]:
        """The families that had not dropped out at the last draw."""
        return still_racing(self._history.standings)

    @property
    def peak(self) -> Peak | None:
        """Where the flat families were settled at the last draw."""
        return self._history.peak

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Choose the family, unless it is given; the space is that family's own."""
        self._history.read(study, trial.number)
        family = trial.params.get(FAMILY)
        if family is None:
            family = next_family(self._history.standings)
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
        return {FAMILY: family, **self._draw_knobs(family, knobs, index_of(trial))}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """For parameters outside the space, such as others in a user's own objective."""
        seed = self._seed_of(index_of(trial)) ^ sum(param_name.encode())
        sampler = RandomSampler(seed=seed)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _draw_knobs(
        self, family: str, knobs: dict[str, BaseDistribution], index: int
    ) -> dict[str, Any]:
        started, leader = self._history.standings[family].started, self._history.leader
        if self._prior is not None and started == 0:
            first = self._prior.draw(family, knobs)
            if first is not None:
                return first
        if family == SPLINE and started % ROUND == STARTUP and leader is not None:
            return as_spline(leader, knobs)
        own = self._history.study_of(family)
        own.sampler = self._knobs(self._seed_of(index))
        asked = own.ask(knobs)
        own.tell(asked, state=TrialState.FAIL)  # forgotten here; read again when it is seen to run
        return asked.params

    def _seed_of(self, index: int) -> int:
        # A prior is made of what these very draws found elsewhere: it must not be drawn again.
        salt = 0 if self._prior is None else 1
        return int(np.random.SeedSequence([self._seed, index, salt]).generate_state(1)[0])
