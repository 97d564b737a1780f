"""Samples: scores by seed and on the parts of the test split; paired differences, their doubt."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array: TypeAlias = NDArray[np.float64]

LEVEL = 0.05  # of intervals: 95 %
PRIOR = 3.0  # degrees of freedom that the variances of other differences are worth at most
SMALL = 30  # fewer seeds than this: Student's t, not the bootstrap


@dataclass(frozen=True, slots=True)
class Sample:
    """Scores of one contender, or of one less those of another.

    Seeds are drawn anew at will; the samples of the test split are what there is, and how they
    fell is shared by all seeds. Both leave doubt about the mean (crossed random effects).

    Attributes:
        values: (seeds,) lower is better.
        blocks: (seeds, parts) the same on the parts of the split; no parts where these are unknown.
    """

    values: Array
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
        return float(self.values.sum()) / len(self) if len(self) else float("nan")

    @property
    def variance(self) -> float:
        """Between seeds, of one score; NaN of fewer than two."""
        if len(self) < 2:
            return float("nan")
        off = self.values - self.mean
        return float(off @ off) / (len(self) - 1)

    @property
    def variances(self) -> tuple[float, float]:
        """Of the mean: what more seeds would lower, and what the split's samples leave in doubt."""
        seeds, parts = self.blocks.shape
        if seeds < 2:
            return float("nan"), 0.0
        own = self.variance / len(self)
        if parts < 2:
            return own, 0.0
        columns = self.blocks.mean(0)
        rest = self.blocks - self.blocks.mean(1, keepdims=True) - columns + self.blocks.mean()
        both = float((rest**2).sum()) / ((seeds - 1) * (parts - 1) * seeds * parts)
        # The columns vary by what is theirs, and by what any cell does.
        return own, max(0.0, float(columns.var(ddof=1)) / parts - both)

    @property
    def error(self) -> tuple[float, float]:
        """Standard error of the mean, and its degrees of freedom."""
        own, shared = self.variances
        return _error(own, len(self) - 1, shared, self.blocks.shape[1])


def _error(own: float, freedom: float, shared: float, parts: int) -> tuple[float, float]:
    """Standard error from two variances of a mean, and degrees of freedom (Satterthwaite's)."""
    if not shared:
        return own**0.5, freedom
    both = (own + shared) ** 2 / (own**2 / freedom + shared**2 / (parts - 1))
    return (own + shared) ** 0.5, both


@dataclass(frozen=True, slots=True)
class Difference:
    """The paired difference of two samples, with what is believed of its error.

    Attributes:
        mean: positive where the first is worse; NaN of none.
        seeds: that both have.
        of_seeds: variance of the mean that more seeds would lower.
        of_samples: variance of the mean that the split's samples leave.
        error: standard error of the mean.
        freedom: its degrees of freedom.
    """

    mean: float
    seeds: int
    of_seeds: float
    of_samples: float
    error: float
    freedom: float

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

    The variance between seeds of each is shrunk towards the median of all (Smyth 2004).
    """
    apart = {}
    for name, one in samples.items():
        if name != reference:
            both = min(len(one), len(samples[reference]))
            apart[name] = one.first(both) - samples[reference].first(both)
    known = [one.variance for one in apart.values() if len(one) > 1]
    typical = float(np.median(known)) if known else math.nan
    prior = PRIOR * (1 - 1 / len(known)) if known else 0.0
    return {name: _difference(one, typical, prior) for name, one in apart.items()}


def _difference(apart: Sample, typical: float, prior: float) -> Difference:
    seeds = len(apart)
    if seeds < 2:
        return Difference(apart.mean, seeds, math.nan, 0.0, math.nan, 0.0)
    _, shared = apart.variances
    freedom = prior + seeds - 1
    own = (prior * typical + (seeds - 1) * apart.variance) / freedom / seeds
    error = _error(own, freedom, shared, apart.blocks.shape[1])
    return Difference(apart.mean, seeds, own, shared, *error)


def interval(sample: Sample, level: float = LEVEL) -> tuple[float, float]:
    """Of the mean, 95 %: Student's, or the bootstrap's (BCa) over many seeds; NaN for one."""
    if len(sample) < 2:
        return float("nan"), float("nan")
    if len(sample) < SMALL or not np.ptp(sample.values) or sample.variances[1]:
        error, freedom = sample.error
        reach = special.stdtrit(freedom, 1 - level / 2) * error
        return float(sample.mean - reach), float(sample.mean + reach)
    found = stats.bootstrap((sample.values,), np.mean, confidence_level=1 - level, rng=0)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
