"""Precision: in bfloat16 too, fused is serial up to rounding, and what is probed is what runs."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, vmap
from torchvision.models.resnet import BasicBlock, ResNet

from lrtune.engine import FusedPool, SerialPool
from lrtune.engine.device_task import DeviceTask, is_out_of_memory
from lrtune.engine.stacked import RULES, Mixed, vmap_check
from lrtune.engine.stacked_optimizers import Unfit
from lrtune.tasks import Metric, Split
from lrtune.tasks.metrics import CrossEntropy
from lrtune.tasks.models import model_maker, transformer
from tests.engine.trials import all_curves, cnn, decays, mlp, width


class Channels(nn.Module):
    def forward(self, x):
        return x.float().expand(-1, 3, -1, -1) / 16


def resnet():
    """Of four blocks, for small images."""
    model = ResNet(BasicBlock, [1] * 4, 10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model


def text(split):
    """Rows of pixels as characters, each to tell the next."""
    rows = split.inputs.flatten(1)
    return Split(rows[:, 20:28].clone(), rows[:, 21:29].clone())


@pytest.fixture
def tasks(digits, monkeypatch):
    for name, value in (("LAYERS", 1), ("WIDTH", 16), ("HEADS", 2)):
        monkeypatch.setattr(f"lrtune.tasks.models.{name}", value)
    parts = {"train": digits.train.part(0, 48), "val": digits.val.part(0, 60)}
    task = replace(digits, **parts, test=None, groups=None, batch_size=12, epochs=1, validations=2)
    loss = CrossEntropy()
    return {
        "mlp": replace(task, model=mlp),
        "cnn": replace(task, model=cnn),
        "resnet": replace(task, model=resnet, prepare=Channels()),
        "decayed": replace(task, model=cnn, groups=decays),
        "vit": replace(task, model=model_maker("vit_tiny", (1, 8, 8), 10)),
        "transformer": replace(
            task,
            **{name: text(split) for name, split in parts.items()},
            prepare=nn.Identity(),
            model=lambda: transformer((8,), 17),
            loss=loss,
            metrics=(Metric("cross_entropy", loss, "minimize"),),
            classes=None,
        ),
    }


LARGE = pytest.param("resnet", marks=pytest.mark.slow)


@pytest.mark.parametrize(("precision", "close"), [("float32", 1e-4), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("model", ["mlp", "cnn", "decayed", LARGE, "vit", "transformer"])
def test_fused_is_serial(model, precision, close, tasks):
    task = replace(tasks[model], precision=precision, metrics=tasks[model].metrics[-1:])
    rates = np.full(task.horizon, 1e-3)
    pool = FusedPool(task, 2)
    fused, serial = all_curves(pool, rates), all_curves(SerialPool(task, 2), rates)
    one = 1.01 / task.val.samples if precision == "bfloat16" else 0.0  # may be judged otherwise
    np.testing.assert_allclose(fused, serial, rtol=close, atol=one)
    assert width(pool) == 2


@pytest.mark.parametrize("model", ["cnn", "transformer"])
def test_compiled_is_eager(model, tasks, monkeypatch):
    """But for the compiler's last part, which takes long."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    task = replace(tasks[model], precision="bfloat16")
    rates, pools = np.full(task.horizon, 1e-3), [FusedPool(task, 2, compiled=c) for c in (0, 1)]
    eager, compiled = (all_curves(pool, rates) for pool in pools)
    np.testing.assert_allclose(compiled, eager, rtol=1e-2)
    assert [width(pool) for pool in pools] == [2, 2]


@pytest.mark.parametrize(
    ("device", "asked", "has", "mixed"),
    [
        ("cpu", None, True, False),
        ("cpu", "bfloat16", False, True),
        ("cuda", None, True, True),
        ("cuda", None, False, False),  # it would be emulated
        ("cuda", "bfloat16", False, True),
        ("cuda", "float32", True, False),
    ],
)
def test_the_default_is_bfloat16_where_a_gpu_has_it(device, asked, has, mixed, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    task = SimpleNamespace(task=SimpleNamespace(precision=asked), device=torch.device(device))
    assert DeviceTask.is_mixed.func(task) == mixed


MODULES = {
    "linear": lambda device: nn.Linear(8, 8, device=device),
    "without a bias": lambda device: nn.Linear(8, 8, bias=False, device=device),
    "layer norm": lambda device: nn.LayerNorm(8, device=device),
    "rms norm": lambda device: nn.RMSNorm(8, device=device),
    "group norm": lambda device: nn.GroupNorm(2, 6, device=device),
    "batch norm": lambda device: nn.BatchNorm2d(6, device=device),
    "instance norm": lambda device: nn.InstanceNorm2d(
        6, affine=True, track_running_stats=True, device=device
    ),
}


@contextmanager
def autocast(device):
    """Torch's own does nothing where there is no GPU."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, True)
    torch.set_autocast_dtype(device, torch.bfloat16)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


@pytest.mark.filterwarnings("ignore:Mismatch dtype")  # torch's own, of a norm alone
@pytest.mark.parametrize("device", ["cpu", "cuda"])  # on fake tensors, without a GPU
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_a_module_gives_the_type_that_it_gives_alone(make, kind, device):
    with nullcontext() if device == "cpu" else FakeTensorMode(), autocast(device):
        module, x = make(device), torch.ones(4, 6, 8, 8, dtype=kind, device=device)
        held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        stacked = {
            name: tensor.detach().expand(2, *tensor.shape).clone() for name, tensor in held.items()
        }
        with Mixed():
            together = vmap(lambda held, x: functional_call(module, held, (x,)))(
                stacked, x.expand(2, *x.shape)
            )
        assert together.dtype == module(x).dtype


def test_the_probe_runs_in_the_task_s_own_precision(tasks, monkeypatch):
    on_device = DeviceTask(replace(tasks["cnn"], precision="bfloat16"), 2, "cpu")
    vmap_check(on_device)
    monkeypatch.setitem(
        RULES, nn.functional.linear, lambda function, *given: 1.5 * function(*given)
    )
    with pytest.raises(Unfit, match=r"its \w+ in bfloat16 comes out otherwise when several"):
        vmap_check(on_device)
    for function in list(RULES):
        monkeypatch.delitem(RULES, function)
    with pytest.raises(Unfit, match="BFloat16"):
        vmap_check(on_device)
    vmap_check(DeviceTask(tasks["cnn"], 2, "cpu"))


@pytest.mark.parametrize("part", [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul])
def test_the_probe_leaves_what_a_user_has_set(part, tasks):
    """By the newer of torch's two interfaces, beside which the older raises."""
    before, part.fp32_precision = part.fp32_precision, "tf32"
    try:
        vmap_check(DeviceTask(tasks["mlp"], 2, "cpu"))
        assert part.fp32_precision == "tf32"
    finally:
        part.fp32_precision = before


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCr"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling"), False),
    ],
)
def test_out_of_memory(error, full):
    assert is_out_of_memory(error) == full
