"""How a family's score answers to its peak rate: from the search's own trials."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lrtune.verdict.summary import forecasts

FEWEST = 6  # trials with a value
DIFFERENT = 4  # peaks, by a hundredth: fewer do not hold a parabola
LEAST_SPREAD = 2.0  # factor between the lowest and the highest peak
DRAWS = 4000
LEVEL = 0.9  # of the intervals: trials are few


@dataclass(frozen=True, slots=True)
class Response:
    """A parabola over the logarithm of the peak."""

    family: str  # whose trials
    trials: int  # how many had a value, those that ended before their end with their forecast
    # where it is best; None where no optimum is seen within the trials
    peak_lr: float | None = None
    low: float | None = None  # lower end of its 90 % interval
    high: float | None = None  # upper end
    # how far the peak may be off, either way, before the score is worse by ``amount``; no more than
    # was tried
    factor: float | None = None
    factor_low: float | None = None  # lower end of its 90 % interval
    factor_high: float | None = None  # upper end; infinite where it lies beyond what was tried
    # the lowest peak above ``peak_lr`` with which a trial diverged; None if none
    diverged_from: float | None = None
    why: str = ""  # why there is no optimum; empty where there is one


def response(
    trials: pd.DataFrame, family: str, objective: Mapping[str, Any], amount: float
) -> Response:
    """Fit one family.

    Args:
        trials: the search's table.
        family: whose.
        objective: name and direction of the value.
        amount: how much worse is worse, in the metric's unit, above 0.
    """
    own = trials[trials["family"] == family]
    peaks, values = _seen(own)
    if len(peaks) < FEWEST:
        return Response(family, len(peaks), why=f"{len(peaks)} trials have a value: too few")
    if peaks.max() < LEAST_SPREAD * peaks.min():
        return Response(family, len(peaks), why="all its peaks were about the same")
    different = len(np.unique(np.log(peaks).round(2)))
    if different < DIFFERENT:
        return Response(family, len(peaks), why=f"{different} different peaks: too few")
    minimize = objective["direction"] == "minimize"
    logarithmic = minimize and bool((values > 0).all())
    if logarithmic:  # a loss far off must not outweigh those near the optimum
        places = np.log(values)
        reach = float(np.log1p(amount / values.min()))
    else:
        places, reach = (values if minimize else -values), amount
    x = np.log(peaks)
    centre = float(x.mean())
    found, covariance = np.polyfit(x - centre, places, 2, cov=True)
    freedom = len(x) - 3
    optimum = centre - found[1] / (2 * found[0]) if found[0] > 0 else np.inf
    if not x.min() <= optimum <= x.max():
        return Response(family, len(x), why="no optimum within the peaks that were tried")
    generator = np.random.default_rng(0)
    width = np.sqrt(freedom / generator.chisquare(freedom, DRAWS))[:, None]
    noise = generator.multivariate_normal(np.zeros(3), covariance, DRAWS) * width
    drawn = found + noise
    curvature = np.maximum(drawn[:, 0], 1e-12)
    tails = (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)
    spots = np.where(drawn[:, 0] > 0, centre - drawn[:, 1] / (2 * curvature), np.nan)
    spots = np.clip(spots[np.isfinite(spots)], x.min(), x.max())
    factors = np.minimum(np.sqrt(reach / curvature), 50.0)
    low, high = np.exp(np.quantile(spots, tails))
    narrow, wide = np.exp(np.quantile(factors, tails))
    # Beyond the peaks that were tried, nothing was seen.
    seen = float(max(peaks.max() / np.exp(optimum), np.exp(optimum) / peaks.min()))
    factor = float(np.exp(np.sqrt(reach / found[0])))
    open_end = factor > seen or wide > seen
    lost = own.loc[own["state"] == "diverged", "peak_lr"]
    above = lost[lost > np.exp(optimum)]
    return Response(
        family,
        len(x),
        float(np.exp(optimum)),
        float(low),
        float(high),
        min(factor, seen),
        min(float(narrow), seen),
        float("inf") if open_end else float(wide),
        float(above.min()) if len(above) else None,
    )


def _seen(own: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Peaks and values: final ones, and what those that ended before would have come to."""
    values = own["value"].where(own["state"] == "complete", forecasts(own)).to_numpy(float)
    known = np.isfinite(values)
    return own["peak_lr"].to_numpy(float)[known], values[known]
