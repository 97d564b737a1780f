"""confirm: from a search to a verdict, by finals on fresh seeds."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

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
from lrtune.run import CHECKPOINT, FINALS, Run
from lrtune.search import Budget
from lrtune.search.confirmation import Confirmation, Job, final_seeds
from lrtune.search.final import Final, append_final
from lrtune.search.loop import Loop
from lrtune.tally import Contender, Tally
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
        devices, finals = devices_of(device), _Finals(run, task.horizon, who, plan, watch, tell)
        if finals.wanted():
            with pool_for(run, task, devices, Budget(trials=len(finals.wanted())), tell) as pool:
                work = Confirmation(
                    pool,
                    finals.wanted,
                    finals.over,
                    judge=run.settings["judge"],
                    watch=finals.watch,
                )
                Loop(pool, [work], checkpoint=run.folder / CHECKPOINT, tell=tell).run()
        found = judged(run, plan, task.horizon, who)
        run.write_verdict(found)
    return found


@contextmanager
def pool_for(
    run: Run, task: Task, devices: tuple[str, ...], budget: Budget, tell: Callable[[str], None]
) -> Iterator[Pool]:
    """The pool of the search, or on other devices what trains fastest there in its way."""
    before = run.choice
    pool, choice = choose_pool(task, budget, devices, before.name, None, before, tell)
    if choice.threads is not None:
        torch.set_num_threads(choice.threads)
    try:
        yield pool
    finally:
        if isinstance(pool, SpreadPool):
            pool.close()


class _Finals:
    """What the verdict still wants to know, round by round, and how the finalists stand."""

    def __init__(
        self,
        run: Run,
        horizon: int,
        finalists: list[Finalist],
        plan: Plan,
        watch: Callable[[Tally], None],
        tell: Callable[[str], None],
    ) -> None:
        self._run = run
        self._horizon = horizon
        self._finalists = finalists
        self._plan = plan
        self._seeds = final_seeds(run.settings["seed"], plan.max_seeds)
        self._objective = run.settings["objective"]
        self._watch = watch
        self._tell = tell
        self._left: list[Job] = []  # of this round
        self._jobs = 0  # of this round, at its begin
        self._told: list[Final] = []  # that ended since ``watch`` was called
        self._contenders: list[Contender] = []
        self._settled = False

    def wanted(self) -> list[Job]:
        """What is still to be trained of this round; of the next one where none is left."""
        if not self._left and not self._settled:
            self._round()
        return self._left

    def _round(self) -> None:
        """Look at what there is: who needs more seeds?"""
        finals = self._run.finals()
        finals = finals[finals["horizon"] == self._horizon]
        found = standing(finals, self._finalists, self._objective, self._seeds, self._plan)
        still = {*found.tied, *found.wanted}
        there = set(zip(finals["schedule"], finals["seed"], strict=True))
        # Seed by seed: so a stop leaves whole comparisons.
        self._left = [
            Job(one.schedule, seed)
            for number, seed in enumerate(self._seeds)
            for one in self._finalists
            if number < found.wanted.get(one.family, 0)
            and (one.schedule.to_json(), seed) not in there
        ]
        self._jobs, self._settled = len(self._left), not self._left
        name = f"final_{self._objective['name']}"
        scores: dict[str, dict[int, float]] = {}
        for row in finals.to_dict("records"):
            scores.setdefault(row["schedule"], {})[row["seed"]] = row.get(name, math.nan)
        self._contenders = [
            Contender(one.schedule, scores.get(one.schedule.to_json(), {}), one.family in still)
            for one in self._finalists
        ]
        if self._left:
            families = plural(len({job.schedule for job in self._left}), "family", "families")
            seeds = plural(max(found.wanted.values()), "fresh seed", "fresh seeds")
            trainings = plural(self._jobs, "training", "trainings")
            self._tell(
                f"finals: {families} up to {seeds}, {trainings} of {self._horizon:,} updates"
            )

    def over(self, final: Final) -> None:
        """Take in a training that is over."""
        append_final(self._run.folder / FINALS, final)
        self._left.remove(Job(final.schedule, final.seed))
        self._told.append(final)
        score = final.metrics.get(self._objective["name"], math.nan)
        for one in self._contenders:
            if one.schedule == final.schedule:
                one.scores[final.seed] = score

    def watch(self, under_way: float) -> None:
        """Tell how they stand, with so many trainings under way."""
        over, self._told = self._told, []
        done = self._jobs - len(self._left) + under_way
        self._watch(Tally(done, self._jobs, self._contenders, over))


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
