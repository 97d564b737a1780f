"""Parameter groups by name: rates of their own, layer-wise rate decay, and what is frozen.

A pattern fits whole parts of a parameter's name, between dots: ``head`` fits ``head.weight`` and
``model.head.bias``, ``layer4`` and ``layer4.0`` fit ``layer4.0.conv1.weight``. ``*`` and ``?``
stand for any characters and for any one, as in a shell. Where no part is called so, ``head`` is
the output layer and ``backbone`` is everything else.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lrtune.errors import InputError, nearest, one_line

Groups = Callable[[nn.Module], Iterable[dict[str, Any]]]  # torch's parameter groups of a model
Key = TypeVar("Key", bound=Hashable)

NEARLY_ALL = 0.75  # of the tensors in one numbered part: its own numbered parts are the layers
RATIO, COOLDOWN = "lr_ratio", "cooldown"  # what a group has beside torch's settings
HEADS = {"head", "heads", "fc", "classifier", "lm_head", "score"}
SHOWN = 12  # names of the model in an error


def ratios_of(given: str | Mapping[str, Any]) -> dict[str, float]:
    """Ratios by pattern.

    Example:
        >>> ratios_of("head=10x, backbone=0.1")
        {'head': 10.0, 'backbone': 0.1}
    """
    whole = given if isinstance(given, str) else ",".join(f"{p}={r}" for p, r in given.items())
    ratios: dict[str, float] = {}
    for text in filter(None, map(str.strip, whole.split(","))):
        pattern, _, value = (part.strip() for part in text.rpartition("="))
        try:
            ratio = float(value.removesuffix("x"))
        except ValueError:
            ratio = math.nan
        if pattern and ratio == 0:
            raise InputError(f"groups: {text}: would not train: give freeze instead ({pattern})")
        if not pattern or not 0 < ratio < math.inf:
            raise InputError(
                f"groups: {text!r}: expected pattern=ratio, the ratio above 0: head=10x"
            )
        if pattern in ratios:
            raise InputError(f"groups: {text}: {pattern} twice")
        ratios[pattern] = ratio
    if not ratios:
        raise InputError(f"groups: {one_line(given)}: expected pattern=ratio: head=10x")
    return ratios


@dataclass(frozen=True)
class ByName:
    """A Task's ``groups`` where rates differ by name."""

    # What the rate is multiplied by, by pattern; of those that fit a parameter the last counts.
    ratios: Mapping[str, float]
    base: Groups | None = None  # the task's own groups, which are divided further; None: one group
    layer_decay: float | None = None  # multiplies once more per layer before the last
    # The last share of the run in which a rate goes linearly to zero, by pattern.
    cooldowns: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> list[dict[str, Any]]:
        """The groups of a model; the ratios of patterns, layers and the base are multiplied."""
        names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
        patterns = self.patterns(model)
        decays = {} if self.layer_decay is None else layer_ratios(model, self.layer_decay)
        one: list[dict[str, Any]] = [{"params": model.parameters()}]
        groups = []
        for group in one if self.base is None else self.base(model):
            parts: dict[tuple[str, float], list[Tensor]] = {}
            for parameter in listed(group["params"]):
                name = names.get(parameter, "")
                pattern = patterns.get(name, "")
                ratio = self.ratios.get(pattern, 1.0) * decays.get(name, 1.0)
                if parameter.requires_grad:
                    parts.setdefault((pattern, ratio), []).append(parameter)
            own = group.get(RATIO, 1.0)
            for (pattern, ratio), some in parts.items():
                cooldown = {COOLDOWN: self.cooldowns.get(pattern, 0.0)} if pattern else {}
                groups.append({**group, "params": some, RATIO: own * ratio, **cooldown})
        trained = {names.get(parameter) for group in groups for parameter in group["params"]}
        for pattern in self.ratios:
            if not any(name in trained for name, last in patterns.items() if last == pattern):
                raise InputError(
                    f"groups: {pattern}: its rate has no effect: what it fits is frozen, or of a "
                    "later pattern, or in no group of the task"
                )
        return groups

    @property
    def numbers(self) -> dict[str, float]:
        """What can be tuned, by name: ``head.lr_ratio``, ``head.cooldown``."""
        cooldowns = {f"{p}.{COOLDOWN}": self.cooldowns.get(p, 0.0) for p in self.ratios}
        return {f"{p}.{RATIO}": ratio for p, ratio in self.ratios.items()} | cooldowns

    def patterns(self, model: nn.Module) -> dict[str, str]:
        """The pattern of each parameter that has one, by name."""
        return {
            name: pattern for pattern in self.ratios for name in fitting("groups", pattern, model)
        }


