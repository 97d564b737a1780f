"""Functional analysis of variance: what share of a score's variance each input explains."""

import numpy as np
from numpy.typing import NDArray

from lrtune.results.canvas import Array

TREES = 32
LEAF = 3  # trials in a leaf, at least

Leaves = tuple[Array, Array]  # boxes (leaves, inputs, 2) and means (leaves,)


def fanova(places: Array, values: Array, seed: int = 0) -> Array | None:
    """First-order shares, over a forest of regression trees.

    Source: Hutter, Hoos and Leyton-Brown, An efficient approach for assessing hyperparameter
    importance (2014); as Optuna's FanovaImportanceEvaluator, over the box of what was tried.

    Args:
        places: (trials, inputs), each on a scale on which equal steps count alike; all vary.
        values: (trials,)
        seed: of the resamples that the trees are grown on.

    Returns:
        (trees, inputs): the share of a tree's variance over the box that each input explains by
        itself; None where the forest does not foretell trials that it has not seen.
    """
    box = np.stack([places.min(0), places.max(0)], axis=-1)
    random, count = np.random.default_rng(seed), len(values)
    shares, unseen, guessed = [], np.zeros(count), np.zeros(count)
    for _ in range(TREES):
        drawn = random.integers(0, count, count)
        tree = grow(places[drawn], values[drawn], box)
        left_out = np.bincount(drawn, minlength=count) == 0
        unseen += left_out
        guessed += np.where(left_out, predict(tree, places), 0.0)
        shares.append(explained(tree, box))
    tested = unseen > 0
    errors = values[tested] - guessed[tested] / unseen[tested]
    if errors @ errors >= tested.sum() * values[tested].var():
        return None
    return np.array(shares)


def grow(places: Array, values: Array, box: Array) -> Leaves:
    """A regression tree's leaves: boxes that share out the whole one, and the mean in each."""
    boxes, means, left = [], [], [(np.arange(len(values)), box)]
    while left:
        rows, where = left.pop()
        found = _split(places[rows], values[rows])
        if found is None:
            boxes.append(where)
            means.append(values[rows].mean())
            continue
        knob, threshold = found
        below = places[rows, knob] <= threshold
        lower, upper = where.copy(), where.copy()
        lower[knob, 1] = upper[knob, 0] = threshold
        left += [(rows[below], lower), (rows[~below], upper)]
    return np.array(boxes), np.array(means)


def _split(places: Array, values: Array) -> tuple[int, float] | None:
    """The input and the threshold that lower the squared error most."""
    count = len(values)
    if count < 2 * LEAF or np.ptp(values) == 0:
        return None
    order = np.argsort(places, axis=0, kind="stable")
    ranked = np.take_along_axis(places, order, axis=0)
    below = np.cumsum((values - values.mean())[order], axis=0)[LEAF - 1 : count - LEAF]
    size = np.arange(LEAF, count - LEAF + 1)[:, None]
    gain = below**2 * (1 / size + 1 / (count - size))
    before, after = ranked[LEAF - 1 : count - LEAF], ranked[LEAF : count - LEAF + 1]
    gain[before == after] = -1.0
    row, knob = np.unravel_index(int(gain.argmax()), gain.shape)
    if gain[row, knob] <= 0:
        return None
    return int(knob), float((before[row, knob] + after[row, knob]) / 2)


def predict(tree: Leaves, places: Array) -> Array:
    """A tree's value at each of these."""
    boxes, means = tree
    inside = (boxes[:, :, 0] <= places[:, None]) & (places[:, None] <= boxes[:, :, 1])
    at: NDArray[np.intp] = inside.all(-1).argmax(1)
    found: Array = means[at]
    return found


def explained(tree: Leaves, box: Array) -> Array:
    """The share of a tree's variance over the box that each input explains by itself."""
    boxes, means = tree
    widths = (boxes[..., 1] - boxes[..., 0]) / (box[:, 1] - box[:, 0])
    volume = widths.prod(1)
    apart = means - volume @ means
    variance = float(volume @ apart**2)
    parts = [_marginal(boxes[:, k], widths[:, k], volume, apart) for k in range(len(box))]
    return np.array(parts) / variance if variance > 0 else np.zeros(len(box))


def _marginal(spans: Array, width: Array, volume: Array, apart: Array) -> float:
    """The variance of the mean over all inputs but one."""
    edges = np.unique(spans)
    covers = (spans[:, 0] <= edges[:-1, None]) & (edges[1:, None] <= spans[:, 1])
    others = np.divide(volume, width, out=np.zeros_like(volume), where=width > 0)
    means = covers @ (others * apart)
    return float(np.diff(edges) / np.ptp(edges) @ means**2)
