"""tune: what is left where it ends early."""

from pathlib import Path

import pytest

import lrtune
from lrtune import InputError, tuning
from lrtune.engine import Choice
from lrtune.engine.devices import SpreadPool


class Closing(SpreadPool):
    """Notes that its processes were ended."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


def test_processes_end_where_the_search_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        assert not pool.closed
        raise InputError("no range")

    pool = Closing()
    monkeypatch.setattr(tuning, "choose_pool", lambda *_: (pool, Choice("serial", 2)))
    monkeypatch.setattr(tuning, "range_test", fails)
    with pytest.raises(InputError, match="no range"):
        lrtune.tune(lrtune.load_task("digits", epochs=1), trials=1, out=tmp_path / "run")
    assert pool.closed
