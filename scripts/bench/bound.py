"""What no contest can do: the most often a winner over five rivals, all 1 sd behind, can be named.

    python scripts/bench/bound.py

Each family has 20 seeds, scores are normal, independent and of a known standard deviation of 1.
Whoever names a winner among two equals (the others behind) in at most 5 % of all cases names each
of them in 2.5 %, families being treated alike. So the most powerful test of "the first leads"
against an even mixture of "the first and another are equal" at 2.5 % (Neyman and Pearson's lemma,
scores taken relative to their mean) is as good as a contest can be. ``EQUAL`` is where the two
equals stand; any place gives a bound.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

SEEDS, FAMILIES, DRAWS = 20, 6, 400_000
EQUAL = 0.35  # 0 is where the winner is, 1 where its rivals are: the lowest bound of those tried
LEVEL = 0.025

Array = NDArray[np.float64]


def fit(means: Array, true: Array) -> Array:
    """Log-likelihood of means whatever they have in common: (draws,)."""
    off = means - true
    return -SEEDS / 2 * ((off - off.mean(1, keepdims=True)) ** 2).sum(1)


def main() -> None:
    leads = np.array([0.0, *[1.0] * (FAMILIES - 1)])
    ties = []
    for rival in range(1, FAMILIES):
        tie = np.ones(FAMILIES)
        tie[[0, rival]] = EQUAL
        ties.append(tie)

    def ratio(means: Array) -> Array:
        return fit(means, leads) - logsumexp([fit(means, tie) for tie in ties], axis=0)

    generator = np.random.default_rng(0)
    noise = generator.standard_normal((2, DRAWS, FAMILIES)) / SEEDS**0.5
    least = np.quantile(ratio(noise[0] + ties[0]), 1 - LEVEL)
    print(f"at most {np.mean(ratio(noise[1] + leads) > least):.1%}")


if __name__ == "__main__":
    main()
