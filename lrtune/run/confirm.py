"""confirm: from a search to a verdict, by finals on fresh seeds."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import torch

from lrtune.engine import Pool
from lrtune.engine.devices import SpreadPool
from lrtune.engine.optimizers import check_momentum
from lrtune.errors import InputError, expect
from lrtune.format import plural
from lrtune.reports.notebook import Verdict
from lrtune.run.devices import choose_pool, devices_of, own_threads
from lrtune.run.folder import CHECKPOINT, FINALS, Run
from lrtune.run.identity import check_same, settings_for
from lrtune.run.judge import finalists_of, judged
from lrtune.run.lock import locked
from lrtune.run.run_json import write_json
from lrtune.run.tally import Contender, Tally
from lrtune.schedule import Schedule
from lrtune.search import Budget
from lrtune.search.budget import CONFIRMED, FEWEST, TRAININGS, check_positive
from lrtune.search.confirmation import Confirmation, Job, final_seeds
from lrtune.search.final import Final, append_final
from lrtune.search.loop import Loop
from lrtune.search.training import rates_of
from lrtune.tasks import Task
from lrtune.verdict.finalists import Finalist, room_for
from lrtune.verdict.settings import Objective
from lrtune.verdict.time_to_target import check_target
from lrtune.verdict.verdict import Plan, standing

MORE = 20  # trainings that ``confirm`` adds where nobody says how many
DEFAULT = round(CONFIRMED * TRAININGS)  # of a search that is bounded by trials alone


def confirm(
    run: Run | str | Path,
    task: Task,
    *,
    plan: Plan | None = None,
    total: int | None = None,
    trainings: float | None = None,
    baselines: Sequence[Schedule] | None = None,
    device: str | None = None,
    watch: Callable[[Tally], None] = lambda tally: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Train the recommended schedule, yours and baselines on fresh seeds, and judge on test.

    Seeds are added while they can still tell something, and while there are trainings left. Called
    again, it goes on where it stopped.

    Args:
        run: a search, or its folder.
        task: what was searched.
        plan: what difference does not matter, and what is to be reached.
        total: updates of another horizon, to which the schedules are stretched; the search's own
            where None.
        trainings: how many more there may be; 20 where None.
        baselines: your own schedules, to compare with; those of the search where None.
        device: as in ``tune``.
        watch: called after each segment.
        tell: called with a line on what is being done.

    Returns:
        The verdict, see ``lrtune.verdict.verdict``; the run's files are written anew.

    Raises:
        InputError: an argument of another kind, another task than was searched, nothing to confirm,
            a plan that makes no sense.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    expect("run", run, Run | str | Path, "a run or its folder")
    expect("task", task, Task, "the lrtune.Task that was searched")
    expect("plan", plan, Plan | None, "an lrtune.Plan")
    check_positive("trainings", trainings)
    run = run if isinstance(run, Run) else Run(run)
    plan, trainings = plan or Plan(), MORE if trainings is None else trainings
    _check(run, task, device)
    check_baselines(baselines or (), task, task.horizon if total is None else total)
    if plan.target is not None:
        check_target(plan.target, list(run.settings["metrics"]))
    task = replace(_stretched(task, total), average=None)  # nobody stops a final early
    with locked(run.folder.resolve(), tell), own_threads():
        if baselines is not None:
            run = with_baselines(run, baselines)
        there = made(run, task.horizon)
        allowed = partial(float, there + trainings)
        finals = Finals(run, task.horizon, plan, watch=watch, tell=tell, allowed=allowed)
        if not finalists_of(run):
            raise InputError(f"{run.folder}: no trial came to a value: there is nothing to confirm")
        if wanted := finals.wanted():
            budget = Budget(trials=len(wanted))
            with pool_for(run, task, devices_of(device), budget, tell) as pool:
                Loop(pool, [finals.work(pool)], checkpoint=run.folder / CHECKPOINT, tell=tell).run()
        found = finals.verdict()
        if found is None:
            raise InputError(
                f"trainings={trainings:g}: too few to compare two schedules: give at least {FEWEST}"
            )
        run.write_verdict(found)
    return found


def check_baselines(baselines: Sequence[Schedule], task: Task, horizon: int) -> None:
    """Refuse schedules that cannot be trained, before anything is."""
    expect("baselines", baselines, list | tuple, "a list of schedules")
    for one in baselines:
        expect("each of baselines", one, Schedule, "an lrtune.Schedule")
        rates_of(one, horizon)
        if one.cycles_momentum:
            check_momentum(task.optimizer)


def made(run: Run, horizon: int) -> int:
    """Finals of this horizon that are over."""
    return int((run.finals()["horizon"] == horizon).sum())


def with_baselines(run: Run, baselines: Sequence[Schedule]) -> Run:
    """The run, which knows from now on what the user has."""
    kept = {"baselines": [one.to_dict() for one in baselines]}
    write_json(run.folder / "run.json", run.settings | kept)
    return Run(run.folder)


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


class Finals:
    """What the verdict still wants to know, round by round, and how the finalists stand."""

    def __init__(
        self,
        run: Run,
        horizon: int,
        plan: Plan,
        *,
        watch: Callable[[Tally], None],
        tell: Callable[[str], None],
        allowed: Callable[[], float] | None = None,
        spent: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Look at nothing yet.

        Args:
            run: that was searched.
            horizon: updates of a training.
            plan: what difference does not matter.
            watch: called after each segment.
            tell: called with a line on what is being done.
            allowed: whole trainings that there may be of all finalists, those of sessions before
                counted; the plan's where None.
            spent: how much of the whole run's budget is spent by its clock and its search,
                0 ... 1, for ``watch`` to know.
        """
        self._run = run
        self._horizon = horizon
        self._plan = replace(plan, width=run.choice.slots)
        self._allowed = allowed
        self._spent = spent
        self._objective = Objective(**run.settings["objective"])
        self._watch = watch
        self._tell = tell
        self._left: list[Job] = []  # of this round
        self._jobs = 0  # of this round, at its begin
        self._told: list[Final] = []  # that ended since ``watch`` was called
        self._contenders: list[Contender] = []
        self._settled = False

    @cached_property
    def _before(self) -> float:
        """How much of the whole run's budget was spent before the first final of this session."""
        return self._spent()

    @cached_property
    def plan(self) -> Plan:
        """With the trainings that there may be of all, sessions before included."""
        if self._allowed is None:
            return replace(self._plan, trainings=self._plan.trainings or DEFAULT)
        return replace(self._plan, trainings=int(self._allowed() + 1e-9))

    @cached_property
    def who(self) -> list[Finalist]:
        """What is compared: as many as there is room for; nothing where there is none for two."""
        assert self.plan.trainings is not None
        if self.plan.trainings < FEWEST:
            return []
        everyone = finalists_of(self._run)
        yours = sum(one.role == "yours" for one in everyone)
        room = min(room_for(self.plan.trainings, yours), self.plan.trainings // 2)
        return everyone[:room]

    def verdict(self) -> Verdict | None:
        """On what there is; None where there is nothing to compare on two seeds."""
        if not self.who:
            return None
        found = judged(self._run, self.plan, self._horizon, self.who)
        if found.answer.place != "unfinished":
            return found
        rows = {row.family: row.seeds for row in found.families}
        compared = [one for one in self.who if rows[one.family] > 1]
        if len(compared) < min(2, len(self.who)):
            return None
        return judged(self._run, self.plan, self._horizon, compared, over=True)

    def work(self, pool: Pool, begun: Callable[[], bool] = lambda: True) -> Confirmation:
        """For the loop.

        Args:
            pool: that trains.
            begun: whether it is known who takes part.
        """
        return Confirmation(
            pool,
            lambda: self.wanted() if begun() else None,
            self.over,
            judge=self._run.settings["judge"],
            watch=self.watch,
        )

    def wanted(self) -> list[Job]:
        """What is still to be trained of this round; of the next one where none is left."""
        if not self._left and not self._settled:
            self._round()
        return self._left

    def _round(self) -> None:
        """Look at what there is: who needs more seeds?"""
        if not self.who:
            self._settled = True
            return
        finals = self._run.finals()
        finals = finals[finals["horizon"] == self._horizon]
        seeds = final_seeds(self._run.settings["seed"], self.plan.trainings or 0)
        found = standing(finals, self.who, self._objective, seeds, self.plan)
        still = set(found.wanted)
        there = set(zip(finals["schedule"], finals["seed"], strict=True))
        # Seed by seed: so a stop leaves whole comparisons.
        jobs = [
            Job(one.schedule, seed)
            for number, seed in enumerate(seeds)
            for one in self.who
            if number < found.wanted.get(one.family, 0)
            and (one.schedule.to_json(), seed) not in there
        ]
        self._left = list(dict.fromkeys(jobs))  # yours may be what is recommended
        self._jobs, self._settled = len(self._left), not self._left
        name = f"final_{self._objective.name}"
        scores: dict[str, dict[int, float]] = {}
        for row in finals.to_dict("records"):
            scores.setdefault(row["schedule"], {})[row["seed"]] = row.get(name, math.nan)
        self._contenders = [
            Contender(one.schedule, scores.get(one.schedule.to_json(), {}), one.family in still)
            for one in self.who
        ]
        if self._left:
            schedules = plural(len({job.schedule for job in self._left}), "schedule", "schedules")
            most = plural(max(found.wanted.values()), "fresh seed", "fresh seeds")
            trainings = plural(self._jobs, "training", "trainings")
            self._tell(
                f"confirmation: {schedules} on {most}, {trainings} of {self._horizon:,} updates"
            )

    def over(self, final: Final) -> None:
        """Take in a training that is over."""
        append_final(self._run.folder / FINALS, final)
        self._left.remove(Job(final.schedule, final.seed))
        self._told.append(final)
        score = final.metrics.get(self._objective.name, math.nan)
        for one in self._contenders:
            if one.schedule == final.schedule:
                one.scores[final.seed] = score

    def watch(self, under_way: float) -> None:
        """Tell how they stand, with so many trainings under way."""
        if not self._jobs:
            return
        over, self._told = self._told, []
        done = self._jobs - len(self._left) + under_way
        made = sum(len(one.scores) for one in self._contenders) + under_way
        assert self.plan.trainings
        share = self._before + (1 - self._before) * min(1.0, made / self.plan.trainings)
        share = max(share, self._spent())  # time may be over before the trainings are
        self._watch(Tally(share, done, self._jobs, self._contenders, over))


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
