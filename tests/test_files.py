"""Files written whole or not at all, and what JSON can hold."""

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from lrtune.files import plain, replace, shown


def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    replace(path, b'{"a": 1}')
    (tmp_path / "a.json.part").mkdir()  # a fixed name could be another's

    def fails(*_: object) -> None:
        raise OSError("no space left")

    replace(path, b'{"a": 2}')
    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(os, "replace", fails)
        replace(path, b"3")
    assert json.loads(path.read_text()) == {"a": 2}
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.json", "a.json.part"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_who_may_read_it_is_as_for_any_other_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        replace(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~mask


def test_what_json_cannot_hold() -> None:
    given = {1: (np.float64("nan"), float("inf"), np.float32(0.5), np.int64(3)), "b": [True, None]}
    assert plain(given) == {"1": [None, None, 0.5, 3], "b": [True, None]}
    assert type(plain(np.float64(0.5))) is float


def test_a_file_is_named_from_the_working_folder_if_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder := tmp_path / "a").mkdir()
    monkeypatch.chdir(folder)
    assert shown(folder / "b") == "b" and shown(tmp_path) == str(tmp_path)
    folder.rmdir()
    assert shown(folder / "b") == str(folder / "b")