def grouped(groups: Any, layer_decay: float | None) -> Groups | None:
    """A Task's groups, however they are given, as a function of the model; None: one group."""
    if not isinstance(groups, ByName):
        told = isinstance(groups, str | Mapping)
        groups = ByName(ratios_of(groups)) if told else ByName({}, groups)
    by_name: ByName = replace(groups, layer_decay=layer_decay)
    return by_name if by_name.ratios or layer_decay is not None else by_name.base


def numbers_of_groups(groups: Groups | None) -> dict[str, float]:
    """What can be tuned of them, by name."""
    return groups.numbers if isinstance(groups, ByName) else {}


def tuned_groups(groups: Groups | None, settings: Mapping[str, Any]) -> Groups | None:
    """With other numbers, by their names; other settings are passed over."""
    if not isinstance(groups, ByName):
        return groups
    numbers = groups.numbers | dict(settings)
    ratios, cooldowns = (
        {p: numbers[f"{p}.{what}"] for p in groups.ratios} for what in (RATIO, COOLDOWN)
    )
    return replace(groups, ratios=ratios, cooldowns=cooldowns)


def base_of(groups: Groups | None) -> Groups | None:
    """The task's own function beneath what is said by name."""
    return groups.base if isinstance(groups, ByName) else groups


def fitting(option: str, pattern: str, model: nn.Module) -> list[str]:
    """Names of the parameters that a pattern fits."""
    names = [name for name, _ in model.named_parameters()]
    # What the model itself has by that name, and only else what its parts have.
    fits = [name for name in names if f"{name}.".startswith(f"{pattern}.")]
    fits = fits or [name for name in names if fnmatchcase(f".{name}.", f"*.{pattern}.*")]
    if not fits and pattern == "head":
        head = head_of(model)
        fits = [name for name in names if name in head]
    if not fits and pattern == "backbone":
        head = set(fitting(option, "head", model))
        fits = [name for name in names if name not in head]
    if not fits:
        parts = dict.fromkeys(part for name in names for part in name.split("."))
        known = ["head", "backbone", *parts, *names]
        first = list(dict.fromkeys(name.partition(".")[0] for name in names))
        more = ", ..." if len(first) > SHOWN else ""
        raise InputError(
            f"{option}: {pattern!r} fits no parameter of the model, whose parts are "
            f"{', '.join(first[:SHOWN])}{more}{nearest(pattern, known)}"
        )
    return fits


