"""Rows: the state of K trials as a few tensors, a row a trial."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.engine.optimizers import OPTIMIZERS, make_optimizer
from lrtune.engine.rules import RULES, Rule, State, fresh_state
from lrtune.tasks import Task
from lrtune.tasks.tree import Tree, leaves, tree_map

Tensors = dict[str, Tensor]


class Unfit(Exception):
    """Why a task is not for the fused pool."""


@dataclass(frozen=True)
class Column:
    """Where a parameter lies in the matrix of weights: columns ``start ... stop - 1``."""

    name: str
    shape: torch.Size
    start: int
    stop: int
    group: int


class Layout:
    """Which parameter is where, in which group, under which rule.

    Attributes:
        columns: of the parameters that are trained, group by group.
        rule: of RULES.
        groups: the optimizer's settings, and first and last column, of each group.
        begins: what each tensor of the optimizer's state of a group begins with.
    """

    def __init__(self, task: Task, model: nn.Module, reached: set[str]) -> None:
        """Lay out the parameters of a model.

        Args:
            task: with the optimizer and its groups.
            model: one of the task's.
            reached: names of the parameters that the loss depends on; the others stay as they are,
                as torch's optimizers leave what has no gradient.

        Raises:
            Unfit: the model or the optimizer cannot be laid out so.
        """
        make = OPTIMIZERS[task.optimizer].make
        names = {parameter: name for name, parameter in model.named_parameters()}
        self.rule: Rule = RULES[make]
        self.columns: list[Column] = []
        self.groups: list[tuple[dict[str, Any], int, int]] = []
        self.begins: list[dict[str, float]] = []
        stop = 0
        for number, group in enumerate(make_optimizer(task, model).param_groups):
            first = stop
            for parameter in group["params"]:
                if parameter not in names:
                    raise Unfit(f"group {number} of groups holds what is no parameter of the model")
                if names[parameter] in reached:
                    start, stop = stop, stop + parameter.numel()
                    column = Column(names[parameter], parameter.shape, start, stop, number)
                    self.columns.append(column)
            settings = {name: value for name, value in group.items() if name != "params"}
            if settings.get("dampening"):
                raise Unfit("with dampening, SGD's first update is of another kind than the rest")
            self.groups.append((settings, first, stop))
            self.begins.append(fresh_state(settings, make))
        self.width = stop
        self.dtype = self._check(task, {name: p.dtype for p, name in names.items()}, reached)

    def _check(self, task: Task, kinds: dict[str, torch.dtype], reached: set[str]) -> torch.dtype:
        """The one type of all that is trained."""
        ours = {column.name for column in self.columns}
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

    def named(self, row: Tensor) -> Tensors:
        """The weights of a row (width,) by name, in their shapes."""
        parts = row.split([column.stop - column.start for column in self.columns])
        return {c.name: part.view(c.shape) for c, part in zip(self.columns, parts, strict=True)}


class Rows:
    """Weights, optimizer, buffers and averages of trials.

    Attributes:
        weights: (K, n) of the parameters that are trained.
        buffers: by name (K, ...): everything else that a model holds.
        states: of the optimizer, a dictionary a group.
        average: weights and buffers, averaged; empty where the task has no ``ema``.
    """

    def __init__(
        self, weights: Tensor, buffers: Tensors, states: list[State], average: dict[str, Any]
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


def empty_rows(layout: Layout, model: nn.Module, rows: int, ema: float | None) -> Rows:
    """Room for trials, each as a fresh optimizer and this model's buffers would have it."""
    device = next(model.parameters()).device
    like: dict[str, Any] = {"dtype": layout.dtype, "device": device}
    trained = {column.name for column in layout.columns}
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    buffers = {
        name: tensor.detach()
        .expand(rows, *tensor.shape)
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in held.items()
        if name not in trained
    }
    states = []
    for (_, start, stop), begins in zip(layout.groups, layout.begins, strict=True):
        shapes = {name: (rows, 1 if name == "step" else stop - start) for name in begins}
        states.append({n: torch.full(shapes[n], value, **like) for n, value in begins.items()})
    weights = torch.zeros(rows, layout.width, **like)
    own = Rows(weights, buffers, states, {})
    if ema is not None:
        own.average = {"weights": weights.clone(), "buffers": tree_map(torch.clone, buffers)}
    return own


def tensors_of(model: nn.Module) -> Tensors:
    """A fresh model as a Snapshot has it: its average is itself, its optimizer knows nothing."""
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {f"weights/{name}": tensor.detach() for name, tensor in held.items()}


@torch.no_grad()
def load(rows: Rows, layout: Layout, row: int, tensors: Mapping[str, Tensor]) -> None:
    """Put a Snapshot's tensors in a row; what is missing of optimizer and average begins anew."""
    for kind, weights, buffers in _models(rows):
        own = {
            n: tensors.get(f"{kind}/{n}", tensors.get(f"weights/{n}")) for n in _all(layout, rows)
        }
        for column in layout.columns:
            weights[row, column.start : column.stop] = own[column.name].flatten()  # type: ignore[union-attr]
        for name, buffer in buffers.items():
            buffer[row] = own[name]  # type: ignore[assignment]
    for column in layout.columns:
        state, start = rows.states[column.group], layout.groups[column.group][1]
        for name, begins in layout.begins[column.group].items():
            found = tensors.get(f"optimizer/{column.name}/{name}")
            if name == "step":
                state[name][row] = begins if found is None else float(found)
            else:
                value = begins if found is None else found.flatten()
                state[name][row, column.start - start : column.stop - start] = value


def save(rows: Rows, layout: Layout, row: int) -> Tensors:
    """The tensors of a Snapshot, copied to the CPU."""
    found: Tensors = {}
    for kind, weights, buffers in _models(rows):
        found |= {f"{kind}/{name}": t for name, t in layout.named(weights[row]).items()}
        found |= {f"{kind}/{name}": buffer[row] for name, buffer in buffers.items()}
    for column in layout.columns:
        start = layout.groups[column.group][1]
        for name, value in rows.states[column.group].items():
            whole = value[row]
            if name == "step":
                found[f"optimizer/{column.name}/{name}"] = whole[0]
            else:
                own = whole[column.start - start : column.stop - start].view(column.shape)
                found[f"optimizer/{column.name}/{name}"] = own
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items()}


def _models(rows: Rows) -> list[tuple[str, Tensor, Tensors]]:
    models = [("weights", rows.weights, rows.buffers)]
    if rows.average:
        models.append(("average", rows.average["weights"], rows.average["buffers"]))
    return models


def _all(layout: Layout, rows: Rows) -> list[str]:
    return [column.name for column in layout.columns] + list(rows.buffers)
