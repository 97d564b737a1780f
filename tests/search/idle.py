"""Searches with an idle trainer, whose trials end in all ways, and processes that are killed."""

import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, starmap
from pathlib import Path

import optuna
import pandas as pd
import torch
from optuna.pruners import BasePruner, NopPruner
from optuna.storages.journal import JournalFileBackend
from overhead import IdlePool, idle_task

from lrtune.engine import Progress
from lrtune.engine.pool import Snapshot
from lrtune.search import (
    Limits,
    Loop,
    Record,
    SchedulePruner,
    Search,
    SearchState,
    Space,
    Stopping,
    SurrogateSampler,
    frame,
    loop,
    open_study,
    records,
)
from lrtune.search.early_stopping import NEVER
from lrtune.search.journal import unlock
from lrtune.search.study import take
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY

optuna.logging.set_verbosity(optuna.logging.WARNING)
TOTAL, VALIDATIONS, TRIALS = 400, 8, 24
EVERYTHING = replace(NEVER, patience=2, audit=0.3)  # with NoisyPool: all ways to end, and audits
SPACE = Space(("cosine", "constant", "plateau", "wsd"), peak_lr=(1e-3, 0.5))
# Half of them hold their rate, so that some reach a plateau.
HELD = Space(("constant", "cosine", "inverse_sqrt", "linear"), peak_lr=(0.01, 0.2))
CONSTANTS = Space(("constant",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
CHECKPOINT = "checkpoint.safetensors"
INTERRUPTED = 130  # exit code
SAME = ["number", "family", "state", "reason", "value", "schedule", "updates", "evidence", "audit"]
SAME += ["step", "loss", "train_loss", "rate", "averaged", "val_cross_entropy"]


class SpoiltPool(IdlePool):
    """Spoils what a pool reports, as ``spoil(progress)`` says; counts what it restores.

    A group that was launched and not collected must be left alone.
    """

    def __init__(
        self,
        spoil: Callable[[Progress], Progress] = lambda progress: progress,
        slots: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(idle_task(VALIDATIONS), slots)
        places = [slots * group // groups for group in range(groups + 1)]
        self._groups = [*starmap(range, pairwise(places))]
        self.launched: list[int] = []  # groups
        self.spoil = spoil
        self.restored = 0  # trials
        self.spared = 0  # updates that these had done
        self.dies_in = math.inf  # segments
        self.death: BaseException = KeyboardInterrupt()

    @property
    def groups(self) -> list[range]:
        return self._groups

    def launch(self, group: int) -> None:
        assert group not in self.launched
        self.launched.append(group)

    def collect(self, group: int) -> list[Progress]:
        self.launched.remove(group)
        before, slots = self._updates, self.groups[group]
        self._updates = {slot: update for slot, update in before.items() if slot in slots}
        try:
            return self.advance()
        finally:
            self._updates = before | self._updates

    def rests(self, slot: int) -> None:
        assert not any(slot in self.groups[group] for group in self.launched)

    def start(self, slot: int, *given: object) -> Progress:
        self.rests(slot)
        return super().start(slot, *given)

    def release(self, slot: int) -> None:
        self.rests(slot)
        super().release(slot)

    def advance(self) -> list[Progress]:
        self.dies_in -= 1
        if self.dies_in == 0:
            raise self.death
        return [self.spoil(progress) for progress in super().advance()]

    def snapshot(self, slot: int) -> Snapshot:
        self.rests(slot)
        return replace(super().snapshot(slot), tensors={"weights/none": torch.zeros(3)})

    def restore(self, slot: int, snapshot: Snapshot) -> None:
        self.rests(slot)
        assert slot not in self._updates
        super().restore(slot, snapshot)
        self.restored += 1
        self.spared += snapshot.update


class NoisyPool(SpoiltPool):
    """Averaged weights that are a little ahead; a few trials diverge, others reach a plateau."""

    def __init__(self, slots: int = 1, groups: int = 1) -> None:
        super().__init__(self.spoilt, slots, groups)

    def spoilt(self, progress: Progress) -> Progress:
        rates = self._rates[progress.slot]
        kind = int(1e7 * rates[20]) % 7
        if kind == 0 and progress.update > 0:
            return replace(progress, loss=math.nan)
        loss = progress.loss * (1 + 0.02 * math.sin(1e4 * rates[20] + progress.update))
        if kind < 3:
            loss = 0.5 + 0.01 * kind
        return replace(losing(progress, loss), averaged=0.97 * loss)


class AsTheyCome:
    """Groups are served as they come, from the fastest to the slowest; some lose their hosts.

    Time is counted in segments of the first group. ``lost`` says from when to when a group has no
    host; then another host trains the segment again.
    """

    in_order = False

    def __init__(
        self, slots: int = 6, groups: int = 3, lost: dict[int, tuple[float, float]] | None = None
    ) -> None:
        super().__init__(slots=slots, groups=groups)
        self.lost = lost or {}
        self.now = 0.0
        self.due: dict[int, float] = {}  # of the launched groups
        self.looks = 0
        self.collected: list[int] = []

    def open(self, group: int) -> bool:
        begin, end = self.lost.get(group, (math.inf, math.inf))
        return not begin <= self.now < end

    def host(self, slot: int) -> str:
        (group,) = (g for g, slots in enumerate(self.groups) if slot in slots)
        return f"host-{group}" + "b" * (self.lost.get(group, (math.inf,))[0] <= self.now)

    def launch(self, group: int) -> None:
        assert any(slot in self._updates for slot in self.groups[group])
        super().launch(group)
        self.due[group] = self.now + 1 + 0.3 * group

    def ready(self, launched: Sequence[int]) -> int | None:
        assert sorted(launched) == sorted(self.launched)
        self.looks += 1
        changes = [(when, g) for g, both in self.lost.items() for when in both if when > self.now]
        change, lost = min(changes, default=(math.inf, -1))
        at, group = min(((self.due[g], g) for g in launched), default=(math.inf, -1))
        assert min(change, at) < math.inf, "it would wait for ever"
        if change <= at:
            self.now = change
            if lost in launched and change == self.lost[lost][0]:
                self.due[lost] += self.lost[lost][1] - change
            return None
        self.now = at
        return group

    def collect(self, group: int) -> list[Progress]:
        self.collected.append(group)
        return super().collect(group)


class ComingPool(AsTheyCome, NoisyPool):
    """With trials that end in all ways."""


def losing(progress: Progress, loss: float) -> Progress:
    """The same with another loss."""
    metrics = {"cross_entropy": loss, "accuracy": math.exp(-loss)}
    return replace(progress, loss=loss, metrics=metrics)


def flat(progress: Progress) -> Progress:
    """Learns nothing."""
    return losing(progress, 1.0)


def scoring(pool: SpoiltPool) -> SpoiltPool:
    """The same pool, judged by its accuracy."""
    pool.task = replace(pool.task, metrics=(ACCURACY, CROSS_ENTROPY))
    return pool


def study_in(
    folder: Path,
    pruner: BasePruner | None = None,
    space: Space = SPACE,
    direction: str = "minimize",
    storage: str | None = None,
) -> optuna.Study:
    folder.mkdir(exist_ok=True)
    sampler = SurrogateSampler(space, idle_task(VALIDATIONS).horizon, seed=0)
    kept = {"sampler": sampler, "pruner": pruner or NopPruner()}
    if storage is not None:
        return take(storage, "s", "me", direction).study(**kept)
    return open_study(folder / "journal.log", "s", direction, **kept)


def search_in(
    folder: Path,
    pool: IdlePool,
    limits: Limits | SearchState | int = TRIALS,
    *,
    pruner: BasePruner | None = None,
    space: Space = SPACE,
    stopping: Stopping = NEVER,
    checkpoint: bool = False,
    owner: str = "me",
    seed: int = 5,
    judge: str = "last",
    storage: str | None = None,
    **kept: object,
) -> list[Record]:
    """Search, or go on with one: every trial that is over."""
    limits = Limits(trials=limits) if isinstance(limits, int) else limits
    state = SearchState(limits) if isinstance(limits, Limits) else limits
    study = study_in(folder, pruner, space, pool.task.objective.direction, storage)
    how = {"stopping": stopping, "seed": seed, "owner": owner, "judge": judge}
    path = folder / CHECKPOINT if checkpoint else None
    Loop(pool, [Search(study, space, pool, state, **how)], checkpoint=path, **kept).run()
    return records(study)


def pruned_in(folder: Path, pool: SpoiltPool, trials: int = 30, **how: object) -> list[Record]:
    """Likewise, with our pruner, unless another is given."""
    return search_in(
        folder, pool, trials, **{"pruner": SchedulePruner(TOTAL), "space": HELD, **how}
    )


def found_in(folder: Path) -> pd.DataFrame:
    return frame(records(study_in(folder)))


def in_state(trials: list[Record], state: str) -> list[Record]:
    return [record for record in trials if record.state == state]


def assert_same(trials: list[Record], expected: list[Record]) -> None:
    pd.testing.assert_frame_equal(frame(trials)[SAME], frame(expected)[SAME])


def checkpoint_every_segment() -> None:
    loop.due = lambda since, cost: True


def dying(owner: object, function: str, count: int, death: Callable[[], None]) -> None:
    """Let the n-th call of a function be one too many."""
    call, left = getattr(owner, function), count

    def counted(*arguments: object, **named: object) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            death()
        return call(*arguments, **named)

    setattr(owner, function, counted)


def dying_at_entry(count: int, death: Callable[[], None]) -> None:
    """Let the n-th entry of a journal be the last, whatever was to be written together with it."""
    append, left = JournalFileBackend.append_logs, count

    def counted(journal: JournalFileBackend, logs: list[dict[str, object]]) -> None:
        nonlocal left
        before, left = left, left - len(logs)
        if not left <= 0 < before:
            return append(journal, logs)
        append(journal, logs[:before])
        death()
        return append(journal, logs[before:]) if left else None

    JournalFileBackend.append_logs = counted


def killed(
    folder: Path,
    pool: SpoiltPool,
    by: str,
    count: int,
    at: str,
    checkpoint: bool,
    trials: int = 30,
) -> None:
    """Search in a process that dies as it stores its n-th entry, or n-th checkpoint."""

    def death() -> None:
        if by == "SIGKILL":
            unlock(folder / "journal.log", 0)  # else the next one would wait for it
        os.kill(os.getpid(), getattr(signal, by))

    child = os.fork()
    if child == 0:
        if checkpoint:
            checkpoint_every_segment()
        if at == "checkpoint":
            dying(os, "replace", count, death)
        else:
            dying_at_entry(count, death)
        try:
            pruned_in(folder, pool, trials, stopping=EVERYTHING, checkpoint=checkpoint)
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)
        finally:
            os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (-signal.SIGKILL if by == "SIGKILL" else INTERRUPTED)
