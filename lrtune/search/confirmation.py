"""Confirmation: schedules trained again on seeds that the search never saw: work for the loop."""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.pool import Snapshot
from lrtune.schedule import Schedule
from lrtune.search.final import Final
from lrtune.search.keeper import Keeper
from lrtune.search.record import Ending, Judge
from lrtune.search.stopping import diverged
from lrtune.search.training import Training, as_it_was, from_scratch

FINALS = 0x46494E41  # what sets their seeds apart from all others
FINAL = "final "  # what the keys of final trainings begin with


@dataclass(frozen=True, slots=True)
class Job:
    """One training to be done."""

    schedule: Schedule
    seed: int

    @property
    def key(self) -> str:
        """Of it in a checkpoint."""
        return f"{FINAL}{self.seed} {zlib.crc32(self.schedule.to_json().encode()):08x}"


@dataclass(slots=True, kw_only=True)
class ActiveFinal(Training):
    """A final training that is under way."""

    @property
    def job(self) -> Job:
        """What it does."""
        return Job(self.schedule, self.seed)

    @property
    def key(self) -> str:
        """Its job's."""
        return self.job.key

    @property
    def name(self) -> str:
        """By its family and seed."""
        return f"{self.schedule.family} on seed {self.seed}"


class Confirmation:
    """Trains what is wanted to the end, and judges it on the test split."""

    def __init__(
        self,
        pool: Pool,
        wanted: Callable[[], Sequence[Job] | None],
        over: Callable[[Final], None],
        *,
        judge: Judge = "last",
        watch: Callable[[float], None] = lambda under_way: None,
    ) -> None:
        """Train nothing yet.

        Args:
            pool: that trains.
            wanted: what is still to be trained, in the order in which it is to start, what is under
                way among it; None as long as that is not known.
            over: called with each that is.
            judge: which weights of a training are judged.
            watch: called after each segment with what is done of those under way, in trainings.
        """
        self._pool = pool
        self._task = pool.task
        self._wanted = wanted
        self._over = over
        self._judge = judge
        self._watch = watch
        self._running: dict[str, ActiveFinal] = {}  # by key
        self._began = False

    @property
    def waits(self) -> bool:
        """Never: all that is wanted may start."""
        return False

    def begin(self, keeper: Keeper) -> None:
        """What is wanted may not be known yet."""

    def next(self, slot: int, keeper: Keeper) -> ActiveFinal | None:
        """Start the first that is wanted and not under way."""
        wanted = self._wanted()
        if wanted is None:
            return None
        if not self._began:
            self._forget(keeper, {job.key for job in wanted})
        job = next((job for job in wanted if job.key not in self._running), None)
        if job is None:
            return None

        def kept(snapshot: Snapshot, note: Note) -> ActiveFinal:
            return ActiveFinal(**as_it_was(job.schedule, snapshot, note))

        final = keeper.take(job.key, self._pool, slot, kept)
        if final is None:
            final = ActiveFinal(**from_scratch(self._pool, slot, job.schedule, job.seed))
        self._running[job.key] = final
        return final

    def _forget(self, keeper: Keeper, wanted: set[str]) -> None:
        """Leave out what a session before left and is over, or of another horizon."""
        horizon, self._began = self._task.horizon, True
        keeper.forget(
            lambda key, note: (
                key.startswith(FINAL) and (key not in wanted or note["horizon"] != horizon)
            )
        )

    def ending(self, final: ActiveFinal, progress: Progress) -> Ending | None:
        """Where it diverges, or at its end."""
        objective, horizon = self._task.objective, self._task.horizon
        losses = final.curves.loss
        # At the end there is no second look at what might have been a spike.
        seen = losses if progress.update < horizon else losses + losses[-1:]
        why = diverged(seen, final.untrained.loss)
        if why is None and not math.isfinite(progress.metrics[objective.name]):
            why = f"{objective.name} is {progress.metrics[objective.name]}"
        if why is not None:
            return Ending("diverged", why)
        if progress.update == horizon:
            return Ending("complete", "reached the horizon")
        if self._judge == "best" and self._judged_at(final) == progress.update:
            final.best = self._pool.snapshot(progress.slot)
        return None

    def _judged_at(self, final: ActiveFinal) -> int:
        objective = self._task.objective
        return final.curves.judged(objective.name, objective.direction == "minimize", self._judge)

    def ended(self, final: ActiveFinal, ending: Ending, progress: Progress) -> None:
        """Judge it, and hand it over."""
        del self._running[final.key]
        if ending.state == "complete":
            self._over(self._examined(final, progress.slot, ending))
        else:
            self._over(self._final(final, ending))

    def _examined(self, final: ActiveFinal, slot: int, ending: Ending) -> Final:
        """Judged on the test split: as it is, or as it was at its best."""
        at = self._judged_at(final)
        if final.best is not None and at < self._task.horizon:
            self._pool.release(slot)
            self._pool.restore(slot, final.best)
        judged = self._pool.evaluate(slot)
        final.seconds += judged.seconds
        if judged.error is not None:
            return self._final(final, Ending("failed", judged.error))
        name = self._task.objective.name
        if not math.isfinite(judged.metrics[name]):
            why = f"{name} is {judged.metrics[name]} at the end"
            return self._final(final, Ending("diverged", why))
        split = "val" if self._task.test is None else "test"
        return replace(
            self._final(final, ending),
            metrics=judged.metrics,
            split=split,
            blocks=judged.blocks,
            judged_at=at,
        )

    def _final(self, final: ActiveFinal, ending: Ending) -> Final:
        return Final(
            final.schedule,
            final.seed,
            self._task.horizon,
            ending.state,
            ending.reason,
            "val",
            {},
            final.curves,
            final.updates,
            final.seconds,
        )

    def turned(self) -> None:
        """A segment is over."""
        self._watch(sum(one.updates for one in self._running.values()) / self._task.horizon)

    def note(self, final: ActiveFinal) -> Note:
        """Of which horizon it is."""
        return {"horizon": self._task.horizon, **final.note()}

    def close(self) -> None:
        """What was under way goes on from the checkpoint."""


def final_seeds(seed: int, count: int) -> list[int]:
    """Seeds for finals: the same first ones for any count, none of them the search's own."""
    found: list[int] = []
    for number in range(count + 1):
        drawn = int(np.random.SeedSequence([FINALS, seed, number]).generate_state(1)[0])
        if drawn != seed:
            found.append(drawn)
    return found[:count]
