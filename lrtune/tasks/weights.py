"""Weights of an earlier training: found, read without pickle, and fitted to a task's model."""

import hashlib
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from lrtune.errors import InputError, described, nearest
from lrtune.tasks.groups import head_of
from lrtune.tasks.models import TIMM, Normalize, timm_preset

# Where training scripts keep the weights in a checkpoint.
NESTED = ("state_dict", "model_state_dict", "model")
SHOWN = 5  # names of each side where a file does not fit


class Weights(NamedTuple):
    """Trained weights, and the images that they were trained on, where that is known."""

    source: str  # as the user gave it
    tensors: Mapping[str, Tensor]
    size: int | None = None  # pixels per side
    prepare: Normalize | None = None


def find_weights(name: str, source: str, *, download: bool) -> Weights:
    """The weights that are meant for a model of this name; it is empty where nobody named one.

    The source is ``default`` or another name of torchvision's, which may be fetched where
    ``download`` says so; or a file: safetensors, or what ``torch.save`` wrote of a ``state_dict``.
    A file for a model of torchvision or timm is taken for one that was trained on images as the
    model's default weights were.
    """
    named = _torchvisions(name)
    tensors = _read(name, source, named, download)
    if name.startswith(TIMM):
        preset = timm_preset(name)
        size = 0 if preset is None else preset.input_size[-1]
    else:
        chosen = named.get(source.upper(), named.get("DEFAULT"))
        preset = None if chosen is None else chosen.transforms()
        size = 0 if preset is None else preset.crop_size[0]
    if preset is None:
        return Weights(source, tensors)
    mean, std = (255 * torch.tensor(each).view(-1, 1, 1) for each in (preset.mean, preset.std))
    return Weights(source, tensors, size, Normalize(mean, std))


def pretrained(
    make: Callable[[], nn.Module], name: str, weights: Weights
) -> tuple[Callable[[], nn.Module], str]:
    """A maker of models that start from weights, and what is to be said of it.

    Each model's layers without weights, its head as a rule, are drawn anew.
    """
    with torch.random.fork_rng(devices=[]):
        model = make()
    source, tensors, *_ = weights
    fresh = _fit(model, tensors, f"weights {source!r}: do not fit {name}")
    digest = hashlib.blake2b(digest_size=4)
    for key, tensor in sorted(tensors.items()):
        digest.update(key.encode())
        digest.update(tensor.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    but = f" but {', '.join(fresh)}, which starts fresh in each trial" if fresh else ""
    note = f"weights from {source} ({digest.hexdigest()}) in all layers{but}"
    return partial(_copy, model, tuple(fresh)), note


def _copy(model: nn.Module, fresh: tuple[str, ...]) -> nn.Module:
    model = deepcopy(model)
    for name in fresh:
        layer: Any = model.get_submodule(name)
        layer.reset_parameters()
    return model


def _torchvisions(name: str) -> Mapping[str, Any]:
    """The weights that torchvision has of a model, by name."""
    from torchvision import models

    try:
        found: Mapping[str, Any] = models.get_model_weights(name).__members__
    except ValueError:  # of lrtune or timm, or unknown
        return {}
    return {"DEFAULT": found["DEFAULT"], **found} if "DEFAULT" in found else found


def _read(name: str, weights: str, named: Mapping[str, Any], download: bool) -> dict[str, Tensor]:
    path = Path(weights).expanduser()
    if path.is_file():
        return _tensors(path)
    if weights.upper() not in named:
        names = ", ".join(named).replace("DEFAULT", "default")
        known = f"of {name or 'the default model'} torchvision has {names or 'none'}"
        hint = nearest(weights.upper(), named).replace("DEFAULT", "default")
        raise InputError(f"weights {weights!r}: no such file, and {known}{hint}")
    chosen = named[weights.upper()]
    kept = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(chosen.url).path).name)
    if not download and not kept.exists():
        raise InputError(
            f"weights {weights!r}: {kept} is not there: give --download to fetch it, or a file"
        )
    try:
        with redirect_stdout(sys.stderr):  # torch says there what it fetches
            state: dict[str, Tensor] = chosen.get_state_dict(progress=False, weights_only=True)
    except Exception as error:  # whatever the network, a server, the disk or a file can do
        way_out = "look at the network and the disk, or give a file of weights"
        raise InputError(
            f"weights {weights!r}: cannot be read from {chosen.url}: {described(error)}: {way_out}"
        ) from error
    return state


def _tensors(path: Path) -> dict[str, Tensor]:
    """What a file holds, by name, without what a checkpoint keeps beside."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            held: Any = load_file(path)
        else:
            held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # it depends on the format, and on how far the reader got
        raise InputError(
            f"weights {str(path)!r}: cannot be read as tensors alone ({type(error).__name__}): "
            "save them by torch.save(model.state_dict(), path), or as safetensors"
        ) from error
    for key in NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    pairs = held.items() if isinstance(held, Mapping) else ()
    tensors = {str(name): tensor for name, tensor in pairs if isinstance(tensor, Tensor)}
    if not tensors:
        kind = (
            f"the keys {', '.join(map(str, list(held)[:SHOWN]))}" if pairs else type(held).__name__
        )
        raise InputError(f"weights {str(path)!r}: holds {kind}, expected tensors by name")
    return tensors


def _fit(model: nn.Module, weights: Mapping[str, Tensor], mistake: str) -> list[str]:
    """Load what fits into a model; names of the layers of the head that keep fresh weights."""
    own, head = model.state_dict(), head_of(model)
    weights = _renamed(weights, own)
    shapes, theirs = ({n: tuple(t.shape) for n, t in each.items()} for each in (own, weights))
    odd = [
        name
        for name in sorted(shapes.keys() | theirs.keys())
        if shapes.get(name) != theirs.get(name)
        and name not in head
        and not name.endswith("num_batches_tracked")  # older files have none
        and not (name.lower().startswith("aux") and name not in shapes)  # heads for training alone
    ]
    if odd:
        sides = (
            ", ".join(f"{n} {side[n]}" for n in [n for n in odd if n in side][:SHOWN]) or "nothing"
            for side in (theirs, shapes)
        )
        have = " where the model has ".join(sides)
        raise InputError(f"{mistake}: {len(odd)} tensors differ: the file has {have}")
    fitting = {name: weights[name] for name in own if shapes[name] == theirs.get(name)}
    own.update(fitting)  # it has the versions of the modules, which some ask for
    model.load_state_dict(own)
    return sorted({name.rpartition(".")[0] for name in head - fitting.keys()})


def _renamed(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """As the model names them: without the prefixes of wrappers (``module.``, ``_orig_mod.``)."""
    tops = {name.partition(".")[0] for name in own}
    while all("." in name for name in weights):
        first = {name.partition(".")[0] for name in weights}
        if len(first) > 1 or first <= tops:
            break
        weights = {name.partition(".")[2]: tensor for name, tensor in weights.items()}
    # Torchvision's files of densenet are older than its modules.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d)")
    return {old.sub(r"\1\2", name): tensor for name, tensor in weights.items()}
