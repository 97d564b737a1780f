"""confirm: from a search to a verdict, by finals on fresh seeds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lrtune.engine.devices import SpreadPool
from lrtune.errors import InputError
from lrtune.identity import check_same, settings_for
from lrtune.pools import devices_of, own_threads, spread
from lrtune.results.contest import Result
from lrtune.results.finalists import pick
from lrtune.results.verdict import Finalist, Plan, standing, verdict
from lrtune.run import FINALS, Run, locked
from lrtune.search import Space
from lrtune.search.finals import Final, Job, append_final, final_seeds, train_finals
from lrtune.search.history import racing
from lrtune.tasks import Task

CHECKPOINT = "finals.safetensors"  # in the run's folder, while finals are under way


@dataclass(frozen=True, slots=True)
class Tally:
    """How the finals stand, for whoever watches.

    Attributes:
        families: that are trained now.
        seeds: up to which.
        done: trainings that are over, those under way in part.
        jobs: trainings in this round.
    """

    families: int
    seeds: int
    done: float
    jobs: int


def confirm(
    run: Run | str | Path,
    task: Task,
    *,
    plan: Plan | None = None,
    total: int | None = None,
    device: str | None = None,
    watch: Callable[[Tally], None] = lambda tally: None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Train the best configuration of each family again, on fresh seeds, and judge on test.

    Seeds are added until a winner is separated, the tie is settled, or they are used up. Called
    again, it goes on where it stopped.

    Args:
        run: a search, or its folder.
        task: what was searched.
        plan: how many seeds, and what difference does not matter.
        total: updates of another horizon, to which the schedules are stretched; the search's own
            where None.
        device: as in ``tune``.
        watch: called after each segment.
        tell: called with a line on what is being done.

    Returns:
        The verdict, see ``lrtune.results.verdict``; the run's files are written anew.

    Raises:
        InputError: another task than was searched, nothing to confirm, a plan that makes no sense.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    run = run if isinstance(run, Run) else Run(run)
    plan = plan or Plan()
    _check(run, task, device)
    task = replace(_stretched(task, total), average=None)  # nobody stops a final early
    with locked(run.folder), own_threads():
        finalists = finalists_of(run)
        if not finalists:
            raise InputError(f"{run.folder}: no trial came to a value: there is nothing to confirm")
        _Finals(run, task, finalists, plan, watch, tell).train(devices_of(device))
        found = judged(run, plan, task.horizon)
        run.write_verdict(found)
    return found


def finalists_of(run: Run) -> list[Finalist]:
    """Who takes part, as the search stands."""
    study = run.study()
    settings = run.settings
    space = Space(tuple(settings["families"]), tuple(settings["peak_lr"]))
    return pick(run.trials(), racing(study, space), settings["objective"])


def judged(run: Run, plan: Plan, horizon: int) -> dict[str, Any]:
    """The verdict on the finals that there are."""
    finals = run.finals()
    seeds = final_seeds(run.settings["seed"], plan.max_seeds)
    of_horizon = finals[finals["horizon"] == horizon]
    return verdict(run.trials(), of_horizon, finalists_of(run), run.settings, seeds, plan)


class _Finals:
    """The finals of one horizon."""

    def __init__(
        self,
        run: Run,
        task: Task,
        finalists: list[Finalist],
        plan: Plan,
        watch: Callable[[Tally], None],
        tell: Callable[[str], None],
    ) -> None:
        self._run = run
        self._task = task
        self._finalists = finalists
        self._plan = plan
        self._watch = watch
        self._tell = tell
        self._seeds = final_seeds(run.settings["seed"], plan.max_seeds)

    def train(self, devices: tuple[str, ...]) -> None:
        """Until no more seeds are wanted."""
        jobs = self._jobs()
        if not jobs:
            return
        choice = self._run.choice
        if choice.threads is not None:
            torch.set_num_threads(choice.threads)
        pool = spread(self._task, choice, devices, self._tell)
        try:
            while jobs:
                self._train_round(pool, jobs)
                jobs = self._jobs()
        finally:
            if isinstance(pool, SpreadPool):
                pool.close()

    def _train_round(self, pool: Any, jobs: list[Job]) -> None:
        families = len({job.schedule.family for job in jobs})
        seeds = max(self._standing().wanted.values())
        self._tell(
            f"finals: {families} families up to {seeds} fresh seeds, {len(jobs)} trainings of "
            f"{self._task.horizon:,} updates"
        )
        done = 0

        def ended(final: Final) -> None:
            nonlocal done
            done += 1
            append_final(self._run.folder / FINALS, final)

        train_finals(
            pool,
            jobs,
            ended,
            checkpoint=self._run.folder / CHECKPOINT,
            watch=lambda under_way: self._watch(
                Tally(families, seeds, done + under_way, len(jobs))
            ),
            tell=self._tell,
        )

    def _standing(self) -> Result:
        finals = self._run.finals()
        own = finals[finals["horizon"] == self._task.horizon]
        objective = self._run.settings["objective"]
        return standing(own, self._finalists, objective, self._seeds, self._plan)

    def _jobs(self) -> list[Job]:
        """What is wanted and not there, seed by seed: so a stop leaves whole comparisons."""
        wanted = self._standing().wanted
        finals = self._run.finals()
        own = finals[finals["horizon"] == self._task.horizon]
        there = set(zip(own["schedule"], own["seed"], strict=True))
        return [
            Job(finalist.schedule, seed)
            for number, seed in enumerate(self._seeds)
            for finalist in self._finalists
            if number < wanted.get(finalist.family, 0)
            and (finalist.schedule.to_json(), seed) not in there
        ]


def _check(run: Run, task: Task, device: str | None) -> None:
    """Refuse another task than was searched."""
    kept = run.settings
    settings = settings_for(
        task,
        kept["families"],
        tuple(kept["warmup"]),
        kept["seed"],
        kept["storage"],
        devices_of(device)[0],
    )
    check_same(str(run.folder), settings, None, kept)


def _stretched(task: Task, total: int | None) -> Task:
    if total is None or total == task.horizon:
        return task
    if type(total) is not int or total < 1:
        raise InputError(f"total={total!r}: a number of updates, at least 1")
    longer = replace(task, epochs=total * task.batch_size / task.train.samples)
    assert longer.horizon == total
    return longer
