"""How a family's score answers to its peak rate: from the search's own trials."""

import math
from typing import Any

import numpy as np
import pandas as pd

from lrtune.verdict.settings import Document, Number, Objective
from lrtune.verdict.summary import forecasts

FEWEST = 6  # trials with a value
DIFFERENT = 4  # peaks, by a hundredth: fewer do not hold a parabola
LEAST_SPREAD = 2.0  # factor between the lowest and the highest peak
DRAWS = 4000
LEVEL = 0.9  # of the intervals: trials are few


class LrSensitivity(Document):
    """How a family's score depends on its peak rate: a parabola over the logarithm of the peak.

    Attributes:
        family: whose trials.
        trials: how many had a value, those that ended early with their forecast.
        peak_lr: where the score is best; NaN where no optimum is seen within the trials.
        low: lower end of its 90 % interval.
        high: upper end.
        factor: by which the peak may be off, either way, before the score is noticeably worse; no
            more than was tried.
        factor_low: lower end of its 90 % interval.
        factor_high: upper end; NaN where it lies beyond what was tried.
        diverged_from: the lowest peak above ``peak_lr`` with which a trial diverged; NaN if none.
        why: why there is no optimum; empty where there is one.
    """

    family: str
    trials: int
    peak_lr: Number = math.nan
    low: Number = math.nan
    high: Number = math.nan
    factor: Number = math.nan
    factor_low: Number = math.nan
    factor_high: Number = math.nan
    diverged_from: Number = math.nan
    why: str = ""


def lr_sensitivity(
    trials: pd.DataFrame, family: str, objective: Objective, effect: float
) -> LrSensitivity:
    """Fit one family.

    Args:
        trials: the search's table.
        family: whose.
        objective: name and direction of the value.
        effect: how much worse is worse, in the metric's unit, above 0.
    """

    def unknown(why: str) -> LrSensitivity:
        return LrSensitivity(family=family, trials=len(peaks), why=why)

    own = trials[trials["family"] == family]
    peaks, values = _seen(own)
    if len(peaks) < FEWEST:
        return unknown(f"{len(peaks)} trials have a value: too few")
    if peaks.max() < LEAST_SPREAD * peaks.min():
        return unknown("all its peaks were about the same")
    different = len(np.unique(np.log(peaks).round(2)))
    if different < DIFFERENT:
        return unknown(f"{different} different peaks: too few")
    logarithmic = objective.minimize and bool((values > 0).all())
    if logarithmic:  # a loss far off must not outweigh those near the optimum
        places = np.log(values)
        reach = float(np.log1p(effect / values.min()))
    else:
        places, reach = (values if objective.minimize else -values), effect
    x = np.log(peaks)
    centre = float(x.mean())
    found, covariance = np.polyfit(x - centre, places, 2, cov=True)
    freedom = len(x) - 3
    optimum = centre - found[1] / (2 * found[0]) if found[0] > 0 else np.inf
    if not x.min() <= optimum <= x.max():
        return unknown("no optimum within the peaks that were tried")
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
    return LrSensitivity(
        family=family,
        trials=len(x),
        peak_lr=float(np.exp(optimum)),
        low=low,
        high=high,
        factor=min(factor, seen),
        factor_low=min(float(narrow), seen),
        factor_high=math.nan if open_end else wide,
        diverged_from=above.min() if len(above) else math.nan,
    )


def _seen(own: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Peaks and values: final ones, and what those that ended before would have come to."""
    values = own["value"].where(own["state"] == "complete", forecasts(own)).to_numpy(float)
    known = np.isfinite(values)
    return own["peak_lr"].to_numpy(float)[known], values[known]
