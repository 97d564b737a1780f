"""``lrtune doctor``: what it prints, and how it ends."""

import math
from pathlib import Path

import pytest
from cases import SOUND, cosine, not_a_number, of, torch_csv
from frameworks import as_csv


def test_a_log(lrtune, log_of, tmp_path: Path) -> None:
    broken = log_of(torch_csv(cosine(200), 300))
    code, out, _ = lrtune("doctor", broken)
    assert code == 3 and "overshoot" in out and "  fix: " in out
    code, out, _ = lrtune("doctor", log_of(SOUND["Trainer: linear"]))
    assert code == 0 and "nothing wrong was found" in out and "best fit: linear" in out
    code, _, err = lrtune("doctor", tmp_path / "none.csv")
    assert code == 2 and "No such file" in err


def test_rates_that_are_no_numbers_are_drawn(lrtune, log_of) -> None:
    code, shown, _ = lrtune("doctor", log_of(torch_csv(of("LambdaLR", not_a_number), 60)))
    assert code == 3 and "not-finite" in shown and "nan at update 40" in shown and "█" in shown


@pytest.mark.parametrize("rates", [[math.inf] * 6, [math.inf, math.inf, -math.inf, 0.2, 0.1, 0.1]])
def test_infinite_rates_are_said(rates, lrtune, tmp_path: Path) -> None:
    code, shown, _ = lrtune("doctor", as_csv(tmp_path, rates))
    assert code == 3 and "the rate is inf at update 0" in shown
    assert 0.2 not in rates or "highest 0.2 at update 3" in shown
