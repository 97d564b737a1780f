"""The learning-rate range test (Smith 2015) for several seeds at once: a peak rate, and its doubt.

Everything is computed against the logarithm of the rate: against the rate itself, slopes at small
rates look steep only because the axis is stretched there. Curves are medians over neighbouring
rates and over the seeds, so that a batch with an outlier counts no more than any other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lrtune.engine.optimizers import DECAY_BY
from lrtune.engine.pool import Array, Pool
from lrtune.engine.serial import SerialPool
from lrtune.errors import InputError
from lrtune.tasks import Task

UPDATES = 240
MOST_UPDATES, MOST_SEEDS = 100_000, 100
FEWEST_UPDATES = 60  # below this the curve of a small sweep says little
SMOOTHING = 0.6  # half a window's width, nats of the rate
POINTS = 240  # at most so many windows
ONSET = 0.1  # the bracket begins where this share of the fall is done
RISE = 0.1  # and ends where this share of the fall is lost again
BLOWN = 0.5  # blown up: this far above the start, in units of the starting loss
CLEAR = 0.02  # the least fall that counts, in the same units
NOISE = 3.0  # standard errors of a window's median: less is neither a fall nor a rise
AGREEMENT = 10.0  # largest factor between the seeds' peaks without a message

# A good peak of a whole training, in nats from the middle of the bracket, or where the loss does
# not fall clearly from its blow-up; standard deviations. Fitted by scripts/bench/range_test.py.
FROM_MIDDLE, FROM_MIDDLE_SD = 0.8, 1.4
FROM_BLOW_UP, FROM_BLOW_UP_SD = -2.9, 1.7
LEAST_DOUBT, MOST_DOUBT = 0.5, 2.5


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What the loss curves suggest; rates."""

    base_lr: float  # where the loss begins to fall: the lower end of the bracket
    steepest: float  # where it falls fastest per decade
    valley: float  # half-way, in decades, from base_lr to the lowest loss
    max_lr: float  # where it begins to rise again: the upper end of the bracket
    peak_lr: float  # estimate of a good peak rate for a whole training
    doubt: float  # standard deviation of its natural logarithm


@dataclass(frozen=True, slots=True)
class RangeTest:
    """Curves and what they suggest."""

    rates: Array  # float64 (updates,), log-spaced
    # float64 (seeds, updates): training loss of the batch at that rate, before its step.
    losses: Array
    smoothed: Array  # float64 (seeds, updates); NaN from where a seed's loss has blown up
    suggestion: Suggestion  # of the seeds together
    message: str = ""  # why it is unsure, else empty


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
    # By the highest rate of the sweep, weights would decay as at no rate that is searched.
    own = {name: value for name, value in task.settings.items() if name != DECAY_BY}
    sweep = replace(task, epochs=epochs, validations=1, ema=None, average=None, settings=own)
    pool = make(sweep, min(len(seeds), slots or len(seeds)), device)
    losses = _train(pool, rates, seeds)
    test = suggest_range(rates, losses)
    if test.message:
        # Without training: what is left of the difference is no longer the batches' own.
        test = suggest_range(rates, losses, _train(pool, np.full(updates, 1e-9 * low), seeds))
    return test


def _train(pool: Pool, rates: Array, seeds: Sequence[int]) -> Array:
    """Training losses, float64 (seeds, updates)."""
    losses = []
    for first in range(0, len(seeds), pool.slots):
        for slot, seed in enumerate(seeds[first : first + pool.slots]):
            pool.start(slot, rates, seed)
        for progress in pool.advance():
            if progress.error is not None:
                raise InputError(f"{pool.task.name}: training failed: {progress.error}")
            losses.append(progress.losses)
            pool.release(progress.slot)
    return np.stack(losses)


@dataclass(frozen=True, slots=True)
class Landmarks:
    """Of a loss curve; natural logarithms of rates.

    Attributes:
        base, steepest, valley, top: as in Suggestion, whose max_lr is the top.
        end: where it has blown up; the last rate if nowhere.
        clear: whether it falls by more than noise.
        blown: whether it blows up.
    """

    base: float
    steepest: float
    valley: float
    top: float
    end: float
    clear: bool
    blown: bool

    @property
    def middle(self) -> float:
        """Of the bracket."""
        return (self.base + self.top) / 2

    def peak(self) -> tuple[float, float]:
        """Logarithm of a good peak, and its standard deviation."""
        if self.clear:
            return self.middle + FROM_MIDDLE, FROM_MIDDLE_SD
        if self.blown:
            return self.end + FROM_BLOW_UP, FROM_BLOW_UP_SD
        return self.middle, MOST_DOUBT

    def message(self, peaks: Array) -> str:
        """Why a suggestion is unsure, if it is; peaks (seeds,) are each seed's own, logarithms."""
        if not self.clear and not self.blown:
            return "the loss neither falls nor blows up clearly at any rate"
        if not self.clear:
            return "the loss falls clearly at no rate, only where it blows up is known"
        low, high = np.exp([peaks.min(), peaks.max()])
        agree = high <= AGREEMENT * low
        return "" if agree else f"the seeds disagree: peaks from {low:.2g} to {high:.2g}"


