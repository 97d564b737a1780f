"""A Schedule is a value: equal, hashable, printable, and stored without loss; and it says no."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule, Setting, load, parse

COSINE = Schedule("cosine", peak_lr=0.1, warmup=0.05)
INCOMPLETE = {key: value for key, value in COSINE.to_dict().items() if key != "warmup"}


COPIES = {
    "json": lambda s: Schedule.from_json(s.to_json()),
    "dict": lambda s: Schedule.from_dict(json.loads(json.dumps(s.to_dict()))),
    "pickle": lambda s: pickle.loads(pickle.dumps(s)),
    "repr": lambda s: eval(repr(s)),
}


@pytest.mark.parametrize("name", FAMILIES)
@given(data=st.data(), settings=st.sampled_from([{}, {"weight_decay": 0.03, "beta2": 0.99}]))
def test_round_trips(name, data, settings, draw_schedule):
    schedule = replace(draw_schedule(data, name), settings=settings)
    assert ("settings" in schedule.to_dict()) == bool(settings)  # older files have none
    for copy in COPIES.values():
        again = copy(schedule)
        assert (again, hash(again), repr(again)) == (schedule, hash(schedule), repr(schedule))
    resolved = schedule.resolve(400)
    assert json.loads(json.dumps(resolved)) == resolved


def test_defaults_are_part_of_the_value():
    assert Schedule("cosine", 1) == Schedule("cosine", 1.0, knobs={"eta_min": 0, "T_max": 1})
    assert Schedule("cosine", 1.0) != Schedule("cosine", 1.0, knobs={"eta_min": 0.1})
    with pytest.raises(TypeError):
        COSINE.knobs["eta_min"] = 0.5
    with pytest.raises(AttributeError):
        COSINE.peak_lr = 0.5


@pytest.mark.parametrize(
    ("text", "complexity"),
    [
        ("constant:peak_lr=0.1", (0, 0)),
        ("cosine:peak_lr=0.1,T_max=1", (0, 2)),
        ("cosine:peak_lr=0.1,T_max=1.2,warmup=0.1", (2, 2)),
        ("multistep:peak_lr=0.1,milestones=0.5/0.8", (2, 3)),
        ("one_cycle:peak_lr=0.1,base_momentum=0.8,max_momentum=0.9", (2, 6)),
    ],
)
def test_numbers_that_a_person_has_to_set(text, complexity):
    assert parse(text).complexity == complexity


def test_what_is_tuned_with_it_is_part_of_the_value():
    decayed = replace(COSINE, settings={"weight_decay": 0.03, "momentum": 0.8})
    assert decayed == replace(COSINE, settings={"momentum": 0.8, "weight_decay": 0.03}) != COSINE
    assert decayed.complexity == (COSINE.complexity[0] + 2, COSINE.complexity[1] + 2)
    assert decayed.rates(8).tolist() == COSINE.rates(8).tolist()


def test_numpy_numbers_are_numbers():
    knobs = {"T_mult": np.int64(2), "T_0": np.float32(0.25)}
    schedule = Schedule("cosine_restarts", np.float64(0.5), knobs=knobs)
    assert eval(repr(schedule)) == schedule
    assert len(schedule.rates(np.int64(5))) == 5


def knobs(family, **given):
    return lambda: Schedule(family, 0.1, knobs=given)


def ranged(name, low, high):
    return lambda: Setting(name, low, high, own=0.0)


# Message, and the call that is refused with it.
BAD = [
    (r"family 'cosin' is unknown: did you mean 'cosine'\?", lambda: Schedule("cosin", 0.1)),
    (r"cosine: knob 'etamin' is unknown: did you mean 'eta_min'\?", knobs("cosine", etamin=0)),
    (r"peak_lr=0: expected a finite number above 0", lambda: Schedule("cosine", 0)),
    (r"peak_lr=nan", lambda: Schedule("cosine", float("nan"))),
    (r"peak_lr='0.1'", lambda: Schedule("cosine", "0.1")),
    (r"warmup=1.2: expected .* \[0, 1\)", lambda: Schedule("cosine", 0.1, 1.2)),
    (r"warmup_start=0: expected .* \(0, 1\]", lambda: Schedule("cosine", 0.1, 0, 0)),
    (r"knobs=3: expected a mapping", lambda: Schedule("cosine", 0.1, knobs=3)),
    (r"cosine: eta_min=2: expected a number in \[0, 1\]", knobs("cosine", eta_min=2)),
    (r"T_max=0.5 with eta_min=0.0: .* give T_max >= 1 or eta_min > 0", knobs("cosine", T_max=0.5)),
    (r"T_mult=2.0: expected a whole number", knobs("cosine_restarts", T_mult=2.0)),
    (r"wsd: decay_shape: 'cos' .* mean 'cosine'\?", knobs("wsd", decay_shape="cos")),
    (r"decay_power=2: only where .* is power", knobs("wsd", decay_shape="cosine", decay_power=2)),
    (r"milestones=0.5: expected a list of 1 to 64", knobs("multistep", milestones=0.5)),
    (r"expected strictly increasing numbers", knobs("multistep", milestones=[0.7, 0.5])),
    (r"spline: ordinates\[1\]=nan", knobs("spline", ordinates=[1, float("nan")])),
    (r"one_cycle: warmup=0.1: expected 0", lambda: Schedule("one_cycle", 0.1, 0.1)),
    (r"base_momentum alone: give base_momentum and max_", knobs("cyclic", base_momentum=0.8)),
    (r"the lower first", knobs("one_cycle", base_momentum=0.9, max_momentum=0.8)),
    (r"max_momentum=1\.0: expected", knobs("cyclic", base_momentum=0.9, max_momentum=1.0)),
    (r"cosine: knob 'base_momentum' is unknown", knobs("cosine", base_momentum=0.85)),
    (r"sequence: schedules is missing: give a list of schedules", knobs("sequence")),
    (
        r"sequence: milestones=.*: expected 1, one fewer",
        knobs("sequence", schedules=[COSINE, COSINE], milestones=[0.2, 0.5]),
    ),
    (
        r"schedules\[1\]='plateau': expected an open-loop",
        knobs("sequence", schedules=[COSINE, Schedule("plateau", 0.1)], milestones=[0.2]),
    ),
    (r"custom: function='f': expected 'module:function'", knobs("custom", function="f")),
    (r"custom: slope='x': expected a number", knobs("custom", function="a:f", slope="x")),
    (r"total=0", lambda: COSINE.rates(0)),
    (r"total=10.0: expected", lambda: COSINE.rates(10.0)),
    (r"total=1: warmup=0.9 leaves no update", lambda: Schedule("cosine", 0.1, 0.9).rates(1)),
    (r"user_shapes:rise\(step=1, total=4\) = 2: expected a ratio", lambda: custom("rise")),
    (r"user_shapes:broken\(step=0, total=4\) raised ZeroDiv", lambda: custom("broken")),
    (r"function='user_shapes:gone' is not registered: decorate it", lambda: custom("gone")),
    (r"not JSON \(cut short\?\)", lambda: Schedule.from_json(COSINE.to_json()[:-5])),
    (r"schedule: expected an object, got list", lambda: Schedule.from_json("[]")),
    (r"format 2 is newer than this lrtune reads \(1\)", lambda: stored(format=2)),
    (r"format='1': expected the version", lambda: stored(format="1")),
    (r"schedule: key 'peak' is unknown: did you mean 'peak_lr'\?", lambda: stored(peak=1)),
    (r"cosine: knobs: key 'T_max' is missing", lambda: stored(knobs={"eta_min": 0})),
    (r"schedule: key 'warmup' is missing", lambda: Schedule.from_dict(INCOMPLETE)),
    (r"family 'cos' is unknown", lambda: parse("cos:peak_lr=1")),
    (r"'peak_lr': expected name=value", lambda: parse("cosine:peak_lr")),
    (r"each name once", lambda: parse("cosine:warmup=0,warmup=0")),
    (r"settings: momentum=True: exp", lambda: replace(COSINE, settings={"momentum": True})),
    (r"settings=0\.3: expected a mapping", lambda: replace(COSINE, settings=0.3)),
    # Ranges that cannot be searched.
    (r"on a log scale: give a lower end above 0", ranged("weight_decay", 0, 0.1)),
    (r"weight_decay=0.1:0.01: expected two numbers, the lo", ranged("weight_decay", 0.1, 0.01)),
    (r"two numbers", ranged("eps", float("nan"), 1)),
    (r"a range in \[0, 1\)", ranged("momentum", 0.9, 1)),
]


def custom(name):
    return Schedule("custom", 1, knobs={"function": f"user_shapes:{name}"}).rates(4)


def stored(**change):
    return Schedule.from_json(json.dumps(COSINE.to_dict() | change))


@pytest.mark.parametrize(("message", "call"), BAD, ids=range(len(BAD)))
def test_bad_input_is_named(message, call):
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_loading_custom_runs_nothing():
    schedule = Schedule("custom", 1, knobs={"function": "nowhere:f", "slope": 0.5})
    assert Schedule.from_json(schedule.to_json()) == schedule


def test_load_reads_a_schedule_and_names_the_file_otherwise(tmp_path):
    path = tmp_path / "best.json"
    with pytest.raises(InputError, match=r"best\.json: cannot be read: .*No such file"):
        load(path)
    best = {"format": 1, "task": "digits", "more": [1], "schedule": COSINE.to_dict()}
    for data in (COSINE.to_dict(), best):
        path.write_text(json.dumps(data))
        assert load(path) == load(str(path)) == COSINE
    newer = b'{"format": 2, "schedule": {}}'
    for content, message in (
        (b"{", "not JSON"),
        (b"\xff", "cannot be r"),
        (newer, "format 2 is new"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"best\.json: {message}"):
            load(path)


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("cosine", Schedule("cosine", 0.1)),
        ("cosine:peak_lr=3e-4,warmup=0.05", Schedule("cosine", 3e-4, 0.05)),
        (
            "multistep:milestones=0.5/0.75,gamma=0.2",
            Schedule("multistep", 0.1, knobs={"milestones": (0.5, 0.75), "gamma": 0.2}),
        ),
        ("wsd:decay_power=1", Schedule("wsd", 0.1, knobs={"decay_power": 1.0})),
        ("wsd:decay_shape=cosine", Schedule("wsd", 0.1, knobs={"decay_shape": "cosine"})),
        ("custom:function=a.b:f", Schedule("custom", 0.1, knobs={"function": "a.b:f"})),
    ],
)
def test_parse(text, schedule):
    assert parse(text) == Schedule.from_json(schedule.to_json()) == eval(repr(schedule)) == schedule
