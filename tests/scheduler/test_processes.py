"""Two processes under torch.distributed (gloo): the rates of the table in both of them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lrtune.schedule import Schedule

SCRIPT = Path(__file__).with_name("two_processes.py")
FAMILIES = ("one_cycle", "wsd", "plateau")
UPDATES = 60


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of the two processes wrote."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("processes")
    both = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, str(rank)], stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in (0, 1)]


def expected(family):
    if family != "plateau":
        return Schedule(family, 0.5, 0.0 if family == "one_cycle" else 0.1).rates(UPDATES)
    controller = Schedule("plateau", 0.5, 0.1).controller(UPDATES)
    for update in range(5, UPDATES, 5):
        controller.observe(update, 1.0)
    return controller.rates


@pytest.mark.parametrize("way", ["ddp", "accelerate"])
def test_rates_are_the_tables_in_both_processes(way, ranks):
    assert len(set(expected("plateau")[6:])) > 1
    for rank in ranks:
        assert rank["processes"] == 2
        for family in FAMILIES:
            np.testing.assert_allclose(rank[way][family], expected(family), rtol=0, atol=1e-12)


def test_what_accelerate_prepared_is_stepped_by_process_and_that_is_said_once(ranks):
    assert [rank["prepared"]["steps"] for rank in ranks] == [4 * UPDATES] * 2
    (sentence,) = ranks[0]["prepared"]["said"]
    assert "step() is called 2 times for every update of the optimizer" in sentence
    assert "leave it out of prepare()" in sentence
    assert ranks[1]["prepared"]["said"] == []
