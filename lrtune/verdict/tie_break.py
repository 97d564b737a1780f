"""Ties: which schedule is recommended of those that the test cannot tell apart."""

from collections.abc import Mapping
from typing import TypeAlias

# Standard deviations between seeds by which a simpler one may be worse on test: with 0.25, one in
# a hundred verdicts more recommends a bad schedule (``scripts/bench/verdict.py``).
SIMPLER = 0.1
NEAR = 0.25  # the same before any test, as the search expects; and by which another must lead

Complexity: TypeAlias = tuple[int, int]  # see ``Schedule.complexity``


def simpler(
    reference: str,
    behind: Mapping[str, float],  # by how much each of the others is worse than the reference
    knobs: Mapping[str, Complexity],
    most: float,  # by how much a simpler one may be worse
) -> list[str]:
    """Those simpler than the reference and about as good, or better; the simplest first."""
    mine = knobs.get(reference, (0, 0))
    near = [n for n, gap in behind.items() if gap <= most and n in knobs and knobs[n] < mine]
    return sorted(near, key=lambda name: (knobs[name], behind[name]))


def leader(
    ahead: Mapping[str, tuple[float, float]],  # lead over the reference, and its standard error
    sd: float,  # between seeds, of a typical schedule
) -> str | None:
    """The one that leads the reference by more than a little; None where none does."""
    leads = {name: lead for name, (lead, error) in ahead.items() if lead > max(NEAR * sd, error)}
    return max(leads, key=leads.__getitem__, default=None)
