"""Sequential test: is one schedule better than each of several others, on paired seeds?

All are trained on the same fresh seeds and compared with a reference: what the search recommends.
After each round, a schedule whose comparison is decided gets no more seeds: the budget goes where
it can still tell something, to the user's own schedule first, then to baselines. A comparison is
decided if the schedule is behind, if it is as good within the margin, if the seeds that are left
would hardly separate the two, or if the doubt lies in the samples of the split, which no number of
seeds removes.

"Behind" needs a boundary of O'Brien and Fleming's shape (1979) to be crossed. By the reflection
principle, any number of interim analyses at a two-sided level of 5 % of the last one make an error
in one direction in at most 5 % of all comparisons. A few seeds tell little about a variance, so
that the variance of a difference is raised towards that of the others (Smyth 2004); never lowered:
one schedule may be noisier than they are.
``scripts/bench/verdict.py`` measures how often the whole errs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from lrtune.verdict.settings import Document, Number
from lrtune.verdict.tie_break import SIMPLER, Complexity, leader, simpler

Array: TypeAlias = NDArray[np.float64]
Role = Literal["yours", "baseline", "leader"]
Place = Literal["winner", "tied", "behind", "lost"]
Decided = Literal["behind", "budget", "futile", "samples", "equivalent"]
Why = Literal["separated", "more", "alone", "lost", "budget", "futile", "samples", "equivalent"]
TURNS: tuple[Role, ...] = ("yours", "baseline", "leader")

LEVEL = 0.05  # of intervals: 95 %
PRIOR = 3.0  # degrees of freedom that the variances of other differences are worth at most
SMALL = 30  # fewer seeds than this: Student's t, not the bootstrap
FIRST = 3  # seeds of each before the first analysis
ALPHA = 0.04  # of a claim that something is behind: 5 % less what the simulation shows on top
BETTER = 0.005  # of one that the reference itself is behind: then the other takes its place
MARGIN = 0.1  # standard deviations between seeds that do not matter, where no margin was named
# Power below which a comparison is given up, and seeds before that.
FUTILE: dict[Role, tuple[float, int]] = {
    "yours": (0.01, 5),
    "baseline": (0.1, 5),
    "leader": (0.2, FIRST),
}
ENOUGH = 0.25  # of the samples' variance: where seeds add no more, more of them would hardly help


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of one schedule, or of one less those of another.

    Seeds are drawn anew at will; the samples of the test split are what there is, and how they
    fell is shared by all seeds. Both leave doubt about the mean (crossed random effects).
    """

    values: Array  # (seeds,) lower is better
    # (seeds, parts) the same on the parts of the split; no parts where these are unknown.
    blocks: Array

    @classmethod
    def of(
        cls, values: Sequence[float], blocks: Sequence[Sequence[float]], sign: float
    ) -> "Sample":
        """Scores as they were measured; ``sign`` makes the lower the better."""
        seeds = sign * np.asarray(values, np.float64)
        widths = {len(row) for row in blocks}
        if len(blocks) != len(seeds) or len(widths) != 1 or widths <= {0, 1}:
            return cls(seeds, np.empty((len(seeds), 0)))
        parts = sign * np.asarray(blocks, np.float64)
        return cls(seeds, parts if np.isfinite(parts).all() else np.empty((len(seeds), 0)))

    def __len__(self) -> int:
        return len(self.values)

    def __sub__(self, other: "Sample") -> "Sample":
        known = self.blocks.shape == other.blocks.shape
        blocks = self.blocks - other.blocks if known else np.empty((len(self), 0))
        return Sample(self.values - other.values, blocks)

    def first(self, count: int) -> "Sample":
        """Of the first so many seeds."""
        return Sample(self.values[:count], self.blocks[:count])

    @property
    def mean(self) -> float:
        """Over the seeds; NaN of none."""
        return float(self.values.sum()) / len(self) if len(self) else math.nan

    @property
    def variance(self) -> float:
        """Between seeds, of one score; NaN of fewer than two."""
        if len(self) < 2:
            return math.nan
        off = self.values - self.mean
        return float(off @ off) / (len(self) - 1)

    @property
    def variances(self) -> tuple[float, float]:
        """Of the mean: what more seeds would lower, and what the split's samples leave in doubt."""
        seeds, parts = self.blocks.shape
        if seeds < 2:
            return math.nan, 0.0
        own = self.variance / len(self)
        if parts < 2:
            return own, 0.0
        columns = self.blocks.mean(0)
        rest = self.blocks - self.blocks.mean(1, keepdims=True) - columns + self.blocks.mean()
        both = float((rest**2).sum()) / ((seeds - 1) * (parts - 1) * seeds * parts)
        # The columns vary by what is theirs, and by what any cell does.
        return own, max(0.0, float(columns.var(ddof=1)) / parts - both)

    def interval(self) -> tuple[float, float]:
        """Of the mean, 95 %: Student's, or the bootstrap's (BCa) over many seeds; NaN for one."""
        if len(self) < 2:
            return math.nan, math.nan
        own, shared = self.variances
        if len(self) < SMALL or not np.ptp(self.values) or shared:
            error, freedom = _error(own, len(self) - 1, shared, self.blocks.shape[1])
            reach = special.stdtrit(freedom, 1 - LEVEL / 2) * error
            return float(self.mean - reach), float(self.mean + reach)
        found = stats.bootstrap((self.values,), np.mean, confidence_level=1 - LEVEL, rng=0)
        return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _error(own: float, freedom: float, shared: float, parts: int) -> tuple[float, float]:
    """Standard error from two variances of a mean, and degrees of freedom (Satterthwaite's)."""
    if not shared:
        return own**0.5, freedom
    both = (own + shared) ** 2 / (own**2 / freedom + shared**2 / (parts - 1))
    return (own + shared) ** 0.5, both


