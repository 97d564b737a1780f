"""Batch: what is said of trials within a moment, written in one piece."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol


class Batched(Protocol):
    """A storage that can hold back what it is told."""

    def write(self) -> None:
        """Write all that waits."""


_BATCH = ContextVar[set[Batched] | None]("batch", default=None)


@contextmanager
def together() -> Iterator[None]:
    """What is said inside of trials under way is written at the end, all at once."""
    batch = set[Batched]()
    token = _BATCH.set(batch)
    try:
        yield
    finally:
        _BATCH.reset(token)
        for storage in batch:
            storage.write()


def write_later(storage: Batched) -> bool:
    """Whether we are inside ``together``, at whose end the storage will write what waits."""
    batch = _BATCH.get()
    if batch is not None:
        batch.add(storage)
    return batch is not None
