"""Which pool serves a task: tried out and measured, once a search."""

import math
import time
from dataclasses import replace
from statistics import median

import torch

from lrtune.engine.choice import Choice, check_wishes
from lrtune.engine.fused import FusedPool
from lrtune.engine.pool import Pool
from lrtune.engine.rows import Unfit
from lrtune.engine.serial import SerialPool
from lrtune.engine.tally import is_out_of_memory
from lrtune.errors import InputError
from lrtune.tasks import Stream, Task
from lrtune.tasks.stream import room

SHARING = 4  # trials that share each batch of a stream
TOGETHER = {"cpu": (8, 32), "cuda": (8, 32, 128)}  # trials at once that are tried
MANY = 10_000  # trials, where there is no end to them
WAVES = 10  # the fewest times that all slots are filled: a sampler learns from wave to wave
BRIEF = 3.0  # seconds of a whole search, of which there is nothing to save
LONG = 0.05  # seconds of an update on a CPU, beyond which there is no overhead to share
SPENT, TRIES = 0.05, 5  # seconds that one try should take, and how many there are if they do
HOPELESS = 3.0  # times the best so far
# Speed-up below which a second core is left to others. Little, as it gains more once compiled: on
# digits (MLP, batch 16) 1.1 to 1.45 before, 1.65 after.
WORTH = 1.05
# Compiling: seconds that it takes and share of the time that it saves, as long as nothing else is
# known. On two idle cores 7 to 15 s and 0.3 to 0.7 were seen for small models.
COMPILING, SAVED = {"cpu": 12.0, "cuda": 40.0}, 0.5
CHOOSING = 0.15  # share of a budget in seconds that choosing may take, compiling included


def choose(
    task: Task,
    device: str = "cpu",
    *,
    engine: str = "auto",
    slots: int | None = None,
    updates: float = math.inf,
    seconds: float = math.inf,
) -> tuple[Choice, Pool]:
    """Time the pools that may serve a task and take the fastest.

    Args:
        task: what is trained.
        device: as torch names it.
        engine: auto, serial or fused: which pools may be taken.
        slots: K; the best one where None.
        updates: about how many the search will make, all trials together: what measuring and
            compiling have to be worth.
        seconds: about how long it will train; choosing takes a small share of it.

    Raises:
        InputError: an unknown engine, slots below 1, a model that cannot be trained or that the
            fused pool was asked for and cannot run.
    """
    check_wishes(engine, slots)
    return _Contest(task, device, engine, slots, updates, seconds).winner()


