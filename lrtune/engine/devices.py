"""Engine: what trains, and on which devices; torch's settings for it."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from lrtune.engine.choose import check_wishes
from lrtune.errors import InputError, MissingPackage, expect

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
RAY = (2, 49)  # the oldest version that has all that is used of it; as in pyproject.toml


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
        cluster: address of a Ray cluster, whose hosts train in place of this machine's devices:
            ``auto`` for the one that this machine is part of, or HOST:PORT.
        hosts: processes of the cluster that train, each with an equal share of the slots; as many
            as there is room for where None.
        num_gpus: GPUs of a host, as Ray counts them: 0 (the CPU) to 1; 0 where None.
        num_cpus: CPUs of a host, as Ray counts them; 1 where None.
        lockstep: all hosts wait for each other after each segment, so that a search takes the same
            course each time; else each goes on as soon as it is ready.

    Raises:
        InputError: an unknown kind, no slots, a device that is not there; a cluster beside a
            device, its options without it, Ray not installed or too old.
    """

    kind: str = "auto"
    slots: int | None = None
    device: str | None = None
    deterministic: bool = False
    cluster: str | None = None
    hosts: int | None = None
    num_gpus: float | None = None
    num_cpus: float | None = None
    lockstep: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        expect("slots", self.slots, int | None, "a number of trials")
        check_wishes(self.kind, self.slots)
        self._check_cluster()
        count = len(self.devices)
        if self.slots is not None and self.slots < count:
            raise InputError(f"slots={self.slots}: at least one for each of {count} devices")

    @property
    def devices(self) -> tuple[str, ...]:
        """Each with its number: ``cuda:0``; of a cluster what a host trains on: ``cuda``."""
        if self.cluster is not None:
            return ("cuda" if self.num_gpus else "cpu",)
        return devices_of(self.device)

    def _check_cluster(self) -> None:
        expect("cluster", self.cluster, str | None, "an address: auto or HOST:PORT")
        expect("hosts", self.hosts, int | None, "a number of processes")
        expect("num_gpus", self.num_gpus, int | float | None, "a number of GPUs")
        expect("num_cpus", self.num_cpus, int | float | None, "a number of CPUs")
        expect("lockstep", self.lockstep, bool, "True or False")
        if self.cluster is None:
            for name in ("hosts", "num_gpus", "num_cpus", "lockstep"):
                value = getattr(self, name)
                if value is not None and value is not False:
                    raise InputError(f"{name}={value!r}: is of a cluster: give cluster too: auto")
            return
        if self.cluster.startswith("ray://"):
            raise InputError(
                f"cluster {self.cluster!r}: a search would end with the connection: submit it to "
                "the cluster: ray job submit -- lrtune search ... --cluster auto"
            )
        if not re.fullmatch(r"auto|[^\s/]+:\d+", self.cluster):
            raise InputError(f"cluster {self.cluster!r}: expected auto, or HOST:PORT of its head")
        if self.device is not None:
            raise InputError(
                f"device {self.device!r} and cluster: one of the two: num_gpus=1 has each host of "
                "the cluster train on a GPU"
            )
        if self.hosts is not None and self.hosts < 1:
            raise InputError(f"hosts={self.hosts}: at least 1")
        if self.hosts is not None and self.slots is not None and self.slots < self.hosts:
            raise InputError(f"slots={self.slots}: at least one for each of {self.hosts} hosts")
        if self.num_gpus is not None and not 0 <= self.num_gpus <= 1:
            raise InputError(f"num_gpus={self.num_gpus:g}: 0 to 1: a host trains on one GPU")
        if self.num_cpus is not None and not 0 < self.num_cpus < math.inf:
            raise InputError(f"num_cpus={self.num_cpus:g}: positive")
        check_ray()


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


def check_ray() -> None:
    """Refuse to use a Ray that is not there, or too old.

    Raises:
        MissingPackage: it has to be installed.
    """
    try:
        found = version("ray")
    except PackageNotFoundError as error:
        raise MissingPackage(
            "cluster: Ray is not installed: pip install 'lrtune[cluster]'"
        ) from error
    if tuple(map(int, found.split(".")[:2])) < RAY:
        oldest = ".".join(map(str, RAY))
        raise MissingPackage(
            f"cluster: Ray {found} is too old: pip install 'ray>={oldest}', the same version on "
            "each machine of the cluster"
        )


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
