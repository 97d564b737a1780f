"""SurrogateSampler: an Optuna sampler that asks one model of all schedules what to try next."""

import warnings
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from lrtune.errors import InputError
from lrtune.model.decide import expected_gain, propose
from lrtune.model.features import features
from lrtune.model.surrogate import Observations, PeakGuess, Posterior, Surrogate, fitted_at
from lrtune.model.transfer import Transfer, published
from lrtune.search.candidates import KEPT, WIDTH, Candidates, Params
from lrtune.search.space import FAMILY, Space
from lrtune.search.store import index_of
from lrtune.search.study_model import (
    ONE_AT_A_TIME,
    StudyModel,
    contains,
    from_unit,
    of_a_schedule,
    schedule_of,
    unit,
)

Array = NDArray[np.float64]

HEDGED = 4  # first trials, which are of different families
LEADERS = 5  # best trials, near to which schedules are drawn
APART = 0.1  # lengths by which a proposal differs from what is under way, if there is room


class SurrogateSampler(BaseSampler):
    """Proposes the schedule that is expected to better the best one by the most.

    One Gaussian process over the curves of rates learns from every trial, of whatever family,
    whether it came to its end or not; other tasks teach it what to expect at first. A proposal is
    worth what it adds to the trials under way, so that trials side by side differ.
    Parameters of yours beside the schedule are further dimensions, from the second trial on.

    What it proposes is a function of (seed, index of the trial, the trials that are under way,
    those that are over and the order in which they ended), so a search that was stopped goes on as
    if it had not been.

    Example:
        >>> from lrtune.search import Space
        >>> sampler = SurrogateSampler(Space(("cosine", "linear")), total=100, seed=0)
        >>> study = optuna.create_study(sampler=sampler)
    """

    def __init__(
        self,
        space: Space,
        total: int,
        *,
        seed: int = 0,
        peak: PeakGuess | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        """Make a sampler for one study.

        Args:
            space: the families and ranges that are searched.
            total: updates of a full trial, its horizon.
            seed: of all draws.
            peak: where a good peak rate should be; anywhere in the space where None.
            transfer: what other tasks teach; what comes with lrtune where None.

        Raises:
            InputError: ``total`` is not a positive whole number.
        """
        self._space = space
        self._choice = CategoricalDistribution(space.families)
        self._seed = seed
        self._transfer = published() if transfer is None else transfer
        self._guess = guess_in(space) if peak is None else peak
        self._model = StudyModel(total, self._transfer)
        self._candidates = Candidates(space, seed)
        self._drawn: dict[int, Params] = {}  # by number of the trial
        self._families: dict[int, str] = {}  # drawn and not yet asked for
        self._warned = False
        self._begin("")

    def _begin(self, study: str) -> None:
        """Know nothing yet of a study."""
        self._study = study
        self._surrogate = Surrogate(self._transfer, self._guess)
        self._then: Observations | None = None  # when settings were last to be fitted
        self._posterior: tuple[int, Posterior] | None = None

    def draw(
        self, study: optuna.Study, index: int, family: str | None = None, asked: int | None = None
    ) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """The parameters of trial ``index`` and their distributions.

        Args:
            study: that is searched.
            index: which of its trials.
            family: the only one that is wanted; any where None.
            asked: number of the trial that is being asked for, if it is there.
        """
        if study.study_name != self._study:
            self._begin(study.study_name)
        running = self._model.read(study, asked, self._remember)
        self._warn()
        posterior = self._current()
        rng = np.random.default_rng([self._seed, index])
        leaders = self._leaders(posterior)
        params, x = self._candidates.draw(index, leaders, family)
        rows = self._open(params, x, running, index)
        x = self._with_others(x[rows], leaders, rng)
        chosen = propose(posterior, x, 1, rng, self._model.x_of(running))[0]
        found = params[rows[chosen]]
        own = self._space.distributions(found[FAMILY])
        distributions: dict[str, BaseDistribution] = {
            FAMILY: self._choice,
            **own,
            **self._model.others,
        }
        places = x[chosen, x.shape[1] - len(self._model.others) :]
        others = {
            name: from_unit(distribution, float(place))
            for (name, distribution), place in zip(self._model.others.items(), places, strict=True)
        }
        return {**found, **others}, distributions

    def expected_gain(self, study: optuna.Study, index: int) -> float:
        """What the next trial is expected to gain over the best one; see ``expected_gain``.

        Args:
            study: that is searched.
            index: what the schedules that are looked at are drawn by: the same, the same answer.
        """
        with ONE_AT_A_TIME:
            if study.study_name != self._study:
                self._begin(study.study_name)
            self._model.read(study, None, self._remember)
            posterior = self._current()
            leaders = self._leaders(posterior)
            _, x = self._candidates.draw(index, leaders, None)
            rng = np.random.default_rng([self._seed, index])
            return expected_gain(posterior, self._with_others(x, leaders, rng), rng)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Draw the trial; the space is that of its family, and of what else it has."""
        family = trial.params.get(FAMILY)
        if family is not None and family not in self._space.families:
            raise _other_space(f"family {family!r}")
        with ONE_AT_A_TIME:
            params, distributions = self.draw(study, index_of(trial), family, trial.number)
        if family is None:
            self._families[trial.number] = params[FAMILY]
        # Optuna itself would refuse other families than these, in words that help nobody.
        del params[FAMILY], distributions[FAMILY]
        self._drawn[trial.number] = params
        return distributions

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """What was drawn."""
        return self._drawn.pop(trial.number)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The family; at random what no trial had before, and what a queued trial leaves open.

        Raises:
            InputError: it is one of a schedule, outside of the sampler's space.
        """
        if param_name == FAMILY and param_distribution == self._choice:
            return self._families.pop(trial.number)
        if of_a_schedule(param_name) and self._distribution(param_name) != param_distribution:
            raise _other_space(f"{param_name}: the trial asks for {param_distribution}")
        words = [self._seed, index_of(trial), *param_name.encode()]
        sampler = RandomSampler(seed=int(np.random.SeedSequence(words).generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def _distribution(self, name: str) -> BaseDistribution | None:
        """Of one of a schedule's parameters in the space; None where it has none such."""
        family = name.partition(".")[0]
        own = self._space.distributions(family) if family in self._space.families else {}
        return own.get(name)

    def _remember(self) -> None:
        """Keep what is known whenever settings are to be fitted, as a sampler made later would."""
        count = self._model.count
        if count == fitted_at(count):
            self._then = self._model.observations()

    def _current(self) -> Posterior:
        count = self._model.count
        if self._posterior is None or self._posterior[0] != count:
            known = self._model.observations()
            self._posterior = count, self._surrogate.posterior(known, self._then)
        return self._posterior[1]

    def _leaders(self, posterior: Posterior) -> list[dict[str, Any]]:
        """Parameters of the trials that are believed to be the best."""
        rows = self._model.whole_rows()
        if not rows:
            return []
        mean, _ = posterior.mean_and_sd(self._model.x()[rows])
        own = (self._model.params[rows[place]] for place in np.argsort(mean, kind="stable"))
        return list(islice((params for params in own if fits(self._space, params)), LEADERS))

    def _open(
        self, params: list[Params], x: Array, running: list[FrozenTrial], index: int
    ) -> NDArray[np.intp]:
        """Which may be tried beside those that are under way."""
        schedules = [s for s in map(schedule_of, running) if s is not None]
        open_ = np.ones(len(x), dtype=bool)
        if schedules:
            under_way = self._transfer.scaled(np.array([features(s) for s in schedules]))
            apart = np.abs(self._transfer.scaled(x)[:, None] - under_way[None]).max(2).min(1)
            open_ &= apart > min(APART, apart.max() / 2)
        if index < HEDGED:
            taken = {s.family for s in (*schedules, *self._model.schedules())}
            other = open_ & np.array([one[FAMILY] not in taken for one in params])
            open_ = other if other.any() else open_
        return np.flatnonzero(open_) if open_.any() else np.arange(len(x))

    def _with_others(
        self, x: Array, leaders: list[dict[str, Any]], rng: np.random.Generator
    ) -> Array:
        """With parameters beside the schedule: anywhere, or near to one of the best trials'."""
        names = self._model.others
        places = rng.random((len(x), len(names)))
        known = [
            [unit(d, params[name]) if name in params else 0.5 for name, d in names.items()]
            for params in leaders
        ]
        if known and names:
            best = np.array(known)[rng.integers(len(known), size=len(x))]
            near = np.clip(best + WIDTH * rng.standard_normal(best.shape), 0, 1)
            places = np.where(rng.random(places.shape) < KEPT, near, places)
        return np.hstack([x, places])

    def _warn(self) -> None:
        if self._model.without_schedule and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._model.without_schedule} trials carry no schedule: the sampler learns "
                "nothing from them: suggest schedules by lrtune.suggest",
                stacklevel=2,
            )


def _other_space(what: str) -> InputError:
    return InputError(
        f"{what}, and SurrogateSampler was made for another space: give suggest and Space the same "
        "families, peak_lr and warmup"
    )


def fits(space: Space, params: Mapping[str, Any]) -> bool:
    """Whether a trial's parameters lie in the space, as those of one queued by hand may not."""
    if params.get(FAMILY) not in space.families:
        return False
    own = space.distributions(params[FAMILY])
    return all(name in params and contains(d, params[name]) for name, d in own.items())


def guess_in(space: Space, test: Mapping[str, Any] | None = None) -> PeakGuess:
    """Where a good peak is: as a range test says, or anywhere in the space where there is none."""
    if test is not None:
        return PeakGuess(float(np.log(test["peak_lr"])), test["doubt"])
    low, high = np.log(space.peak_lr)
    return PeakGuess(float((low + high) / 2), max(0.5, float(high - low) / 4))
