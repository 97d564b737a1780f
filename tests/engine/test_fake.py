"""A fused update of every model on fake CUDA tensors: shapes, dtypes and devices, no arithmetic.

torch's engine does not go backward on fake CUDA tensors where there is no GPU. So CUDA's update is
forward and optimizer, and the backward pass is checked on fake tensors of the CPU.
"""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lrtune.engine.device_task import DeviceTask
from lrtune.engine.stacked import Program, StackedState
from lrtune.engine.stacked_optimizers import StackedOptimizer
from lrtune.tasks import MODELS, Split, Task
from lrtune.tasks.metrics import CrossEntropy
from lrtune.tasks.models import model_maker

TRIALS, BATCH, CLASSES = 3, 4, 10


def of_random_data(name: str) -> Task:
    shape = (16,) if name == "transformer" else (3, 32, 32)
    kind = "text" if name == "transformer" else "classification"
    inputs = torch.zeros(BATCH, *shape).to(torch.int64 if kind == "text" else torch.float32)
    split = Split(inputs, torch.zeros(inputs.shape[:1] if len(shape) > 1 else inputs.shape).long())
    return Task(
        name=name,
        train=split,
        val=split,
        model=model_maker(name, shape, CLASSES, kind=kind),
        loss=CrossEntropy(),
        optimizer="adamw",
        batch_size=BATCH,
        epochs=1,
        clip_norm=1.0,
        precision="bfloat16",
    )


def forward_alone(loss: Callable[..., torch.Tensor]) -> Callable[..., object]:
    """In place of ``grad_and_value``: gradients of the right form."""
    return lambda weights, *rest: (
        {name: torch.zeros_like(weight) for name, weight in weights.items()},
        loss(weights, *rest),
    )


@pytest.mark.cpu
@pytest.mark.parametrize("device", ["cuda:0", "cpu"])
@pytest.mark.parametrize("name", [*MODELS, "resnet18"])
def test_an_update_under_bfloat16(name, device, monkeypatch):
    if device != "cpu":  # autocast asks whether there is a GPU
        monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
        monkeypatch.setattr("lrtune.engine.stacked.grad_and_value", forward_alone)
    task = of_random_data(name)
    on_device = DeviceTask(task, TRIALS, "cpu")
    models = [task.model() for _ in range(2)]
    optimizer = StackedOptimizer(task, models[0], {n for n, _ in models[0].named_parameters()})
    on_device.device = torch.device(device)
    inputs, targets = task.train

    def placed(seed: int) -> nn.Module:
        model = models[seed]
        for module in model.modules():
            for kind in (module._parameters, module._buffers):
                kind.update({k: like(t, t.shape) for k, t in kind.items() if t is not None})
        return model.train()

    def like(tensor: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        fake = torch.empty(shape, dtype=tensor.dtype, device=device)
        return nn.Parameter(fake) if isinstance(tensor, nn.Parameter) else fake

    with FakeTensorMode():
        on_device.model = lambda seed: placed(1)
        program = Program(on_device, optimizer, prepared=True)
        state = StackedState.empty(optimizer, placed(0), TRIALS, averaged=True)
        types = {key: t.dtype for key, t in state.models["weights"].items()}
        batch = like(inputs, (TRIALS, *inputs.shape)), like(targets, (TRIALS, *targets.shape))
        ones = torch.ones(TRIALS, device=device)
        columns = optimizer.columns(state.states, *[ones.double()] * 3)
        losses = program.update(state, batch[0], [(ones, batch[1])], columns)
        state.mix(ones)
        outputs = program.outputs(state.models["average"], like(inputs, inputs.shape), TRIALS)
    assert (losses.shape, losses.dtype, losses.device) == ((TRIALS,), torch.float32, ones.device)
    assert outputs.shape == (TRIALS, *targets.shape, CLASSES) and outputs.device == ones.device
    assert outputs.dtype == torch.bfloat16  # in the task's precision
    for key, tensor in {**state.models["weights"], **state.models["average"]}.items():
        assert (tensor.device, tensor.dtype) == (ones.device, types[key])
