"""ExportContext: what a target is asked to write, and what all of them write alike."""

from dataclasses import dataclass, field

from lrtune.errors import InputError
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Knobs, Params
from lrtune.schedule.schedule import Schedule

# Our names of the decays of `wsd` -> those of timm and of transformers.
DECAY = {"linear": "linear", "cosine": "cosine", "sqrt": "1-sqrt"}


@dataclass(frozen=True)
class ExportContext:
    """A schedule for a run of `total` updates, with its counts.

    Attributes:
        params: the parameters of the body, in torch's terms.
        warmup: updates before the body.
        n: updates of the body.
    """

    schedule: Schedule
    total: int
    params: Params = field(init=False)
    warmup: int = field(init=False)
    n: int = field(init=False)

    def __post_init__(self) -> None:
        params = self.schedule.resolve(self.total)
        del params["peak_lr"]
        warmup = params.pop("warmup_steps")
        for name, value in {"params": params, "warmup": warmup, "n": self.total - warmup}.items():
            object.__setattr__(self, name, value)

    @property
    def family(self) -> str:
        """The schedule's family."""
        return self.schedule.family

    @property
    def knobs(self) -> Knobs:
        """The schedule's settings: fractions, and ratios of the peak."""
        return self.schedule.knobs

    @property
    def peak(self) -> float:
        """The highest rate."""
        return self.schedule.peak_lr

    @property
    def start(self) -> float:
        """Where the warmup starts: a rate."""
        return self.schedule.warmup_start * self.peak

    @property
    def floor(self) -> float:
        """Where the body ends, of a family that has such a knob: a rate."""
        low: float = self.knobs.get("end_factor", self.knobs.get("eta_min", 0.0))
        return low * self.peak

    @property
    def stepped(self) -> bool:
        """Whether updates step its scheduler, not validations alone."""
        return self.family != "plateau" or self.warmup > 0

    @property
    def cycles(self) -> list[int]:
        """The lengths of the cycles of `cosine_restarts`, the first to the one at the end."""
        lengths = [self.params["T_0"]]
        while sum(lengths) < self.n:
            lengths.append(lengths[-1] * self.params["T_mult"])
        return lengths


def head(ctx: ExportContext, how: str, install: str) -> str:
    """The docstring that a file begins with: what it is, how to use it, where it is from."""
    row = FAMILIES[ctx.family]
    return (
        f'"""{row.name}: {row.doc} ({row.source}).\n\n{how}\n\n'
        f'Needs `pip install "{install}"`. Written by lrtune from\n{ctx.schedule.to_json()}\n'
        '"""\n'
    )


def cannot_hold(ctx: ExportContext, target: str, why: str) -> InputError:
    """The error for a family that a target has no way to hold."""
    return InputError(
        f"{target} cannot hold {ctx.family}: {why}; the rates of the trial that was the best "
        "can be exported instead, with --replay"
    )