@dataclass(frozen=True, slots=True)
class Difference:
    """The paired difference of two samples, with what is believed of its error."""

    mean: float  # positive where the first is worse; NaN of none
    seeds: int  # that both have
    of_seeds: float  # variance of the mean that more seeds would lower
    of_samples: float  # variance of the mean that the split's samples leave
    error: float  # standard error of the mean
    freedom: float  # its degrees of freedom

    def p(self, most: int) -> float:
        """Two-sided p-value; stricter the fewer of at most ``most`` seeds there are."""
        if not self.seeds or not self.mean:
            return 1.0
        if not self.error > 1e-12 * abs(self.mean):  # equal to the bit, or of one seed
            return 0.0 if self.seeds > 1 else 1.0
        ratio = abs(self.mean) / self.error * math.sqrt(min(1.0, self.seeds / most))
        return float(2 * special.stdtr(self.freedom, -ratio))

    def interval(self, most: int = 0) -> tuple[float, float]:
        """95 %; wider where the test ended before ``most`` seeds; NaN of one seed."""
        if self.seeds < 2:
            return math.nan, math.nan
        reach = special.stdtrit(self.freedom, 1 - LEVEL / 2) * self.error
        reach *= math.sqrt(max(1.0, most / self.seeds))
        return float(self.mean - reach), float(self.mean + reach)

    def power(self, most: int) -> float:
        """Of telling the two apart with ``most`` seeds, if what is seen is the truth."""
        left = most - self.seeds
        if left <= 0 or not self.of_seeds > 0:
            return 1.0  # decided by what there is
        sd = math.sqrt(self.of_seeds * self.seeds)  # of one difference
        reach = special.stdtrit(self.freedom, 1 - LEVEL / 2)
        error = math.sqrt(sd**2 / most + self.of_samples)  # at the end
        return float(special.ndtr((abs(self.mean) - reach * error) * most / (sd * math.sqrt(left))))


def differences(samples: Mapping[str, Sample], reference: str) -> dict[str, Difference]:
    """Of every sample less the reference, on their common seeds.

    The variance between seeds of each is raised towards the median of all.
    """
    apart = {}
    for name, sample in samples.items():
        if name != reference:
            both = min(len(sample), len(samples[reference]))
            apart[name] = sample.first(both) - samples[reference].first(both)
    known = [sample.variance for sample in apart.values() if len(sample) > 1]
    typical = float(np.median(known)) if known else math.nan
    prior = PRIOR * (1 - 1 / len(known)) if known else 0.0
    return {name: _difference(sample, typical, prior) for name, sample in apart.items()}


