"""Random schedules of every family, over all admissible knobs and not only the searched ones."""

import pytest
from hypothesis import assume
from hypothesis import strategies as st

from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule, register

SHAPES = {
    "fall": lambda step, total, slope=0.5: 1 - slope * step / total,
    "rise": lambda step, total: 1 + step,
    "broken": lambda step, total: 1 / step,
}
for name, shape in SHAPES.items():
    shape.__module__, shape.__qualname__ = "user_shapes", name
    register(shape)

SIMPLE = [n for n, f in FAMILIES.items() if f.searchable and not f.closed_loop]


def values(knob):
    low, high = knob.valid
    if knob.scale == "schedules":
        part = st.sampled_from(SIMPLE).flatmap(schedules)
        return st.lists(part, min_size=2, max_size=3)
    one = {
        "linear": st.floats(low, high),
        "log": st.floats(low, high),
        "int": st.integers(int(low), max(int(low), min(int(high), 20))),
        "choice": st.sampled_from(knob.choices or ("",)),
        "function": st.just("user_shapes:fall"),
    }[knob.scale]
    if knob.length == 1:
        return one
    many = st.lists(one, min_size=1, max_size=6, unique=knob.ordered)
    return many.map(sorted) if knob.ordered else many


@st.composite
def schedules(draw, name):
    family = FAMILIES[name]
    knobs = {}
    for knob in family.knobs:
        if knob.counts(knobs):
            knobs[knob.name] = draw(values(knob))
    peak = draw(st.floats(1e-6, 10))
    if "schedules" in knobs:
        peak = max(part.peak_lr for part in knobs["schedules"])
        parts = len(knobs["schedules"])
        knobs["milestones"] = [(i + 1) / parts for i in range(parts - 1)]
    warmup = draw(st.sampled_from([0, 0.05, 0.5])) if family.takes_warmup else 0
    try:
        return Schedule(name, peak, warmup, draw(st.floats(1e-3, 1)), knobs)
    except InputError as error:
        assume("T_max" not in str(error))  # the one cross-knob rule of a family drawn freely
        raise


@pytest.fixture(scope="session")
def draw_schedule():
    return lambda data, name: data.draw(schedules(name))


@pytest.fixture(scope="session")
def draw_rates():
    """A schedule, a horizon that is long enough for it, and its rates."""

    def draw(data, name):
        schedule = data.draw(schedules(name))
        total = data.draw(st.integers(1, 150))
        try:
            return schedule, total, schedule.rates(total)
        except InputError as error:
            assume("total" not in str(error))
            raise

    return draw
