"""How many CPU threads one training step can use."""

import time

import torch

from lrtune.engine.serial import SerialPool
from lrtune.errors import InputError
from lrtune.tasks import Task

REPEATS = 5
LONG = 1.0  # seconds
WORTH = 1.25  # speed-up below which a second core is better left to others


def best_threads(task: Task) -> int:
    """One thread, or as many as torch would take, whichever trains faster.

    Small steps run no faster on many threads, and many times slower where another process wants a
    core, because threads then wait for each other. Sums depend on the number of threads in their
    last digits, so a search keeps to the number that it started with.
    """
    most = torch.get_num_threads()
    if most == 1:
        return 1
    pool = SerialPool(task)
    seconds = {1: float("inf"), most: float("inf")}
    try:
        for _ in range(REPEATS):  # interleaved, and the best of each: whatever else runs, runs past
            for threads in seconds:
                torch.set_num_threads(threads)
                seconds[threads] = min(seconds[threads], _time_updates(pool))
            if sum(seconds.values()) > LONG:  # updates this long are timed well enough by one try
                break
    except Exception as error:  # whatever the user's model may raise at its full batch size
        raise InputError(f"{task.name}: training fails: {type(error).__name__}: {error}") from error
    finally:
        torch.set_num_threads(most)
    return most if seconds[1] > WORTH * seconds[most] else 1


def _time_updates(pool: SerialPool) -> float:
    start = time.perf_counter()
    pool.try_updates(2)
    return time.perf_counter() - start
