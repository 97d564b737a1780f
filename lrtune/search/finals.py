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
from lrtune.search.record import Curves
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
    checkpoint: Path | None = None,
    watch: Callable[[float], None] = lambda under_way: None,
    tell: Callable[[str], None] = lambda line: None,
) -> None:
    """Train all of these to the end, as many at once as the pool has slots.

    Args:
        pool: with all slots free.
        jobs: in the order in which they are to start.
        ended: called with each that is over.
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
    keeper.load(lambda _, snapshot, note: numbers.get((note["schedule"], snapshot.seed)))
    with Interrupts() as interrupts:
        while queue or running:
            for slot in range(pool.slots):
                if queue and slot not in running:
                    number, job = queue.pop(0)
                    name = f"{job.schedule.family} on seed {job.seed}"
                    as_it_was = partial(_as_it_was, number, job)
                    with interrupts.heard():
                        kept = keeper.take(number, name, pool, slot, as_it_was)
                        running[slot] = kept or _from_scratch(number, job, pool, slot)
            with interrupts.heard():
                reached = pool.advance()
            for progress in reached:
                trial = running[progress.slot]
                final = _over(pool, trial, progress)
                if final is not None:
                    del running[progress.slot]
                    pool.release(progress.slot)
                    ended(final)
            watch(sum(trial.curves.step[-1] for trial in running.values()) / pool.task.horizon)
            with interrupts.heard():
                keeper.save_if_due(pool, lambda: _notes(running))
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


def _over(pool: Pool, trial: _Trial, progress: Progress) -> Final | None:
    """Take in a validation; the training's result, if it is over."""
    trial.seconds += progress.seconds
    objective, horizon = pool.task.objective.name, pool.task.horizon
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
    if progress.update < horizon:
        if trial.observe(progress.update, progress.loss):
            pool.revise(progress.slot, trial.rates)
        return None
    judged = pool.examine(progress.slot)
    trial.seconds += judged.seconds
    if judged.error is not None:
        return _final(pool, trial, progress, "failed", judged.error)
    if not math.isfinite(judged.metrics[objective]):
        why = f"{objective} is {judged.metrics[objective]} at the end"
        return _final(pool, trial, progress, "diverged", why)
    split = "val" if pool.task.test is None else "test"
    final = _final(pool, trial, progress, "complete", "reached the horizon")
    return replace(final, metrics=judged.metrics, split=split, blocks=judged.blocks)


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
