"""How a schedule becomes source code: ExportContext, templates, and FORMULAS.

FORMULAS has every open-loop family as array code that numpy, jax.numpy and keras.ops all run. But
for the names of functions, many of them are plain Python for one number.

`t` is the update, an integer; the code returns the rate over the peak. Two rules keep that right
in float32 as well: what is counted stays an integer until it is divided (compiled division may be
a multiplication by the rounded reciprocal, whose floor is off by one at multiples), and what goes
to zero is written with what is left, not as one minus what is done.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from textwrap import indent
from typing import Any, TypeAlias

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from lrtune.errors import InputError
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.reactive import EPS, GREEDY_THRESHOLD
from lrtune.schedule.schedule import Schedule
from lrtune.schedule.shapes import pchip, steepness

WIDTH = 80  # of a call that is written on one line
MATRICES = "decay_matrices"  # of `lrtune.tasks`: how its tasks group their parameters
DECAY_BY = "weight_decay_by"  # the one setting of an optimizer that torch's have not


@dataclass(frozen=True, slots=True)
class FoundOptimizer:
    """The optimizer that a peak rate was found with, to which it belongs."""

    name: str  # in `lrtune.engine.OPTIMIZERS`, or of a user's function that makes it
    settings: Mapping[str, Any]  # in torch's terms, but the rate; `class` where a function makes it
    groups: str | None = None  # the function that made the parameter groups; None: one group
    # Of the rate, by the beginnings of parameters' names; 0 of what did not train.
    ratios: Mapping[str, float] = field(default_factory=dict)
    # The last share of the run in which a rate went to zero, likewise.
    cooldowns: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what is not all there, or no number or name: it is written into code."""
        if not self.by_function and "weight_decay" not in self.settings:
            raise InputError(
                f"optimizer {self.name}: weight_decay is missing: search again with this lrtune"
            )
        for setting, value in {"name": self.name, **self.settings}.items():
            parts = value if isinstance(value, list | tuple) else [value]
            if not setting.isidentifier() or not all(map(_is_plain, parts)):
                raise InputError(f"optimizer {self.name}: {setting}={value!r}: expected a number")
        for name, ratio in (*self.ratios.items(), *self.cooldowns.items()):
            if not re.fullmatch(r"[\w.-]+", name) or not 0 <= ratio < float("inf"):
                raise InputError(f"lr_ratios: {name!r}: {ratio}: expected a name and a number")

    @property
    def by_function(self) -> bool:
        """Whether a user's function makes it."""
        return "class" in self.settings

    @property
    def has_ratios(self) -> bool:
        """Whether its groups may have rates of their own."""
        return self.by_function or self.name == "muon" or bool(self.ratios)

    @property
    def decay(self) -> float:
        """The weight decay."""
        return float(self.settings.get("weight_decay", 0.0))

    @property
    def decay_by(self) -> str | None:
        """What the weights decay by, if not by the rate."""
        by: str | None = self.settings.get(DECAY_BY)
        return by if self.decay else None

    @property
    def decoupled(self) -> bool:
        """Whether it is AdamW: weights decay by themselves, and not by way of the gradient."""
        adam = self.name == "adam" and self.settings.get("decoupled_weight_decay", False)
        return self.name == "adamw" or adam

    @property
    def of_matrices(self) -> bool:
        """Whether weights decay, but norms and biases do not."""
        return self.decay > 0 and self.groups == MATRICES

    @property
    def own_groups(self) -> str | None:
        """The user's function that made the parameter groups, which cannot be written out."""
        own = self.groups is not None and self.groups != MATRICES
        return " ".join(str(self.groups).split()) if own else None  # one line: it is a comment

    def lacking(self, known: Collection[str], lacks: Collection[str]) -> str:
        """It, with those of its settings that a target lacks, if it lacks some; else empty."""
        settings = {name: self.settings.get(name) for name in lacks}
        if self.decoupled:
            settings.pop("decoupled_weight_decay", None)
        missing = " and ".join(f"{name}={value}" for name, value in settings.items() if value)
        if self.name in known and not missing:
            return ""
        name = f"{self.name} ({self.settings['class']})" if self.by_function else self.name
        return f"{name}, {missing}" if missing else name


