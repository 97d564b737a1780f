"""Finals: schedules trained again, in full, on seeds that the search never saw."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrtune.engine import Pool, Progress
from lrtune.engine.checkpoint import Note
from lrtune.engine.pool import Snapshot
from lrtune.schedule import Controller, Schedule
from lrtune.search.final import Final
from lrtune.search.interrupt import Interrupts
from lrtune.search.keeper import Keeper
from lrtune.search.record import Curves, Judge
from lrtune.search.running import Observer, rates_of
from lrtune.search.stopping import diverged

FINALS = 0x46494E41  # what sets their seeds apart from all others


@dataclass(frozen=True, slots=True)
class Job:
    """One training to be done."""

    schedule: Schedule
    seed: int


@dataclass(slots=True)
class _Trial(Observer):
    """A job in a slot."""

    number: int
    job: Job
    rates: NDArray[np.float64]
    controller: Controller | None
    untrained: float  # validation loss
    curves: Curves = field(default_factory=Curves)
    seconds: float = 0.0
    best: Snapshot | None = None  # at its best validation, where that is what is judged


def final_seeds(seed: int, count: int) -> list[int]:
    """Seeds for finals: the same first ones for any count, none of them the search's own."""
    found: list[int] = []
    for number in range(count + 1):
        drawn = int(np.random.SeedSequence([FINALS, seed, number]).generate_state(1)[0])
        if drawn != seed:
            found.append(drawn)
    return found[:count]


def train_finals(
    pool: Pool,
    jobs: Iterable[Job],
    ended: Callable[[Final], None],
    *,
    judge: Judge = "last",
    checkpoint: Path | None = None,
    watch: Callable[[float], None] = lambda under_way: None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Train all of these to the end, as many at once as the pool has slots.

    Args:
        pool: with all slots free.
        jobs: in the order in which they are to start.
        ended: called with each that is over.
        judge: which weights of a training are judged.
        checkpoint: where those under way are kept in case this process ends, and taken up from.
        watch: called after each segment with what is done of those under way, in trainings.
        tell: called with a line where a checkpoint is of no use.

    Raises:
        KeyboardInterrupt: after Ctrl-C or SIGTERM; what is under way is kept as it was at the last
            checkpoint.
    """
    queue, running = list(enumerate(jobs)), dict[int, _Trial]()
    numbers = {(job.schedule.to_json(), job.seed): number for number, job in queue}
    keeper = Keeper(checkpoint, tell)

    def number_of(before: int, snapshot: Snapshot, note: Note) -> int | None:
        number = numbers.get((note["schedule"], snapshot.seed))
        return number if number is None or before >= 0 else ~number

    keeper.load(number_of)
    with Interrupts() as interrupts:
        while queue or running:
            for slot in range(pool.slots):
                if queue and slot not in running:
                    number, job = queue.pop(0)
                    name = f"{job.schedule.family} on seed {job.seed}"
                    as_it_was = partial(_as_it_was, number, job)
                    with interrupts.heard():
                        kept = keeper.take(number, name, pool, slot, as_it_was)
                        trial = kept or _from_scratch(number, job, pool, slot)
                        best, _ = keeper.kept.pop(~number, (None, {}))
                        trial.best = best if kept else None
                        running[slot] = trial
            with interrupts.heard():
                reached = pool.advance()
            for progress in reached:
                trial = running[progress.slot]
                final = _over(pool, trial, progress, judge)
                if final is not None:
                    del running[progress.slot]
                    pool.release(progress.slot)
                    ended(final)
            watch(sum(trial.curves.step[-1] for trial in running.values()) / pool.task.horizon)
            with interrupts.heard():
                keeper.save_if_due(pool, lambda: _notes(running), lambda: _bests(running))
    keeper.remove()


def _as_it_was(number: int, job: Job, snapshot: Snapshot, note: Note) -> _Trial:
    rates, controller = rates_of(job.schedule, len(snapshot.rates))
    curves = Curves(**note["curves"])
    return _Trial(number, job, rates, controller, note["untrained"], curves, note["seconds"])


def _from_scratch(number: int, job: Job, pool: Pool, slot: int) -> _Trial:
    horizon = pool.task.horizon
    rates, controller = rates_of(job.schedule, horizon)
    untrained = pool.admit(slot, rates, job.seed, job.schedule.momenta(horizon))
    return _Trial(number, job, rates, controller, untrained.loss, seconds=untrained.seconds)


def _notes(running: Mapping[int, _Trial]) -> dict[int, tuple[int, Note]]:
    """What is under way, for the checkpoint: by slot, its number and a note."""
    return {
        slot: (
            trial.number,
            {
                "schedule": trial.job.schedule.to_json(),
                "untrained": trial.untrained,
                "curves": asdict(trial.curves),
                "seconds": trial.seconds,
            },
        )
        for slot, trial in running.items()
    }


def _bests(running: Mapping[int, _Trial]) -> dict[int, tuple[Snapshot, Note]]:
    """The snapshots at the best validations, for the checkpoint: by the complement of a number."""
    return {
        ~trial.number: (trial.best, {"schedule": trial.job.schedule.to_json()})
        for trial in running.values()
        if trial.best is not None
    }


def _over(pool: Pool, trial: _Trial, progress: Progress, judge: Judge) -> Final | None:
    """Take in a validation; the training's result, if it is over."""
    trial.seconds += progress.seconds
    horizon, objective = pool.task.horizon, pool.task.objective.name
    if progress.error is not None:
        return _final(pool, trial, progress, "failed", progress.error)
    trial.curves.add(progress, trial.rates)
    losses = trial.curves.loss
    # At the end there is no second look at what might have been a spike.
    why = diverged(losses if progress.update < horizon else losses + losses[-1:], trial.untrained)
    if why is None and not math.isfinite(progress.metrics[objective]):
        why = f"{objective} is {progress.metrics[objective]}"
    if why is not None:
        return _final(pool, trial, progress, "diverged", why)
    at = trial.curves.judged(objective, pool.task.objective.direction == "minimize", judge)
    if judge == "best" and at == progress.update < horizon:
        trial.best = pool.snapshot(progress.slot)
    if progress.update < horizon:
        if trial.observe(progress.update, progress.loss):
            pool.revise(progress.slot, trial.rates)
        return None
    judged = _examined(pool, progress.slot, trial.best if at < horizon else None)
    trial.seconds += judged.seconds
    if judged.error is not None:
        return _final(pool, trial, progress, "failed", judged.error)
    if not math.isfinite(judged.metrics[objective]):
        why = f"{objective} is {judged.metrics[objective]} at the end"
        return _final(pool, trial, progress, "diverged", why)
    split = "val" if pool.task.test is None else "test"
    final = _final(pool, trial, progress, "complete", "reached the horizon")
    return replace(final, metrics=judged.metrics, split=split, blocks=judged.blocks, judged_at=at)


def _examined(pool: Pool, slot: int, best: Snapshot | None) -> Progress:
    """Judge a training that is over on the test split: as it is, or as it was at its best."""
    if best is not None:
        pool.release(slot)
        pool.restore(slot, best)
    return pool.examine(slot)


def _final(
    pool: Pool,
    trial: _Trial,
    progress: Progress,
    state: str,
    reason: str,
) -> Final:
    return Final(
        trial.job.schedule,
        trial.job.seed,
        pool.task.horizon,
        state,
        reason,
        "val",
        {},
        trial.curves,
        progress.update,
        trial.seconds,
    )
