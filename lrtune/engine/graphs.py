"""Updates as CUDA graphs: a clock on the device tells each one what it is given.

All but the capture itself runs on a CPU too, where a test takes the graph's place.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrtune.engine.device_task import INDICES_AT_ONCE, DeviceTask, Parts, Span, is_out_of_memory
from lrtune.engine.pool import Array
from lrtune.engine.stacked import StackedState
from lrtune.engine.stacked_optimizers import StackedOptimizer
from lrtune.tasks.splits import Tree, leaves, tree_map

WARM_UP = 2  # updates before one is captured


class Clock:
    """What some rows are given at each update, in tensors that stay where they are.

    A number on the device says which update is the next, so that one reads nothing of the host's.

    Attributes:
        length: updates that there is room for.
        gathers: whether batches are taken from the device's own data; else each is handed over.
        losses: float64 (length, K).
    """

    def __init__(self, task: DeviceTask, size: int, prepared: bool, numbers: int) -> None:
        """Make room.

        Args:
            task: on its device.
            size: K.
            prepared: whether batches come prepared, trial by trial.
            numbers: that a row is given at each update.
        """
        self._task = task
        batch, device = task.task.batch_size, task.device
        longest = int(np.diff(task.checkpoints, prepend=0).max())
        self.length = max(1, min(longest, INDICES_AT_ONCE // (size * batch)))
        self.gathers = task.train.on_device and not prepared
        self.losses = torch.zeros(self.length, size, dtype=torch.float64, device=device)
        self._tables = torch.zeros(numbers, *self.losses.shape, dtype=torch.float64, device=device)
        self._now = torch.zeros(1, dtype=torch.int64, device=device)
        self._ones = torch.ones(size, device=device)
        self._rows: list[Tensor] = []  # (length, K, batch, ...): of samples, and augmentation's
        self._held: tuple[Tree, Parts] | None = None

    def begin(self, spans: Sequence[Span], tables: Array, updates: range) -> None:
        """Set what updates get, counted from the start of each span; tables (n, updates, K)."""
        some = slice(0, len(updates))
        self._tables[:, some] = torch.as_tensor(tables[:, updates.start : updates.stop]).to(
            self._now.device
        )
        self._now.zero_()
        if not self.gathers:
            return
        rows = [self._task.train.rows(spans, updates)]
        if self._task.task.augment:
            rows.append(self._task.numbers(spans, updates))
        if not self._rows:
            self._rows = [r.new_zeros(self.length, *r.shape[1:]) for r in rows]
        for ours, theirs in zip(self._rows, rows, strict=True):
            ours[some] = theirs

    def hold(self, inputs: Tree, parts: Parts) -> None:
        """Hand over the batch of the next update."""
        if self._held is None:
            self._held = tree_map(torch.clone, (inputs, parts))
        for ours, theirs in zip(leaves(self._held), leaves((inputs, parts)), strict=True):
            ours.copy_(theirs, non_blocking=True)

    def tick(
        self,
        state: StackedState,
        tree: Tree,
        update: Callable[..., Tensor],
        optimizer: StackedOptimizer,
        looks: bool,
    ) -> None:
        """One update of all rows; then, if it is looked at, the weights go into the average."""
        rates, momenta, shares, peaks, *own = self._tables.index_select(1, self._now)[:, 0]
        if self._held is not None:
            inputs, parts = self._held
        else:
            rows, *numbers = [table.index_select(0, self._now)[0] for table in self._rows]
            inputs, targets = self._task.train.take(rows)
            inputs, parts = (inputs, *numbers) if numbers else inputs, [(self._ones, targets)]
        columns = optimizer.columns(state.states, rates, momenta, peaks, own)
        losses = update(tree, inputs, parts, columns, *own[optimizer.count :])
        self.losses.index_copy_(0, self._now, losses.double()[None])
        if looks:
            state.mix(shares)
        self._now.add_(1)


class Graphs:
    """CUDA graphs of what is run again and again on the same tensors."""

    def __init__(self, device: torch.device, tell: Callable[[str], None]) -> None:
        """None yet.

        Args:
            device: where.
            tell: called with a line when no graph can be made.
        """
        self._tell = tell
        self._works = True
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self.clear()

    def clear(self) -> None:
        """Forget them all: the tensors are other ones."""
        self._calls: Counter[Hashable] = Counter()
        self._replays: dict[Hashable, Callable[[], None]] = {}

    def run(self, key: Hashable, function: Callable[[], None]) -> None:
        """Run it, from its third time on as a graph; the first ones load and choose kernels."""
        if key not in self._replays and self._works and self._calls[key] >= WARM_UP:
            try:
                self._replays[key] = capture(function, self.stream, self._pool)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._works = False
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self._tell(f"updates are no CUDA graph, and slower for it: {reason}")
        self._calls[key] += 1
        self._replays.get(key, function)()


CAPTURING = Lock()  # torch takes one at a time in a process


def capture(
    function: Callable[[], None], stream: torch.cuda.Stream | None, pool: Any = None
) -> Callable[[], None]:
    """A function's work as a CUDA graph, which is made without doing it.

    All graphs of a pool share memory: none has results that another could write over.
    """
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on: one pins memory, say.
    with CAPTURING, torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
        function()
    replay: Callable[[], None] = graph.replay
    return replay


@contextmanager
def beside(graphs: Graphs | None) -> Iterator[None]:
    """Work on the graphs' own stream, in order with what was there before and comes after."""
    stream = None if graphs is None else graphs.stream
    if stream is None:
        yield
        return
    other = torch.cuda.current_stream(stream.device)
    stream.wait_stream(other)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        other.wait_stream(stream)
