"""A schedule as an optax schedule function: optax's own pieces, else jax.numpy; both jit."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TypeAlias

from lrtune.export.case import Case, cannot_hold, head
from lrtune.export.formula import ratio
from lrtune.schedule.schedule import Schedule

# Expressions of optax schedules, and the updates at which each but the first takes over.
Pieces: TypeAlias = tuple[Sequence[str], Sequence[int]]

HOW = """\
optax.sgd(learning_rate=schedule), or any other optimizer: schedule(count) is the rate of update
count = 0, 1, ..., for {total} updates; it jits. Under optax.MultiSteps an update is one of the
optimizer's, not one of the accumulation's."""

HOW_PLATEAU = """\
optax.sgd(learning_rate=schedule), for {total} updates. After every validation{after},
    _, state = plateau.update(params, state, value=loss)    # state = plateau.init(params) at first
and in every update, after the optimizer's own
    updates = optax.tree.scale(state.scale, updates)"""


def optax(schedule: Schedule, total: int) -> str:
    """Source that defines `schedule(count)`, and for a plateau the transformation `plateau`.

    Raises:
        InputError: `total` is not admissible, or the family is greedy.
    """
    case = Case(schedule, total)
    if case.family == "plateau":
        return _plateau(case)
    if schedule.closed_loop:
        raise cannot_hold(case, "optax", "it has nothing that raises a rate again")
    text = head(case, HOW.format(total=total), "optax")
    pieces = native(case)
    if pieces is not None:
        return f"{text}\nimport optax\n\nschedule = {_joined(*pieces)}\n"
    code = ratio(case, "jnp")
    math = "import math\n\n" if "math." in code else ""
    return (
        f"{text}\n{math}import jax.numpy as jnp\n\n\n{code}\n\n"
        f"def schedule(count):\n    return {case.peak} * ratio(count)\n"
    )


def native(case: Case) -> Pieces | None:
    """The pieces of optax that equal the schedule, the warmup first; None if there are none."""
    found = NATIVE[case.family](case) if case.family in NATIVE else None
    if found is None or not case.warmup:
        return found
    pieces, ends = found
    return [_line(case.start, case.peak, case.warmup), *pieces], [
        case.warmup + end for end in (0, *ends)
    ]


def _joined(pieces: Sequence[str], ends: Sequence[int]) -> str:
    if not ends:
        return pieces[0]
    lines = "".join(f"        {piece},\n" for piece in pieces)
    return f"optax.join_schedules(\n    [\n{lines}    ],\n    {[*ends]},\n)"


def _line(start: float, end: float, updates: int) -> str:
    return f"optax.linear_schedule({start}, {end}, {updates})"


def _half_wave(case: Case, updates: int, floor: float) -> str:
    return f"optax.cosine_decay_schedule({case.peak}, {updates}, alpha={floor})"


def _drops(case: Case, updates: Sequence[int]) -> Pieces:
    gammas: dict[int, float] = defaultdict(lambda: 1.0)
    for update in updates:
        gammas[update] *= case.params["gamma"]
    return [f"optax.piecewise_constant_schedule({case.peak}, {dict(gammas)})"], []


def _cosine(case: Case) -> Pieces | None:
    length = case.params["T_max"]
    # optax holds the floor after that length, torch rises again
    return None if length < case.n else ([_half_wave(case, length, case.knobs["eta_min"])], [])


def _restarts(case: Case) -> Pieces | None:
    if len(case.cycles) > MOST_PIECES:
        return None
    waves = [_half_wave(case, length, case.knobs["eta_min"]) for length in case.cycles]
    return waves, list(accumulate(case.cycles[:-1]))


def _wsd(case: Case) -> Pieces | None:
    updates, low = case.params["decay_steps"], case.knobs["end_factor"]
    decays = {
        "linear": _line(case.peak, case.floor, updates),
        "cosine": _half_wave(case, updates, low),
    }
    decay = decays.get(case.params["decay_shape"])
    stable = f"optax.constant_schedule({case.peak})"
    return None if decay is None else ([stable, decay], [case.n - updates])


MOST_PIECES = 5  # more cycles than these are a formula

# optax.exponential_decay with a staircase is not here: compiled, it is late at some of its drops.
NATIVE: dict[str, Callable[[Case], Pieces | None]] = {
    "constant": lambda case: ([f"optax.constant_schedule({case.peak})"], []),
    "step": lambda case: _drops(
        case, range(case.params["step_size"], case.n, case.params["step_size"])
    ),
    "multistep": lambda case: _drops(case, case.params["milestones"]),
    "exponential": lambda case: (
        [f"optax.exponential_decay({case.peak}, {case.n}, {case.knobs['final_ratio']})"],
        [],
    ),
    "linear": lambda case: ([_line(case.peak, case.floor, case.n)], []),
    "polynomial": lambda case: (
        [f"optax.polynomial_schedule({case.peak}, {case.floor}, {case.knobs['power']}, {case.n})"],
        [],
    ),
    "cosine": _cosine,
    "cosine_restarts": _restarts,
    "wsd": _wsd,
}


def _plateau(case: Case) -> str:
    after = f" that comes after {case.warmup} updates or more" if case.warmup else ""
    flat = f"optax.constant_schedule({case.peak})"
    rates = _line(case.start, case.peak, case.warmup) if case.warmup else flat
    knobs = case.knobs
    return (
        f"{head(case, HOW_PLATEAU.format(total=case.total, after=after), 'optax')}\n"
        f"import optax\nimport optax.contrib\n\nschedule = {rates}\n"
        "plateau = optax.contrib.reduce_on_plateau(\n"
        f"    factor={knobs['factor']},\n"
        f"    patience={knobs['patience'] + 1},  # validations until the drop: torch's, and one\n"
        f"    rtol={knobs['threshold'] or 1e-12},\n"  # optax refuses 0
        f"    cooldown={knobs['cooldown']},\n"
        f"    min_scale={knobs['min_lr']},\n)\n"
    )
