"""Engine: what trains, and on which devices; torch's settings for it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lrtune.engine.choose import check_wishes
from lrtune.errors import InputError, expect

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True, slots=True)
class Engine:
    """What trains.

    Attributes:
        kind: auto, serial or fused; auto takes what is measured to be the fastest here.
        slots: trials side by side, over all devices; measured too where None.
        device: as torch names it, several with commas between, the same one twice where two
            processes are to share it; CUDA where there is one, else the CPU, where None.
        deterministic: on CUDA, train by algorithms that give the same bits each time, as the CPU's
            do; what has none raises. cuBLAS takes this up only before its first use in a process.

    Raises:
        InputError: an unknown kind, no slots, a device that is not there.
    """

    kind: str = "auto"
    slots: int | None = None
    device: str | None = None
    deterministic: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        expect("slots", self.slots, int | None, "a number of trials")
        check_wishes(self.kind, self.slots)
        count = len(self.devices)
        if self.slots is not None and self.slots < count:
            raise InputError(f"slots={self.slots}: at least one for each of {count} devices")

    @property
    def devices(self) -> tuple[str, ...]:
        """Each with its number: ``cuda:0``."""
        return devices_of(self.device)


def be_deterministic() -> None:
    """See Engine, and torch's notes on reproducibility."""
    os.environ.setdefault(WORKSPACE, ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False  # it would choose among them by the clock


@contextmanager
def own_settings(deterministic: bool) -> Iterator[None]:
    """Torch's number of threads and its determinism are the caller's again at the end."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    benchmark, workspace = torch.backends.cudnn.benchmark, os.environ.get(WORKSPACE)
    if deterministic:
        be_deterministic()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.backends.cudnn.benchmark = benchmark
        os.environ.pop(WORKSPACE, None)
        os.environ.update({} if workspace is None else {WORKSPACE: workspace})


def devices_of(names: str | None) -> tuple[str, ...]:
    """The devices of these names, with commas between; see device_of."""
    if names is None:
        return (device_of(None),)
    expect("device", names, str, "a name, such as cpu or cuda:0")
    devices = tuple(device_of(name.strip()) for name in names.split(","))
    if len({name.partition(":")[0] for name in devices}) > 1:
        raise InputError(f"device {names!r}: of one kind: rates may rank otherwise on the other")
    return devices


def device_of(name: str | None) -> str:
    """The device of this name; CUDA where there is one, else the CPU, where None.

    Raises:
        InputError: torch has no such device here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {name!r}: cpu, cuda, or cuda:1 and so on")
    if kind == "cuda" and not torch.cuda.is_available():
        built = torch.backends.cuda.is_built()
        why = "" if built else f", and PyTorch {torch.__version__} is built without CUDA"
        raise InputError(f"device {name!r}: No CUDA device found{why}: use --device cpu")
    try:
        device = torch.empty(0, device=name).device  # cuda is one of them: cuda:0, say
    except (RuntimeError, AssertionError) as error:
        last = torch.cuda.device_count() - 1
        raise InputError(f"device {name!r}: there are cuda:0 to cuda:{last}") from error
    return "cpu" if kind == "cpu" else str(device)
