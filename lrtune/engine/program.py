"""Program: what one update, and one look at validation data, is for many trials at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrtune.engine.rows import Layout, Rows, Tensors
from lrtune.engine.rules import step_rows
from lrtune.engine.setup import Parts, Setup
from lrtune.tasks.tree import Tree


class Program:
    """One model run with the weights of many; the model's own weights are never looked at."""

    def __init__(
        self,
        setup: Setup,
        layout: Layout,
        *,
        prepared: bool,
        autocast: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        """Make the program.

        Args:
            setup: the task on its device.
            layout: of the model's parameters.
            prepared: whether batches come prepared and augmented; else that is done here.
            autocast: the precision, if not the task's.
        """
        self._setup = setup
        self._layout = layout
        self._trained = setup.model(seed=0)
        self._judged = setup.model(seed=0).eval()
        self._prepared = prepared
        self._autocast = autocast or setup.autocast
        self._clip_norm = setup.task.clip_norm

    @torch.no_grad()
    def update(
        self, rows: Rows, inputs: Tree, parts: Parts, rates: Tensor, newest: Tensor
    ) -> Tensor:
        """One update of every row, in place.

        Args:
            rows: K of them.
            inputs: tensors (K, batch, ...).
            parts: weights (K,), and targets (K, batch, ...).
            rates: (K, 1).
            newest: (K, 1), what the new weights count in the average; for nothing without ``ema``.

        Returns:
            The losses (K,) before the update.
        """
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
        if rows.average:
            _mix(rows, newest)
        return losses

    def gradients(self, rows: Rows, inputs: Tree, parts: Parts) -> tuple[Tensor, Tensor]:
        """Gradients (K, n) and losses (K,) of every row; buffers change as the model says."""
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no batched form
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
            with self._autocast():
                return functional_call(self._judged, held, (inputs,))

        with sdpa_kernel(SDPBackend.MATH):
            return vmap(run, in_dims=(0, 0, None), chunk_size=at_once)(weights, buffers, inputs)

    def _loss(self, row: Tensor, buffers: Tensors, inputs: Tree, parts: Parts) -> Tensor:
        held = {**self._layout.named(row), **buffers}
        with self._autocast():  # but not around the backward pass, which follows the forward one
            if not self._prepared:
                inputs = self._setup.prepare(inputs)
            return self._setup.loss_of(functional_call(self._trained, held, (inputs,)), parts)


def _mix(rows: Rows, newest: Tensor) -> None:
    """See Average."""
    rows.average["weights"].lerp_(rows.weights, newest)
    for name, mean in rows.average["buffers"].items():
        current = rows.buffers[name]
        if mean.is_floating_point():
            mean.lerp_(current, newest.view(-1, *[1] * (mean.dim() - 1)).to(mean.dtype))
        else:
            mean.copy_(current)
