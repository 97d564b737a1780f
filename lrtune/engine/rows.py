"""Rows: the state of K trials, stacked: a row of every tensor is a trial."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.engine.optimizers import OPTIMIZERS, make_optimizer
from lrtune.engine.rules import RULES, Rule, State, fresh_state
from lrtune.tasks import Task
from lrtune.tasks.splits import Tree, leaves, tree_map

Tensors = dict[str, Tensor]


class Unfit(Exception):
    """Why a task is not for the fused pool."""


class Layout:
    """Which parameters are trained, and how.

    Attributes:
        rule: of RULES.
        settings: the optimizer's, of each parameter that is trained.
        begins: what each tensor of a parameter's state begins with.
        dtype: of all that is trained.
    """

    def __init__(self, task: Task, model: nn.Module, reached: set[str]) -> None:
        """Look at the parameters of a model.

        Args:
            task: with the optimizer and its groups.
            model: one of the task's.
            reached: names of the parameters that the loss depends on; the others stay as they are,
                as torch's optimizers leave what has no gradient.

        Raises:
            Unfit: the model or the optimizer is not for many trials at once.
        """
        make = OPTIMIZERS[task.optimizer].make
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.rule: Rule = RULES[make]
        self.settings: dict[str, dict[str, Any]] = {}
        self.begins: dict[str, dict[str, float]] = {}
        for number, group in enumerate(make_optimizer(task, model).param_groups):
            settings = {name: value for name, value in group.items() if name != "params"}
            if settings.get("dampening"):
                raise Unfit("with dampening, SGD's first update is of another kind than the rest")
            begins = fresh_state(settings, make)
            for parameter in group["params"]:
                if parameter not in names:
                    raise Unfit(f"group {number} of groups holds what is no parameter of the model")
                if names[parameter] in reached:
                    self.settings[names[parameter]] = settings
                    self.begins[names[parameter]] = begins
        self.dtype = self._check(task, {name: p.dtype for p, name in names.items()}, reached)

    def _check(self, task: Task, kinds: dict[str, torch.dtype], reached: set[str]) -> torch.dtype:
        """The one type of all that is trained."""
        ours = set(self.settings)
        others = sorted(reached - ours)
        if others and task.clip_norm is not None:
            raise Unfit(
                f"the clipped norm is of all gradients, but {others[0]} is in none of the groups"
            )
        found = sorted({str(kinds[name]).removeprefix("torch.") for name in ours})
        if len(found) != 1:
            raise Unfit(f"its parameters are of several types: {', '.join(found)}")
        if found[0] not in ("float32", "float64"):
            raise Unfit(f"its parameters are {found[0]}: only float32 and float64 can be")
        return kinds[ours.pop()]


class Rows:
    """Weights, optimizer, buffers and averages of trials.

    Attributes:
        weights: by name (K, ...): the parameters that are trained.
        buffers: by name (K, ...): everything else that a model holds.
        states: of the optimizer, of each parameter, by torch's names (K, ...).
        average: weights and buffers, averaged; empty where none are averaged.
    """

    def __init__(
        self, weights: Tensors, buffers: Tensors, states: dict[str, State], average: dict[str, Any]
    ) -> None:
        self.weights = weights
        self.buffers = buffers
        self.states = states
        self.average = average

    @property
    def tree(self) -> Tree:
        """All tensors."""
        return [self.weights, self.buffers, self.states, self.average]

    def map(self, function: Any) -> "Rows":
        """Each tensor replaced."""
        return Rows(*tree_map(function, self.tree))

    def part(self, start: int, stop: int) -> "Rows":
        """Some of the rows, without a copy."""
        return self.map(lambda tensor: tensor[start:stop])

    @torch.no_grad()
    def paste(self, rows: Any, other: "Rows") -> None:
        """Write other rows over these: an index, a slice or a list of them."""
        for ours, theirs in zip(leaves(self.tree), leaves(other.tree), strict=True):
            ours[rows] = theirs


def empty_rows(layout: Layout, model: nn.Module, rows: int, averaged: bool) -> Rows:
    """Room for trials, each as a fresh optimizer and this model would have it."""

    def repeated(tensor: Tensor) -> Tensor:
        wide = tensor.detach().expand(rows, *tensor.shape)
        return wide.clone(memory_format=torch.contiguous_format)

    held = {name: repeated(t) for name, t in tensors_by_name(model).items()}
    weights = {name: held.pop(name) for name in layout.settings}
    states: dict[str, State] = {}
    for name, weight in weights.items():
        # What torch counts in one number is one number a row.
        counts = (rows, *[1] * (weight.dim() - 1))
        states[name] = {
            kind: weight.new_full(counts if kind == "step" else weight.shape, value)
            for kind, value in layout.begins[name].items()
        }
    own = Rows(weights, held, states, {})
    if averaged:
        own.average = tree_map(torch.clone, {"weights": weights, "buffers": held})
    return own


def copied(rows: Rows, device: torch.device) -> Rows:
    """A copy, on any device."""
    return rows.map(lambda tensor: tensor.to(device, copy=True))


def add_momentum(rows: Rows, layout: Layout) -> None:
    """Room for the momentum of trials that cycle it, where the optimizer itself has none."""
    for name, state in rows.states.items():
        if "momentum" in layout.settings[name] and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(rows.weights[name])
            layout.begins[name]["momentum_buffer"] = 0.0


def tensors_by_name(model: nn.Module) -> Tensors:
    """All that a model holds."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def tensors_of(model: nn.Module) -> Tensors:
    """A fresh model as a Snapshot has it: its average is itself, its optimizer knows nothing."""
    return {f"weights/{name}": tensor.detach() for name, tensor in tensors_by_name(model).items()}


@torch.no_grad()
def load(rows: Rows, layout: Layout, row: int, tensors: Mapping[str, Tensor]) -> None:
    """Put a Snapshot's tensors in a row; what is missing of optimizer and average begins anew."""
    for kind, held in _models(rows):
        for name, tensor in held.items():
            fresh = tensors[f"weights/{name}"]
            tensor[row] = tensors.get(f"{kind}/{name}", fresh)
    for name, state in rows.states.items():
        for kind, tensor in state.items():
            tensor[row] = tensors.get(f"optimizer/{name}/{kind}", layout.begins[name][kind])


def save(rows: Rows, row: int) -> Tensors:
    """The tensors of a Snapshot, copied to the CPU."""
    found = {f"{kind}/{name}": t[row] for kind, held in _models(rows) for name, t in held.items()}
    for name, state in rows.states.items():
        for kind, tensor in state.items():
            own = tensor[row]
            found[f"optimizer/{name}/{kind}"] = own.flatten()[0] if kind == "step" else own
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items()}


def _models(rows: Rows) -> list[tuple[str, Tensors]]:
    models = [("weights", {**rows.weights, **rows.buffers})]
    if rows.average:
        models.append(("average", {**rows.average["weights"], **rows.average["buffers"]}))
    return models
