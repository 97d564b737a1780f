"""confirm: from a search to a verdict, by finals on fresh seeds."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from lrtune.engine import Pool
from lrtune.engine.devices import SpreadPool
from lrtune.errors import InputError
from lrtune.identity import check_same, settings_for
from lrtune.judgement import finalists_of, judged
from lrtune.locking import locked
from lrtune.notebook import Verdict
from lrtune.pools import choose_pool, devices_of, own_threads
from lrtune.results.markup import plural
from lrtune.results.plan import Finalist, Plan
from lrtune.results.quickest import check_target
from lrtune.results.verdict import standing
from lrtune.run import FINALS, Run
from lrtune.schedule import Schedule
from lrtune.search import Budget
from lrtune.search.finals import Job, final_seeds, train_finals
from lrtune.tally import Round, Tally
from lrtune.tasks import Task


def confirm(
    run: Run | str | Path,
    task: Task,
    *,
    plan: Plan | None = None,
    total: int | None = None,
    device: str | None = None,
    watch: Callable[[Tally], None] = lambda tally: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Train the families that may be the best again, on fresh seeds, and judge on test.

    Of each the schedule of which the search expects most. Seeds are added until a winner is
    separated, the tie is settled, or they are used up. Called again, it goes on where it stopped.

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
    if plan.target is not None:
        check_target(plan.target, list(run.settings["metrics"]))
    task = replace(_stretched(task, total), average=None)  # nobody stops a final early
    with locked(run.folder.resolve(), tell), own_threads():
        who = finalists_of(run)
        if not who:
            raise InputError(f"{run.folder}: no trial came to a value: there is nothing to confirm")
        with _Work(run, task, devices_of(device), watch, tell) as work:
            work.decide(who, plan)
        found = judged(run, plan, task.horizon, who)
        run.write_verdict(found)
    return found


class _Work:
    """Trainings of one run at one horizon, in a pool that is made when it is needed."""

    def __init__(
        self,
        run: Run,
        task: Task,
        devices: tuple[str, ...],
        watch: Callable[[Tally], None],
        tell: Callable[[str], None],
    ) -> None:
        self._run = run
        self._task = task
        self._devices = devices
        self._watch = watch
        self._tell = tell
        self._pool: Pool | None = None

    def __enter__(self) -> "_Work":
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._pool, SpreadPool):
            self._pool.close()

    def decide(self, finalists: list[Finalist], plan: Plan) -> None:
        """Finals, until no more seeds are wanted."""
        seeds = final_seeds(self._run.settings["seed"], plan.max_seeds)
        objective = self._run.settings["objective"]
        while True:
            found = standing(self._finals(), finalists, objective, seeds, plan)
            still = [one for one in finalists if one.family in {*found.tied, *found.wanted}]
            wanted = [(one.schedule, found.wanted.get(one.family, 0)) for one in still]
            jobs = self._missing(wanted, seeds)
            if not jobs:
                return
            self._train(jobs, finalists, still, max(found.wanted.values()))

    def _finals(self) -> pd.DataFrame:
        found = self._run.finals()
        return found[found["horizon"] == self._task.horizon]

    def _missing(self, wanted: list[tuple[Schedule, int]], seeds: list[int]) -> list[Job]:
        """What is wanted and not there, seed by seed: so a stop leaves whole comparisons."""
        own = self._finals()
        there = set(zip(own["schedule"], own["seed"], strict=True))
        return [
            Job(schedule, seed)
            for number, seed in enumerate(seeds)
            for schedule, count in wanted
            if number < count and (schedule.to_json(), seed) not in there
        ]

    def _train(
        self,
        jobs: list[Job],
        who: Iterable[Finalist],
        still: Iterable[Finalist],
        seeds: int,
    ) -> None:
        families = len({job.schedule for job in jobs})
        entrants = f"{plural(families, 'family', 'families')} up to "
        entrants += plural(seeds, "fresh seed", "fresh seeds")
        trainings = plural(len(jobs), "training", "trainings")
        self._tell(f"finals: {entrants}, {trainings} of {self._task.horizon:,} updates")
        if self._pool is None:
            self._pool = self._made(Budget(trials=len(jobs)))
        path = self._run.folder / FINALS
        objective, known = self._task.objective.name, self._finals()
        under_way = Round(path, len(jobs), who, still, known, objective, self._watch)
        train_finals(
            self._pool,
            jobs,
            under_way.ended,
            judge=self._run.settings["judge"],
            checkpoint=path.with_name(f"{path.stem}-{self._task.horizon}.safetensors"),
            watch=under_way.watch,
            tell=self._tell,
        )

    def _made(self, budget: Budget) -> Pool:
        """The pool of the search, or on other devices what trains fastest there in its way."""
        before = self._run.choice
        pool, choice = choose_pool(
            self._task, budget, self._devices, before.name, None, before, self._tell
        )
        if choice.threads is not None:
            torch.set_num_threads(choice.threads)
        return pool


def _check(run: Run, task: Task, device: str | None) -> None:
    """Refuse another task than was searched."""
    kept = run.settings
    settings = settings_for(
        task,
        kept["families"],
        tuple(kept["warmup"]),
        kept["cycle_momentum"],
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
