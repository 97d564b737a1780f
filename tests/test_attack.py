"""A small, fixed part of ``scripts/attack``; the whole runs as long as it is let."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "attack"))

from attacks import ATTACKS, attacked

CASES = {"killed searches": 2, "full disks": 2, "locked databases": 1, "damaged runs": 25}
MANY = 40  # of what takes milliseconds


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str) -> None:
    outcome = attacked(name, 1, lambda cases: cases < CASES.get(name, MANY))
    assert not outcome.defects
    assert outcome.cases == sum(outcome.ends.values()) >= 1
