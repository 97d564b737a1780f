"""StackedState and Program: the weights of many trials, and what one update of all of them is."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrtune.engine.device_task import DeviceTask, Parts
from lrtune.engine.optimizers import StackedOptimizer, Tensors, column
from lrtune.tasks.splits import Tree, leaves, tree_map


class StackedState:
    """Weights, optimizer state, buffers and averages: a row of every tensor is a trial.

    Attributes:
        weights: by name (K, ...): the parameters that are trained.
        buffers: by name (K, ...): everything else that a model holds.
        states: of the optimizer, of each parameter, by torch's names (K, ...).
        average: weights and buffers, averaged, by name (K, ...); empty where none are averaged.
    """

    def __init__(
        self, weights: Tensors, buffers: Tensors, states: dict[str, Tensors], average: Tensors
    ) -> None:
        self.weights = weights
        self.buffers = buffers
        self.states = states
        self.average = average

    @classmethod
    def empty(
        cls, optimizer: StackedOptimizer, model: nn.Module, rows: int, averaged: bool
    ) -> "StackedState":
        """Room for trials, each as a fresh optimizer and this model would have it."""

        def repeated(tensor: Tensor) -> Tensor:
            wide = tensor.detach().expand(rows, *tensor.shape)
            return wide.clone(memory_format=torch.contiguous_format)

        held = {name: repeated(tensor) for name, tensor in _held(model).items()}
        average = tree_map(torch.clone, held) if averaged else {}
        weights = {name: held.pop(name) for name in optimizer.settings}
        states: dict[str, Tensors] = {}
        for name, weight in weights.items():
            # What torch counts in one number is one number per row.
            counts = (rows, *[1] * (weight.dim() - 1))
            states[name] = {
                kind: weight.new_full(counts if kind == "step" else weight.shape, value)
                for kind, value in optimizer.initial[name].items()
            }
        return cls(weights, held, states, average)

    @property
    def tree(self) -> Tree:
        """All tensors."""
        return [self.weights, self.buffers, self.states, self.average]

    @property
    def models(self) -> dict[str, Tensors]:
        """Weights and buffers by name (K, ...): the current ones, and the averages if any."""
        current = {"weights": {**self.weights, **self.buffers}}
        return current | ({"average": self.average} if self.average else {})

    def map(self, function: Any) -> "StackedState":
        """Each tensor replaced."""
        return StackedState(*tree_map(function, self.tree))

    def part(self, start: int, stop: int) -> "StackedState":
        """Some of the rows, without a copy."""
        return self.map(lambda tensor: tensor[start:stop])

    def copied(self, device: torch.device) -> "StackedState":
        """A copy, on any device."""
        return self.map(lambda tensor: tensor.to(device, copy=True))

    @torch.no_grad()
    def paste(self, rows: Any, other: "StackedState") -> None:
        """Write other rows over these: an index, a slice or a list of them."""
        for ours, theirs in zip(leaves(self.tree), leaves(other.tree), strict=True):
            ours[rows] = theirs

    @torch.no_grad()
    def load(self, row: int, tensors: Mapping[str, Tensor], optimizer: StackedOptimizer) -> None:
        """Put a Snapshot's tensors in a row; missing optimizer state and averages begin anew."""
        for kind, model in self.models.items():
            for name, tensor in model.items():
                tensor[row] = tensors.get(f"{kind}/{name}", tensors[f"weights/{name}"])
        for name, state in self.states.items():
            for kind, tensor in state.items():
                initial = optimizer.initial[name][kind]
                tensor[row] = tensors.get(f"optimizer/{name}/{kind}", initial)

    def save(self, row: int) -> Tensors:
        """The tensors of a Snapshot, copied to the CPU."""
        tensors = {
            f"{kind}/{name}": tensor[row]
            for kind, model in self.models.items()
            for name, tensor in model.items()
        }
        for name, state in self.states.items():
            for kind, tensor in state.items():
                own = tensor[row]
                tensors[f"optimizer/{name}/{kind}"] = own.flatten()[0] if kind == "step" else own
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    @torch.no_grad()
    def mix(self, shares: Tensor) -> None:
        """Take the weights into their averages, shares (K,) says how much; see Average."""
        current = self.models["weights"]
        for name, mean in self.average.items():
            if mean.is_floating_point():
                mean.lerp_(current[name], column(shares, mean))
            else:  # an index or a count has no mean
                mean.copy_(current[name])


