"""Looks at a contest: when, and how strictly."""

import numpy as np
import pytest
from scipy import stats

from lrtune.results.looks import ALPHA, BEHIND, WINNER, levels, looks


@pytest.mark.parametrize(
    ("first", "most", "at"),
    [
        (5, 20, (5, 10, 20)),
        (5, 12, (5, 10, 12)),
        (5, 5, (5,)),
        (1, 1, (1,)),
        (1, 3, (1, 2, 3)),
        (9, 4, (4,)),
    ],
)
def test_looks_double_up_to_the_most(first, most, at):
    assert tuple(look.seeds for look in looks(first, most)) == at


@pytest.mark.parametrize("at", [(20,), (5, 10, 20), (3, 5), (5, 10, 20, 40, 80, 160)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_levels_add_up_and_grow(at, alpha):
    for shape in (WINNER, BEHIND):
        found = levels(at, shape, alpha)
        assert len(found) == len(at)
        assert sum(found) == pytest.approx(alpha) and [*found] == sorted(found)


@pytest.mark.parametrize(("shape", "power"), [(0.5, 0.0), (0.25, 0.25), (0.0, 0.5)])
def test_the_boundary_is_of_the_shape_of_wang_and_tsiatis(shape, power):
    """Pocock's is the same at each look; O'Brien and Fleming's falls with the root of the seeds."""
    first, last = stats.norm.isf(np.array(levels((5, 20), shape)) / 2)
    assert first / last == pytest.approx(4**power)


@pytest.mark.parametrize(("shape", "errs"), [(WINNER, 0.0436), (BEHIND, 0.0405)])
def test_the_looks_together_err_with_less_than_alpha(shape, errs):
    at = (5, 10, 20)
    differences = np.random.default_rng(0).standard_normal((100_000, at[-1]))
    erred = np.zeros(len(differences), bool)
    for seeds, level in zip(at, levels(at, shape), strict=True):
        erred |= stats.ttest_1samp(differences[:, :seeds], 0, axis=1).pvalue <= level
    # The levels add up to alpha, and the looks have much in common.
    assert erred.mean() == pytest.approx(errs, abs=0.002) and erred.mean() < ALPHA


@pytest.mark.parametrize(("first", "most"), [(5, 20), (5, 10), (3, 48), (5, 5), (2, 1000)])
def test_two_equals_among_others_err_with_less_than_five_percent(first, most):
    """While a third is in, one of them is left behind at a third of that level if that is more."""
    spent = [max(look.winner, look.behind / 3) for look in looks(first, most)]
    assert sum(spent) <= 0.05
