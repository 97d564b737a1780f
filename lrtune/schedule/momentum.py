"""torch's inverse momentum cycle: momentum, or Adam's beta1, is low where the rate is high."""

from typing import Any

from lrtune.errors import InputError
from lrtune.schedule import shapes
from lrtune.schedule.family import Array, Knob, Knobs, Params

# Above zero: torch's SGD leaves its buffer as it is in an update with none.
VALID = (1e-6, 1 - 1e-6)

# Smith 2018 (arXiv 1803.09820) tries 0.8 to 0.9 and 0.95 to 0.99; torch's own are 0.8 and 0.9 of
# cyclic, 0.85 and 0.95 of one_cycle.
MOMENTUM = (
    Knob("base_momentum", 0.75, 0.9, "linear", None, VALID, doc="momentum, or beta1, at the peak"),
    Knob("max_momentum", 0.9, 0.99, "linear", None, VALID, doc="the same at the lowest rate"),
)


def check(knobs: Knobs, peak: float) -> None:
    """The rule across the knobs of both families."""
    base, highest = (knobs.get(knob.name) for knob in MOMENTUM)
    if base is not None and highest is not None and base > highest:
        raise InputError(
            f"base_momentum={base!r}, max_momentum={highest!r}: the lower first, for momentum "
            "falls while the rate rises"
        )


def arguments(knobs: Knobs) -> Params:
    """What torch's class is told of it."""
    own = {knob.name: knobs[knob.name] for knob in MOMENTUM if knob.name in knobs}
    return {"cycle_momentum": bool(own), **own}


def one_cycle_arguments(knobs: Knobs, n: int) -> Params:
    """The same, where torch's class can be had at all: see ``native`` of the family."""
    found = arguments(knobs)
    if found["cycle_momentum"] and knobs["pct_start"] * n == 1:
        raise InputError(
            f"one_cycle: pct_start={knobs['pct_start']!r} of total={n}: torch's OneCycleLR divides "
            "by zero there, and only it cycles momentum; give another pct_start"
        )
    return found


def cyclic(
    s: Array,
    *,
    base_momentum: float,
    max_momentum: float,
    step_size_up: int,
    mode: str,
    gamma: float,
    **rates: Any,
) -> Array:
    """The rate's triangles, upside down."""
    return shapes.triangles(s, max_momentum, base_momentum, step_size_up, mode, gamma)


def one_cycle(
    s: Array,
    *,
    base_momentum: float,
    max_momentum: float,
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    **rates: Any,
) -> Array:
    """Down to base_momentum while the rate rises, and up again."""
    ends = max_momentum, base_momentum, max_momentum
    return shapes.up_and_down(s, ends, total_steps, pct_start, anneal_strategy)