def _held(model: nn.Module) -> Tensors:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def tensors_of(model: nn.Module) -> Tensors:
    """A fresh model as a Snapshot has it: its average is itself, its optimizer knows nothing."""
    return {f"weights/{name}": tensor.detach() for name, tensor in _held(model).items()}


class Program:
    """One model run with the weights of many; the model's own weights are never looked at."""

    def __init__(
        self,
        task: DeviceTask,
        optimizer: StackedOptimizer,
        *,
        prepared: bool,
        autocast: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        """Make the program.

        Args:
            task: on its device.
            optimizer: of the model's parameters.
            prepared: whether batches come prepared and augmented; else that is done here.
            autocast: the precision, if not the task's.
        """
        self._task = task
        self._optimizer = optimizer
        self._trained = task.model(seed=0)
        self._judged = task.model(seed=0).eval()
        self._prepared = prepared
        self._autocast = autocast or task.autocast
        self._clip_norm = task.task.clip_norm

    @torch.no_grad()
    def update(
        self,
        state: StackedState,
        inputs: Tree,
        parts: Parts,
        rates: Tensor,
        momenta: Tensor | None = None,
    ) -> Tensor:
        """One update of every row, in place.

        Args:
            state: of K trials.
            inputs: tensors (K, batch, ...).
            parts: weights (K,), and targets (K, batch, ...).
            rates: (K,).
            momenta: (K,), NaN where it is the optimizer's own; None where all are.

        Returns:
            The losses (K,) before the update.
        """
        gradients, losses = self.gradients(state, inputs, parts)
        if self._clip_norm is not None:
            gradients = _clipped(gradients, self._clip_norm)
        for name, weights in state.weights.items():
            self._optimizer.step(name, weights, gradients[name], state.states[name], rates, momenta)
        return losses

    def gradients(self, state: StackedState, inputs: Tree, parts: Parts) -> tuple[Tensors, Tensor]:
        """Gradients (K, ...) and losses (K,) of every row; buffers change as the model says."""
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no batched form
            gradients, losses = vmap(grad_and_value(self._loss))(
                state.weights, state.buffers, inputs, parts
            )
        return gradients, losses

    @torch.no_grad()
    def outputs(self, models: Tensors, inputs: Tree, at_once: int) -> Tree:
        """What K models say of the same inputs, in evaluation mode: tensors (K, n, ...).

        Args:
            models: weights and buffers (K, ...).
            inputs: as the model takes them.
            at_once: how many models run together.
        """

        def run(held: Tensors, inputs: Tree) -> Any:
            with self._autocast():
                return functional_call(self._judged, held, (inputs,))

        with sdpa_kernel(SDPBackend.MATH):
            return vmap(run, in_dims=(0, None), chunk_size=at_once)(models, inputs)

    def _loss(self, weights: Tensors, buffers: Tensors, inputs: Tree, parts: Parts) -> Tensor:
        held = {**weights, **buffers}
        with self._autocast():  # but not around the backward pass, which follows the forward one
            if not self._prepared:
                inputs = self._task.prepare(inputs)
            return self._task.loss_of(functional_call(self._trained, held, (inputs,)), parts)


def _clipped(gradients: Tensors, longest: float) -> Tensors:
    """As ``clip_grad_norm_``, each row for itself."""
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    shares = (longest / (norms + 1e-6)).clamp(max=1.0)
    return {name: g * column(shares, g) for name, g in gradients.items()}
