"""Ties: which schedule is recommended of those that the test cannot tell apart."""

from collections.abc import Mapping

SIMPLER = 0.1  # standard deviations between seeds by which a simpler one may be worse
NEAR = 0.25  # standard deviations between seeds, and one standard error, by which another must lead


def simplest(
    reference: str,
    behind: Mapping[str, float],  # by how much each of the others is worse than the reference
    knobs: Mapping[str, int],  # how many numbers a person has to set
    sd: float,  # between seeds, of a typical schedule
) -> str:
    """The one with the fewest knobs that is about as good as the reference, or better."""
    near = [name for name, gap in behind.items() if name in knobs and gap <= SIMPLER * sd]
    first = min(near, key=knobs.__getitem__, default=reference)
    return first if near and knobs[first] < knobs.get(reference, 0) else reference


def leader(
    ahead: Mapping[str, tuple[float, float]],  # lead over the reference, and its standard error
    sd: float,  # between seeds, of a typical schedule
) -> str | None:
    """The one that leads the reference by more than a little; None where none does."""
    leads = {name: lead for name, (lead, error) in ahead.items() if lead > max(NEAR * sd, error)}
    return max(leads, key=leads.__getitem__, default=None)
