"""Program: what one update, and one look at validation data, is for many trials at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lrtune.engine.optimizers import momentum_of
from lrtune.engine.rows import Layout, Rows, Tensors
from lrtune.engine.rules import step_rows
from lrtune.engine.setup import Parts, Setup
from lrtune.tasks.splits import Tree


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
        self,
        rows: Rows,
        inputs: Tree,
        parts: Parts,
        rates: Tensor,
        momenta: Tensor | None = None,
    ) -> Tensor:
        """One update of every row, in place.

        Args:
            rows: K of them.
            inputs: tensors (K, batch, ...).
            parts: weights (K,), and targets (K, batch, ...).
            rates: (K,).
            momenta: (K,), NaN where it is the optimizer's own; None where all are.

        Returns:
            The losses (K,) before the update.
        """
        gradients, losses = self.gradients(rows, inputs, parts)
        if self._clip_norm is not None:
            gradients = _clipped(gradients, self._clip_norm)
        for name, weights in rows.weights.items():
            settings = self._layout.settings[name]
            own = _column(rates * settings["lr_ratio"], weights)
            moved = None
            if momenta is not None:
                given = torch.where(momenta.isnan(), momentum_of(settings), momenta)
                moved = _column(given, weights)
            state = rows.states[name]
            step_rows(self._layout.rule, weights, gradients[name], state, settings, own, moved)
        return losses

    def gradients(self, rows: Rows, inputs: Tree, parts: Parts) -> tuple[Tensors, Tensor]:
        """Gradients (K, ...) and losses (K,) of every row; buffers change as the model says."""
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no batched form
            gradients, losses = vmap(grad_and_value(self._loss))(
                rows.weights, rows.buffers, inputs, parts
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
                inputs = self._setup.prepare(inputs)
            return self._setup.loss_of(functional_call(self._trained, held, (inputs,)), parts)


def _clipped(gradients: Tensors, longest: float) -> Tensors:
    """As ``clip_grad_norm_``, each row for itself."""
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    shares = (longest / (norms + 1e-6)).clamp(max=1.0)
    return {name: g * _column(shares, g) for name, g in gradients.items()}


def _column(rows: Tensor, like: Tensor) -> Tensor:
    """A number a row (K,), to go with (K, ...)."""
    return rows.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)


@torch.no_grad()
def mix(rows: Rows, newest: Tensor) -> None:
    """Take the weights into their averages, newest (K,) says with what share; see Average."""
    for kind, current in (("weights", rows.weights), ("buffers", rows.buffers)):
        for name, mean in rows.average[kind].items():
            if mean.is_floating_point():
                mean.lerp_(current[name], _column(newest, mean))
            else:
                mean.copy_(current[name])