def _is_plain(value: object) -> bool:
    """Whether a value needs no care in code."""
    return value is None or isinstance(value, int | float) or str(value).isidentifier()


class ExportContext:
    """A schedule for a run of `total` updates, with its counts."""

    def __init__(
        self, schedule: Schedule, total: int, optimizer: FoundOptimizer | None = None
    ) -> None:
        self.schedule, self.family, self.total = schedule, schedule.family, total
        self.params = schedule.resolve(total)  # of the body, in torch's terms
        self.knobs = schedule.knobs  # fractions, and ratios of the peak
        self.peak: float = self.params.pop("peak_lr")  # the highest rate
        self.warmup: int = self.params.pop("warmup_steps")  # updates before the body
        self.n = total - self.warmup  # updates of the body
        self.start = schedule.warmup_start * self.peak  # the rate at which the warmup starts
        # The rate at which the body ends, of a family that has such a knob.
        self.floor = self.knobs.get("end_factor", self.knobs.get("eta_min", 0.0)) * self.peak
        self.decay_rate = None  # what weight decay is multiplied by; None: by the rate
        if optimizer is not None and optimizer.decay_by is not None:
            highest = self.peak if schedule.closed_loop else float(schedule.rates(total).max())
            if optimizer.decay_by == "peak":
                self.decay_rate = highest
            else:  # at one peak, torch's own with another number
                own = {"weight_decay": optimizer.decay / highest, DECAY_BY: None}
                optimizer = replace(optimizer, settings={**optimizer.settings, **own})
        self.optimizer = optimizer  # what the peak was found with; None: not known

    @property
    def ratios(self) -> Mapping[str, float]:
        """Of the rates of parameters by name, see `FoundOptimizer`."""
        return self.optimizer.ratios if self.optimizer else {}

    @property
    def cooldowns(self) -> Mapping[str, float]:
        """Of the rates of parameters by name, where this target makes them."""
        open_loop = not (self.schedule.closed_loop or self.schedule.schedule_free)
        made = open_loop and not self.schedule.cycles_momentum
        return self.optimizer.cooldowns if self.optimizer and made else {}

    @property
    def has_ratios(self) -> bool:
        """Whether the groups of its optimizer may have rates of their own."""
        return self.optimizer is not None and self.optimizer.has_ratios

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
    environment.globals |= {"call": call, "eps": EPS, "greedy_threshold": GREEDY_THRESHOLD}
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


Code: TypeAlias = tuple[Sequence[str], str]  # lines before, and the expression of the ratio

# Of the names that formulas use; s is the update of the body, its last one is held.
MEANING = {"s": "np.clip({t}, 0, {last})", "u": "s / {n}", "left": "({n} - s) / {n}"}
PLAIN = {  # what one number takes in their place
    r"np\.array\(cubics\)": "cubics",
    r"np\.(expm1|log1p|exp|sin|sqrt)": r"math.\1",
    r"np\.minimum": "min",
    r"np\.power": "math.pow",
    r"np\.where\(([^,]+), ([^,]+), (.+)\)$": r"\2 if \1 else \3",
}


def ratio(ctx: ExportContext, np: str) -> str:
    """Source of the function `ratio` of t; `np` is what numpy is called there."""
    return f"def ratio(t):\n{indent(_body(ctx), '    ')}\n".replace("np.", f"{np}.")


def plain(ctx: ExportContext) -> Code | None:
    """The formula for one number, in plain Python; None where it needs arrays."""
    before, expression = FORMULAS.get(ctx.family, _table)(ctx)
    lines = [*before, expression]
    for array, number in PLAIN.items():
        lines = [re.sub(array, number, line) for line in lines]
    arrays = any("np." in line or line.lstrip().startswith("def ") for line in lines)
    return None if arrays else (lines[:-1], lines[-1])


