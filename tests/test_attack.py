"""A small, fixed part of ``scripts/attack``; the whole runs as long as it is let."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("scripts/attack", "scripts/bench", "tests/search")]

from attacks import ATTACKS, attacked  # noqa: E402

CASES = {"killed searches": 2, "full disks": 2, "locked databases": 1, "damaged runs": 25}
MANY = 40  # of what takes milliseconds


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(name: str) -> None:
    outcome = attacked(name, 1, lambda cases: cases < CASES.get(name, MANY))
    assert not outcome.defects
    assert outcome.cases == sum(outcome.ends.values()) >= 1
