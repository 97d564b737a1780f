"""SpreadPool: a Pool whose slots live in workers; trials of a lost one go on elsewhere."""

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise, starmap
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from lrtune.engine.checkpoint import whole
from lrtune.engine.pool import (
    NO_SETTINGS,
    SCHEDULE_FREE,
    Array,
    ForwardingPool,
    Progress,
    Snapshot,
)
from lrtune.engine.worker import LARGEST, Make
from lrtune.format import plural
from lrtune.tasks import Task

LOOK = 1.0  # seconds between looks at workers that say nothing
PATIENCE = 10.0  # seconds until the trials of a lost worker go on in one that has others
TIRED = 5  # workers that one segment may cost


class Lost(Exception):
    """A worker has ended, or cannot be reached any more."""


class Refused(Lost):
    """A worker is not one that may be used."""


class Remote(Protocol):
    """A Worker, seen from here; it has the task.

    Attributes:
        name: for a person.
        sees: whether it can read the file of a Snapshot, as far as is known.
    """

    name: str
    sees: bool

    @property
    def leaving(self) -> bool:
        """Whether it is about to end, and can still be asked."""

    def ask(self, number: int | None, method: str, *arguments: object) -> Future[Any]:
        """Have a method called, after those before: see ``Worker.do``. An error may be Lost."""

    def lines(self) -> list[str]:
        """Lines for a person that came with its answers since the last time."""

    def kill(self) -> None:
        """End it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker that was lost.

    Attributes:
        host: its name.
        at: seconds since the epoch.
        why: for a person.
        trials: that it had, and that went on elsewhere.
    """

    host: str
    at: float
    why: str
    trials: int

    def __str__(self) -> str:
        clock = time.strftime("%H:%M", time.localtime(self.at))
        went = f"; {plural(self.trials, 'trial goes', 'trials go')} on elsewhere"
        return f"{self.host} lost at {clock}: {self.why}{went if self.trials else ''}"


@dataclass(eq=False)
class _Part:
    """The slots of one worker, and how another one comes to where it was."""

    number: int
    slots: range
    worker: Remote
    opened: Future[dict[str, str]]  # by the worker: where its data is
    guest: Remote | None = None  # of other slots, which trains these too for a time
    base: dict[int, Snapshot] = field(default_factory=dict)  # of all, as they once were together
    commands: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)  # since
    seen: dict[int, Snapshot] = field(default_factory=dict)  # since the last command
    occupied: set[int] = field(default_factory=set)  # slots, the first one here is 0
    sent: list[Future[Any]] = field(default_factory=list)  # answers that nobody waits for
    reached: Future[list[Progress]] | None = None  # of a segment that it was launched for
    awaited: bool = False  # an answer is, here and now
    lost: int = 0  # workers since a segment was over
    since: float = 0.0  # when the worker was started

    @property
    def place(self) -> Remote:
        """What trains it."""
        return self.guest or self.worker

    @property
    def is_needed(self) -> bool:
        """Whether something comes to a halt without a worker for it."""
        return bool(self.occupied) or self.awaited or self.reached is not None

    @property
    def is_open(self) -> bool:
        """Whether its own worker serves."""
        return self.guest is None and self.opened.done() and self.opened.exception() is None


