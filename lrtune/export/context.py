"""ExportContext: what a target is asked to write, and how its template becomes source code."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from textwrap import indent
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from lrtune.errors import InputError
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Knobs, Params
from lrtune.schedule.schedule import Schedule

# Our names of the decays of `wsd` -> those of timm and of transformers.
DECAY = {"linear": "linear", "cosine": "cosine", "sqrt": "1-sqrt"}
WIDTH = 80  # of a call that is written on one line
MATRICES = "decay_matrices"  # of `lrtune.tasks`: how its tasks group their parameters


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

    def __post_init__(self) -> None:
        """Refuse settings that are not all there, or no numbers: they are written into code."""
        if "weight_decay" not in self.settings:
            raise InputError(
                f"optimizer {self.name}: weight_decay is missing: search again with this lrtune"
            )
        for setting, value in self.settings.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            if not setting.isidentifier() or not all(isinstance(n, int | float) for n in numbers):
                raise InputError(f"optimizer {self.name}: {setting}={value!r}: expected a number")

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
    def own_groups(self) -> str | None:
        """The user's function that made the parameter groups, which cannot be written out."""
        own = self.groups is not None and self.groups != MATRICES
        return " ".join(str(self.groups).split()) if own else None  # one line: it is a comment

    def missing(self, lacks: Collection[str]) -> str:
        """Those of its settings that a target lacks, as `name=value and …`."""
        return " and ".join(
            f"{name}={self.settings[name]}" for name in lacks if self.settings.get(name)
        )


@dataclass(frozen=True)
class ExportContext:
    """A schedule for a run of `total` updates, with its counts.

    Attributes:
        optimizer: what the peak was found with; None where that is not known.
        params: the parameters of the body, in torch's terms.
        warmup: updates before the body.
        n: updates of the body.
        family: the schedule's family.
        knobs: the schedule's settings: fractions, and ratios of the peak.
        peak: the highest rate.
        start: the rate at which the warmup starts.
        floor: the rate at which the body ends, of a family that has such a knob; else 0.
    """

    schedule: Schedule
    total: int
    optimizer: FoundOptimizer | None = None
    params: Params = field(init=False)
    warmup: int = field(init=False)
    n: int = field(init=False)
    family: str = field(init=False)
    knobs: Knobs = field(init=False)
    peak: float = field(init=False)
    start: float = field(init=False)
    floor: float = field(init=False)

    def __post_init__(self) -> None:
        params, knobs = self.schedule.resolve(self.total), self.schedule.knobs
        peak, warmup = params.pop("peak_lr"), params.pop("warmup_steps")
        vars(self).update(
            params=params,
            warmup=warmup,
            n=self.total - warmup,
            family=self.schedule.family,
            knobs=knobs,
            peak=peak,
            start=self.schedule.warmup_start * peak,
            floor=knobs.get("end_factor", knobs.get("eta_min", 0.0)) * peak,
        )

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


def render(target: str, ctx: ExportContext, **values: Any) -> str:
    """The source code that the template of a target gives."""
    template = _templates().get_template(f"{target}.py.jinja")
    return template.render(ctx=ctx, row=FAMILIES[ctx.family], **values)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("lrtune.export"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["literal"] = literal
    environment.globals["call"] = call
    return environment


def call(function: str, *first: str, **named: object) -> str:
    """A call as source code, without the arguments that are None.

    Example:
        >>> call("optax.adam", "schedule", b1=0.9, nesterov=None)
        'optax.adam(schedule, b1=0.9)'
    """
    given = [f"{name}={value}" for name, value in named.items() if value is not None]
    words = [*first, *given]
    line = f"{function}({', '.join(words)})"
    lines = "".join(indent(f"{word},\n", "    ") for word in words)
    return line if len(line) <= WIDTH else f"{function}(\n{lines})"


def literal(value: object) -> str:
    """A value as source code; its strings, which hold no quotes, as a formatter has them."""
    return repr(value).replace("'", '"')


def literals(values: Mapping[str, object]) -> dict[str, str]:
    """Values as source code, for `call`."""
    return {name: literal(value) for name, value in values.items()}


def cannot_hold(ctx: ExportContext, target: str, why: str) -> InputError:
    """The error for a family that a target has no way to hold."""
    return InputError(
        f"{target} cannot hold {ctx.family}: {why}; the rates of the trial that was the best "
        "can be exported instead, with --replay"
    )