def _difference(apart: Sample, typical: float, prior: float) -> Difference:
    seeds = len(apart)
    if seeds < 2:
        return Difference(apart.mean, seeds, math.nan, 0.0, math.nan, 0.0)
    _, shared = apart.variances
    freedom = prior + seeds - 1
    shrunk = (prior * typical + (seeds - 1) * apart.variance) / freedom
    own = max(shrunk, apart.variance) / seeds
    error = _error(own, freedom, shared, apart.blocks.shape[1])
    return Difference(apart.mean, seeds, own, shared, *error)


class Standing(Document):
    """How a schedule did."""

    seeds: int  # on how many it was trained
    lost: int  # on how many of these it has no score: its training diverged or failed
    mean: Number  # of its scores; NaN without any
    low: Number  # lower end of the mean's 95 % interval; NaN with fewer than two
    high: Number  # upper end
    sd: Number  # standard deviation between seeds; NaN with fewer than two
    place: Place  # winner (all others are behind), tied, behind or lost
    # To the recommended one on their common seeds, in the metric's unit; positive where this
    # one is worse; 0 of the recommended one itself.
    gap: Number
    gap_low: Number  # lower end of its 95 % interval, which is wider where the test ended early
    gap_high: Number  # upper end
    # Of there being no difference, corrected for the interim analyses, for testing both ways,
    # and for a recommended one that was chosen by the same scores.
    p: Number


@dataclass(frozen=True, slots=True)
class Result:
    """A test as it stands."""

    # By name, the recommended one first, then by gap; those with lost seeds last.
    standings: dict[str, Standing]
    # "separated" (all others are behind or lost), "more" (of ``wanted``), "alone" (nothing to
    # compare with), "lost" (nothing has a score on every seed), or why those that are tied
    # get no more seeds: "budget", "futile", "samples" or "equivalent".
    why: Why
    margin: float  # a difference that does not matter, in the metric's unit
    # Seeds that each is to have for the next analysis; empty unless ``why`` is "more".
    wanted: dict[str, int] = field(default_factory=dict)

    @property
    def recommended(self) -> str | None:
        """Which to use; None where nothing has a score on every seed."""
        return next(iter(self.tied), None)

    @property
    def tied(self) -> list[str]:
        """The recommended one, and what cannot be told apart from it."""
        return [name for name, s in self.standings.items() if s.place in ("winner", "tied")]


def sequential_test(
    # By name, of the 1st, 2nd, ... seed, the same seeds for all; those decided earlier may have
    # fewer. Non-finite where a training was lost. The first name is the reference; the others are
    # in the order in which they matter.
    scores: Mapping[str, Sequence[float]],
    *,
    minimize: bool,  # whether the lower score is the better one
    trainings: int,  # of all together, at most
    roles: Mapping[str, Role] | None = None,  # by name; "leader" where not given
    # For each of these seeds the scores on the parts of the split, the same for all; then it counts
    # too that another split might have favoured others.
    blocks: Mapping[str, Sequence[Sequence[float]]] | None = None,
    # A difference that does not matter; None: a tenth of the standard deviation between seeds.
    margin: float | None = None,
    first: int = FIRST,  # seeds before the first analysis
    width: int = 1,  # trainings of a round at least, as far as the budget has them
    over: bool = False,  # whether there will be no more scores: it is judged on what there is
    # See ``Schedule.complexity``: of those about as good the simplest is recommended in the end.
    knobs: Mapping[str, Complexity] | None = None,
) -> Result:
    """What these scores tell, and what is to be trained next.

    It is a function of the scores alone: called again with more of them, it decides the same at the
    earlier analyses.
    """
    sign = 1.0 if minimize else -1.0
    parts = blocks or {}
    table = {name: Sample.of(seen, parts.get(name, ()), sign) for name, seen in scores.items()}
    test = _Test(table, roles or {}, trainings, margin, first, width, knobs or {})
    test.run(over)
    return test.result(sign)


