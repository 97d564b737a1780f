"""Ties: which schedule is recommended of those that the test cannot tell apart."""

from collections.abc import Mapping

from lrtune.verdict.paired import Difference

SIMPLER = 0.1  # standard deviations between seeds by which a simpler one may be worse
NEAR = 0.25  # standard deviations between seeds, and one standard error, by which another must lead


def simplest(
    reference: str,
    pairs: Mapping[str, Difference],  # of the others, less the reference
    knobs: Mapping[str, int],  # how many numbers a person has to set
    sd: float,  # between seeds, of a typical schedule
) -> str:
    """The one with the fewest knobs that is about as good as the reference, or better."""
    near = [name for name, pair in pairs.items() if name in knobs and pair.mean <= SIMPLER * sd]
    first = min(near, key=knobs.__getitem__, default=reference)
    return first if near and knobs[first] < knobs.get(reference, 0) else reference


def leader(pairs: Mapping[str, Difference], sd: float) -> str | None:
    """The one that leads the reference by more than a little; None where none does."""
    ahead = {
        name: -pair.mean
        for name, pair in pairs.items()
        if pair.seeds > 1 and -pair.mean > max(NEAR * sd, pair.error)
    }
    return max(ahead, key=ahead.__getitem__, default=None)