class _Contest:
    """The candidates, timed one after the other on the way to the fastest."""

    def __init__(
        self,
        task: Task,
        device: str,
        engine: str,
        slots: int | None,
        updates: float,
        seconds: float,
    ) -> None:
        self._task = task
        self._device = device
        self._kind = torch.device(device).type
        self._engine = engine
        self._slots = slots
        self._serial = slots or (SHARING if isinstance(task.train, Stream) else 1)  # slots
        self._updates = updates
        self._seconds = seconds
        self._until = time.perf_counter() + CHOOSING * seconds
        self._figures: dict[str, float] = {}
        self._best: tuple[float, Choice, Pool] | None = None
        self._why_serial = ""
        self._compiling = COMPILING[self._kind]

    def winner(self) -> tuple[Choice, Pool]:
        most = torch.get_num_threads()
        try:
            for threads in self._threads(most):
                if self._best is not None and (self._is_late or self._leading * self._work < BRIEF):
                    break
                if threads is not None:
                    torch.set_num_threads(threads)
                self._eager(threads)
            if self._best is None:
                raise InputError(
                    f"{self._task.name}: --engine fused: {self._why_serial}: use --engine serial"
                )
            best = self._leader.threads
            if best is not None:
                torch.set_num_threads(best)
            self._compiled(best)
        finally:
            torch.set_num_threads(most)
        assert self._best is not None
        seconds, choice, pool = self._best
        return replace(choice, why=self._why(seconds), figures=self._figures), pool

    def _threads(self, most: int) -> list[int | None]:
        """One thread first: it is what a crowded machine can always give."""
        if self._kind != "cpu":
            return [None]
        return [1] if most == 1 else [1, most]

    def _eager(self, threads: int | None) -> None:
        """Serial, then fused."""
        if self._engine != "fused":
            while not self._try(Choice("serial", self._serial, threads=threads)):
                self._serial = -(-self._serial // 2)  # they have no room together
        if self._engine == "auto" and self._leading * self._work < BRIEF:
            self._why_serial = f"the search takes {self._leading * self._work:.1f} s as it is"
        if self._engine == "serial" or self._why_serial:
            return
        if self._engine == "auto" and isinstance(self._task.train, Stream):
            self._why_serial = "the data is streamed"
            return
        if self._engine == "auto" and self._is_long:
            self._why_serial = f"an update takes {1000 * self._leading:.0f} ms, most of it work"
            return
        for slots in self._sizes():
            if self._is_late or not self._try(Choice("fused", slots, threads=threads)):
                break

    def _compiled(self, threads: int | None) -> None:
        """Compile as long as it should save more than it takes."""
        leader = self._leader
        sizes = [leader.slots] + ([s for s in self._sizes() if s != leader.slots])
        saved = SAVED / 5 if self._is_long else SAVED
        for slots in sizes if leader.name == "fused" else [leader.slots]:
            if saved * self._leading * self._work < self._compiling:
                return
            if time.perf_counter() + self._compiling > self._until:
                return
            began = time.perf_counter()
            if not self._try(Choice(leader.name, slots, compiled=True, threads=threads)):
                return
            self._compiling = time.perf_counter() - began
            saved = SAVED / 2  # of another size, less is to be hoped for

    def _sizes(self) -> list[int]:
        """Trials at once: such that the last wave of a search is as full as the first."""
        if self._slots is not None:
            return [self._slots]
        trials = math.ceil(min(MANY, self._work / self._task.horizon))
        found = set()
        for size in TOGETHER[self._kind]:
            size = max(1, min(size, trials // WAVES, self._room()))
            found.add(math.ceil(trials / math.ceil(trials / size)))
        return sorted(found - {1}) or [2]

    @property
    def _work(self) -> float:
        """Updates that the search will make, as far as one can tell."""
        return min(self._updates, self._seconds / self._leading if self._best else math.inf)

    def _room(self) -> int:
        """Trials whose state fits the memory: weights, gradients, optimizer and copies."""
        with torch.random.fork_rng(devices=[]):
            weights = sum(p.nbytes for p in self._task.model().parameters())
        return max(1, room(torch.device(self._device), None) // (10 * weights + 1))

    def _try(self, choice: Choice) -> bool:
        """Time a candidate; whether it could be."""
        label = choice.label
        pool: Pool
        try:
            if choice.name == "serial":
                pool = SerialPool(self._task, choice.slots, self._device, compiled=choice.compiled)
            else:
                pool = FusedPool(self._task, choice.slots, self._device, compiled=choice.compiled)
            hopeless = HOPELESS * choice.slots * self._leading if self._best else math.inf
            seconds = time_updates(pool, hopeless) / choice.slots
        except InputError:
            raise
        except Exception as error:  # whatever model, compiler or memory may raise
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            if isinstance(error, Unfit):
                said = str(error)
                if self._engine == "fused":
                    raise InputError(
                        f"{self._task.name}: --engine fused: {said}: use --engine serial"
                    ) from error
            elif choice.name == "serial" and not choice.compiled:
                full = is_out_of_memory(error)
                if not full or self._slots is not None or choice.slots == 1:
                    out = ": fewer --slots or a smaller --batch-size need less" if full else ""
                    raise InputError(f"{self._task.name}: training fails: {said}{out}") from error
            self._figures[label] = math.nan
            if choice.name == "fused" and not choice.compiled and not self._fused_ran:
                self._why_serial = said
            return False
        self._figures[label] = seconds
        needed = WORTH if self._crowds(choice) and not self._is_long else 1.0
        if self._best is None or needed * seconds < self._best[0]:
            self._best = seconds, choice, pool
        return True

    @property
    def _is_late(self) -> bool:
        return time.perf_counter() > self._until

    @property
    def _is_long(self) -> bool:
        """Whether an update is nearly all arithmetic: more cores help it, and little else does."""
        return self._kind == "cpu" and self._best is not None and self._leading > LONG

    @property
    def _fused_ran(self) -> bool:
        return any(name.startswith("fused") and v == v for name, v in self._figures.items())

    def _crowds(self, choice: Choice) -> bool:
        return self._best is not None and choice.threads != self._leader.threads

    @property
    def _leader(self) -> Choice:
        assert self._best is not None
        return self._best[1]

    @property
    def _leading(self) -> float:
        assert self._best is not None
        return self._best[0]

    def _why(self, seconds: float) -> str:
        if self._why_serial:
            return self._why_serial
        if len(self._figures) == 1:
            return "as asked"
        other = "serial" if self._leader.name == "fused" else "fused"
        rivals = [(v, name) for name, v in self._figures.items() if name.startswith(other)]
        said = f"{1e6 * seconds:,.0f} µs an update of a trial"
        if rivals:  # a figure that is none is never the least
            figure, name = min(rivals, key=lambda rival: (rival[0] != rival[0], rival[0]))
            said += f", {name} {1e6 * figure:,.0f}"
        return said


def time_updates(pool: SerialPool | FusedPool, hopeless: float = math.inf) -> float:
    """Seconds of one update of all that train together, the median of a few tries.

    Args:
        pool: no trial is in it.
        hopeless: seconds beyond which there is no second try.
    """
    pool.try_updates(1)
    found: list[float] = []
    most = min(50, pool.task.horizon)  # a stream ends there
    count = min(2, most)
    while len(found) < TRIES and (not found or count * sum(found) < TRIES * SPENT):
        began = time.perf_counter()
        pool.try_updates(count)
        found.append((time.perf_counter() - began) / count)
        if found[0] > hopeless:
            break
        count = max(1, min(most, int(SPENT / found[0])))
    return median(found)