def head_of(model: nn.Module) -> set[str]:
    """Names of the output layer's parameters; none where it shares them with the embedding.

    What timm calls the classifier; what Hugging Face's models have beside their base; of any other
    model the last module with a matrix, of those that are called as in HEADS if some are.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    classifier, base = (getattr(model, name, None) for name in ("get_classifier", "base_model"))
    if isinstance(base, nn.Module) and base is not model:
        return {*names.values()} - {names[parameter] for parameter in base.parameters()}
    parts = classifier() if callable(classifier) else []
    modules = parts if isinstance(parts, tuple | list) else [parts]
    if owned := [names[parameter] for module in modules for parameter in module.parameters()]:
        return set(owned)
    every = model.named_parameters(remove_duplicate=False)
    matrices = [name for name, parameter in every if parameter.dim() > 1]
    called = [name for name in matrices if HEADS & {*name.split(".")}]
    last = (called or matrices or [""])[-1].rpartition(".")[0]
    return {name for name in names.values() if name.rpartition(".")[0] == last}


def layer_ratios(model: nn.Module, decay: float) -> dict[str, float]:
    """``decay ** (layers after it)`` of each parameter: 1 in the last layer, which is the head.

    Source: Bao, Dong, Piao and Wei, "BEiT" (2022), and timm's ``param_groups_layer_decay``.
    """
    layers = layers_of(model)
    if len(layers) < 2:
        raise InputError(
            f"layer_decay={decay}: {type(model).__name__} has no numbered layers, such as "
            "blocks.0, blocks.1 or layer1, layer2: give groups by name instead"
        )
    last = len(layers) - 1
    return {name: decay ** (last - i) for i, layer in enumerate(layers) for name in layer}


def layers_of(model: nn.Module) -> list[list[str]]:
    """Names of the parameters, layer after layer from the input to the head; one: none is seen.

    timm's own layers where the model is timm's. Else a layer is a part with a number in its name
    (``blocks.0``, ``layer1``), the outermost; what comes before them is one more, and so is the
    head with what follows them. A part without a matrix, a norm, say, belongs to the layer before.
    """
    shapes = {name: parameter.dim() for name, parameter in model.named_parameters()}
    names, layers = list(shapes), dict[str, list[str]]()
    if callable(getattr(model, "group_matcher", None)):
        from timm.models import group_parameters

        matcher = model.group_matcher(coarse=False)  # type: ignore[operator]
        numbers = group_parameters(model, matcher, reverse=True)
        for name in sorted(names, key=numbers.__getitem__):
            layers.setdefault(numbers[name], []).append(name)
        return list(layers.values())
    head = head_of(model)
    numbered = {name: part for name, part in _numbered(names).items() if part and name not in head}
    if not numbered:
        return [names]
    *_, last = numbered
    key = "before"
    for place, name in enumerate(names):
        if name not in head:
            after = place > names.index(last) and shapes[name] > 1
            key = numbered.get(name, "after" if after else key)
            layers.setdefault(key, []).append(name)
    joined: list[list[str]] = []
    for layer in layers.values():
        if joined and all(shapes[name] <= 1 for name in layer):
            joined[-1] += layer
        else:
            joined.append(layer)
    rest = joined.pop() if "after" in layers else []
    rest = [*rest, *(name for name in names if name in head)]
    return [*joined, rest] if rest else joined


def _numbered(names: list[str], start: int = 0) -> dict[str, str]:
    """Of each name the beginning that ends with the first number from a place on; else empty."""
    parts = {}
    for name in names:
        ends = (m.end() for m in re.finditer(r"[^.]*\d[^.]*(?=\.)", name[start:]))
        end = next(ends, None)
        parts[name] = "" if end is None else name[: start + end]
    (part, count), *_ = Counter(parts.values()).most_common(1)
    if part and count >= NEARLY_ALL * len(names):  # a container: Sequential(backbone, head), say
        inner = _numbered([name for name in names if parts[name] == part], len(part) + 1)
        if count == len(names) or len({*inner.values()} - {""}) > 1:
            return parts | inner
    return parts


@dataclass(frozen=True)
class Frozen:
    """A Task's ``model`` of which some parts do not train.

    A module all of whose parameters are frozen runs as in evaluation, with all that is in it: its
    batch norms keep their statistics, and its dropout does nothing.
    """

    make: Callable[[], nn.Module]
    patterns: tuple[str, ...]

    def __call__(self) -> nn.Module:
        """A fresh model."""
        model = self.make()
        for pattern in self.patterns:
            for name in fitting("freeze", pattern, model):
                model.get_parameter(name).requires_grad_(False)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError(f"freeze: {', '.join(self.patterns)}: nothing is left to train")
        still: set[nn.Module] = set()
        for module in model.modules():
            own = list(module.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                still.update(module.eval().modules())
        for module in still:
            module.train = _stay  # type: ignore[method-assign,assignment]
        return model


def _stay(mode: bool = True) -> None:
    """``train`` of a module that stays in evaluation mode; of it, it holds nothing: no cycle."""


def frozen(make: Any, patterns: tuple[str, ...]) -> Any:
    """A Task's model with these parts frozen, and no others than the user's own."""
    make = make.make if isinstance(make, Frozen) else make
    return Frozen(make, patterns) if patterns else make


def check_effect(groups: Groups | None, model: nn.Module, loss: Tensor) -> None:
    """Refuse patterns whose parameters all get no gradient."""
    if not isinstance(groups, ByName):
        return
    free = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(free.values()), allow_unused=True)
    reached = {name for name, slope in zip(free, gradients, strict=True) if slope is not None}
    groups(model)  # which refuses what is frozen
    patterns = groups.patterns(model)
    for pattern in groups.ratios:
        if not any(name in reached for name, last in patterns.items() if last == pattern):
            raise InputError(
                f"groups: {pattern}: its rate has no effect: the loss does not depend on it"
            )


def rows_of(
    groups: Groups | None, freeze: tuple[str, ...], model: nn.Module
) -> list[dict[str, Any]]:
    """What each group got, for the record, but for what has neither a pattern nor a ratio.

    Returns:
        Dictionaries: the pattern, empty where the ratio has another reason; the ratio, 0 of what
        does not train; how many parameters; the beginnings of their names, in whole parts.
    """
    named = dict(model.named_parameters())
    names: dict[Tensor, str] = {parameter: name for name, parameter in named.items()}
    ratios = dict.fromkeys(named, 0.0 if groups else 1.0)
    for group in groups(model) if groups else []:
        known = [names[p] for p in listed(group["params"]) if p in names]
        ratios |= dict.fromkeys(known, float(group.get("lr_ratio", 1.0)))
    patterns = groups.patterns(model) if isinstance(groups, ByName) else {}
    still = [name for name, parameter in named.items() if not parameter.requires_grad]
    ratios, patterns = ratios | dict.fromkeys(still, 0.0), patterns | dict.fromkeys(still, "")
    for pattern in freeze:
        patterns |= dict.fromkeys(fitting("freeze", pattern, model), pattern)
    keys = {name: (patterns.get(name, ""), ratio) for name, ratio in ratios.items()}
    return [
        {
            "pattern": key[0],
            "ratio": key[1],
            COOLDOWN: 0.0,  # what is tuned of it is a trial's
            "parameters": sum(named[name].numel() for name in named if keys[name] == key),
            "names": beginnings,
        }
        for key, beginnings in covering(keys).items()
        if key != ("", 1.0)
    ]


def covering(keys: Mapping[str, Key]) -> dict[Key, list[str]]:
    """Of each key the shortest beginnings of names that no name with another key has.

    Example:
        >>> covering({"fc.weight": 1, "fc.bias": 1, "norm.weight": 1, "norm.bias": 2})
        {1: ['fc', 'norm.weight'], 2: ['norm.bias']}
    """
    within: dict[str, set[Key]] = {}
    beginnings = {name: [name[: m.end()] for m in re.finditer(r"[^.]+", name)] for name in keys}
    for name, key in keys.items():
        for beginning in beginnings[name]:
            within.setdefault(beginning, set()).add(key)
    found: dict[Key, dict[str, None]] = {}
    for name, key in keys.items():
        shortest = next(b for b in beginnings[name] if within[b] == {key})
        found.setdefault(key, {})[shortest] = None
    return {key: list(shortest) for key, shortest in found.items()}


def listed(parameters: Any) -> list[Tensor]:
    """What torch takes as a group's params: a tensor, or several, maybe with their names."""
    several = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [each[1] if isinstance(each, tuple) else each for each in several]
