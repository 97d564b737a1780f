"""Schedules of every family, with and without a warmup, for each test that asks for one."""

import sys
from types import ModuleType

import pytest

from lrtune.schedule import FAMILIES, Schedule, register

user = ModuleType("user_fall")  # the snippet imports it, a schedule finds it registered
user.fall = lambda step, total, slope: 1 - slope * step / total
user.fall.__module__, user.fall.__qualname__ = "user_fall", "fall"
sys.modules["user_fall"] = user
register(user.fall)

PARTS = [Schedule("cosine", 0.3, 0.2), Schedule("spline", 0.5), Schedule("constant", 0.1)]
KNOBS = {  # what the defaults do not show
    "cosine": [{"eta_min": 0.05}, {"T_max": 0.5, "eta_min": 0.1}],
    "cosine_restarts": [
        {"T_0": 0.2, "T_mult": 1, "eta_min": 0.01},
        {"T_0": 0.25, "T_mult": 1},
        {"T_0": 0.05, "T_mult": 3},
    ],
    "cyclic": [{"mode": "triangular2"}, {"mode": "exp_range", "step_size_up": 0.1}],
    "one_cycle": [{"anneal_strategy": "linear"}, {"pct_start": 1 / 40}],
    "polynomial": [{"power": 3.0, "end_factor": 0.1}],
    "wsd": [
        {"decay_power": 1.0, "end_factor": 0.3},
        {"decay_power": 0.3, "decay": 1.0},
        {"decay_power": 1.5, "end_factor": 0.1},
        {"decay_shape": "cosine"},
        {"decay_shape": "exponential", "end_factor": 0.05},
        {"decay_shape": "exponential"},
    ],
    "spline": [{"ordinates": [0.5]}, {"ordinates": [0.5, 1.0, 1e-3, 0.9]}],
    "plateau": [
        {"factor": 0.5, "patience": 0, "cooldown": 1, "min_lr": 0.2},
        {"factor": 0.5, "patience": 1, "cooldown": 2, "threshold": 0.0},
    ],
    "greedy": [{"patience": 0, "smooth": 2, "min_lr": 0.1}],
}
GIVEN = {
    "sequence": {"schedules": PARTS, "milestones": [0.5, 0.7]},
    "custom": {"function": "user_fall:fall", "slope": 0.7},
}
SCHEDULES = [
    Schedule(name, 0.5, warmup, 0.3, GIVEN.get(name, {}) | knobs)
    for name, family in FAMILIES.items()
    if not family.schedule_free
    for warmup in ((0.0, 0.1) if family.takes_warmup else (0.0,))
    for knobs in ({}, *KNOBS.get(name, []))
]


def pytest_generate_tests(metafunc):
    for fixture, kinds in {"opened": (False,), "closed": (True,), "every": (False, True)}.items():
        if fixture in metafunc.fixturenames:
            chosen = [s for s in SCHEDULES if s.closed_loop in kinds]
            metafunc.parametrize(fixture, chosen, ids=lambda s: f"{s.family}-{s.warmup}")


@pytest.fixture(scope="session")
def metrics():
    """Validation metrics after every third of 40 updates: {update: metric}."""
    falls = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4]
    return dict(zip(range(3, 41, 3), falls, strict=True))
