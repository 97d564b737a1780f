"""ExportContext: what a target is asked to write, and what all of them write alike."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from lrtune.errors import InputError
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Knobs, Params
from lrtune.schedule.schedule import Schedule

# Our names of the decays of `wsd` -> those of timm and of transformers.
DECAY = {"linear": "linear", "cosine": "cosine", "sqrt": "1-sqrt"}


WIDTH = 80  # of a call that is written on one line
MATRICES = "decay_matrices"  # of `lrtune.tasks.load`: how its tasks group their parameters


@dataclass(frozen=True, slots=True)
class FoundOptimizer:
    """The optimizer that a peak rate was found with, to which it belongs.

    Attributes:
        name: in `lrtune.engine.OPTIMIZERS`.
        settings: all but the rate, in torch's terms.
        groups: name of the function that made the parameter groups; None: there was one group.
    """

    name: str
    settings: Mapping[str, Any]
    groups: str | None = None

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> "FoundOptimizer | None":
        """The one in a run.json or a best.json; None of a schedule alone.

        Raises:
            InputError: not all of its settings are there.
        """
        if "optimizer" not in run:
            return None
        settings = dict(run["optimizer"])
        name = settings.pop("name")
        if "weight_decay" not in settings:
            raise InputError(
                f"optimizer {name}: weight_decay is missing: search again with this lrtune"
            )
        return cls(name, settings, run["task"]["groups"])

    @property
    def decay(self) -> float:
        """The weight decay."""
        return float(self.settings["weight_decay"])

    @property
    def decoupled(self) -> bool:
        """Whether weights decay by themselves, as AdamW's, and not by way of the gradient."""
        return self.name == "adamw" or self.settings.get("decoupled_weight_decay", False)

    @property
    def of_matrices(self) -> bool:
        """Whether weights decay, but norms and biases do not."""
        return self.decay > 0 and self.groups == MATRICES

    @property
    def note(self) -> str:
        """A comment on parameter groups of the user's own, which cannot be written; else empty."""
        if self.groups in (None, MATRICES):
            return ""
        return f"# found with the parameter groups of {self.groups}: make them here too\n"

    def lacking(self, target: str, lacks: Collection[str]) -> str:
        """What to do about a setting that a target lacks; empty where it lacks none of them."""
        missing = [f"{name}={self.settings[name]}" for name in lacks if self.settings.get(name)]
        if not missing:
            return ""
        return (
            f"\nThe peak was found with {self.name}, {' and '.join(missing)}, which {target} does "
            "not have:\nmake the optimizer yourself, or search again without that setting."
        )


@dataclass(frozen=True)
class ExportContext:
    """A schedule for a run of `total` updates, with its counts.

    Attributes:
        optimizer: what the peak was found with; None where that is not known.
        params: the parameters of the body, in torch's terms.
        warmup: updates before the body.
        n: updates of the body.
    """

    schedule: Schedule
    total: int
    optimizer: FoundOptimizer | None = None
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


def call(function: str, *first: str, **named: object) -> str:
    """A call as source code, without the arguments that are False: a default of every optimizer.

    Example:
        >>> call("optax.adam", "schedule", b1=0.9, nesterov=False)
        'optax.adam(schedule, b1=0.9)'
    """
    given = [f"{name}={value}" for name, value in named.items() if value is not False]
    words = [*first, *given]
    line = f"{function}({', '.join(words)})"
    lines = "".join(f"    {word},\n" for word in words)
    return line if len(line) <= WIDTH else f"{function}(\n{lines})"


def cannot_hold(ctx: ExportContext, target: str, why: str) -> InputError:
    """The error for a family that a target has no way to hold."""
    return InputError(
        f"{target} cannot hold {ctx.family}: {why}; the rates of the trial that was the best "
        "can be exported instead, with --replay"
    )
