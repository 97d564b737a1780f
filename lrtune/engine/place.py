"""Place: where trainings run, devices of this machine or hosts of a cluster; and the pool there."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lrtune.engine.choose import Choice, choose, hardware, make_pool
from lrtune.engine.devices import Engine, be_deterministic
from lrtune.engine.features import with_features
from lrtune.engine.pool import Pool
from lrtune.engine.process import DeviceProcess
from lrtune.engine.serial import SerialPool
from lrtune.engine.spread import SpreadPool
from lrtune.engine.worker import Make, packed, say
from lrtune.errors import InputError
from lrtune.tasks import Task

# Of the slots that there is room for, how many to use, and why not all: a sentence, or empty.
Width = Callable[[int], tuple[int, str]]


class Place:
    """Devices of this machine; each has a process of its own where they are several.

    Attributes:
        tell: called with lines for a person.
        say: the same for what runs here: see ``run``.
    """

    def __init__(self, engine: Engine, tell: Callable[[str], None]) -> None:
        self.engine, self.tell, self.say = engine, tell, tell
        self._pool: SpreadPool | None = None

    def __enter__(self) -> "Place":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes of the pool; more than once does no harm."""
        if self._pool is not None:
            self._pool.close()

    @property
    def count(self) -> int:
        """Of devices, or hosts."""
        return len(self.engine.devices)

    def kinds(self, task: Task) -> tuple[str, ...]:
        """What each of them is."""
        return tuple(map(hardware, self.engine.devices))

    def run(self, function: Callable[..., Any], task: Task, **how: Any) -> Any:
        """Call a function with a task and ``device=...`` where the task will train."""
        return function(task, device=self.engine.devices[0], **how)

    def with_features(self, task: Task) -> tuple[Task, str]:
        """See ``with_features``."""
        return with_features(task, self.engine.devices[0], self.tell)

    def serves_again(self, task: Task, before: Choice) -> Choice | None:
        """What was chosen before, if it is what is wished for now."""
        kinds = self.kinds(task)
        granted = before.grants(self.engine.kind, self.engine.slots, kinds)
        return before if granted else None

    def choose(self, task: Task, **how: Any) -> tuple[Choice, Pool | None]:
        """See ``choose``, for each of so many; the pool is there where it is the only one."""
        choice, pool = choose(task, self.engine.devices[0], **how)
        if self.count == 1:
            return choice, pool
        del pool  # it has its device's memory
        torch.cuda.empty_cache()
        threads = None if choice.threads is None else max(1, choice.threads // self.count)
        return replace(choice, threads=threads), None

    def pool(self, task: Task, choice: Choice) -> Pool:
        """The pool that was chosen; torch's threads are set for it."""
        if choice.threads is not None:
            torch.set_num_threads(choice.threads)
        devices = self.engine.devices
        if len(devices) == 1:
            return make_pool(task, choice, devices[0], self.tell)
        make = maker(choice, say)
        self._pool = of_processes(task, choice.slots, devices, make, choice.threads, self.tell)
        return self._pool


class ClusterPlace(Place):
    """Hosts of a cluster."""

    def __init__(
        self, engine: Engine, tell: Callable[[str], None], states: Path, width: Width
    ) -> None:
        super().__init__(engine, tell)
        from lrtune.engine.cluster import Cluster

        assert engine.cluster is not None
        needs = engine.num_gpus or 0.0, 1.0 if engine.num_cpus is None else engine.num_cpus
        self.say = say
        self._cluster = Cluster(engine.cluster, *needs, states, tell)
        try:
            self._count = engine.hosts or max(1, self._cluster.room)
            if engine.hosts is None and engine.slots is None:
                self._count, why = width(self._count)
                if why:
                    tell(f"cluster: {why}")
        except BaseException:
            self.close()
            raise
        self._count = min(self._count, engine.slots or self._count)

    def close(self) -> None:
        """See Place."""
        self._cluster.close()

    @property
    def count(self) -> int:
        """See Place."""
        return self._count

    def kinds(self, task: Task) -> tuple[str, ...]:
        """See Place."""
        if not self._cluster.kind:
            self._cluster.run(_nothing, task)  # by then a host has said so
        return (self._cluster.kind,) * self._count

    def run(self, function: Callable[..., Any], task: Task, **how: Any) -> Any:
        """See Place."""
        return self._cluster.run(function, task, **how)

    def with_features(self, task: Task) -> tuple[Task, str]:
        """See Place."""
        found, sentence = self.run(_features, task)
        return found or task, sentence

    def serves_again(self, task: Task, before: Choice) -> Choice | None:
        """See Place; the number of hosts may be another one."""
        kinds, kind = self.kinds(task), self.engine.kind
        if kind not in ("auto", before.name) or {*before.devices} != {*kinds}:
            return None
        slots = self.engine.slots or before.slots // len(before.devices) * len(kinds)
        return replace(before, slots=slots, devices=kinds)

    def choose(self, task: Task, **how: Any) -> tuple[Choice, Pool | None]:
        """See Place."""
        return self._cluster.run(_choice, task, **how), None

    def pool(self, task: Task, choice: Choice) -> Pool:
        """See Place."""
        self._cluster.ship(task, choice.threads)
        pool = SpreadPool(
            task,
            shares(choice.slots, self._count),
            self._cluster.start,
            maker(choice, say),
            in_order=False,
            lockstep=self.engine.lockstep,
            tell=self.tell,
        )
        self._cluster.strict = False
        return pool


def _nothing(task: Task, device: str) -> None:
    return None


def _features(task: Task, device: str) -> tuple[Task | None, str]:
    """Without the task where it stays as it is: it need not travel."""
    found, sentence = with_features(task, device, say)
    return (None if found is task else found), sentence


def _choice(task: Task, device: str, **how: Any) -> Choice:
    return choose(task, device, **how)[0]


def place_of(engine: Engine, tell: Callable[[str], None], states: Path, width: Width) -> Place:
    """Where an engine trains.

    Args:
        engine: with devices of this machine, or a cluster.
        tell: called with lines for a person.
        states: a folder that does not exist yet, for states of trials that hosts write.
        width: how many hosts to use, where nobody says how many hosts or slots.

    Raises:
        InputError: no such cluster.
    """
    return (
        Place(engine, tell) if engine.cluster is None else ClusterPlace(engine, tell, states, width)
    )


def choose_pool(
    task: Task,
    place: Place,
    before: Choice | None,
    *,
    updates: float,
    seconds: float = math.inf,
) -> tuple[Pool, Choice]:
    """What trains fastest at a place, and why.

    What was chosen ``before`` serves again where it is what is asked for. ``updates`` and
    ``seconds`` are about what will be trained, on all devices together; see ``choose``.

    Raises:
        InputError: what ``choose`` refuses.
    """
    engine, count = place.engine, place.count
    if before is not None and before.deterministic == engine.deterministic:
        choice = place.serves_again(task, before)
        if choice is not None:
            return place.pool(task, choice), choice
    place.tell("engine: which one trains fastest here")
    choice, pool = place.choose(
        task,
        engine=engine.kind,
        slots=None if engine.slots is None else engine.slots // count,
        updates=updates / count,
        seconds=seconds / count,
    )
    slots = engine.slots or count * choice.slots
    devices = place.kinds(task)
    choice = replace(choice, slots=slots, devices=devices, deterministic=engine.deterministic)
    if pool is None:
        pool = place.pool(task, choice)
    elif choice.threads is not None:
        torch.set_num_threads(choice.threads)
    place.tell(f"engine: {choice}")
    return pool, choice


def shares(slots: int, count: int) -> list[int]:
    """Slots of each of so many; the first ones get what is left over."""
    if not 0 < count <= slots:
        raise InputError(f"slots={slots}: at least one for each of {count}")
    least, more = divmod(slots, count)
    return [least + (index < more) for index in range(count)]


def of_processes(
    task: Task,
    slots: int,
    devices: tuple[str, ...],
    make: Make = SerialPool,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> SpreadPool:
    """A pool over processes of this machine, one for each of the devices; they end with it.

    Args:
        task: what is trained; it and ``make`` go to the processes by cloudpickle.
        slots: K over all devices, at least one for each; the first ones get what is left over.
        devices: as torch names them: cuda:0, cuda:1.
        make: ``make(task, slots, device)`` -> the Pool of one device.
        threads: CPU threads of each process; as torch sets them where None.
        tell: called with each line that a process had to ``say``, after the segment.

    Raises:
        InputError: a task that cannot be sent; whatever ``make`` finds wrong with it.
    """
    if sys.platform == "win32":
        raise InputError(f"devices {', '.join(devices)}: on Windows, one alone")
    request = packed(task)

    def start(number: int) -> DeviceProcess:
        process = DeviceProcess(devices[number])
        process.ask(None, "settle", threads)
        process.send(request)
        return process

    return SpreadPool(task, shares(slots, len(devices)), start, make, tell=tell)


def maker(choice: Choice, tell: Callable[[str], None]) -> Make:
    """Makes such pools, with any number of slots, for any device."""

    def make(task: Task, slots: int, device: str) -> Pool:
        if choice.deterministic:
            be_deterministic()  # in this process too
        return make_pool(task, replace(choice, slots=slots), device, tell)

    return make  # a closure: sent by value, so that no process has to import Optuna
