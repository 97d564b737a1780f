"""scripts/gpu.sh: where there is no GPU it runs whole and says what it skipped."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "gpu.py"))


def test_the_readme_has_what_was_measured(script: dict[str, Any], tmp_path: Path) -> None:
    text = script["README"].read_text(encoding="utf-8")
    assert script["BEGIN"] + script["readme"]() + script["END"] in text, "gpu.py readme"
    one = {"steady": 10.0, "whole": 8.0, "choice": {"name": "fused", "slots": 4}}
    row = {"model": "mlp", "batch_size": 16, "repeats": {"plain": [one], "auto": [one]}}
    row |= {"device": "H200", "torch": "2.11"}
    told = {"results": {"digits": row, "text": {"error": "x"}}}
    (tmp_path / "engine.json").write_text(json.dumps(told))
    table = script["readme"](tmp_path)
    assert "H200, torch 2.11" in table and "| digits | mlp | 16 | 10 | 1.00 | 1.00 |" in table
    assert "text" not in table


def test_nine_minutes_and_eight_files(script: dict[str, Any]) -> None:
    assert sum(seconds for _, seconds in script["STEPS"].values()) + 30 <= 540  # 30: the wheels
    assert len(script["STEPS"]) < 8  # and the summary


@pytest.mark.slow
def test_without_a_gpu_every_step_says_what_it_skipped(tmp_path: Path) -> None:
    ran = subprocess.run(
        [ROOT / "scripts" / "gpu.sh", tmp_path], env={**os.environ, "PYTHON": sys.executable}
    )
    assert ran.returncode == 0
    told = {path.stem: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    steps = told.pop("summary")["steps"]
    assert steps.keys() == told.keys()
    for name, step in steps.items():
        assert (step["exit code"], step["finished"], step["errors"]) == (0, True, []), name
        assert told[name]["results"]
        assert any("no CUDA device" in reason for reason in step["skipped"].values()), name
