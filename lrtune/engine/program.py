"""Program: what one update, and one look at validation data, is for many trials at once."""

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrtune.engine.rows import Layout, Rows, Tensors
from lrtune.engine.rules import step_rows
from lrtune.engine.setup import Parts, Setup
from lrtune.tasks.tree import Tree


class Program:
    """One model run with the weights of many; the model's own weights are never looked at."""

    def __init__(self, setup: Setup, layout: Layout, model: nn.Module, *, prepared: bool) -> None:
        """Make the program.

        Args:
            setup: the task on its device.
            layout: of its parameters.
            model: one of the task's.
            prepared: whether batches come prepared and augmented; else that is done here.
        """
        self._setup = setup
        self._layout = layout
        self._trained = model.train()
        self._judged = deepcopy(model).eval()
        self._prepared = prepared
        task = setup.task
        self._clip_norm = task.clip_norm
        self._decay = None if task.ema is None else 1 - 1 / max(1.0, task.ema * task.horizon)

    @torch.no_grad()
    def update(
        self, rows: Rows, inputs: Tree, parts: Parts, rates: Tensor, updates: Tensor
    ) -> Tensor:
        """One update of every row, in place.

        Args:
            rows: K of them.
            inputs: tensors (K, batch, ...).
            parts: weights (K,), and targets (K, batch, ...).
            rates: (K, 1).
            updates: (K, 1), with this one.

        Returns:
            The losses (K,) before the update.
        """
        with self._setup.autocast():
            gradients, losses = self.gradients(rows, inputs, parts)
        if self._clip_norm is not None:
            norms = gradients.norm(dim=1, keepdim=True)
            gradients = gradients * (self._clip_norm / (norms + 1e-6)).clamp(max=1.0)
        for (settings, start, stop), state in zip(self._layout.groups, rows.states, strict=True):
            if stop > start:
                step_rows(
                    self._layout.rule,
                    rows.weights[:, start:stop],
                    gradients[:, start:stop],
                    state,
                    settings,
                    rates * settings["lr_ratio"],
                )
        if self._decay is not None:
            newest = (1 - self._decay) / (1 - self._decay**updates)
            self._mix(rows, newest)
        return losses

    def gradients(self, rows: Rows, inputs: Tree, parts: Parts) -> tuple[Tensor, Tensor]:
        """Gradients (K, n) and losses (K,) of every row; buffers change as the model says."""
        with self._attention():
            gradients, losses = vmap(grad_and_value(self._loss))(
                rows.weights, rows.buffers, inputs, parts
            )
        return gradients, losses

    @torch.no_grad()
    def outputs(self, weights: Tensor, buffers: Tensors, inputs: Tree, at_once: int) -> Tree:
        """What K models say of the same inputs, in evaluation mode: tensors (K, n, ...).

        Args:
            weights: (K, n).
            buffers: (K, ...).
            inputs: as the model takes them.
            at_once: how many models run together.
        """

        def run(row: Tensor, buffers: Tensors, inputs: Tree) -> Any:
            held = {**self._layout.named(row), **buffers}
            return functional_call(self._judged, held, (inputs,))

        with self._setup.autocast(), self._attention():
            return vmap(run, in_dims=(0, 0, None), chunk_size=at_once)(weights, buffers, inputs)

    def _loss(self, row: Tensor, buffers: Tensors, inputs: Tree, parts: Parts) -> Tensor:
        if not self._prepared:
            inputs = self._setup.prepare(inputs)
        outputs = functional_call(self._trained, {**self._layout.named(row), **buffers}, (inputs,))
        return self._setup.loss_of(outputs, parts)

    def _mix(self, rows: Rows, newest: Tensor) -> None:
        """See Average."""
        rows.average["weights"].copy_(rows.average["weights"].lerp(rows.weights, newest))
        for name, mean in rows.average["buffers"].items():
            current = rows.buffers[name]
            if mean.is_floating_point():
                share = newest.view(-1, *[1] * (mean.dim() - 1)).to(mean.dtype)
                mean.copy_(mean.lerp(current, share))
            else:
                mean.copy_(current)

    def _attention(self) -> Any:
        """CUDA's attention kernels have no rule for many models at once: the plain one has."""
        if self._setup.device.type == "cuda":
            return sdpa_kernel(SDPBackend.MATH)
        return nullcontext()
