"""Searches with a referee that are killed end as unbroken ones."""

from pathlib import Path

import pandas as pd
import pytest
from idle import CHECKPOINT, PATH, SAME, dies, found_in
from optuna.storages.journal import JournalFileBackend
from stopped import STOPPING, TRIALS, NoisyPool, search_with

from lrtune.engine import Progress
from lrtune.search import loop
from lrtune.search.storage import mend
from lrtune.search.trials import TrialQueue

ENTRIES, SEGMENTS = (58, 111, 199), (12, 20, 33)  # at which a search is killed
SAME_ENDS = [*SAME, "reason", "evidence", "audit", "averaged"]


def assert_ends_alike(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(found[SAME_ENDS], expected[SAME_ENDS])


def whole_search(folder: Path, slots: int) -> pd.DataFrame:
    """What an unbroken search finds: all ways to end, and audits."""
    folder.mkdir()
    search_with(folder, NoisyPool(slots), STOPPING)
    expected = found_in(folder)
    assert set(expected["state"]) == {"complete", "pruned", "plateaued", "diverged"}
    assert expected["audit"].notna().any()
    return expected


DIES = """
import os, signal, sys
sys.path[:0] = {path!r}
from pathlib import Path
import idle, stopped
from optuna.storages.journal import JournalFileBackend

left, store = {count}, JournalFileBackend.append_logs

def counted(*arguments, **named):
    global left
    left -= 1
    store(*arguments, **named)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

JournalFileBackend.append_logs = counted
kept = {{}}
if {checkpoints!r}:
    idle.checkpoint_every_segment()
    kept["checkpoint"] = Path({folder!r}) / idle.CHECKPOINT
stopped.search_with(
    Path({folder!r}), stopped.NoisyPool({slots}), stopped.STOPPING, **kept
)
"""


@pytest.mark.parametrize(("slots", "checkpoints"), [(1, False), (3, True)])
def test_a_killed_search_ends_as_an_unbroken_one(
    tmp_path: Path, slots: int, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole_search(tmp_path / "whole", slots)
    broken = tmp_path / "broken"
    broken.mkdir()
    given = {"path": PATH, "folder": str(broken), "slots": slots}
    dies(DIES.format(count=160, checkpoints=checkpoints, **given), "SIGKILL")
    assert len(found_in(broken)) < TRIALS
    mend(broken / "journal.log", stale_seconds=0)
    kept = {"checkpoint": broken / CHECKPOINT} if checkpoints else {}
    search_with(broken, NoisyPool(slots), STOPPING, **kept)
    assert_ends_alike(found_in(broken), expected)


class Killed(BaseException):
    """Stands for SIGKILL, in this process."""


def killed_here(
    folder: Path, slots: int, count: int, monkeypatch: pytest.MonkeyPatch, **kept: object
) -> None:
    """Killed as it stores its n-th entry."""
    left, store = count, JournalFileBackend.append_logs

    def counted(*arguments: object, **named: object) -> None:
        nonlocal left
        left -= 1
        store(*arguments, **named)
        if left == 0:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", counted)
        patched.setattr(TrialQueue, "close", lambda *_: None)
        with pytest.raises(Killed):
            search_with(folder, NoisyPool(slots), STOPPING, **kept)
    mend(folder / "journal.log", stale_seconds=0)


def goes_on_alike(folder: Path, slots: int, expected: pd.DataFrame, **kept: object) -> None:
    mend(folder / "journal.log", stale_seconds=0)
    assert len(found_in(folder)) < TRIALS
    search_with(folder, NoisyPool(slots), STOPPING, **kept)
    assert_ends_alike(found_in(folder), expected)


@pytest.mark.parametrize("slots", [1, 3])
def test_killed_between_two_entries(
    tmp_path: Path, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a report and what is decided on it, say."""
    expected = whole_search(tmp_path / "whole", slots)
    for count in ENTRIES:
        folder = tmp_path / str(count)
        folder.mkdir()
        killed_here(folder, slots, count, monkeypatch)
        goes_on_alike(folder, slots, expected)


class KilledPool(NoisyPool):
    """Killed in its n-th segment."""

    def __init__(self, slots: int, segments: int) -> None:
        super().__init__(slots)
        self.left = segments

    def advance(self) -> list[Progress]:
        self.left -= 1
        if self.left == 0:
            raise Killed
        return super().advance()


@pytest.mark.parametrize("checkpoints", [False, True], ids=["from scratch", "from a checkpoint"])
def test_killed_while_it_trains(
    tmp_path: Path, checkpoints: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole_search(tmp_path / "whole", slots=3)
    if checkpoints:
        monkeypatch.setattr(loop, "due", lambda since, cost: True)
    for segments in SEGMENTS:
        folder = tmp_path / str(segments)
        folder.mkdir()
        kept = {"checkpoint": folder / CHECKPOINT} if checkpoints else {}
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(TrialQueue, "close", lambda *_: None)
            search_with(folder, KilledPool(3, segments), STOPPING, **kept)
        goes_on_alike(folder, 3, expected, **kept)
