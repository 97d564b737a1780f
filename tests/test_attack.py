"""A small, fixed part of ``scripts/attack``; the whole runs as long as it is let."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / name) for name in ("scripts/attack", "scripts/bench", "tests/search")]

import sessions  # noqa: E402
from attacks import ATTACKS, attacked  # noqa: E402

CASES = {"killed searches": 1, "full disks": 2, "locked databases": 1, "PostgreSQL away": 1}
CASES |= {"damaged checkpoints": 1, "damaged runs": 25, "secrets": 15}
MANY = 40  # of what takes milliseconds


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in sessions.ATTACKS])
def test_attack(name: str) -> None:
    outcome = attacked(name, 1, lambda cases: cases < CASES.get(name, MANY))
    assert not outcome.defects
    assert outcome.cases >= 1 and sum(outcome.ends.values()) >= 1


@pytest.mark.slow
def test_attack_on_whole_commands() -> None:
    """Forks of a process of its own, for torch has trained in this one."""
    names = [word for name in sessions.ATTACKS for word in ("--only", name)]
    command = [sys.executable, str(ROOT / "scripts" / "attack"), "--cases", "1", *names]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
