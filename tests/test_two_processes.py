"""Two processes under torch.distributed: schedulers and callbacks do in both what one would do."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.two_processes import FAMILIES, METRICS, TWO, UPDATES, schedule


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of the two processes wrote."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "tests.two_processes", str(folder)]
    root = Path(__file__).parents[1]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr[-4000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def expected(family: str) -> np.ndarray:
    if family != "plateau":
        return schedule(family).rates(UPDATES)
    controller = schedule(family).controller(UPDATES)
    for update, metric in METRICS.items():
        controller.observe(update, metric)
    assert len(set(controller.rates[6:])) > 1
    return controller.rates


@pytest.mark.parametrize("way", ["ddp", "accelerate"])
def test_rates_are_the_tables_in_both_processes(way: str, ranks: Any) -> None:
    for rank in ranks:
        for family in FAMILIES:
            np.testing.assert_allclose(rank[way][family], expected(family), rtol=0, atol=1e-12)


def test_what_accelerate_prepared_and_steps_by_process_moves_once_per_update(ranks: Any) -> None:
    for rank in ranks:
        assert rank["prepared"]["steps"] == [*range(1, 2 * UPDATES + 1)]
        (sentence,) = rank["prepared"]["sentences"]
        assert "step() is called 2 times for every update of the optimizer" in sentence


@pytest.mark.parametrize("framework", TWO)
def test_both_processes_follow_one_trial_and_end_together(framework: str, ranks: Any) -> None:
    first, second = (rank[framework] for rank in ranks)
    assert first["end"] == second["end"] == "pruned"
    # Two updates an epoch, with twice the data.
    assert first["used"] == second["used"] == pytest.approx(first["rates"][:4], rel=1e-12)
    assert first["reported"] == [2, 4]
