"""Sample: a contender's scores by seed, and on the parts of the test split; means and doubts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Array: TypeAlias = NDArray[np.float64]

LEVEL = 0.05  # of intervals: 95 %
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
        """Standard error of the mean, and its degrees of freedom (Satterthwaite's)."""
        own, shared = self.variances
        if not shared:
            return own**0.5, len(self) - 1
        parts = self.blocks.shape[1]
        freedom = (own + shared) ** 2 / (own**2 / (len(self) - 1) + shared**2 / (parts - 1))
        return (own + shared) ** 0.5, freedom


def paired_p(apart: Sample) -> float:
    """Two-sided p-value of Student's t-test of differences; 1 where nothing differs."""
    if len(apart) < 2 or not apart.values.any():
        return 1.0
    error, freedom = apart.error
    if error <= 1e-12 * abs(apart.mean):
        return 0.0
    return float(2 * special.stdtr(freedom, -abs(apart.mean / error)))


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