class SpreadPool(ForwardingPool):
    """A Pool over several workers, which train at the same time; each has a block of the slots.

    For each worker the commands since the last snapshot of all its trials are kept. Where it is
    lost, another one takes up the snapshots and repeats the commands, and nobody who uses the pool
    notices. Workers end with ``close()``, with the ``with`` block, or with the pool.

    Attributes:
        losses: workers that were lost.
    """

    def __init__(
        self,
        task: Task,
        shares: Sequence[int],
        start: Callable[[int], Remote],
        make: Make,
        *,
        in_order: bool = True,
        lockstep: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Start the workers and let each make its Pool.

        Args:
            task: what is trained; the workers have it.
            shares: slots of each worker, at least 1.
            start: starts the worker of so many-th slots, without waiting for it.
            make: ``make(task, slots, device)`` -> the Pool of one worker.
            in_order: whether groups are ready in the order in which they were launched; else as
                they come, and some of their workers may come later.
            lockstep: whether all slots are one group.
            tell: called with each line that a worker has to say, and with losses.

        Raises:
            InputError: whatever ``make`` finds wrong with the task.
        """
        self.task = task
        self.slots = sum(shares)
        self.in_order = in_order or lockstep
        self.losses: list[Loss] = []
        self._start, self._make, self._tell = start, make, tell
        self._untrained: dict[tuple[int, bool], Progress] = {}  # by seed, and whether schedule-free
        self._ended = SimpleQueue[_Part]()  # of which something is over
        self._parts: list[_Part] = []
        self._looked = 0.0
        self._lost: set[Remote] = set()
        self._full: set[Remote] = set()  # that have no room for a guest
        self._waits = False  # for any worker at all, and has told so
        blocks = [*starmap(range, pairwise(accumulate(shares, initial=0)))]
        self.close = weakref.finalize(self, _close, self._parts)
        try:
            for number, slots in enumerate(blocks):
                part = _Part(number, slots, start(number), Future())
                self._parts.append(part)
                self._open(part)
            self.placement = self._placed()
        except BaseException:
            self.close()
            raise
        self._of_slot = [part for part in self._parts for _ in part.slots]
        self._groups = [range(self.slots)] if lockstep else blocks
        self._of_group = [self._parts] if lockstep else [[part] for part in self._parts]

    def _placed(self) -> dict[str, str]:
        """Where the data is, once all workers serve; any of them where order does not matter."""
        while not (open_ := [part for part in self._parts if part.is_open]) or (
            self.in_order and len(open_) < len(self._parts)
        ):
            self._wait_for_any()
            for part in self._parts:
                error = part.opened.exception() if part.opened.done() else None
                if isinstance(error, Lost):
                    self._replace(part, error)
                elif error is not None:
                    raise error
        places = [part.opened.result() for part in open_]
        return {
            split: "; ".join(dict.fromkeys(place[split] for place in places)) for split in places[0]
        }

    def __enter__(self) -> "SpreadPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def groups(self) -> Sequence[range]:
        """See Pool."""
        return self._groups

    @property
    def hosts(self) -> list[str]:
        """Names of the workers that serve."""
        return [part.worker.name for part in self._parts if part.is_open]

    def host(self, slot: int) -> str:
        """See Pool."""
        return self._at(slot)[0].place.name

    def open(self, group: int) -> bool:
        """See Pool."""
        return self.in_order or all(part.is_open for part in self._of_group[group])

    def advance(self) -> list[Progress]:
        """See Pool."""
        every = range(len(self._groups))
        for group in every:
            self.launch(group)
        return [progress for group in every for progress in self.collect(group)]

    def launch(self, group: int) -> None:
        """See Pool."""
        for part in self._of_group[group]:
            if part.guest is not None and part.opened.done() and part.opened.exception() is None:
                self._move(part)
            part.commands.append(("advance", ()))
            part.seen.clear()
            part.reached = part.place.ask(part.number, "advance")
            self._watch(part, part.reached)

    def ready(self, launched: Sequence[int]) -> int | None:
        """See Pool; None too where nothing has happened for a while."""
        if self.in_order:
            return launched[0]
        if (part := self._wait_for_any()) is None:
            return None
        if part.reached is None and part.guest is not None:
            return None
        over = part.opened if part.reached is None else part.reached
        if not over.done():
            return None
        errors = (answer.exception() for answer in (*part.sent, over) if answer.done())
        error = next(filter(None, errors), None)
        if isinstance(error, Lost) or (isinstance(error, MemoryError) and part.guest):
            self._replace(part, error)
            return None
        if part.reached is None and error is not None:
            raise error
        return None if part.reached is None else part.number

    def collect(self, group: int) -> list[Progress]:
        """See Pool."""
        return [progress for part in self._of_group[group] for progress in self._collect(part)]

    def _collect(self, part: _Part) -> list[Progress]:
        assert part.reached is not None
        try:
            while True:
                place = part.place
                try:
                    for answer in part.sent:
                        self._result(part, answer)
                    reached: list[Progress] = self._result(part, part.reached)
                    break
                except (Lost, MemoryError) as error:
                    if isinstance(error, MemoryError) and part.guest is None:
                        raise
                    if part.place is place:
                        self._replace(part, error)
        finally:
            part.sent, part.reached = [], None
        part.lost = 0
        for line in part.place.lines():
            self._tell(f"{part.place.name}: {line}")
        if part.place.leaving:
            self._tell(f"{part.place.name} is leaving")
            self._move(part, part.place)
        return [replace(found, slot=part.slots.start + found.slot) for found in reached]

    def start(
        self,
        slot: int,
        rates: Array,
        seed: int,
        momenta: Array | None = None,
        settings: Mapping[str, Any] = NO_SETTINGS,
    ) -> Progress:
        """See Pool; nobody waits for it where another trial of the seed was validated before."""
        part, own = self._at(slot)
        arguments = own, rates, seed, momenta, dict(settings)
        known = self._untrained.get(kind := (seed, SCHEDULE_FREE in settings))
        if known is None:
            known = self._change(part, "start", *arguments)
            if known.error is None:
                self._untrained[kind] = replace(known, seconds=0.0)
        else:
            self._send(part, "start", *arguments)
        part.occupied.add(own)
        return replace(known, slot=slot)

    def revise(self, slot: int, rates: Array) -> None:
        """See Pool."""
        part, own = self._at(slot)
        self._send(part, "revise", own, rates)

    def release(self, slot: int) -> None:
        """See Pool."""
        part, own = self._at(slot)
        if own in part.occupied:
            self._send(part, "release", own)
            part.occupied.remove(own)
            if not part.occupied:
                part.base, part.commands = {}, []
                if part.guest is not None:
                    part.guest.ask(None, "close", part.number)
                    part.guest = None

    def snapshot(self, slot: int) -> Snapshot:
        """See Pool."""
        part, own = self._at(slot)
        snapshot: Snapshot = self._asked(part, part.number, "snapshot", own)
        part.seen[own] = snapshot
        if part.seen.keys() == part.occupied:
            order = self._asked(part, None, "order", part.number)
            part.base = {own: part.seen[own] for own in order or sorted(part.seen)}
            part.commands, part.seen = [], {}
        return snapshot

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        """See Pool."""
        part, own = self._at(slot)
        self._asked(part, part.number, "restore", own, _seen_by(part.place, snapshot))
        part.commands.append(("restore", (own, snapshot)))
        part.seen.clear()
        part.occupied.add(own)

    def needed(self) -> list[Snapshot]:
        """See Pool."""
        given = [command[1] for part in self._parts for command in part.commands]
        restored = [own for arguments in given for own in arguments if isinstance(own, Snapshot)]
        based = [own for part in self._parts for own in part.base.values()]
        return [*restored, *based, *(own for part in self._parts for own in part.seen.values())]

    def _forward(self, slot: int, method: str, *arguments: object) -> Any:
        part, own = self._at(slot)
        return self._asked(part, part.number, method, own, *arguments)

    def _at(self, slot: int) -> tuple[_Part, int]:
        if slot not in range(self.slots):
            raise IndexError(f"slot {slot}: there are 0 to {self.slots - 1}")
        part = self._of_slot[slot]
        return part, slot - part.slots.start

    def _change(self, part: _Part, method: str, *arguments: object) -> Any:
        """Ask for what changes something, and wait."""
        result = self._asked(part, part.number, method, *arguments)
        part.commands.append((method, arguments))
        part.seen.clear()
        return result

    def _send(self, part: _Part, method: str, *arguments: object) -> None:
        """Ask for what changes something; errors come with what it reaches next."""
        part.commands.append((method, arguments))
        part.seen.clear()
        part.sent.append(part.place.ask(part.number, method, *arguments))

    def _asked(self, part: _Part, number: int | None, method: str, *arguments: object) -> Any:
        while True:
            place = part.place
            try:
                return self._result(part, place.ask(number, method, *arguments))
            except Lost as error:
                if part.place is place:
                    self._replace(part, error)

    def _result(self, part: _Part, answer: Future[Any]) -> Any:
        """Wait for an answer; Lost too where another worker has come to train the part."""
        place = part.place
        part.awaited = True
        try:
            while not answer.done():
                wait([answer], timeout=LOOK)
                self._look()
                if part.place is not place:
                    raise Lost("another one trains its trials")
        finally:
            part.awaited = False
        return answer.result()

    def _watch(self, part: _Part, answer: Future[Any]) -> None:
        ended = self._ended
        answer.add_done_callback(lambda _: ended.put(part))

    def _wait_for_any(self) -> _Part | None:
        """A part of which something is over; None where nothing is for a while."""
        self._look()
        try:
            return self._ended.get(timeout=LOOK)
        except Empty:
            return None

    def _look(self) -> None:
        """Once a second: let others train what has waited too long for a worker of its own."""
        now = time.monotonic()
        if now - self._looked < LOOK:
            return
        self._looked = now
        if any(part.is_open for part in self._parts):
            self._waits = False
        elif not self._waits and self._lost:
            self._waits = all(now - part.since > PATIENCE for part in self._parts)
            if self._waits:
                self._tell("no host is ready: waiting for one")
        leaving = {part for part in self._parts if part.place.leaving}
        for part in self._parts:
            if now - part.since < PATIENCE:
                continue
            if part.guest is not None and part.opened.done() and part.opened.exception():
                self._renew(part)  # it was lost before it came to anything
            if not part.is_needed or part.guest is not None or part.opened.done():
                continue
            guests = [one.guest for one in self._parts]
            hosts = [
                one.worker
                for one in self._parts
                if one.is_open and one not in leaving and one.worker not in self._lost | self._full
            ]
            if hosts:
                part.guest = min(hosts, key=guests.count)
                self._tell(f"no new host so far: {part.guest.name} trains for the lost one too")
                self._open(part)  # anew: what its own was asked for is another's now
                self._repeat(part)

    def _renew(self, part: _Part) -> None:
        """Another worker in place of its own; what that trained for others goes back to theirs."""
        ended = part.worker
        ended.kill()
        part.worker = self._start(part.number)
        self._open(part)
        for other in self._parts:
            if other.guest is ended:
                other.guest = None
                self._repeat(other)

    def _open(self, part: _Part) -> None:
        """Let the worker make its Pool, as soon as it is there."""
        part.since = time.monotonic()
        part.opened = part.worker.ask(None, "open", part.number, self._make, len(part.slots))
        self._watch(part, part.opened)

    def _replace(self, part: _Part, why: Exception) -> None:
        """Another worker goes on with what one trained that is lost, or that has no room for it."""
        if isinstance(why, MemoryError):
            assert part.guest is not None
            self._tell(f"{part.guest.name} has no room for them: they wait for a host of their own")
            self._full.add(part.guest)
            part.guest.ask(None, "close", part.number)
        elif isinstance(why, Refused):
            self._lost.add(part.place)
            self._tell(f"{part.place.name} is not used: {why}")
        elif part.place not in self._lost:  # else it was another part's guest, or host
            self._lost.add(part.place)
            loss = Loss(part.place.name, time.time(), str(why), len(part.occupied))
            self.losses.append(loss)
            self._tell(str(loss))
            part.lost += 1
            others = not self.in_order and any(
                one.is_open for one in self._parts if one is not part
            )
            if part.lost >= TIRED and not part.occupied and others:
                self._tell(f"{loss.host}: no other one is started in its place")
                return
            if part.lost >= TIRED:
                raise RuntimeError(f"{loss.host}: {why}, as {TIRED - 1} before it in this segment")
        if part.guest is None:
            self._renew(part)
        part.guest = None
        self._repeat(part)

    def _move(self, part: _Part, leaving: Remote | None = None) -> None:
        """Between two segments: to its own worker, which is another one than what leaves."""
        with suppress(OSError):  # a full disk: then it is trained again
            for own in part.occupied:
                self.snapshot(part.slots.start + own)
        if leaving not in (None, part.place):
            return  # it was lost meanwhile
        if leaving is None:
            assert part.guest is not None
            part.guest.ask(None, "close", part.number)
        elif part.guest is None:
            self._renew(part)
        part.guest = None
        self._repeat(part)

    def _repeat(self, part: _Part) -> None:
        """Let what trains it from now on do what was done since the base."""
        place, number, share = part.place, part.number, len(part.slots)
        answers: list[Future[Any]] = []
        if part.guest is not None:
            answers.append(place.ask(None, "open", number, self._make, share))
        restores = [("restore", (own, snapshot)) for own, snapshot in part.base.items()]
        for method, given in (*restores, *part.commands):
            seen = [_seen_by(place, one) if isinstance(one, Snapshot) else one for one in given]
            answers.append(place.ask(number, method, *seen))
        if part.reached is not None:
            part.reached = answers.pop()
            self._watch(part, part.reached)
        part.sent = answers


def _seen_by(worker: Remote, snapshot: Snapshot) -> Snapshot:
    """The Snapshot as a worker can read it, who may not see its file: then with the tensors."""
    if worker.sees or not snapshot.file or not Path(snapshot.file).is_file():
        return snapshot
    return snapshot if Path(snapshot.file).stat().st_size > LARGEST else whole(snapshot)


def _close(parts: Sequence[_Part]) -> None:
    for part in parts:
        part.worker.kill()
