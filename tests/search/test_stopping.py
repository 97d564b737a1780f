import math

import pytest

from lrtune.search.stopping import diverged


@pytest.mark.parametrize(
    ("losses", "untrained", "expected"),
    [
        ([], 2.3, False),
        ([2.0, 1.0], 2.3, False),
        ([4.6, 4.6], 2.3, False),  # at the bound, not above it
        ([9.0], 2.3, False),  # one spike
        ([9.0, 1.0, 9.0], 2.3, False),  # two, but not running
        ([1.0, 9.0, 9.0], 2.3, True),
        ([1.0, math.nan], 2.3, True),
        ([math.inf], 2.3, True),
        ([-1.0, -0.5], -2.0, False),  # a negative loss has no scale
        ([9.0, 9.0], 0.0, False),
        ([9.0, 9.0], math.nan, False),
    ],
)
def test_divergence(losses: list[float], untrained: float, expected: bool) -> None:
    assert (diverged(losses, untrained) is not None) == expected
