"""``lrtune doctor``: what it prints, and how it ends."""

import math
from pathlib import Path

import pytest
from cases import cosine, hf, not_a_number, of, torch_csv
from frameworks import as_csv

SCRIPT = """
scheduler = CosineAnnealingLR(optimizer, T_max=10)
for epoch in range(20):
    scheduler.step()
"""


def test_a_log(lrtune, log_of, tmp_path: Path) -> None:
    broken = log_of(torch_csv(cosine(200), 300))
    code, out, _ = lrtune("doctor", broken, "--out", tmp_path / "x.html")
    assert code == 3 and "overshoot" in out and "to do: make it for 300 updates" in out
    assert (tmp_path / "x.html").stat().st_size > 1000
    code, out, _ = lrtune("doctor", log_of(hf()))
    assert code == 0 and "nothing wrong was found" in out and "best fit: linear" in out
    code, _, err = lrtune("doctor", tmp_path / "none.csv")
    assert code == 2 and "No such file" in err


def test_rates_that_are_no_numbers_are_drawn(lrtune, log_of, tmp_path: Path) -> None:
    broken = log_of(torch_csv(of("LambdaLR", not_a_number), 60))
    code, shown, _ = lrtune("doctor", broken, "--out", tmp_path / "x.html")
    assert code == 3 and "not-finite" in shown and "nan at update 40" in shown
    assert "█" in shown and (tmp_path / "x.html").stat().st_size > 1000


@pytest.mark.parametrize("rates", [[math.inf] * 6, [math.inf, math.inf, -math.inf, 0.2, 0.1, 0.1]])
def test_infinite_rates_are_said(rates, lrtune, tmp_path: Path) -> None:
    code, shown, _ = lrtune("doctor", as_csv(tmp_path, rates))
    assert code == 3 and "the rate is inf at update 0" in shown
    assert 0.2 not in rates or "highest 0.2 at update 3" in shown


def test_a_script_with_a_mistake(lrtune, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    code, out, _ = lrtune("doctor", path)
    assert code == 3 and out.startswith("read, not run:\n  line 2: CosineAnnealingLR(T_max=10)\n")
    assert "overshoot" in out and "to do: give T_max=20" in out and "nothing wrong" not in out


def test_a_config_without_one(lrtune, tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("optimizer:\n  lr: 0.1\nnum_train_epochs: 3\n")
    code, out, _ = lrtune("doctor", path)
    assert code == 0 and "  num_train_epochs: 3\n  optimizer: lr: 0.1\n" in out
    assert "nothing wrong was found" in out
    assert "not known here: how many updates an epoch has" in out


def test_a_script_has_no_rates_to_draw(lrtune, tmp_path: Path) -> None:
    path, out = tmp_path / "train.py", tmp_path / "x.html"
    path.write_text(SCRIPT)
    code, shown, err = lrtune("doctor", path, "--out", out)
    assert code == 2 and "a script or a config has no rates to draw" in err
    assert not shown and not out.exists()
