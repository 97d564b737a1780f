"""Engine: what trains, on which devices, with how many threads."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from lrtune.engine import Choice, Pool, choose, make_pool
from lrtune.engine.choose import check_wishes, hardware
from lrtune.engine.devices import Make, SpreadPool, say
from lrtune.errors import InputError, expect
from lrtune.search.budget import Limits
from lrtune.tasks import Task


@dataclass(frozen=True, slots=True)
class Engine:
    """What trains.

    Attributes:
        kind: auto, serial or fused; auto takes what is measured to be the fastest here.
        slots: trials side by side, over all devices; measured too where None.
        device: as torch names it, several with commas between; CUDA where there is one, else the
            CPU, where None.

    Raises:
        InputError: an unknown kind, no slots, a device that is not there.
    """

    kind: str = "auto"
    slots: int | None = None
    device: str | None = None

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


def choose_pool(
    task: Task,
    limits: Limits,
    engine: Engine,
    before: Choice | None,
    tell: Callable[[str], None],
) -> tuple[Pool, Choice]:
    """What trains fastest on these devices, and why; torch's threads are set for it.

    What was chosen ``before`` serves again where it is what is asked for.

    Raises:
        InputError: what ``choose`` refuses.
    """
    devices = engine.devices
    names, count = tuple(map(hardware, devices)), len(devices)
    if before is not None and before.grants(engine.kind, engine.slots, names):
        pool, choice = spread(task, before, devices, tell), before
    else:
        tell("engine: which one trains fastest here")
        seconds = math.inf if limits.seconds is None else limits.seconds
        choice, pool = choose(
            task,
            devices[0],
            engine=engine.kind,
            slots=None if engine.slots is None else engine.slots // count,
            updates=limits.most(task.horizon) / count,
            seconds=seconds / count,
        )
        choice = replace(choice, devices=names)
        if count > 1:
            del pool  # it has its device's memory
            torch.cuda.empty_cache()
            threads = None if choice.threads is None else max(1, choice.threads // count)
            slots = engine.slots or count * choice.slots
            choice = replace(choice, slots=slots, threads=threads)
            pool = spread(task, choice, devices, tell)
        tell(f"engine: {choice}")
    if choice.threads is not None:
        torch.set_num_threads(choice.threads)
    return pool, choice


def spread(
    task: Task, choice: Choice, devices: tuple[str, ...], tell: Callable[[str], None]
) -> Pool:
    """The pool that was chosen, over all devices."""
    if len(devices) == 1:
        return make_pool(task, choice, devices[0], tell)
    make = maker(choice, say)
    return SpreadPool(task, choice.slots, devices, make, threads=choice.threads, tell=tell)


def maker(choice: Choice, tell: Callable[[str], None]) -> Make:
    """Makes such pools, with any number of slots, for any device."""

    def make(task: Task, slots: int, device: str) -> Pool:
        return make_pool(task, replace(choice, slots=slots), device, tell)

    return make  # a closure: sent by value, so that no process has to import Optuna


@contextmanager
def own_threads() -> Iterator[None]:
    """The number of torch's threads is the caller's again at the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def devices_of(names: str | None) -> tuple[str, ...]:
    """The devices of these names, with commas between; see device_of."""
    if names is None:
        return (device_of(None),)
    expect("device", names, str, "a name, such as cpu or cuda:0")
    devices = tuple(device_of(name.strip()) for name in names.split(","))
    if len({name.partition(":")[0] for name in devices}) > 1:
        raise InputError(f"device {names!r}: of one kind: rates may rank otherwise on the other")
    twice = [device for device in devices if devices.count(device) > 1]
    if twice:
        raise InputError(f"device {names!r}: {twice[0]} is given twice: give each once")
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
