"""confirm: from a search to a verdict, by qualifiers and finals on fresh seeds."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from lrtune.engine import Pool
from lrtune.engine.devices import SpreadPool
from lrtune.errors import InputError
from lrtune.identity import check_same, settings_for
from lrtune.judgement import candidates_of, finalists_of, judged, qualifying_of
from lrtune.locking import locked
from lrtune.notebook import Verdict
from lrtune.pools import choose_pool, devices_of, own_threads
from lrtune.results.markup import plural
from lrtune.results.plan import Finalist, Plan, entrants
from lrtune.results.quickest import check_target
from lrtune.results.verdict import standing
from lrtune.run import FINALS, QUALIFIERS, Run
from lrtune.schedule import Schedule
from lrtune.search import Budget
from lrtune.search.final import read_finals
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
    """Train the best configurations of each family again, on fresh seeds, and judge on test.

    First the few best of each family against each other, on validation: qualifiers. Then the
    families, on test: finals. Seeds are added until a winner is separated, the tie is settled, or
    they are used up. Called again, it goes on where it stopped.

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
        if not finalists_of(run):
            raise InputError(f"{run.folder}: no trial came to a value: there is nothing to confirm")
        with _Work(run, task, devices_of(device), watch, tell) as work:
            if task.horizon == run.settings["horizon"]:
                work.qualify()
            work.decide(finalists_of(run), plan)
        found = judged(run, plan, task.horizon)
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

    def qualify(self) -> None:
        """Let each family's first few meet, where there are several; and the best of all."""
        found, seeds = candidates_of(self._run), qualifying_of(self._run)
        counts = Counter(one.family for one in found)
        several = [f for f, count in counts.items() if count > 1 or f == found[0].family]
        meeting = [one for one in found if one.family in several]
        wanted = [(one.schedule, len(seeds)) for one in meeting]
        jobs = self._missing(wanted, seeds, QUALIFIERS)
        if jobs:
            said = f"qualifiers: {len(meeting)} configurations of {len(several)} families"
            self._train(jobs, QUALIFIERS, meeting, meeting, len(seeds), said)

    def decide(self, finalists: list[Finalist], plan: Plan) -> None:
        """Finals, until no more seeds are wanted."""
        seeds = final_seeds(self._run.settings["seed"], plan.max_seeds)
        while True:
            finals = self._of_horizon(FINALS)
            objective = self._run.settings["objective"]
            found = standing(finals, finalists, objective, seeds, plan)
            who = entrants(finalists)
            wanted = [(who[name].schedule, count) for name, count in found.wanted.items()]
            jobs = self._missing(wanted, seeds, FINALS)
            if not jobs:
                return
            schedules = {job.schedule for job in jobs}
            firsts = {one.schedule for one in finalists}
            second = "" if schedules & firsts else "second settings of "
            said = f"finals: {second}{plural(len(schedules), 'family', 'families')}"
            shown = {name: who[name] for name in {**found.standings, **found.wanted}}
            still = [who[name] for name in {*found.tied, *found.wanted}]
            self._train(jobs, FINALS, shown.values(), still, max(found.wanted.values()), said)

    def _of_horizon(self, log: str) -> pd.DataFrame:
        found = read_finals(self._run.folder / log)
        return found[found["horizon"] == self._task.horizon]

    def _missing(self, wanted: list[tuple[Schedule, int]], seeds: list[int], log: str) -> list[Job]:
        """What is wanted and not there, seed by seed: so a stop leaves whole comparisons."""
        own = self._of_horizon(log)
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
        log: str,
        who: Iterable[Finalist],
        still: Iterable[Finalist],
        seeds: int,
        said: str,
    ) -> None:
        self._tell(
            f"{said} up to {plural(seeds, 'fresh seed', 'fresh seeds')}, "
            f"{plural(len(jobs), 'training', 'trainings')} of {self._task.horizon:,} updates"
        )
        if self._pool is None:
            self._pool = self._made(Budget(trials=len(jobs)))
        path = self._run.folder / log
        objective, known = self._task.objective.name, self._of_horizon(log)
        under_way = Round(path, len(jobs), who, still, known, objective, self._watch)
        train_finals(
            self._pool,
            jobs,
            under_way.ended,
            examined=log == FINALS,
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
