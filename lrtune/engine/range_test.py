"""The learning-rate range test: which rates train at all (Smith 2015), for several seeds at once.

Everything is computed against the logarithm of the rate: against the rate itself, slopes at small
rates look steep only because the axis is stretched there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lrtune.engine.pool import Pool
from lrtune.engine.serial import SerialPool
from lrtune.errors import InputError
from lrtune.tasks import Task

UPDATES = 240
MOST_UPDATES, MOST_SEEDS = 100_000, 100
FEWEST_UPDATES = 60  # below this the curve of a small sweep says little
SMOOTHING = 0.25  # standard deviation of the smoothing kernel, decades of the rate
ONSET = 0.1  # the bracket begins where this share of the fall is done
BLOW_UP = 0.1  # and ends where this share of the fall is lost again
AGREEMENT = 10.0  # largest factor between seeds at which their mean is still a suggestion

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What one loss curve suggests; rates.

    Attributes:
        base_lr: where the loss begins to fall: the lower end of the bracket.
        steepest: where it falls fastest per decade.
        valley: half-way along its longest decreasing subsequence from there (fastai's valley).
        max_lr: where it begins to rise for good: the upper end of the bracket.
    """

    base_lr: float
    steepest: float
    valley: float
    max_lr: float


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Curves and what they suggest.

    Attributes:
        rates: float64 (updates,), log-spaced.
        losses: float64 (seeds, updates): training loss of the batch at that rate, before its step.
        smoothed: float64 (seeds, updates); NaN from where a seed's loss has blown up.
        suggestion: geometric mean over the seeds; None where they disagree.
        message: why there is none, else empty.
    """

    rates: Array
    losses: Array
    smoothed: Array
    suggestion: Suggestion | None
    message: str = ""


def range_test(
    task: Task,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    updates: int = UPDATES,
    seeds: Sequence[int] = (0, 1, 2),
    device: str = "cpu",
    slots: int | None = None,
    make: Callable[[Task, int, str], Pool] = SerialPool,
) -> RangeTest:
    """Train from scratch under an exponentially rising rate, once a seed.

    Args:
        task: what is trained, with its own optimizer.
        low: first rate.
        high: last rate.
        updates: length of the sweep.
        seeds: one sweep each.
        device: as torch names it.
        slots: how many sweeps are in memory together; all where None.
        make: of a task, slots and a device, the pool that trains the sweeps side by side.

    Raises:
        InputError: an empty range or sweep; a model that cannot be trained.
    """
    if not 0 < low < high < float("inf"):
        raise InputError(f"rates from {low!r} to {high!r}: two positive rates, the lower first")
    if not 10 <= updates <= MOST_UPDATES:
        raise InputError(f"updates={updates}: from 10, to see a curve, to {MOST_UPDATES:,}")
    if not 1 <= len(seeds) <= MOST_SEEDS:
        raise InputError(f"seeds={len(seeds)}: from 1 to {MOST_SEEDS}")
    rates = np.geomspace(low, high, updates)
    epochs = updates * task.batch_size / task.train.samples
    sweep = replace(task, epochs=epochs, validations=1, ema=None, average=None)
    pool = make(sweep, min(len(seeds), slots or len(seeds)), device)
    losses = []
    for start in range(0, len(seeds), pool.slots):
        for slot, seed in enumerate(seeds[start : start + pool.slots]):
            pool.admit(slot, rates, seed)
        for progress in pool.advance():
            if progress.error is not None:
                raise InputError(f"{task.name}: training failed: {progress.error}")
            losses.append(progress.losses)
            pool.release(progress.slot)
    return suggest_range(rates, np.stack(losses))


def suggest_range(rates: Array, losses: Array) -> RangeTest:
    """Suggestions from the loss curves alone.

    Args:
        rates: float64 (updates,), log-spaced, rising.
        losses: float64 (seeds, updates); may hold NaN and infinity.
    """
    log = np.log10(rates)
    smoothed = np.stack([smooth(log, curve) for curve in losses])
    found = [_suggest(log, curve) for curve in smoothed]
    usable = [s for s in found if s is not None]
    if len(usable) < len(found):
        message = f"the loss of {len(found) - len(usable)} of {len(found)} seeds never fell"
        return RangeTest(rates, losses, smoothed, None, message)
    table = np.array([[s.base_lr, s.steepest, s.valley, s.max_lr] for s in usable])
    spread = table.max(0) / table.min(0)
    if spread.max() > AGREEMENT:
        name = Suggestion.__slots__[int(spread.argmax())]
        low, high = table[:, spread.argmax()].min(), table[:, spread.argmax()].max()
        message = f"the seeds disagree: {name} from {low:.2g} to {high:.2g}"
        return RangeTest(rates, losses, smoothed, None, message)
    return RangeTest(rates, losses, smoothed, Suggestion(*np.exp(np.log(table).mean(0)).tolist()))


def smooth(log: Array, curve: Array) -> Array:
    """Gaussian mean over the log of the rate, up to where the loss blows up; NaN after that."""
    finite = np.isfinite(curve)
    end = len(curve) if finite.all() else int(finite.argmin())
    # Far above where it started there is nothing to learn, and one such value would smear.
    wild = curve[:end] > 4 * max(float(np.median(curve[:10])), 1e-12)
    end = int(wild.argmax()) if wild.any() else end
    result = np.full(len(curve), np.nan)
    if end:
        kernel = np.exp(-0.5 * ((log[:end, None] - log[None, :end]) / SMOOTHING) ** 2)
        result[:end] = kernel @ curve[:end] / kernel.sum(1)
    return result


def _suggest(log: Array, smoothed: Array) -> Suggestion | None:
    end = int(np.isfinite(smoothed).sum())
    if end < 10:
        return None
    curve, log = smoothed[:end], log[:end]
    bottom = int(curve.argmin())
    start = float(curve[: max(1, len(curve) // 20)].mean())
    fall = start - float(curve[bottom])
    if bottom < 2 or fall < 0.05 * abs(start):
        return None
    onset = int((curve < start - ONSET * fall).argmax())
    risen = np.nonzero(curve[bottom:] > curve[bottom] + BLOW_UP * fall)[0]
    top = bottom + int(risen[0]) if len(risen) else end - 1
    steepest = int(np.gradient(curve, log)[: bottom + 1].argmin())
    # From the onset: before it, a long drift of no consequence would count as the fall.
    descent = _longest_fall(curve[onset:])
    valley = onset + descent[len(descent) // 2]
    rates = [float(10.0 ** log[i]) for i in (onset, steepest, valley, top)]
    return Suggestion(*rates)


def _longest_fall(curve: Array) -> list[int]:
    """Indices of the longest decreasing subsequence (fastai's definition of the valley's slope)."""
    length = np.ones(len(curve), dtype=np.int64)
    before = np.full(len(curve), -1)
    for i in range(1, len(curve)):
        higher = np.nonzero(curve[:i] > curve[i])[0]
        if len(higher):
            best = higher[length[higher].argmax()]
            length[i], before[i] = length[best] + 1, best
    path, i = [], int(length.argmax())
    while i >= 0:
        path.append(i)
        i = int(before[i])
    return path[::-1]