def rise(ctx: ExportContext) -> str:
    """The ratio during the warmup."""
    start = ctx.schedule.warmup_start
    return f"{start} + {1 - start} * (t / {ctx.warmup})"


def defined(ctx: ExportContext, code: Code, s: str = MEANING["s"]) -> list[str]:
    """The lines of the code, its expression last, after what the names in it mean."""
    lines = [*code[0], code[1]]
    t = f"t - {ctx.warmup}" if ctx.warmup else "t"
    for name, meaning in reversed((MEANING | {"s": s}).items()):
        # Parts have names of their own.
        read = [line for line in lines if not line.lstrip().startswith("def ")]
        used = any(re.search(rf"\b{name}\b", line) for line in read)
        if used and not any(line.startswith(f"{name} = ") for line in lines):
            lines.insert(0, f"{name} = {meaning.format(t=t, n=ctx.n, last=ctx.n - 1)}")
    return lines


def _body(ctx: ExportContext) -> str:
    *lines, expression = defined(ctx, FORMULAS.get(ctx.family, _table)(ctx))
    if ctx.warmup:
        lines.append(f"rise = {rise(ctx)}")
        expression = f"np.where(t < {ctx.warmup}, rise, {expression})"
    return "\n".join([*lines, f"return {expression}"])


def _above(floor: float, shape: str) -> str:
    factor = f"({shape})" if shape.startswith("1 /") else shape
    return f"{floor} + {1 - floor} * {factor}" if floor else shape


def _sine(left: str) -> str:
    # ½(1 + cos(π(1 - left)))
    return f"np.sin(math.pi / 2 * {left}) ** 2"


def _restarts(ctx: ExportContext) -> Code:
    lengths = ctx.cycles
    shape = _above(ctx.knobs["eta_min"], _sine("left"))
    if ctx.params["T_mult"] == 1:
        return [f"left = ({lengths[0]} - np.mod(s, {lengths[0]})) / {lengths[0]}"], shape
    ends = np.cumsum(lengths).tolist()
    return [
        f"ends, lengths = np.array({ends}), np.array({lengths})",
        "cycle = np.sum(s >= ends)",
        "left = (np.take(ends, cycle) - s) / np.take(lengths, cycle)",
    ], shape


SCALE = {
    "triangular": "",
    "triangular2": " * np.power(0.5, cycle)",
    "exp_range": " * np.power({gamma}, u)",
}


def _cyclic(ctx: ExportContext) -> Code:
    k = ctx.params["step_size_up"]
    scale = SCALE[ctx.knobs["mode"]].format(**ctx.knobs)
    return [
        f"cycle = np.floor_divide(s, {2 * k})",
        f"height = ({k} - np.abs(s - {2 * k} * cycle - {k})) / {k}",
    ], _above(ctx.knobs["base_lr"], f"height{scale}")


def _one_cycle(ctx: ExportContext) -> Code:
    top = ctx.params["pct_start"] * ctx.n - 1
    first = 1 / ctx.params["div_factor"]
    last = first / ctx.params["final_div_factor"]
    form = _sine if ctx.params["anneal_strategy"] == "cos" else str
    return [
        f"up = {_above(first, form(f'(s / {top or 1.0})'))}",
        f"down = {_above(last, form(f'(({ctx.n - 1} - s) / {ctx.n - 1 - top})'))}",
    ], f"np.where(s <= {int(np.floor(top))}, up, down)"


def cooldown(ctx: ExportContext) -> str:
    """The decay of `wsd` as timm and transformers call it; power and exponential as we do."""
    name: str = ctx.params["decay_shape"]
    return {0.5: "1-sqrt", 1.0: "linear"}.get(ctx.params.get("decay_power", 0.0), name)


