"""choose: which pool serves a task, tried out and measured, once per search."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Literal

import torch

from lrtune.engine.device_task import is_out_of_memory
from lrtune.engine.fused import FusedPool
from lrtune.engine.pool import Pool
from lrtune.engine.serial import SerialPool
from lrtune.engine.stacked_optimizers import Unfit
from lrtune.errors import InputError, nearest
from lrtune.tasks import Stream, Task
from lrtune.tasks.stream import room

Kind = Literal["serial", "fused"]
ENGINES = ("auto", "serial", "fused")
SHARING = 4  # trials that share each batch of a stream
# Trials at once that are tried, as long as each is the faster for it.
TOGETHER = {"cpu": (8, 32), "cuda": (8, 32, 128, 512)}
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


@dataclass(frozen=True, slots=True)
class Choice:
    """A pool, and why it is this one."""

    name: Kind  # serial or fused
    slots: int  # K, over all devices
    compiled: bool = False  # whether through ``torch.compile``
    threads: int | None = None  # of the CPU; None on other devices
    # What each of them is, see ``hardware``; empty where nobody has said.
    devices: tuple[str, ...] = ()
    why: str = ""  # one sentence
    # Seconds per update of one trial, of all that was timed; None for what cannot run.
    figures: dict[str, float | None] = field(default_factory=dict)
    deterministic: bool = False  # see Engine

    def __str__(self) -> str:
        return f"{self.label}: {self.why}"

    @property
    def label(self) -> str:
        """Without the reasons."""
        parts: list[str] = [self.name]
        if self.name == "fused":
            parts.append(f"{self.slots} at once")
        if self.compiled:
            parts.append("compiled")
        if self.threads is not None:
            parts.append(f"{self.threads} thread{'s'[: self.threads > 1]}")
        return " ".join(parts)

    @property
    def seconds(self) -> float:
        """Of an update of one trial, as it was timed; infinite where nothing was."""
        known = [figure for figure in self.figures.values() if figure]
        least = min(known, default=math.inf) / max(1, len(self.devices))
        return self.figures.get(self.label) or least

    def grants(self, engine: str, slots: int | None, devices: tuple[str, ...]) -> bool:
        """Whether this is what is wished for: an engine or auto, slots or None, such devices."""
        wished = engine in ("auto", self.name) and slots in (None, self.slots)
        return wished and devices == self.devices


def make_pool(
    task: Task, choice: Choice, device: str, tell: Callable[[str], None] = lambda line: None
) -> Pool:
    """The pool that was chosen."""
    if choice.name == "serial":
        return SerialPool(task, choice.slots, device, compiled=choice.compiled)
    try:
        return FusedPool(task, choice.slots, device, compiled=choice.compiled, tell=tell)
    except Unfit as why:
        raise _cannot_fuse(task, why) from why


def _cannot_fuse(task: Task, why: object) -> Exception:
    """The error to raise: where memory was short, that one, for nothing is wrong with the task."""
    cause = why.__cause__ if isinstance(why, Unfit) else None
    if isinstance(cause, Exception) and is_out_of_memory(cause):
        return cause
    return InputError(f"{task.name}: --engine fused: {why}: use --engine serial")


def hardware(device: str) -> str:
    """What a device is: more than its name, which is the same one in another machine."""
    return "cpu" if torch.device(device).type == "cpu" else torch.cuda.get_device_name(device)


def check_wishes(engine: str, slots: int | None) -> None:
    """Refuse what no task can be served with.

    Raises:
        InputError: an unknown engine, slots below 1.
    """
    if engine not in ENGINES:
        raise InputError(
            f"engine {engine!r}: one of {', '.join(ENGINES)}{nearest(engine, ENGINES)}"
        )
    if slots is not None and slots < 1:
        raise InputError(f"slots={slots}: at least 1")


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
    most = torch.get_num_threads()
    try:
        return _Contest(task, device, engine, slots, updates, seconds).winner(most)
    finally:
        torch.set_num_threads(most)


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
        self._task, self._device, self._engine, self._slots = task, device, engine, slots
        self._kind = torch.device(device).type
        self._serial = slots or (SHARING if isinstance(task.train, Stream) else 1)  # slots
        self._updates, self._seconds = updates, seconds
        self._until = time.perf_counter() + CHOOSING * seconds
        self._figures: dict[str, float | None] = {}
        self._best: tuple[Choice, Pool] | None = None
        self._leading = math.inf  # seconds per update of the best so far
        self._why_serial = ""  # what rules the fused pool out
        self._broken = ""  # why it failed, where it did, uncompiled

    def winner(self, most: int) -> tuple[Choice, Pool]:
        """With at most so many threads, one first: what a crowded machine can always give."""
        for threads in [None] if self._kind != "cpu" else sorted({1, most}):
            if self._best is not None and (self._is_late or self._leading * self._work < BRIEF):
                break
            if threads is not None:
                torch.set_num_threads(threads)
            self._eager(threads)
        threads = self._best[0].threads if self._best else None if self._kind != "cpu" else 1
        if threads is not None:
            torch.set_num_threads(threads)
        self._compiled(threads)
        if self._best is None:
            raise _cannot_fuse(self._task, self._why_serial or self._broken)
        choice, pool = self._best
        return replace(choice, why=self._why(choice), figures=self._figures), pool

    def _eager(self, threads: int | None) -> None:
        """Serial, then fused."""
        if self._engine != "fused":
            while not self._try(Choice("serial", self._serial, threads=threads)):
                self._serial = -(-self._serial // 2)  # they have no room together
        if self._engine == "auto" and not self._why_serial:
            if self._leading * self._work < BRIEF:
                self._why_serial = f"the search takes {self._leading * self._work:.1f} s as it is"
            elif isinstance(self._task.train, Stream):
                self._why_serial = "the data is streamed"
            elif self._is_long:
                self._why_serial = f"an update takes {1000 * self._leading:.0f} ms, most of it work"
        if self._engine == "serial" or self._why_serial or self._broken:
            return
        fastest = math.inf
        for slots in self._sizes():
            choice = Choice("fused", slots, threads=threads)
            if self._is_late or not self._try(choice):
                break
            slower, fastest = fastest, self._figures[choice.label] or math.inf
            if fastest > slower:
                break

    def _compiled(self, threads: int | None) -> None:
        """Compile what should then save more than it takes: the leader first, then the fused pool.

        That may have lost, or failed: compiled, it may need less time and less memory.
        """
        leader = self._best[0] if self._best else None
        fused = [] if self._engine == "serial" or self._why_serial else self._sizes()
        others = [Choice("fused", slots, threads=threads) for slots in fused]
        if leader is not None:
            others = [leader, *(other for other in others if other.label != leader.label)]
        share = SAVED / 5 if self._is_long else SAVED
        compiling = COMPILING[self._kind]
        for choice in others:
            began = time.perf_counter()
            if began + compiling > self._until:
                return
            uncompiled = self._figures.get(choice.label) or self._leading
            saved = self._work * (self._leading - (1 - share) * uncompiled)
            if choice is not leader:  # less is to be hoped for
                saved /= 2
            # Not a number where nothing has run yet.
            if not saved < compiling and self._try(replace(choice, compiled=True)):
                compiling = time.perf_counter() - began

    def _sizes(self) -> list[int]:
        """Trials at once: such that the last wave of a search is as full as the first."""
        if self._slots is not None:
            return [self._slots]
        trials = math.ceil(min(MANY, self._work / self._task.horizon))
        sizes = set()
        for size in TOGETHER[self._kind]:
            size = max(1, min(size, trials // WAVES, self._room()))
            sizes.add(math.ceil(trials / math.ceil(trials / size)))
        return sorted(sizes - {1}) or [2]

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
        kind = SerialPool if choice.name == "serial" else FusedPool
        try:
            pool = kind(self._task, choice.slots, self._device, compiled=choice.compiled)
            seconds = time_updates(pool, HOPELESS * choice.slots * self._leading) / choice.slots
        except InputError:
            raise
        except Exception as error:  # whatever model, compiler or memory may raise
            self._figures[choice.label] = None
            self._explain(choice, error)
            return False
        self._figures[choice.label] = seconds
        crowds = self._best is not None and choice.threads != self._best[0].threads
        if (WORTH if crowds and not self._is_long else 1.0) * seconds < self._leading:
            self._leading, self._best = seconds, (choice, pool)
        return True

    def _explain(self, choice: Choice, error: Exception) -> None:
        """Note why a candidate cannot be, or refuse the task where there is no other."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if isinstance(error, Unfit):
            self._why_serial = str(error)
            if self._engine == "fused":
                raise _cannot_fuse(self._task, error) from error
        elif choice.name == "fused":
            ran = any(v and name.startswith("fused") for name, v in self._figures.items())
            self._broken = self._broken or ("" if ran or choice.compiled else reason)
        elif not choice.compiled:
            full = is_out_of_memory(error)
            if not full or self._slots is not None or choice.slots == 1:
                out = ": fewer --slots or a smaller --batch-size need less" if full else ""
                raise InputError(f"{self._task.name}: training fails: {reason}{out}") from error

    @property
    def _is_late(self) -> bool:
        return time.perf_counter() > self._until

    @property
    def _is_long(self) -> bool:
        """Whether an update is nearly all arithmetic: more cores help it, and little else does."""
        return self._kind == "cpu" and self._best is not None and self._leading > LONG

    def _why(self, choice: Choice) -> str:
        why_not = self._why_serial or self._broken
        if why_not and choice.name == "serial":
            return why_not
        if len(self._figures) == 1:
            return "as asked"
        other = "serial" if choice.name == "fused" else "fused"
        rivals = [(v, name) for name, v in self._figures.items() if v and name.startswith(other)]
        rival = f", {min(rivals)[1]} {1e6 * min(rivals)[0]:,.0f}" if rivals else ""
        return f"{1e6 * self._leading:,.0f} µs an update of a trial{rival}"