class _Test:
    """Interim analyses, one after the other."""

    def __init__(
        self,
        table: Mapping[str, Sample],
        roles: Mapping[str, Role],
        trainings: int,
        margin: float | None,
        first: int,
        width: int,
        knobs: Mapping[str, Complexity],
    ) -> None:
        self._table, self._knobs = table, knobs
        self._roles: dict[str, Role] = {name: roles.get(name, "leader") for name in table}
        self._named_margin, self._width = margin, width
        self._sound = [name for name, one in table.items() if np.isfinite(one.values).all()]
        self._open = list(self._sound)
        self._reference = self._sound[0] if self._sound else ""
        self._chosen_by_scores = False
        self._seeds = dict.fromkeys(table, first)
        self._left = trainings - first * len(table)
        self._most = first + max(0, self._left) // 2  # seeds of each, if two remain
        self._decided: dict[str, Decided] = {}  # why, by name
        self._settled: dict[str, Difference] = {}  # from the reference, as it was decided
        self._early: set[str] = set()  # called behind the reference before the end
        self._wanted: dict[str, int] = {}

    def run(self, over: bool) -> None:
        """Go on until all is decided, the trainings are used up, or there are too few scores."""
        while self._open:
            seeds = {name: self._seeds[name] for name in self._open}
            if any(len(self._table[name]) < count for name, count in seeds.items()):
                if over:
                    break
                self._wanted = seeds
                return
            self._analyse()
            if not self._give_seeds():
                break
        self._end()

    def _analyse(self) -> None:
        """Decide what can be decided."""
        pairs = self._pairs()
        better = [n for n in self._open if n in pairs and self._is_better(pairs[n])]
        if better:
            before = self._reference
            self._decided[before] = "behind"
            self._open.remove(before)
            self._prefer(min(better, key=lambda name: pairs[name].mean))
            self._early.add(before)
            pairs = self._pairs()
        for name in [name for name in self._open if name != self._reference]:
            if why := self._why(name, pairs[name]):
                self._decided[name], self._settled[name] = why, pairs[name]
                self._early |= {name} if why == "behind" else set()
                self._open.remove(name)

    def _simpler(self) -> list[str]:
        """What is simpler than the reference, and worse by a little at most."""
        pairs, tied = self._pairs(), self._tied()
        near = {n: pairs[n].mean for n in tied if n in pairs and self._roles[n] != "yours"}
        return simpler(self._reference, near, self._knobs, SIMPLER * self._sd)

    def _is_better(self, pair: Difference) -> bool:
        return pair.mean < 0 and pair.p(self._most) < BETTER

    def _prefer(self, name: str) -> None:
        self._reference, self._chosen_by_scores = name, True
        self._settled, self._early = {}, set()

    def _why(self, name: str, pair: Difference) -> Decided | None:
        """Why a comparison is decided; None where it is not."""
        if pair.mean > 0 and self._claims(name) * pair.p(self._most) < ALPHA:
            return "behind"
        if max(map(abs, pair.interval())) <= self._margin:
            return "equivalent"
        if 0 < pair.of_seeds <= ENOUGH * pair.of_samples:
            return "samples"
        power, seeds = FUTILE[self._roles[name]]
        return "futile" if pair.seeds >= seeds and pair.power(self._most) < power else None

    def _give_seeds(self) -> bool:
        """Give more seeds to those whose turn it is; False where none are left, or nobody's.

        What the reference has been trained on already costs it no more.
        """
        others = [name for name in self._open if name != self._reference]
        turn = min((self._turn(name) for name in others), default=None)
        now = [name for name in others if self._turn(name) == turn]
        for count in range(len(now), 0, -1):
            least = min(self._seeds[name] for name in now[:count])
            for step in range(-(-self._width // (count + 1)), 0, -1):
                names = [*now[:count], self._reference]
                more = {name: max(0, least + step - self._seeds[name]) for name in names}
                if (cost := sum(more.values())) <= self._left:
                    for name, seeds in more.items():
                        self._seeds[name] += seeds
                    self._left -= cost
                    return True
        return False

    def _turn(self, name: str) -> int:
        """The user's own question first."""
        return TURNS.index(self._roles[name])

    def _end(self) -> None:
        """Recommend what leads by more than a little, and settle what was open to the end.

        A lead that is not shown does not undo what was shown: that yours is behind the reference.
        """
        tied, pairs = self._tied(), self._pairs()
        seen = [name for name in tied if name in pairs and pairs[name].seeds > 1]
        best = leader({n: (-pairs[n].mean, pairs[n].error) for n in seen}, self._sd)
        if best and not any(self._turn(name) == 0 for name in self._sound if name not in tied):
            self._prefer(best)
        self._prefer_the_simplest()
        for name, pair in self._pairs().items():
            if name not in self._decided and pair.mean > 0 and self._p(name, pair) < ALPHA:
                self._decided[name] = "behind"

    def _prefer_the_simplest(self) -> None:
        """Of what is tied; what was shown of yours and of baselines must be shown of it too."""
        before, settled = self._reference, self._settled
        asked = [name for name, why in self._decided.items() if why == "behind"]
        asked = [name for name in asked if self._roles[name] != "leader"]
        for name in self._simpler():
            self._reference, self._settled = name, {}
            pairs = self._pairs()
            if all(pairs[n].mean > 0 and self._p(n, pairs[n]) < ALPHA for n in asked):
                if (why := self._decided.pop(name, None)) is not None:
                    self._decided[before] = why
                return
        self._reference, self._settled = before, settled

    def _tied(self) -> list[str]:
        return [name for name in self._sound if self._decided.get(name) != "behind"]

    def _claims(self, name: str) -> int:
        """Ways in which a test may err: of a baseline only by calling it behind."""
        return 2 if self._roles[name] == "leader" else 1

    def _p(self, name: str, pair: Difference) -> float:
        """Corrected for what it has to be."""
        p = pair.p(self._planned(name, pair))
        return min(1.0, (1 + self._chosen_by_scores) * self._claims(name) * p)

    def _planned(self, name: str, pair: Difference) -> int:
        """Seeds at which it would have ended; what was open to the end had no early analysis."""
        return self._most if name in self._early else pair.seeds

    def _pairs(self) -> dict[str, Difference]:
        """What the reference is compared with, on the seeds analysed.

        What others' later seeds say of the variances does not undo what was decided.
        """
        samples = {name: self._table[name].first(self._seeds[name]) for name in self._sound}
        return differences(samples, self._reference) | self._settled

    @property
    def _sd(self) -> float:
        """Between seeds, of a typical schedule; 0 where nobody knows."""
        known = [self._table[name].first(self._seeds[name]).variance for name in self._sound]
        known = [variance for variance in known if math.isfinite(variance)]
        return math.sqrt(float(np.median(known))) if known else 0.0

    @property
    def _margin(self) -> float:
        return MARGIN * self._sd if self._named_margin is None else self._named_margin

    def result(self, sign: float) -> Result:
        """How each stands; ``sign`` makes of these scores those that were measured."""
        pairs = self._pairs()
        standings = {name: self._standing(name, pairs.get(name), sign) for name in self._table}

        def rank(name: str) -> tuple[float, ...]:
            places = {"winner": 0, "tied": 0, "behind": 1, "lost": 2}
            worse = (standings[name].gap, sign * standings[name].mean)
            return name != self._reference, places[standings[name].place], *np.nan_to_num(worse)

        ordered = {name: standings[name] for name in sorted(standings, key=rank)}
        return Result(ordered, self._reason(), self._margin, self._wanted)

    def _standing(self, name: str, pair: Difference | None, sign: float) -> Standing:
        whole = self._table[name].first(self._seeds[name])
        finite = np.isfinite(whole.values)
        kept = Sample(whole.values[finite], whole.blocks[finite])
        low, high = sorted(sign * end for end in kept.interval())
        place: Place = "lost"
        if name in self._sound:
            behind = self._decided.get(name) == "behind"
            place = "behind" if behind else "winner" if self._tied() == [name] else "tied"
        gap = (0.0 if name == self._reference else math.nan, math.nan, math.nan)
        if pair is not None:
            gap = (pair.mean, *pair.interval(self._planned(name, pair)))
        return Standing(
            seeds=len(whole),
            lost=len(whole) - len(kept),
            mean=sign * kept.mean,
            low=low,
            high=high,
            sd=kept.variance**0.5,
            place=place,
            gap=gap[0],
            gap_low=gap[1],
            gap_high=gap[2],
            p=math.nan if pair is None else self._p(name, pair),
        )

    def _reason(self) -> Why:
        if self._wanted:
            return "more"
        tied = self._tied()
        if len(tied) < 2:
            return ("alone" if len(self._table) == 1 else "separated") if tied else "lost"
        reasons = {self._decided.get(name, "budget") for name in tied if name != self._reference}
        ends: tuple[Why, ...] = ("budget", "futile", "samples", "equivalent")
        return next(why for why in ends if why in reasons)
