"""Which family, with which settings, gives the rates that were used: least squares in log rate."""

from collections.abc import Container
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from lrtune.doctor.curve import Curve
from lrtune.doctor.curves import CURVES
from lrtune.doctor.log import Log, distinct
from lrtune.doctor.seen import Seen
from lrtune.errors import InputError
from lrtune.schedule import FAMILIES, Schedule
from lrtune.schedule.family import Array

TIGHT = 2e-3  # of the peak: what a log that rounds its rates is off by
ENOUGH = 5  # rates without which every family fits
POINTS = 120  # that are fitted
FIRST = 15  # evaluations after which a fit must be near
NEAR = 0.1  # in log rate
TRIED = 2  # starts that are followed, the best of those a curve has
SOFT = 1e-3  # of the peak: log(rate + this), so that a rate of zero does not outweigh all others


@dataclass(frozen=True, slots=True)
class Fit:
    """A family laid through the rates of a log.

    Attributes:
        family: its name.
        error: root mean square of the difference in log rate.
        worst: the largest difference, as a fraction of the peak.
        peak: rate.
        warmup: updates of the linear rise before the body.
        horizon: updates that the schedule is for, warmup included; None: the family has no end.
        rates: float64[n], at the updates of the log.
        later: the rate at the end of the run.
        schedule: what can be copied; None where the settings do not come out whole.
        total: the horizon of that schedule.
    """

    family: str
    error: float
    worst: float
    peak: float
    warmup: float
    horizon: float | None
    rates: Array
    later: float
    schedule: Schedule | None
    total: int

    @property
    def tight(self) -> bool:
        """Whether it explains the rates, rather than resembles them."""
        return self.worst < TIGHT


def fit(log: Log, families: Container[str] = FAMILIES) -> Fit | None:
    """The simplest family that explains the rates, else the one that resembles them most.

    None where there are too few rates, or none that a schedule can have.
    """
    if len(log.at) < ENOUGH or not np.isfinite(log.rates).all():
        return None
    if log.rates.min() < 0 or log.rates.max() <= 0:
        return None
    logs = [log]
    if log.at[0] >= 1:  # the rate may have been logged after the scheduler's step
        logs.append(replace(log, at=log.at - 1))
    best: Fit | None = None
    for each in logs:
        seen = Seen.of(each)
        for curve in CURVES:
            if curve.family not in families or (curve.falls and not seen.falls):
                continue
            found = _fitted(curve, seen, each)
            if found is not None and found.tight:
                return found
            if found is not None and (best is None or found.error < best.error):
                best = found
    return best


def _fitted(curve: Curve, seen: Seen, log: Log) -> Fit | None:
    # Fewer levels than settings, and a horizon comes out of any rates.
    needed = 2 + len(curve.bounds[0]) + 2 * bool(curve.warmup and seen.slope)
    if curve.ends and len(distinct(log.rates)) < needed:
        return None
    at, wanted = _thinned(log)
    top = seen.top
    best: tuple[float, Array] | None = None
    hidden = curve.warmup and seen.hidden > 0
    low, high = (
        np.array([np.log(top) + side, *b, *([w] if hidden else [])])
        for side, b, w in zip((-1, 1), curve.bounds, (0.0, seen.hidden), strict=True)
    )
    if len(low) + 2 > len(log.at):
        return None

    def off(x: Array) -> Array:
        given = _rates(curve, seen, x, at)
        return np.asarray(np.log((given + SOFT * top) / (wanted + SOFT * top)))

    starts = [
        np.clip(np.array([np.log(top), *one, *rest]), low + 1e-9, high - 1e-9)
        for one in curve.starts(seen)
        for rest in ([[0.0], [seen.hidden]] if hidden else [[]])
    ]
    with np.errstate(all="ignore"):
        starts.sort(key=lambda x: float(np.sum(off(x) ** 2)))
    for x0 in starts[:TRIED]:
        with np.errstate(all="ignore"):
            found = least_squares(off, x0, bounds=(low, high), max_nfev=FIRST)
            if np.sqrt(2 * found.cost / len(at)) < NEAR:
                found = least_squares(
                    off, found.x, bounds=(low, high), max_nfev=60, xtol=1e-12, ftol=1e-12
                )
        if np.isfinite(found.cost) and (best is None or found.cost < best[0]):
            best = float(found.cost), found.x
    if best is None:
        return None
    x = best[1]
    with np.errstate(all="ignore"):
        given = _rates(curve, seen, x, log.at)
        later = float(_rates(curve, seen, x, np.array([log.end - 1]))[0])
    peak = float(np.exp(x[0]))
    warmup = _warmup(curve, seen, x)
    length = curve.length(seen, x[1:], warmup)
    made = _schedule(curve, seen, x, log, warmup, length, peak)
    total = round(warmup + length) if length else round(log.end)
    return Fit(
        family=curve.family,
        error=float(np.sqrt(np.mean(off(x) ** 2))),
        worst=float(np.max(np.abs(given - log.rates))) / top,
        peak=peak,
        warmup=warmup,
        horizon=warmup + length if length and curve.ends else None,
        rates=given,
        later=later,
        schedule=made,
        total=total,
    )


def _rates(curve: Curve, seen: Seen, x: Array, at: Array) -> Array:
    peak = float(np.exp(x[0]))
    warmup = _warmup(curve, seen, x)
    x = x[:-1] if curve.warmup and seen.hidden else x
    ratio = np.asarray(curve.ratio(seen, x[1:], np.maximum(at - warmup, 0.0), warmup))
    body = peak * np.where(np.isfinite(ratio), np.maximum(ratio, 0.0), 1e3)
    if not warmup:
        return body
    rise = seen.rise(at) if seen.slope else peak * at / warmup
    return np.where(at < warmup, rise, body)


def _warmup(curve: Curve, seen: Seen, x: Array) -> float:
    """Updates of the rise: read off, or the last of the settings where none of it was logged."""
    if not curve.warmup:
        return 0.0
    return float(x[-1]) if seen.hidden else seen.warmup(float(np.exp(x[0])))


def _schedule(
    curve: Curve, seen: Seen, x: Array, log: Log, warmup: float, length: float | None, peak: float
) -> Schedule | None:
    """What the fit is in our own terms, if it gives the rates of the log as well."""
    rise = round(warmup)
    n = round(warmup + length) - rise if length else round(log.end) - rise
    if n < 1:
        return None
    total = rise + n
    start = min(1.0, max(seen.rise(np.zeros(1))[0] / peak, 1e-9)) if rise else 0.01
    try:
        made = Schedule(
            curve.family,
            peak_lr=float(f"{peak:.6g}"),
            warmup=float(f"{rise / total:.8g}"),
            warmup_start=float(f"{start:.5g}"),
            knobs=curve.knobs(seen, x[1:-1] if curve.warmup and seen.hidden else x[1:], n),
        )
        table = made.rates(total)
    except InputError:
        return None
    inside = (log.at < total) & (log.at >= 0)
    off = np.abs(table[log.at[inside].astype(int)] - log.rates[inside])
    return made if off.size and off.max() < 2 * TIGHT * seen.top else None


def _thinned(log: Log) -> tuple[Array, Array]:
    """At most some hundreds of rates, both sides of every larger jump among them."""
    count = len(log.at)
    if count <= POINTS:
        return log.at, log.rates
    jumps = np.argsort(np.abs(np.diff(log.rates)))[-20:]
    even = np.linspace(0, count - 1, POINTS).astype(int)
    kept = np.unique(np.r_[even, jumps, jumps + 1])
    return log.at[kept], log.rates[kept]