def time_updates(pool: SerialPool | FusedPool, hopeless: float = math.inf) -> float:
    """Seconds of one update of all that train together, and its share of their validations.

    Args:
        pool: no trial is in it.
        hopeless: seconds beyond which there is no second try.
    """
    pool.try_updates(1)
    times: list[float] = []
    most = min(50, pool.task.horizon)  # a stream ends there
    count = min(2, most)
    while len(times) < TRIES and (not times or count * sum(times) < TRIES * SPENT):
        times.append(_seconds(pool.try_updates, count) / count)
        if times[0] > hopeless:
            break
        count = max(1, min(most, int(SPENT / times[0])))
    return median(times) + _time_validation(pool) * len(pool.task.checkpoints) / pool.task.horizon


def _time_validation(pool: SerialPool | FusedPool) -> float:
    """Seconds of a validation of all, from some of its samples: few where they take long."""
    val = pool.device_task.val
    few, full = (min(count, val.samples) for count in (pool.task.batch_size, val.part))
    seconds = 0.0
    for samples in sorted({min(few, full), full}):
        if seconds * samples > TRIES * SPENT:
            break
        pool.try_validation(samples)
        seconds = _seconds(pool.try_validation, samples) / samples
    return seconds * val.samples


def _seconds(run: Callable[[int], None], count: int) -> float:
    began = time.perf_counter()
    run(count)
    return time.perf_counter() - began
