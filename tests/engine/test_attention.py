"""Attention of several trials at once: as one after the other, by torch's fused kernel."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile

from lrtune.engine import FusedPool, SerialPool, attention
from tests.engine.trials import all_curves, falling, same

TRIALS, SAMPLES, HEADS, LENGTH = 3, 2, 2, 5


class Attention(nn.Module):
    """The mask is made of the inputs, in the given form."""

    def __init__(self, form):
        super().__init__()
        self.inner = nn.Linear(8, 24)
        self.form = form

    def forward(self, inputs):
        projected = self.inner(inputs).unflatten(-1, (HEADS, 12)).transpose(1, 2)
        mask, causal = None, self.form == "causal"
        if self.form == "own":
            mask = (inputs[:, :, 0] < 2)[:, None, None].expand(-1, 1, LENGTH, -1)
        elif self.form == "shared":
            mask = inputs[0, :, :LENGTH] < 2
        elif self.form == "constant":
            mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        elif self.form == "sample":
            mask = torch.ones(SAMPLES, 1, LENGTH, LENGTH, dtype=torch.float64).cumsum(0)
        return F.scaled_dot_product_attention(
            *projected.chunk(3, -1), attn_mask=mask, is_causal=causal, scale=0.3
        )


@pytest.mark.cpu  # where the kernel takes float64 and masks
@pytest.mark.parametrize("form", ["bare", "causal", "own", "shared", "constant", "sample"])
@pytest.mark.parametrize("way", ["eager", "compiled"])
@pytest.mark.filterwarnings("error:.*batching rule")
def test_many_trials_are_as_one_after_the_other(form, way):
    torch.manual_seed(0)
    models = [Attention(form).double() for _ in range(TRIALS)]
    inputs = torch.randn(TRIALS, SAMPLES, LENGTH, 8, dtype=torch.float64)
    names = [name for name, _ in models[0].named_parameters()]
    stacked = {
        name: torch.stack([m.get_parameter(name).detach() for m in models]) for name in names
    }

    def loss(weights, inputs):
        return functional_call(models[0], weights, (inputs,)).square().mean()

    def gradients(weights, inputs):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # refuses where it has to be another one
            return vmap(grad_and_value(loss))(weights, inputs)

    if way == "compiled":
        torch.compiler.reset()
        gradients = torch.compile(gradients, backend="aot_eager", dynamic=False, fullgraph=True)
    found, losses = gradients(stacked, inputs)
    for row, model in enumerate(models):
        expected = model(inputs[row]).square().mean()
        expected.backward()
        torch.testing.assert_close(losses[row], expected.detach(), rtol=1e-12, atol=0)
        for name in names:
            expected_gradient = model.get_parameter(name).grad
            torch.testing.assert_close(found[name][row], expected_gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.cpu
def test_a_fused_pool_runs_the_fused_kernel(six):
    """On the rows of an image as a sequence."""

    def model():
        layers = [nn.Flatten(1, 2), Attention("causal"), nn.Flatten(), nn.Linear(64, 10)]
        return nn.Sequential(*layers).double()

    task = replace(six, model=model)
    fused, serial = FusedPool(task, 2), SerialPool(task, 2)
    with profile(acc_events=True) as seen:
        curves = all_curves(fused, falling(task))
    same(curves, all_curves(serial, falling(task)))
    kernels = {event.name for event in seen.events() if "attention" in event.name}
    assert {
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
    } <= kernels
    assert not any("math" in name for name in kernels)


@pytest.mark.cpu
def test_where_torch_has_no_such_operators_the_scores_are_built(monkeypatch):
    monkeypatch.setattr(attention, "ON_CUDA", "of_another_release")
    assert attention.give_rules() == [SDPBackend.MATH]
    monkeypatch.undo()
    assert attention.give_rules() == [SDPBackend.MATH]  # the rules are there: twice cannot be
    assert attention.KERNELS == [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
