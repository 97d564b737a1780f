"""FusedPool: all slots as one batched program, as long as that goes well."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lrtune.engine.pool import Progress, Snapshot
from lrtune.engine.serial import SerialPool
from lrtune.engine.setup import Setup
from lrtune.engine.stacked import Broken, StackedPool
from lrtune.tasks import Task


class FusedPool:
    """A StackedPool; where its program fails, its trials go on in a SerialPool."""

    def __init__(
        self,
        task: Task,
        slots: int = 32,
        device: str = "cpu",
        *,
        compiled: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Try the model with many weights at once, and make room for the trials.

        Args:
            task: what is trained.
            slots: K, at least 1.
            device: as torch names it: cpu, cuda, cuda:1.
            compiled: run updates through ``torch.compile``; the first of each size takes long.
            tell: called with a line where memory runs out or the program fails.

        Raises:
            Unfit: the model cannot be run so, or not rightly.
        """
        self.task = task
        self.slots = slots
        self._tell = tell
        self._pool: StackedPool | SerialPool = StackedPool(task, slots, device, compiled, tell)
        self.placement = self.setup.placement

    @property
    def setup(self) -> Setup:
        """The task on its device."""
        return self._pool.setup

    def admit(
        self,
        slot: int,
        rates: NDArray[np.float64],
        seed: int,
        momenta: NDArray[np.float64] | None = None,
    ) -> Progress:
        """See Pool."""
        return self._pool.admit(slot, rates, seed, momenta)

    def revise(self, slot: int, rates: NDArray[np.float64]) -> None:
        """See Pool."""
        self._pool.revise(slot, rates)

    def advance(self) -> list[Progress]:
        """See Pool."""
        try:
            return self._pool.advance()
        except Broken as failure:
            self._tell(f"trials are trained one after the other from here on: {_why(failure)}")
        self._pool = self._one_by_one()
        return self._pool.advance()

    def examine(self, slot: int) -> Progress:
        """See Pool."""
        return self._pool.examine(slot)

    def release(self, slot: int) -> None:
        """See Pool."""
        self._pool.release(slot)

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        return self._pool.snapshot(slot)

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        self._pool.restore(slot, snapshot)

    def try_updates(self, count: int) -> None:
        """Train throw-away trials in all slots for ``count`` updates, at most the horizon."""
        self._pool.try_updates(count)

    def _one_by_one(self) -> SerialPool:
        assert isinstance(self._pool, StackedPool)
        taken = {slot: self._pool.snapshot(slot) for slot in self._pool.occupied}
        serial = SerialPool(self.task, self.slots, str(self.setup.device))
        for slot, snapshot in taken.items():
            serial.restore(slot, snapshot)
        return serial


def _why(failure: Broken) -> str:
    error = failure.__cause__
    return "together, " + " ".join(f"{type(error).__name__}: {error}".split())[:200]
