"""Attention of many trials at once: torch's fused kernels, with the trials folded into the batch.

``vmap`` has no rules for these on a CPU, and on CUDA none for the backward pass: it would loop over
the trials. Importing this module gives it those rules; without them, the matrix of all scores has
to be built (``SDPBackend.MATH``). The operators are torch's own affair: where another release has
others, or rules of its own, the matrix is built.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, register_vmap
from torch.nn.attention import SDPBackend

FORWARD, BACKWARD = 3, 6  # tensors: query, key, value; gradient, these, output, logsumexp
FLASH = "_scaled_dot_product_flash_attention"
ON_CPU = {FORWARD: f"{FLASH}_for_cpu", BACKWARD: f"{FLASH}_for_cpu_backward"}
ON_CUDA = f"{FLASH}_backward"


def _folded(info: Any, tensor: Tensor, dim: int | None) -> Tensor:
    """(K, n, ...) as (K n, ...); K is the dimension that ``vmap`` hides, if any."""
    rows = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return rows.flatten(0, 1)


def _folded_mask(info: Any, mask: Tensor | None, dim: int | None, samples: int) -> Tensor | None:
    """(L, S) or (n or 1, heads or 1, L, S) of a trial as (K n, heads or 1, L, S)."""
    if mask is None or (dim is None and (mask.dim() == 2 or len(mask) == 1)):
        return mask  # one for all
    rows = mask[None] if dim is None else mask.movedim(dim, 0)
    if rows.dim() == 3:
        rows = rows[:, None, None]
    return rows.expand(info.batch_size, samples, *rows.shape[2:]).flatten(0, 1)


def _rule(operator: Callable[..., Any], count: int, masked: bool) -> Callable[..., Any]:
    """Of an operator that takes so many tensors of the samples first, then perhaps a mask."""

    def rule(info: Any, dims: Any, *given: Any, **options: Any) -> Any:
        rows = [_folded(info, *each) for each in zip(given[:count], dims, strict=False)]
        rest = list(given[count:])
        if masked:
            samples = len(rows[0]) // info.batch_size
            rest[0] = _folded_mask(info, rest[0], dims[count], samples)
        results = operator(*rows, *rest, **options)
        unfolded = tuple(result.unflatten(0, (info.batch_size, -1)) for result in results)
        return unfolded, (0,) * len(unfolded)

    return rule


# The CPU's operators take their mask by keyword, which ``register_vmap`` does not allow. So where
# there are several trials, they go through two that do not.
OURS, ATEN = Library("lrtune", "FRAGMENT"), Library("aten", "IMPL")
OPTIONS = "Tensor? mask, float dropout, bool causal, float? scale"
SIGNATURES = {
    FORWARD: f"attention(Tensor q, Tensor k, Tensor v, {OPTIONS}) -> (Tensor, Tensor)",
    BACKWARD: (
        "attention_backward(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
        f"{OPTIONS}) -> (Tensor, Tensor, Tensor)"
    ),
}


def give_rules() -> list[SDPBackend]:
    """Register the rules; the kernels that the stacked program may use, the first that can run."""
    try:
        cpu = {count: getattr(torch.ops.aten, name).default for count, name in ON_CPU.items()}
        cuda = getattr(torch.ops.aten, ON_CUDA).default
        pairs = {}
        for count, signature in SIGNATURES.items():
            name = OURS.define(signature)
            pairs[count] = getattr(torch.ops.lrtune, name).default

        def on_cpu(*given: Any) -> Any:
            *tensors, mask, dropout, causal, scale = given
            return cpu[len(tensors)](*tensors, dropout, causal, attn_mask=mask, scale=scale)

        def by_ours(*given: Any, attn_mask: Any = None, scale: float | None = None) -> Any:
            tensors = [each for each in given if isinstance(each, Tensor)]
            options = dict(enumerate(given[len(tensors) :]))  # those that are not at their defaults
            dropout, causal = options.get(0, 0.0), options.get(1, False)
            return pairs[len(tensors)](*tensors, attn_mask, dropout, causal, scale)

        for count, ours in pairs.items():
            OURS.impl(ours, on_cpu, "CompositeExplicitAutograd")
            register_vmap(ours, _rule(ours, count, masked=True), lib=OURS)
            ATEN.impl(cpu[count], by_ours, "FuncTorchBatched")
        register_vmap(cuda, _rule(cuda, BACKWARD, masked=False), lib=ATEN)
    except (AttributeError, RuntimeError):
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


KERNELS = give_rules()
