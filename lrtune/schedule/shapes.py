"""The bodies of the open-loop families that take more than a line.

`s` is 0 … n-1, the updates of the body; the other arguments are the resolved parameters, named
as torch's. Each gives float64[n].
"""

from collections.abc import Callable, Sequence

import numpy as np

from lrtune.schedule.family import Array


def half_cosine(v: Array) -> Array:
    """½(1 + cos πv), written as cos² to stay above zero one update before v = 1."""
    return np.cos(np.pi / 2 * v) ** 2


def cosine_restarts(
    s: Array, n: int, peak: float, *, T_0: int, T_mult: int, eta_min: float
) -> Array:
    """Cosine within cycles of length T_0·T_mult^i (Loshchilov & Hutter 2016)."""
    starts, lengths = [0], [T_0]
    while starts[-1] + lengths[-1] < n:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * T_mult)
    cycle = np.searchsorted(starts, s, side="right") - 1
    v = (s - np.array(starts)[cycle]) / np.array(lengths)[cycle]
    return eta_min + (peak - eta_min) * half_cosine(v)


CYCLE_SCALE: dict[str, Callable[[Array, Array, float], Array]] = {
    "triangular": lambda cycle, s, gamma: np.ones_like(s),
    "triangular2": lambda cycle, s, gamma: 0.5**cycle,
    "exp_range": lambda cycle, s, gamma: gamma**s,
}


def triangles(
    s: Array, foot: float, top: float, step_size_up: int, mode: str, gamma: float
) -> Array:
    """From foot to top and back, again and again (Smith 2015); top may be the lower one."""
    cycle, phase = np.divmod(s / step_size_up, 2)
    height = 1 - np.abs(phase - 1)
    scale = CYCLE_SCALE[mode](cycle, s, gamma)
    return np.asarray(foot + (top - foot) * height * scale)


ANNEAL: dict[str, Callable[[Array], Array]] = {
    "cos": lambda v: 1 - half_cosine(v),
    "linear": lambda v: v,
}


def one_cycle(
    s: Array,
    ends: tuple[float, float, float],
    *,
    total_steps: int,
    pct_start: float,
    anneal_strategy: str,
    **rest: object,
) -> Array:
    """Torch's OneCycleLR: from the first end to the second at pct_start, then on to the third."""
    first, middle, last = ends
    top = pct_start * total_steps - 1
    # Where top is 0 torch divides 0 by 0 at s = 0; the rise from `first` has no length then.
    rise = s / (top or 1)
    fall = (s - top) / (total_steps - 1 - top)
    anneal = ANNEAL[anneal_strategy]
    up = first + (middle - first) * anneal(rise)
    down = middle + (last - middle) * anneal(fall)
    return np.where(s <= top, up, down)


DECAY: dict[str, Callable[[Array], Array]] = {
    "linear": lambda v: 1 - v,
    "cosine": half_cosine,
    "sqrt": lambda v: 1 - np.sqrt(v),
}


def wsd(
    s: Array,
    n: int,
    peak: float,
    *,
    total_iters: int,
    decay_steps: int,
    decay_shape: str,
    end_factor: float,
) -> Array:
    """The peak, then a decay over the last decay_steps (Hu 2024, Hägele 2024)."""
    v = np.maximum(0, s - (total_iters - decay_steps)) / decay_steps
    return peak * (end_factor + (1 - end_factor) * DECAY[decay_shape](v))


def spline(s: Array, n: int, peak: float, *, ordinates: Sequence[float], total_iters: int) -> Array:
    """Monotone cubic through evenly spaced ordinates of log rate."""
    coefficients = pchip(np.log(ordinates))
    x = s / total_iters * len(coefficients)
    segment = x.astype(int)
    v = x - segment
    c0, c1, c2, c3 = coefficients[segment].T
    return np.asarray(peak * np.exp(c0 + v * (c1 + v * (c2 + v * c3))))


def pchip(y: Array) -> Array:
    """Monotone cubic interpolation through y at 0, 1, 2, …: (segments, 4) coefficients.

    Row i gives c0 + c1·v + c2·v² + c3·v³ for v in [0, 1] between y[i] and y[i+1]; one or two
    ordinates are a line in two segments. Fritsch & Carlson 1980, with the end slopes of scipy's
    PchipInterpolator.
    """
    if len(y) < 3:
        y = np.linspace(y[0], y[-1], 3)
    delta = np.diff(y)
    left, right = delta[:-1], delta[1:]
    same = left * right > 0
    harmonic = same * 2 * left * right / np.where(same, left + right, 1)
    first, last = _end_slope(delta[0], delta[1]), _end_slope(delta[-1], delta[-2])
    slope = np.concatenate([[first], harmonic, [last]])
    d0, d1 = slope[:-1], slope[1:]
    return np.stack([y[:-1], d0, 3 * delta - 2 * d0 - d1, d0 + d1 - 2 * delta], axis=1)


def _end_slope(near: float, far: float) -> float:
    slope = (3 * near - far) / 2
    if slope * near <= 0:
        return 0.0
    if near * far < 0 and abs(slope) > 3 * abs(near):
        return 3 * near
    return slope
