"""Checkpoints: Snapshots in one safetensors file, written whole or not at all; never pickle.

Hosts of a cluster write the states of their trials themselves, each in a file of its own beside it.
"""

import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lrtune.engine.pool import Snapshot
from lrtune.errors import InputError
from lrtune.files import beside, check, to_disk

FORMAT = 2
RATES, MOMENTA = "rates", "momenta"  # no names of a Snapshot's tensors: those have a slash
PLAIN = ("seed", "update", "optimizer", "settings")  # what else a Snapshot has
STATE = "*.safetensors"  # files of states of trials
Note = dict[str, Any]  # what JSON can hold


def save(
    path: Path,
    snapshots: Mapping[str, Snapshot],
    notes: Mapping[str, Note],
    needed: Iterable[Snapshot] = (),
) -> None:
    """Write a checkpoint in place of the one before, which is lost only once this one is whole.

    Files of states are removed but those of its Snapshots, and of others that are ``needed``.

    Args:
        path: of the file; another one beside it is used on the way.
        snapshots: by keys without a slash.
        notes: what else is to be known of each, under the same keys.
        needed: Snapshots that somebody else may still use.

    Raises:
        OSError: the disk is full, or cannot be written.
        KeyError, RuntimeError: a tensor of a kind that the format does not have, a sparse one say.
    """
    tensors: dict[str, Tensor] = {}
    for key, snapshot in snapshots.items():
        tensors[f"{key}/{RATES}"] = torch.from_numpy(snapshot.rates)
        if snapshot.momenta is not None:
            tensors[f"{key}/{MOMENTA}"] = torch.from_numpy(snapshot.momenta)
        tensors |= {f"{key}/{name}": tensor for name, tensor in snapshot.tensors.items()}
    tensors = _apart(tensors)
    trials = {
        key: {name: getattr(snapshot, name) for name in PLAIN}
        | {"note": notes[key], "file": Path(snapshot.file).name}
        for key, snapshot in snapshots.items()
    }
    _write(path, json.dumps(trials), tensors)
    kept = {Path(snapshot.file).name for snapshot in (*snapshots.values(), *needed)}
    left = [state for state in states_of(path).glob(STATE) if state.name not in kept]
    if left:
        check()  # who took over since the file was written has states of its own here
    for state in left:
        state.unlink(missing_ok=True)


def _write(path: Path, content: str, tensors: Mapping[str, Tensor]) -> None:
    metadata = {"format": str(FORMAT), "trials": content, "crc32": _checksum(content, tensors)}
    part = beside(path)
    try:
        save_file(dict(tensors), part, metadata)
        to_disk(part)
        check()
        os.replace(part, path)
        to_disk(path.parent)
    except SafetensorError as error:  # its way to say that the system said no
        raise OSError(f"{path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def states_of(path: Path) -> Path:
    """The folder for states beside a checkpoint."""
    return path.with_name(f"{path.name}.states")


def remove(path: Path) -> None:
    """Remove a checkpoint and all that belongs to it."""
    path.unlink(missing_ok=True)
    shutil.rmtree(states_of(path), ignore_errors=True)


def write_state(folder: Path, snapshot: Snapshot) -> Snapshot:
    """The Snapshot with its tensors in a new file of the folder.

    Raises:
        OSError: the disk is full, or cannot be written.
    """
    folder.mkdir(exist_ok=True)
    path = folder / f"{os.urandom(8).hex()}.safetensors"
    _write(path, "{}", _apart(snapshot.tensors))
    return replace(snapshot, tensors={}, file=str(path))


def whole(snapshot: Snapshot) -> Snapshot:
    """The Snapshot with its tensors, which may lie in a file.

    Raises:
        ValueError: that is not there, or damaged.
    """
    if not snapshot.file:
        return snapshot
    try:
        _, tensors = _read(Path(snapshot.file))
    except InputError as error:
        raise ValueError(str(error)) from error
    return replace(snapshot, tensors=tensors, file="")


def load(path: Path) -> dict[str, tuple[Snapshot, Note]]:
    """Read a checkpoint: each Snapshot and its note, by key.

    Raises:
        InputError: the file is damaged, of another format, or cannot be read.
    """
    content, tensors = _read(path)
    by_key: dict[str, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        key, _, name = place.partition("/")
        by_key.setdefault(key, {})[name] = tensor
    snapshots: dict[str, tuple[Snapshot, Note]] = {}
    for key, trial in json.loads(content).items():
        own = by_key[key]
        rates, momenta = own.pop(RATES).numpy(), own.pop(MOMENTA, None)
        moved = None if momenta is None else momenta.numpy()
        plain = {name: trial[name] for name in PLAIN if name in trial}
        plain["settings"] = {  # JSON has no tuples
            n: tuple(v) if isinstance(v, list) else v for n, v in plain.get("settings", {}).items()
        }
        file = str(states_of(path) / trial["file"]) if trial["file"] else ""
        known: dict[str, Any] = {"rates": rates, "tensors": own, "momenta": moved, "file": file}
        snapshots[key] = Snapshot(**known, **plain), trial["note"]
    return snapshots


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """What else was written, as JSON, and the tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if metadata.get("format") != str(FORMAT):
        raise InputError(
            f"{path}: a checkpoint of format {metadata.get('format')}: this lrtune reads {FORMAT}"
        )
    content = metadata.get("trials", "")
    if _checksum(content, tensors) != metadata.get("crc32"):
        raise InputError(f"{path}: damaged: it is not what was written")
    return content, tensors


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each in memory of its own, as the format wants it: what shares some is copied."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
        if whole.untyped_storage().data_ptr() in seen:
            whole = whole.clone()
        seen.add(whole.untyped_storage().data_ptr())
        apart[name] = whole
    return apart


def _checksum(content: str, tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of everything in the file: a disk may return other bits than it was given."""
    total = zlib.crc32(content.encode())
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return str(total)
