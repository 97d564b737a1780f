"""SpreadPool: several devices as one Pool, each served by a process of its own."""

import sys
import weakref
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from itertools import accumulate
from types import TracebackType
from typing import Any

import cloudpickle  # type: ignore[import-untyped]  # unlike pickle, it sends lambdas
import numpy as np
from numpy.typing import NDArray

from lrtune.engine.child import Child, Make, places
from lrtune.engine.pool import Progress, Snapshot
from lrtune.engine.serial import SerialPool
from lrtune.errors import InputError
from lrtune.tasks import Task


class SpreadPool:
    """A Pool over several devices, which train at the same time; each has a block of the slots.

    A process gets the task and ``make``, not what else was set in this one (torch's global
    settings, say). All of them wait at a validation for the slowest. They end with ``close``, with
    the ``with`` block, with the pool's last reference, or with this process, however that ends.
    """

    def __init__(
        self,
        task: Task,
        slots: int,
        devices: Sequence[str],
        make: Make = SerialPool,
        *,
        threads: int | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start the processes and let each make its Pool.

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
        shares = _shares(slots, devices)
        job = _packed_job(task, make)
        self.task = task
        self.slots = slots
        self._tell = tell
        self._starts = [0, *accumulate(shares[:-1])]
        self._children: list[Child] = []
        self._finalizer = weakref.finalize(self, _end, self._children)
        try:
            for device in devices:
                self._children.append(Child(device))
            told = self._open(shares, threads, job)
        except BaseException:
            self.close()
            raise
        self.placement = {
            split: "; ".join(dict.fromkeys(one[split] for one in told)) for split in told[0]
        }

    def __enter__(self) -> "SpreadPool":
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; more than once does no harm."""
        self._finalizer()

    def admit(
        self,
        slot: int,
        rates: NDArray[np.float64],
        seed: int,
        momenta: NDArray[np.float64] | None = None,
    ) -> Progress:
        """See Pool."""
        untrained: Progress = self._do(slot, "admit", rates, seed, momenta)
        return replace(untrained, slot=slot)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """See Pool."""
        self._do(slot, "revise", rates)

    def advance(self) -> list[Progress]:
        """See Pool."""
        starts = dict(zip([c.ask("advance") for c in self._children], self._starts, strict=True))
        reached = []
        for answer in as_completed(starts):  # as they come: one that fails is not waited for
            reached += [replace(p, slot=starts[answer] + p.slot) for p in answer.result()]
        for child in self._children:
            for line in child.told():
                self._tell(f"{child.device}: {line}")
        return sorted(reached, key=lambda progress: progress.slot)

    def examine(self, slot: int) -> Progress:
        """See Pool."""
        found: Progress = self._do(slot, "examine")
        return replace(found, slot=slot)

    def release(self, slot: int) -> None:
        """See Pool."""
        self._do(slot, "release")

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        taken: Snapshot = self._do(slot, "snapshot")
        return taken

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        self._do(slot, "restore", snapshot)

    def _open(self, shares: list[int], threads: int | None, job: bytes) -> list[dict[str, str]]:
        """Let all make their Pools at the same time; where each has its data."""
        modules = places()
        settled = [
            child.ask("settle", child.device, share, threads, modules)
            for child, share in zip(self._children, shares, strict=True)
        ]
        opened = [child.send(job) for child in self._children]
        for answer in settled:
            answer.result()
        return [answer.result() for answer in opened]

    def _do(self, slot: int, name: str, *arguments: object) -> Any:
        if not 0 <= slot < self.slots:
            raise IndexError(f"slot {slot}: there are 0 to {self.slots - 1}")
        index = bisect_right(self._starts, slot) - 1
        return self._children[index].ask(name, slot - self._starts[index], *arguments).result()


def _end(children: list[Child]) -> None:
    for child in children:
        child.kill()
    for child in children:
        child.wait()


def _shares(slots: int, devices: Sequence[str]) -> list[int]:
    """Slots of each device."""
    if not devices or slots < len(devices):
        raise InputError(f"slots={slots}: at least one for each of {len(devices)} devices")
    least, more = divmod(slots, len(devices))
    return [least + (index < more) for index in range(len(devices))]


def _packed_job(task: Task, make: Make) -> bytes:
    try:
        packed: bytes = cloudpickle.dumps(("open", (task, make)))
    except Exception as error:  # whatever a user's object raises when it is pickled
        raise InputError(
            f"{task.name}: cannot be sent to the process of another device: "
            f"{type(error).__name__}: {error}: use one device, or mend what it names"
        ) from error
    return packed
