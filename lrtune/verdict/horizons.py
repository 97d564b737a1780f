"""Another horizon: whether a ranking is expected to hold there, and from what evidence."""

import math
from collections.abc import Sequence

from scipy.stats import kendalltau

from lrtune.format import count
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import listed

FEWEST = 3  # families, for a correlation of ranks


def outlook(verdicts: Sequence[Verdict], total: int) -> str:
    """What finals at other horizons say of one at which there are none.

    Args:
        verdicts: finished ones of one run, each of another horizon.
        total: updates of the horizon that is asked about.
    """
    known = [(v.horizon, v) for v in sorted(verdicts, key=lambda v: v.horizon) if v.decided]
    if not known:
        return f"Nothing is known of {count(total)} updates: there are no finals yet."
    horizons = [horizon for horizon, _ in known]
    said = f"No finals of {count(total)} updates"
    if len(known) == 1:
        return (
            f"{said}: all were of {count(horizons[0])}. Whether the ranking holds there is not "
            "known; the settings are stretched, not tested."
        )
    below = [pair for pair in known if pair[0] < total]
    above = [pair for pair in known if pair[0] > total]
    if not (below and above):
        where = "longer" if below else "shorter"
        return (
            f"{said}, {where} than any tried ({listed([count(h) for h in horizons])}). "
            f"{agreement(*[v for _, v in (known[-2:] if below else known[:2])])} "
            "Further out nothing is known."
        )
    (first, one), (second, other) = below[-1], above[0]
    return f"{said}, which lies between {count(first)} and {count(second)}. {agreement(one, other)}"


def agreement(one: Verdict, other: Verdict) -> str:
    """How alike two verdicts rank the same families."""
    at = f"At {count(one.horizon)} and {count(other.horizon)} updates"
    best, too = one.answer.families, other.answer.families
    shared = [name for name in best if name in too]
    if shared:
        first = f"{listed(shared)} {'is' if len(shared) == 1 else 'are'} among the best both times"
    else:
        first = f"{listed(best)} is best at the one and {listed(too)} at the other"
    means = [{row.family: row.mean for row in verdict.families} for verdict in (one, other)]
    both = [f for f in means[0] if math.isfinite(means[0][f] + means[1].get(f, math.nan))]
    if len(both) < FEWEST:
        return f"{at} {first}."
    tau = kendalltau(*([mean[name] for name in both] for mean in means)).statistic
    expected = "is expected to hold" if shared and tau > 0.5 else "is not expected to hold"
    return (
        f"{at} {first} (Kendall's tau of {len(both)} families: {tau:.2f}): the ranking {expected}."
    )
