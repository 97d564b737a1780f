"""SurrogateSampler: an Optuna sampler that asks one model of all schedules what to try next."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, combinations, islice
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial
from scipy.spatial.distance import cdist

from lrtune.errors import InputError, expect
from lrtune.model.decide import expected_gain, propose
from lrtune.model.features import features_table
from lrtune.model.surrogate import Observations, PeakGuess, Posterior, Surrogate
from lrtune.model.transfer import Transfer, published
from lrtune.schedule import FAMILIES, Knob, Schedule
from lrtune.search.space import (
    FAMILY,
    SPLINE,
    Space,
    as_spline,
    from_unit,
    is_schedule_param,
    schedule_of,
    unit,
)
from lrtune.search.storage import index_of
from lrtune.search.study_model import ONE_AT_A_TIME, StudyModel

Array = NDArray[np.float64]
Params = dict[str, Any]

HEDGED = 4  # first trials, which are of different families
LEADERS = 5  # best trials, near to which schedules are drawn
MOST_LED = 512  # whole trainings with the best values, among which these are
APART = 0.1  # lengths by which a proposal differs from what is under way, if there is room
POOL = 600  # schedules drawn at random, in equal shares over the families that have a form
REDRAWN = 32  # trials for which they are the same
PLAIN = 0.5  # probability that a family's own knobs are at their defaults
NEAR = 60  # schedules near to the best ones
ELSEWHERE = 2  # one trial in so many has none of these: the best may be the wrong place
WIDTH = 0.1  # of the steps from there, a share of a knob's range
KEPT = 0.5  # probability that a knob stays as it is
PEAKS_APART = 4.0  # factor from the best trial's peak within which a family is tuned
PEAKS, WARMUPS = 25, 5  # at which a family is tuned
SHIFTS = (0.7, 0.84, 1.0, 1.2, 1.4)  # factors of the peak that are tried with other settings


class SurrogateSampler(BaseSampler):
    """Proposes the schedule with the highest expected improvement over the best one.

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
            InputError: ``space`` is none, or ``total`` is not a positive whole number.
        """
        expect("space", space, Space, "an lrtune.Space")
        self._space = space
        self._choice = CategoricalDistribution(space.families)
        self._seed = seed
        self._transfer = published() if transfer is None else transfer
        self._guess = guess_in(space) if peak is None else peak
        self.model = StudyModel(total, self._transfer, space.beside)
        self._candidates = Candidates(space, seed)
        self._drawn: dict[int, Params] = {}  # by number of the trial
        self._families: dict[int, str] = {}  # drawn and not yet asked for
        self._warned = False
        self._begin("")

    def _begin(self, study: str) -> None:
        self._study = study
        self._surrogate = Surrogate(self._transfer, self._guess)
        self._posterior: tuple[int, Posterior, list[Params]] | None = None

    def draw(
        self, study: optuna.Study, index: int, family: str | None = None, asked: int | None = None
    ) -> tuple[Params, dict[str, BaseDistribution]]:
        """The parameters of trial ``index``, of ``family`` if given, and their distributions.

        ``asked`` is the number of the trial that is being asked for, if it is there.
        """
        running, posterior, leaders = self._read(study, asked)
        under_way = self.model.x_of(running)
        if self.model.without_schedule and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.model.without_schedule} trials carry no schedule: the sampler learns "
                "nothing from them: suggest schedules by lrtune.suggest",
                stacklevel=2,
            )
        rng = np.random.default_rng([self._seed, index])
        params, x = self._candidates.draw(index, leaders, family)
        rows = self._open(params, x, running, under_way, index)
        x = self._with_others(x[rows], leaders, rng)
        chosen = propose(posterior, x, 1, rng, under_way)[0]
        best, others = params[rows[chosen]], self._others
        places = x[chosen, x.shape[1] - len(others) :].tolist()
        beside = {
            name: from_unit(distribution, place)
            for (name, distribution), place in zip(others.items(), places, strict=True)
        }
        own = self._space.distributions(best[FAMILY])
        return {**best, **beside}, {FAMILY: self._choice, **own, **others}

    def expected_gain(self, study: optuna.Study, index: int) -> float:
        """What the next trial, ``index``, is expected to gain; see ``model.decide``."""
        with ONE_AT_A_TIME:
            _, posterior, leaders = self._read(study, None)
            _, x = self._candidates.draw(index, leaders, None)
            rng = np.random.default_rng([self._seed, index])
            return expected_gain(posterior, self._with_others(x, leaders, rng), rng)

    def _read(
        self, study: optuna.Study, asked: int | None
    ) -> tuple[list[FrozenTrial], Posterior, list[Params]]:
        """The trials under way, the posterior, and the parameters of the leading trials."""
        if study.study_name != self._study:
            self._begin(study.study_name)
        running = self.model.read(study, asked)
        count = self.model.count
        if self._posterior is None or self._posterior[0] != count:
            known = self.model.observations()
            posterior = self._surrogate.posterior(known, self.model.then)
            self._posterior = count, posterior, self._leaders(posterior, known)
        return running, *self._posterior[1:]

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
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> Params:
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
            InputError: the parameter is one of a schedule, outside of the sampler's space.
        """
        if param_name == FAMILY and param_distribution == self._choice:
            return self._families.pop(trial.number)
        if is_schedule_param(param_name):
            family = param_name.partition(".")[0]
            own = self._space.distributions(family) if family in self._space.families else {}
            if own.get(param_name) != param_distribution:
                raise _other_space(f"{param_name}: the trial asks for {param_distribution}")
        words = [self._seed, index_of(trial), *param_name.encode()]
        sampler = RandomSampler(seed=int(np.random.SeedSequence(words).generate_state(1)[0]))
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    @property
    def _others(self) -> dict[str, BaseDistribution]:
        """Parameters beside the schedule that the space does not have."""
        others = self.model.others.items()
        return {name: d for name, d in others if name not in self._space.beside}

    def _leaders(self, posterior: Posterior, known: Observations) -> list[Params]:
        """Parameters of the trials that are believed to be the best: among the best by value."""
        rows = np.array(self.model.whole_rows, dtype=np.intp)
        if not len(rows):
            return []
        rows = np.sort(rows[np.argsort(known.y[rows], kind="stable")[:MOST_LED]])
        mean, _ = posterior.mean_and_sd(known.x[rows])
        order = (self.model.over[rows[place]].params for place in np.argsort(mean, kind="stable"))
        return list(islice((params for params in order if self._space.contains(params)), LEADERS))

    def _open(
        self,
        params: list[Params],
        x: Array,
        running: list[FrozenTrial],
        under_way: Array,  # features of the same
        index: int,
    ) -> NDArray[np.intp]:
        """Which may be tried beside those that are under way."""
        open_ = np.ones(len(x), dtype=bool)
        if len(under_way):
            taken = self._transfer.scaled(under_way[:, : x.shape[1]])
            apart = cdist(self._transfer.scaled(x), taken, "chebyshev").min(1)
            open_ &= apart > min(APART, apart.max() / 2)
        if index < HEDGED:
            schedules = [s for s in map(schedule_of, running) if s is not None]
            families = {s.family for s in (*schedules, *(t.schedule for t in self.model.over))}
            other = open_ & np.array([candidate[FAMILY] not in families for candidate in params])
            open_ = other if other.any() else open_
            start = self._space.start.items()  # other tasks say how schedules do without tuning
            own = open_ & np.array([start <= candidate.items() for candidate in params])
            open_ = own if own.any() else open_
        return np.flatnonzero(open_) if open_.any() else np.arange(len(x))

    def _with_others(self, x: Array, leaders: list[Params], rng: np.random.Generator) -> Array:
        """With parameters beside the space: anywhere, or near to those of a leading trial."""
        others = self._others
        places = rng.random((len(x), len(others)))
        known = [
            [unit(d, params[name]) if name in params else 0.5 for name, d in others.items()]
            for params in leaders
        ]
        if known and others:
            best = np.array(known)[rng.integers(len(known), size=len(x))]
            near = np.clip(best + WIDTH * rng.standard_normal(best.shape), 0, 1)
            places = np.where(rng.random(places.shape) < KEPT, near, places)
        return np.hstack([x, places])


