"""Sequential test: is one schedule better than each of several others, on paired seeds?

All are trained on the same fresh seeds and compared with a reference: what the search recommends.
After each round, a schedule whose comparison is decided gets no more seeds: the budget goes where
it can still tell something, to the user's own schedule first, then to baselines. A comparison is
decided if the schedule is behind, if it is as good within the margin, if the seeds that are left
would hardly separate the two, or if the doubt lies in the samples of the split, which no number of
seeds removes.

"Behind" needs a boundary of O'Brien and Fleming's shape (1979) to be crossed. By the reflection
principle, any number of looks at a two-sided level of 5 % of the last one make an error in one
direction in at most 5 % of all comparisons. A few seeds tell little about a variance, so that the
variance of a difference is shrunk towards that of the others (Smyth 2004).
``scripts/bench/verdict.py`` measures how often the whole errs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lrtune.verdict.paired import Difference, Sample, differences, interval
from lrtune.verdict.tie_break import leader, simplest

Role = Literal["yours", "baseline", "leader"]
Place = Literal["winner", "tied", "behind", "lost"]
Decided = Literal["behind", "budget", "futile", "samples", "equivalent"]
Why = Literal["separated", "more", "alone", "lost", "budget", "futile", "samples", "equivalent"]
TURNS: tuple[Role, ...] = ("yours", "baseline", "leader")

FIRST = 3  # seeds of each before the first look
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
class Standing:
    """How a schedule did.

    Attributes:
        seeds: on how many it was trained.
        lost: on how many of these it has no score: its training diverged or failed.
        mean: of its scores; NaN without any.
        low: lower end of the mean's 95 % interval; NaN with fewer than two.
        high: upper end.
        sd: standard deviation between seeds; NaN with fewer than two.
        place: winner (all others are behind), tied, behind or lost.
        gap: to the recommended one on their common seeds, in the metric's unit; positive where this
            one is worse; 0 of the recommended one itself.
        gap_low: lower end of its 95 % interval, which is wider where the test ended early.
        gap_high: upper end.
        p: of there being no difference, corrected for the looks, for testing both ways, and for a
            recommended one that was chosen by the same scores.
    """

    seeds: int
    lost: int
    mean: float
    low: float
    high: float
    sd: float
    place: Place
    gap: float
    gap_low: float
    gap_high: float
    p: float


@dataclass(frozen=True, slots=True)
class Result:
    """A test as it stands.

    Attributes:
        standings: by name, the recommended one first, then by gap; those with lost seeds last.
        why: "separated" (all others are behind or lost), "more" (of ``wanted``), "alone" (nothing
            to compare with), "lost" (nothing has a score on every seed), or why those that are tied
            get no more seeds: "budget", "futile", "samples" or "equivalent".
        margin: a difference that does not matter, in the metric's unit.
        wanted: seeds that each is to have for the next look; empty unless ``why`` is "more".
    """

    standings: dict[str, Standing]
    why: Why
    margin: float
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
    scores: Mapping[str, Sequence[float]],
    *,
    minimize: bool,
    trainings: int,
    roles: Mapping[str, Role] | None = None,
    blocks: Mapping[str, Sequence[Sequence[float]]] | None = None,
    margin: float | None = None,
    first: int = FIRST,
    width: int = 1,
    over: bool = False,
    knobs: Mapping[str, int] | None = None,
) -> Result:
    """What these scores tell, and what is to be trained next.

    It is a function of the scores alone: called again with more of them, it decides the same at the
    earlier looks.

    Args:
        scores: by name, of the 1st, 2nd, ... seed, the same seeds for all; those decided earlier
            may have fewer. Non-finite where a training was lost. The first name is the reference;
            the others are in the order in which they matter.
        minimize: whether the lower score is the better one.
        trainings: of all together, at most.
        roles: by name; "leader" where not given.
        blocks: by name, for each of these seeds the scores on the parts of the split, the same for
            all; then it counts too that another split might have favoured others.
        margin: a difference that does not matter, in the metric's unit; a tenth of the standard
            deviation between seeds where None.
        first: seeds before the first look.
        width: trainings of a round at least, as far as the budget has them.
        over: whether there will be no more scores: it is judged on what there is.
        knobs: by name, how many numbers a person has to set: at the first look the simplest of
            those that are about as good becomes the reference.
    """
    sign = 1.0 if minimize else -1.0
    parts = blocks or {}
    table = {name: Sample.of(seen, parts.get(name, ()), sign) for name, seen in scores.items()}
    test = _Test(table, roles or {}, trainings, margin, first, width, knobs or {})
    test.run(over)
    return test.result(sign)


class _Test:
    """Looks, one after the other."""

    def __init__(
        self,
        table: Mapping[str, Sample],
        roles: Mapping[str, Role],
        trainings: int,
        margin: float | None,
        first: int,
        width: int,
        knobs: Mapping[str, int],
    ) -> None:
        self._knobs = knobs
        self._table = table
        self._roles = roles
        self._named_margin = margin
        self._width = width
        self._sound = [name for name, one in table.items() if np.isfinite(one.values).all()]
        self._open = list(self._sound)
        self._reference = self._sound[0] if self._sound else ""
        self._chosen_by_scores = False
        self._looked = False
        self._seeds = dict.fromkeys(table, first)
        self._left = trainings - first * len(table)
        self._most = first + max(0, self._left) // 2  # seeds of each, if two remain
        self._decided: dict[str, Decided] = {}  # why, by name
        self._settled: dict[str, Difference] = {}  # from the reference, as it was decided
        self._early: set[str] = set()  # called behind the reference at a look before the end
        self._wanted: dict[str, int] = {}

    def run(self, over: bool) -> None:
        """Look until all is decided, the trainings are used up, or there are too few scores."""
        while self._open:
            seeds = {name: self._seeds[name] for name in self._open}
            if any(len(self._table[name]) < count for name, count in seeds.items()):
                if over:
                    break
                self._wanted = seeds
                return
            if not self._looked:
                self._prefer_the_simplest()
            self._looked = True
            self._look()
            if not self._next():
                break
        self._end()

    def _look(self) -> None:
        """Decide what can be decided."""
        pairs = self._pairs()
        better = [n for n in self._open if n in pairs and self._is_better(pairs[n])]
        if better:
            self._decided[self._reference] = "behind"
            before = self._reference
            self._open.remove(before)
            self._prefer(min(better, key=lambda name: pairs[name].mean))
            self._early.add(before)
            pairs = self._pairs()
        for name in [name for name in self._open if name != self._reference]:
            if why := self._why(name, pairs[name]):
                self._decided[name], self._settled[name] = why, pairs[name]
                self._early |= {name} if why == "behind" else set()
                self._open.remove(name)

    def _prefer_the_simplest(self) -> None:
        """Of what is about as good as the reference, or better."""
        pairs = {n: pair for n, pair in self._pairs().items() if self._roles.get(n) != "yours"}
        self._reference = simplest(self._reference, pairs, self._knobs, self._sd)

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
        power, seeds = FUTILE[self._roles.get(name, "leader")]
        return "futile" if pair.seeds >= seeds and pair.power(self._most) < power else None

    def _next(self) -> bool:
        """Give more seeds to those whose turn it is; False where none are left, or nobody's.

        What the reference has been trained on already costs it no more.
        """
        others = [name for name in self._open if name != self._reference]
        turn = min((self._turn(name) for name in others), default=None)
        now = [name for name in others if self._turn(name) == turn]
        for count in range(len(now), 0, -1):
            least = min(self._seeds[name] for name in now[:count])
            for step in range(-(-self._width // (count + 1)), 0, -1):
                more = {name: max(0, least + step - self._seeds[name]) for name in now[:count]}
                more[self._reference] = max(0, least + step - self._seeds[self._reference])
                if (cost := sum(more.values())) <= self._left:
                    for name, seeds in more.items():
                        self._seeds[name] += seeds
                    self._left -= cost
                    return True
        return False

    def _turn(self, name: str) -> int:
        """The user's own question first."""
        return TURNS.index(self._roles.get(name, "leader"))

    def _end(self) -> None:
        """Recommend what leads by more than a little, and settle what was open to the end.

        A lead that is not shown does not undo what was shown: that yours is behind the reference.
        """
        tied = self._tied()
        best = leader({n: pair for n, pair in self._pairs().items() if n in tied}, self._sd)
        if best and not any(self._turn(name) == 0 for name in self._sound if name not in tied):
            self._prefer(best)
        for name, pair in self._pairs().items():
            if name not in self._decided and pair.mean > 0 and self._p(name, pair) < ALPHA:
                self._decided[name] = "behind"

    def _tied(self) -> list[str]:
        return [name for name in self._sound if self._decided.get(name) != "behind"]

    def _claims(self, name: str) -> int:
        """Ways in which a test may err: of a baseline only by calling it behind."""
        return 2 if self._roles.get(name, "leader") == "leader" else 1

    def _p(self, name: str, pair: Difference) -> float:
        """Corrected for what it has to be."""
        p = pair.p(self._planned(name, pair))
        return min(1.0, (1 + self._chosen_by_scores) * self._claims(name) * p)

    def _planned(self, name: str, pair: Difference) -> int:
        """Seeds at which it would have ended; what was open to the end had no early look."""
        return self._most if name in self._early else pair.seeds

    def _pairs(self) -> dict[str, Difference]:
        """What the reference is compared with, on the seeds looked at.

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
        found = {name: self._standing(name, pairs.get(name), sign) for name in self._table}

        def rank(name: str) -> tuple[float, ...]:
            places = {"winner": 0, "tied": 0, "behind": 1, "lost": 2}
            worse = (found[name].gap, sign * found[name].mean)
            return name != self._reference, places[found[name].place], *np.nan_to_num(worse)

        ordered = {name: found[name] for name in sorted(found, key=rank)}
        return Result(ordered, self._reason(), self._margin, self._wanted)

    def _standing(self, name: str, pair: Difference | None, sign: float) -> Standing:
        whole = self._table[name].first(self._seeds[name])
        finite = np.isfinite(whole.values)
        kept = Sample(whole.values[finite], whole.blocks[finite])
        low, high = sorted(sign * end for end in interval(kept))
        behind = self._decided.get(name) == "behind"
        place: Place = "behind" if behind else "winner" if self._tied() == [name] else "tied"
        gap = (0.0 if name == self._reference else math.nan, math.nan, math.nan)
        p = math.nan
        if pair is not None:
            gap = (pair.mean, *pair.interval(self._planned(name, pair)))
            p = self._p(name, pair)
        return Standing(
            seeds=len(whole),
            lost=len(whole) - len(kept),
            mean=sign * kept.mean,
            low=low,
            high=high,
            sd=kept.variance**0.5,
            place=place if name in self._sound else "lost",
            gap=gap[0],
            gap_low=gap[1],
            gap_high=gap[2],
            p=p,
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