def suggest_range(rates: Array, losses: Array, untrained: Array | None = None) -> RangeTest:
    """What the loss curves alone suggest.

    Args:
        rates: float64 (updates,), log-spaced, rising.
        losses: float64 (seeds, updates); may hold NaN and infinity.
        untrained: the same of the same batches without training; the typical loss of each seed's
            first updates where None, which leaves in what batches differ by.
    """
    log, (changes, start) = np.log(rates), changes_of(losses, untrained)
    smoothed = np.full_like(changes, np.nan)
    alive = np.isfinite(changes[:, 0])
    if not alive.any():
        middle = math.sqrt(rates[0] * rates[-1])
        found = Suggestion(rates[0], middle, middle, rates[-1], middle, MOST_DOUBT)
        return RangeTest(rates, losses, smoothed, found, "the loss is finite at no rate")
    together, _ = landmarks(log, changes[alive])
    each = [landmarks(log, change[None]) for change in changes[alive]]
    smoothed[alive] = start[alive] + np.abs(start[alive]) * np.sinh([curve for _, curve in each])
    peak, doubt = together.peak()
    peaks = np.array([own.peak()[0] for own, _ in each if own.clear] or [peak])
    disagreement = math.sqrt(np.mean((peaks - peak) ** 2))
    doubt = min(max(math.hypot(doubt, disagreement), LEAST_DOUBT), MOST_DOUBT)
    logs = [together.base, together.steepest, together.valley, together.top, peak]
    base, steepest, valley, top, good = (float(rate) for rate in np.exp(logs))
    suggestion = Suggestion(base, steepest, valley, top, good, doubt)
    return RangeTest(rates, losses, smoothed, suggestion, together.message(peaks))


def changes_of(losses: Array, untrained: Array | None = None) -> tuple[Array, Array]:
    """How far losses are from what they are without training, in units of that.

    Args:
        losses: as for ``suggest_range``.
        untrained: likewise.

    Returns:
        float64 (seeds, updates), the inverse sinh: next to the identity for a fall, the logarithm
        of a blow-up; NaN from where a loss is not finite. And each seed's typical first loss,
        float64 (seeds, 1).
    """
    # Back to finite is not back to training.
    kept = np.where(np.logical_and.accumulate(np.isfinite(losses), axis=1), losses, np.nan)
    first = kept[:, : max(5, losses.shape[1] // 8)]
    start = np.nanmedian(np.where(np.isfinite(first[:, :1]), first, 0.0), axis=1, keepdims=True)
    base = start if untrained is None else untrained
    unit = np.maximum(np.abs(base), 1e-3 * float(np.median(np.abs(base))) or 1.0)
    return np.arcsinh((kept - base) / unit), start


def landmarks(log: Array, changes: Array) -> tuple[Landmarks, Array]:
    """Landmarks of the median over neighbouring rates and seeds.

    Args:
        log: float64 (updates,), natural logarithms of the rates.
        changes: float64 (seeds, updates): loss less that without training, in units of the latter;
            NaN from where it is not finite.

    Returns:
        Landmarks, and the curve they are of: float64 (updates,), NaN from where it has blown up.
    """
    updates = int(np.median(np.isfinite(changes).sum(1)))  # after that most seeds have ended
    points = np.unique(np.linspace(0, updates - 1, min(updates, POINTS)).round().astype(int))
    window = max(1, round(SMOOTHING * (len(log) - 1) / (log[-1] - log[0])))

    def around(i: int, width: int) -> Array:
        return changes[:, max(0, i - width) : min(i + width + 1, updates)]

    curve = np.array([np.nanmedian(around(i, window)) for i in points])
    end = _blow_up(curve, window * len(points) // updates)
    blown = end < len(curve) or updates < len(log)
    limit = points[min(end, len(curve) - 1)]
    curve, points = curve[:end], points[:end]
    whole = np.full(len(log), np.nan)
    whole[: points[-1] + 1] = np.interp(np.arange(points[-1] + 1), points, curve)

    low, high = float(log[0]), float(log[limit])
    middle = (low + high) / 2
    unclear = Landmarks(low, middle, middle, high, high, clear=False, blown=blown)
    if len(curve) < 3:
        return unclear, whole
    # The standard error of a window's median, from what neighbours in a wider one differ by.
    spread = [np.nanmedian(np.abs(np.diff(around(i, 2 * window)))) for i in points]
    noise = NOISE * 1.31 * np.array(spread) / math.sqrt(len(changes) * (2 * window + 1))
    lowest = np.minimum.accumulate(curve)
    # Only once half of the fall is done: what rises before that is the start's noise.
    risen = (lowest < lowest[-1] / 2) & (curve - lowest > np.maximum(-RISE * lowest[-1], noise))
    top = _first(risen, end - 1)
    bottom = int(curve[: top + 1].argmin())
    fall = -curve[bottom]
    if bottom < 2 or fall < max(CLEAR, math.hypot(noise[0], noise[bottom])):
        return unclear, whole
    onset = bottom - _first(curve[bottom::-1] > -ONSET * fall, bottom + 1) + 1
    steepest = onset + int(np.gradient(curve, log[points])[onset : bottom + 1].argmin())
    base, steep, lowest_loss, rise = log[points[[onset, steepest, bottom, top]]].tolist()
    valley = (base + lowest_loss) / 2
    return Landmarks(base, steep, valley, rise, high, clear=True, blown=blown), whole


def _blow_up(curve: Array, width: int) -> int:
    """Index from which a curve is far above its start; its length if it never is."""
    high = curve > np.maximum(-np.minimum.accumulate(curve), BLOWN)
    # For the width of a window: less may be chance.
    lasting = [high[i : i + width + 1].all() for i in range(len(curve))]
    return max(1, _first(np.array(lasting), len(curve)))


def _first(true: NDArray[np.bool_], otherwise: int) -> int:
    """Index of the first that is true."""
    return int(true.argmax()) if true.any() else otherwise
