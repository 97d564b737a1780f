"""Peak: where warmup and peak rate of the flat families are settled. A pure rule."""

from bisect import insort
from dataclasses import dataclass, field

# Warmup, then the peak, then drops or a decay: equal up to there where peak and warmup are.
BRANCHES = ("step", "multistep", "wsd")
FLAT = ("constant", *BRANCHES)
ENOUGH = 8  # complete trials of FLAT: two rounds of random draws, and TPE's first own ones
AGREE = 3  # the best of them, which must be of one mind
WITHIN = 2.0  # their highest peak over their lowest


@dataclass(frozen=True, slots=True, order=True)
class Peak:
    """What schedules with one beginning have in common."""

    peak_lr: float
    warmup: float  # fraction of the horizon


@dataclass(slots=True)
class Peaks:
    """The peaks of the complete trials of FLAT, best first, equals in the order of the index."""

    tried: list[tuple[float, int, Peak]] = field(default_factory=list)  # score, index, peak

    def add(self, score: float, index: int, peak: Peak) -> None:
        """Count a complete trial; the lower the score the better."""
        insort(self.tried, (score, index, peak))

    @property
    def settled(self) -> Peak | None:
        """The best trial's, once the best ones agree: a coarse grid has no finer answer.

        What follows is drawn there, so that it shares its beginning and only its end costs.
        """
        rates = [peak.peak_lr for _, _, peak in self.tried[:AGREE]]
        if len(self.tried) < ENOUGH or max(rates) > WITHIN * min(rates):
            return None
        return self.tried[0][2]