def _wsd(ctx: ExportContext) -> Code:
    n, decay, floor = ctx.n, ctx.params["decay_steps"], ctx.knobs["end_factor"]
    name, steep = cooldown(ctx), steepness(floor)
    most = decay - 0.5 if name == "power" else decay  # 1 - left, whose logarithm is taken, is not 0
    fall = {
        "linear": "left",
        "1-sqrt": "left / (1 + np.sqrt(1 - left))",
        "cosine": _sine("left"),
        "exponential": f"np.expm1({steep} * left) / {math.expm1(steep)}",
        "power": f"-np.expm1({ctx.knobs.get('decay_power')} * np.log1p(-left))",
    }[name]
    lines = [f"left = np.minimum({n} - s, {most}) / {decay}", f"fall = {fall}"]
    if name == "power":  # 1 - (1 - left) ** power
        lines.append(f"fall = np.where(s <= {n - decay}, 1.0, fall)")
    return lines, _above(floor, "fall")


def _spline(ctx: ExportContext) -> Code:
    cubics = pchip(np.log(ctx.knobs["ordinates"])).tolist()
    k = len(cubics)
    rows = "".join(f"    {row},\n" for row in cubics)
    return [
        f"cubics = [  # of the log ratio, piece by piece\n{rows}]",
        f"piece = {k} * s // {ctx.n}",
        f"v = ({k} * s - {ctx.n} * piece) / {ctx.n}",
        "c = np.array(cubics)[piece]",
    ], "np.exp(c[0] + v * (c[1] + v * (c[2] + v * c[3])))"


def _sequence(ctx: ExportContext) -> Code:
    definitions, lines = [], []
    starts = [0, *ctx.params["milestones"]]
    for i, (start, part) in enumerate(zip(starts, ctx.params["schedules"], strict=True)):
        schedule = Schedule.from_dict(part["schedule"])
        body = _body(ExportContext(schedule, part["total"]))
        definitions.append(f"def part{i}(t):\n{indent(body, '    ')}\n")
        weight = "" if schedule.peak_lr == ctx.peak else f"{schedule.peak_lr / ctx.peak} * "
        own = f"{weight}part{i}({f's - {start}' if i else 's'})"
        lines.append(f"rate = np.where(s < {start}, rate, {own})" if i else f"rate = {own}")
    definitions[0] = f"\n{definitions[0]}"
    return [*definitions, *lines], "rate"


def _table(ctx: ExportContext) -> Code:
    ratios = (ctx.schedule.rates(ctx.total)[ctx.warmup :] / ctx.peak).tolist()
    return [f"table = np.array({ratios})"], "np.take(table, s)"


def _alone(expression: str) -> Callable[[ExportContext], Code]:
    """A formula of one line, with the family's parameters and knobs in it."""
    return lambda ctx: ([], expression.format(**{**ctx.knobs, **ctx.params}))


def _to_floor(knob: str, shape: str) -> Callable[[ExportContext], Code]:
    """The same, of a shape that goes down to the floor that a knob gives."""
    return lambda ctx: ([], _above(ctx.knobs[knob], shape.format(**{**ctx.knobs, **ctx.params})))


FORMULAS: dict[str, Callable[[ExportContext], Code]] = {
    "constant": _alone("1.0"),
    "schedule_free": _alone("1.0"),
    "step": _alone("np.power({gamma}, np.floor_divide(s, {step_size}))"),
    "multistep": _alone("np.power({gamma}, np.sum(s >= np.array({milestones})))"),
    "exponential": _alone("np.power({final_ratio}, u)"),
    "inverse_time": _alone("1 / (1 + {decay_rate} * u)"),
    "inverse_sqrt": lambda ctx: ([], f"1 / np.sqrt(1 + u / {ctx.knobs['timescale']})"),
    "linear": _to_floor("end_factor", "left"),
    "polynomial": _to_floor("end_factor", "np.power(left, {power})"),
    "cosine": _to_floor("eta_min", _sine("(({T_max} - s) / {T_max})")),
    "cosine_restarts": _restarts,
    "cyclic": _cyclic,
    "one_cycle": _one_cycle,
    "wsd": _wsd,
    "rex": _alone("left / (left + {beta} * u)"),
    "tanh": _to_floor("end_factor", "1 / (1 + np.exp(2 * ({lb} * left + {ub} * u)))"),
    "spline": _spline,
    "sequence": _sequence,
}
