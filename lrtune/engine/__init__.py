"""The trial engine: K trials of one Task at once. Torch, never Optuna or schedules."""

from lrtune.engine.choose import Choice, choose, make_pool
from lrtune.engine.fused import FusedPool
from lrtune.engine.optimizers import OPTIMIZERS
from lrtune.engine.pool import Pool, Progress, Snapshot
from lrtune.engine.range_test import RangeTest, range_test
from lrtune.engine.serial import SerialPool

__all__ = [
    "OPTIMIZERS",
    "Choice",
    "FusedPool",
    "Pool",
    "Progress",
    "RangeTest",
    "SerialPool",
    "Snapshot",
    "choose",
    "make_pool",
    "range_test",
]