def _other_space(what: str) -> InputError:
    return InputError(
        f"{what}, and SurrogateSampler was made for another space: give suggest and Space the same "
        "families, peak_lr and warmup"
    )


def guess_in(space: Space, peak_lr: float | None = None, doubt: float = 0.0) -> PeakGuess:
    """Where a good peak is: as a range test says, or anywhere in the space where there is none."""
    if peak_lr is not None:
        return PeakGuess(float(np.log(peak_lr)), doubt)
    low, high = np.log(space.peak_lr)
    return PeakGuess(float((low + high) / 2), max(0.5, float(high - low) / 4))


class Candidates:
    """Draws schedules from a space; the same ones for the same seed and index.

    The spline is drawn near to the best ones alone: other tasks say little of most of its shapes,
    and there are so many that it would take up the search.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space = space
        self._knobs = {name: space.distributions(name) for name in space.families}
        self._seed = seed
        self._block = -1
        self._pool: tuple[list[Params], Array] = ([], np.empty((0, 0)))

    def draw(
        self, index: int, best: Sequence[Params], family: str | None
    ) -> tuple[list[Params], Array]:
        """All that may be tried as trial ``index``: parameters, and features (n, features).

        Every second draw has schedules near the best trials so far; all are of ``family`` if given.
        """
        if index // REDRAWN != self._block:
            self._block = index // REDRAWN
            self._pool = self._made(self._random(np.random.default_rng([self._seed, self._block])))
        best = best if index % ELSEWHERE else ()
        rng = np.random.default_rng([self._seed, index, 1])
        near = self._made(self._near(best, rng))
        params, x = self._pool[0] + near[0], np.vstack([self._pool[1], near[1]])
        if family is None:
            return params, x
        rows = [row for row, candidate in enumerate(params) if candidate[FAMILY] == family]
        if not rows:
            return self._made([self._anywhere(family, rng) for _ in range(NEAR)])
        return [params[row] for row in rows], x[rows]

    def _made(self, drawn: list[Params]) -> tuple[list[Params], Array]:
        return drawn, table_of(self._space, [self._space.schedule(params) for params in drawn])

    def _random(self, rng: np.random.Generator) -> list[Params]:
        families = [name for name in self._space.families if name != SPLINE] or [SPLINE]
        return [self._anywhere(families[i % len(families)], rng) for i in range(POOL)]

    def _anywhere(self, family: str, rng: np.random.Generator) -> Params:
        knobs = self._knobs[family]
        places = rng.random(len(knobs))
        own = {name: from_unit(d, p) for (name, d), p in zip(knobs.items(), places, strict=True)}
        plain = self._space.defaults(family) if rng.random() < PLAIN else {}
        for name, start in self._space.start.items():
            plain |= {name: start} if rng.random() < PLAIN else {}
        return {FAMILY: family, **own, **plain}

    def _near(self, best: Sequence[Params], rng: np.random.Generator) -> list[Params]:
        own = [params for params in best if params.get(FAMILY) in self._space.families]
        if not own:
            return []
        drawn = [self._moved(own[i % len(own)], rng) for i in range(NEAR)]
        if SPLINE in self._space.families:
            others = (p for p in own if p[FAMILY] != SPLINE)
            schedules = [(self._space.schedule(params), params) for params in others]
            beside = self._space.beside
            # The spline of the same shape: from there the free form may go on.
            drawn += [
                {FAMILY: SPLINE, **as_spline(schedule, self._knobs[SPLINE])}
                | {name: params[name] for name in beside}
                for schedule, params in schedules
                if not schedule.closed_loop
            ]
        return drawn

    def _moved(self, params: Params, rng: np.random.Generator) -> Params:
        """Some of its knobs a step away."""
        moved: Params = {FAMILY: params[FAMILY]}
        for name, distribution in self._knobs[params[FAMILY]].items():
            moved[name] = params[name]
            if rng.random() >= KEPT:
                place = unit(distribution, params[name]) + WIDTH * rng.standard_normal()
                moved[name] = from_unit(distribution, float(np.clip(place, 0, 1)))
        return moved


def table_of(space: Space, schedules: Sequence[Schedule]) -> Array:
    """What the model sees of schedules: their curves, and what is tuned with them."""
    places = np.array([space.places(schedule) for schedule in schedules])
    return np.hstack([features_table(schedules), places.reshape(len(schedules), len(space.tune))])


class Tuner:
    """What the model of all trials of a study expects of schedules, tried or not.

    A setting at its default is one that nobody has to make. Odd settings are believed only where
    the model can tell them from the default: a search draws many, and the best of them is lucky.
    """

    def __init__(
        self, study: optuna.Study, space: Space, total: int, guess: PeakGuess, transfer: Transfer
    ) -> None:
        """Read the study; the rest is as in ``SurrogateSampler``."""
        self._space, self._model = space, StudyModel(total, transfer, space.beside)
        self._model.read(study)
        self._posterior = Surrogate(transfer, guess).posterior(self._model.observations())

    def expected(self, schedules: Sequence[Schedule]) -> Array:
        """How bad each will be (schedules,), in standard deviations between seeds."""
        x = table_of(self._space, schedules)
        others = len(self._model.others) - len(self._space.tune)
        x = np.hstack([x, np.full((len(x), others), 0.5)])
        return np.asarray(self._posterior.mean_and_sd(x)[0] / self._posterior.noise)

    def tuned(self, family: str) -> Schedule:
        """The best peak and warmup of a family, all else at its defaults.

        Only peaks near that of the best trial count: of others little is known.
        """
        low, high = self._space.peak_lr
        if whole := self._model.whole_rows:
            tried = [self._model.over[row].schedule for row in whole]
            peak = tried[int(self.expected(tried).argmin())].peak_lr
            low = min(max(low, peak / PEAKS_APART), high)
            high = max(min(high, peak * PEAKS_APART), low)
        takes = FAMILIES[family].takes_warmup
        warmups = np.linspace(*self._space.warmup, WARMUPS).tolist() if takes else [0.0]
        peaks = np.geomspace(low, high, PEAKS).clip(low, high).tolist()
        forms = [Schedule(family, peak, warmup) for peak in peaks for warmup in warmups]
        return forms[int(self.expected(forms).argmin())]

    def plain(self, schedule: Schedule, most: float) -> Schedule:
        """The same with the fewest settings that is expected to be as good.

        Args:
            schedule: its peak is moved a little where that suits the other settings better.
            most: standard deviations between seeds that do not matter.
        """
        if schedule.closed_loop:  # the model knows nothing of its settings
            return schedule
        values, row = schedule.knobs, FAMILIES[schedule.family].knobs
        odd: list[Knob | str] = [k for k in row if values.get(k.name, k.default) != k.default]
        odd += [s.name for s in self._space.tune if s.name in schedule.settings and s.reaches_own]
        forms = [schedule]
        for reset in chain(*(combinations(odd, count + 1) for count in range(len(odd)))):
            knobs = {k.name: k.default for k in reset if isinstance(k, Knob)}
            settings = {n: v for n, v in schedule.settings.items() if n not in reset}
            plain = {**values, **knobs}
            gone = {k.name for k in row if not k.counts(plain)}
            plain = {name: value for name, value in plain.items() if name not in gone}
            form: Any = {"knobs": plain, "settings": settings}
            for factor in SHIFTS:
                peak = float(np.clip(schedule.peak_lr * factor, *self._space.peak_lr))
                with suppress(InputError):  # the check of some families is of settings together
                    forms.append(replace(schedule, peak_lr=peak, **form))
        expected = self.expected(forms)
        near = np.flatnonzero(expected <= expected.min() + most)
        return forms[min(near, key=lambda row: (forms[row].complexity, expected[row]))]
