"""How far a family's peak may be off."""

import math

import numpy as np
import pytest

from lrtune.verdict.summary import lr_sensitivity
from tests.documents import LOSS
from tests.verdict.test_verdict import searched


def test_how_far_the_peak_may_be_off() -> None:
    peaks = np.geomspace(0.01, 1.0, 9)
    parabola = {float(p): 0.2 * math.exp(0.5 * math.log(p / 0.1) ** 2) for p in peaks}
    amount = 0.2 * (math.exp(0.5 * math.log(3) ** 2) - 1)  # at a factor of three, by construction
    found = lr_sensitivity(
        searched(parabola | {2.0: math.nan, 0.001: math.nan}), "cosine", LOSS, amount
    )
    assert found.peak_lr == pytest.approx(0.1, rel=1e-3)
    assert found.factor == pytest.approx(3.0, rel=1e-3)
    assert found.low <= found.peak_lr <= found.high
    assert found.diverged_from == 2.0
    few = lr_sensitivity(searched(dict(list(parabola.items())[:4])), "cosine", LOSS, amount)
    assert math.isnan(few.factor) and "too few" in few.why
    rising = {float(p): 0.2 + 0.1 * math.log(p / 0.005) for p in peaks}
    assert "no optimum" in lr_sensitivity(searched(rising), "cosine", LOSS, amount).why
    same = {0.1 + i * 1e-4: 0.2 for i in range(8)}
    assert "about the same" in lr_sensitivity(searched(same), "cosine", LOSS, amount).why
