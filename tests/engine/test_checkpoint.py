"""Checkpoints: what is read is what was written, or is refused."""

import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from lrtune import InputError
from lrtune.engine.checkpoint import load, save, states_of, write_state
from lrtune.engine.pool import Snapshot
from lrtune.errors import Superseded
from lrtune.files import guarded

NOTE = {"clock": 3, "curves": {"loss": [0.1, float("inf")]}}


def snapshot(**tensors: torch.Tensor) -> Snapshot:
    return Snapshot(
        7, 4, np.linspace(0.1, 1e-3, 9), {f"weights/{k}": v for k, v in tensors.items()}
    )


def kinds() -> Snapshot:
    """Tensors of every layout that a model may have."""
    matrix = torch.arange(12.0).reshape(3, 4)
    return snapshot(
        whole=matrix,
        again=matrix,
        row=matrix[1],
        turned=matrix.T,
        strided=torch.arange(6)[::2],
        scalar=torch.tensor(3.5, dtype=torch.float64),
        empty=torch.empty(0, 5),
        empty_too=torch.empty(0),
        half=torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        conjugate=torch.tensor([1 + 2j]).conj(),
        flags=torch.tensor([True, False]),
        channels_last=torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    )


def assert_same(found: Snapshot, expected: Snapshot) -> None:
    assert (found.seed, found.update) == (expected.seed, expected.update)
    assert np.array_equal(found.rates, expected.rates)
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    one = kinds()
    other = replace(one, update=5, rates=np.full(9, 1e-4))  # shares its tensors
    save(path, {"2": one, "10": other}, {"2": NOTE, "10": {}})
    found = load(path)
    assert list(found) == ["2", "10"]
    assert_same(found["2"][0], one)
    assert_same(found["10"][0], other)
    assert found["2"][1] == NOTE
    assert os.listdir(tmp_path) == [path.name]


def test_an_empty_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "c", {}, {})
    assert load(tmp_path / "c") == {}


@pytest.mark.parametrize("place", [0.0, 0.02, 0.3, 0.7, 0.999])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damage_is_refused(tmp_path: Path, place: float, damage: str) -> None:
    path = tmp_path / "c.safetensors"
    save(path, {"a": kinds()}, {"a": NOTE})
    content = bytearray(path.read_bytes())
    at = int(place * len(content))
    content[at] ^= 0x10
    path.write_bytes(content[:at] if damage == "cut" else content)
    with pytest.raises(InputError, match=r"c\.safetensors"):
        load(path)


def test_another_format_or_none_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(InputError, match="cannot be read"):
        load(path)
    monkeypatch.setattr("lrtune.engine.checkpoint.FORMAT", 3)
    save(path, {"a": kinds()}, {"a": NOTE})
    monkeypatch.undo()
    with pytest.raises(InputError, match="format 3: this lrtune reads 2"):
        load(path)


def test_the_one_before_stays_until_the_new_one_is_whole(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "c.safetensors"
    save(path, {"a": kinds()}, {"a": NOTE})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save(path, {"a": kinds(), "b": kinds()}, {"a": NOTE, "b": NOTE})
    assert list(load(path)) == ["a"]
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(OSError, match="No such file"):
        save(tmp_path / "nowhere" / "c", {"a": kinds()}, {"a": NOTE})


def test_files_of_states_stay_as_long_as_they_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    kept, needed, other = (write_state(states_of(path), kinds()) for _ in range(3))
    for _ in range(2):
        save(path, {"a": kept}, {"a": NOTE}, [needed])
    assert {str(file) for file in states_of(path).iterdir()} == {kept.file, needed.file}
    assert not Path(other.file).exists()


def test_a_session_that_is_superseded_as_it_writes_removes_no_states(tmp_path: Path) -> None:
    path, checks = tmp_path / "c.safetensors", count()

    def superseded() -> None:
        if next(checks):  # once the file is written
            raise Superseded

    other = write_state(states_of(path), kinds())
    with pytest.raises(Superseded), guarded(superseded):
        save(path, {}, {})
    assert path.exists() and Path(other.file).exists()


def test_a_kind_of_tensor_that_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises((KeyError, RuntimeError)):
        save(tmp_path / "c", {0: snapshot(w=torch.zeros(3).to_sparse())}, {"a": NOTE})
    with pytest.raises((KeyError, RuntimeError)):
        save(tmp_path / "c", {0: snapshot(w=torch.zeros(3, dtype=torch.complex128))}, {"a": NOTE})
    assert os.listdir(tmp_path) == []
