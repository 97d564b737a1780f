"""Odds: how likely each contender is the best, and how many seeds would tell."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from lrtune.results.looks import Look
from lrtune.results.paired import Sample

POWER = 0.8  # with which a gap as large as the one seen is to be found


def odds(scores: Mapping[str, Sample], draws: int) -> dict[str, float]:
    """The probability that each mean is the best of all, given the scores.

    Means are drawn as multivariate t around those seen, which makes the difference of any two that
    of the paired t-test. Each seed, and each part of the split, is weighed the same for all, so
    that what they have in common cancels.
    """
    counts = sorted({len(one) for one in scores.values()})
    if not counts or counts[0] < 2:
        return dict.fromkeys(scores, float("nan"))
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((draws, counts[-1]))
    widths = {n: 1 / np.sqrt(n * generator.chisquare(n - 1, draws)) for n in counts}
    parts = max(one.blocks.shape[1] for one in scores.values())
    drawn = generator.standard_normal((draws, parts))
    means = np.empty((len(scores), draws))
    for row, one in enumerate(scores.values()):
        means[row] = one.mean + widths[len(one)] * (
            weights[:, : len(one)] @ (one.values - one.mean)
        )
        if one.blocks.shape[1] > 1:
            columns = one.blocks.mean(0)
            means[row] += drawn @ (columns - columns.mean()) / np.sqrt(parts * (parts - 1))
    wins = means == means.min(0)
    return dict(zip(scores, (wins / wins.sum(0)).mean(1).tolist(), strict=True))


def seeds_needed(tied: Sequence[Sample], look: Look, delta: float) -> tuple[int | None, int | None]:
    """To separate the two best of those tied, and to settle that they are, at such a look."""
    if len(tied) < 2 or len(tied[0]) < 2:
        return None, None
    apart = tied[1] - tied[0]
    samples = apart.variances[1]
    gap, sd = abs(apart.mean), apart.variance**0.5
    apart_at, alike_at = (-special.ndtri(level / 2) for level in (look.winner, look.behind))
    needed = settling = None
    # What the samples leave in doubt stays, however many the seeds.
    left = gap**2 - (apart_at + special.ndtri(POWER)) ** 2 * samples
    if gap > 0 and left > 0:
        normal = ((apart_at + special.ndtri(POWER)) * sd) ** 2 / left
        needed = int(np.ceil(normal + apart_at**2 / 2))  # Guenther (1981): what t needs on top
    left = (delta - gap) ** 2 - alike_at**2 * samples
    if gap < delta and left > 0:
        settling = int(np.ceil((alike_at * sd) ** 2 / left))
    return needed, settling
