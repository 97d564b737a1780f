"""confirm: the best schedules are trained again on fresh seeds, until the verdict is sure."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lrtune.engine import Pool
from lrtune.engine.checkpoint import states_of
from lrtune.engine.devices import Engine, own_settings
from lrtune.engine.optimizers import check_momentum, optimizer_settings
from lrtune.engine.place import choose_pool, place_of
from lrtune.engine.spread import SpreadPool
from lrtune.errors import InputError, expect
from lrtune.files import shown
from lrtune.format import plural
from lrtune.reports.page import Verdict
from lrtune.run.folder import CHECKPOINT, FINALS, Run, locked
from lrtune.run.run_json import check_same, check_schedule_free, settings_for, with_hosts
from lrtune.run.study_file import CLUSTER, StudyFile, baselines_of, engine_of, load
from lrtune.schedule import Schedule
from lrtune.search import SearchState
from lrtune.search.budget import CONFIRMED, FEWEST, TRAININGS, check_positive
from lrtune.search.confirmation import Confirmation, Final, Job, append_final, final_seeds
from lrtune.search.loop import Loop
from lrtune.search.study import take
from lrtune.search.trials import rates_of, tuned_names, tuned_on
from lrtune.tasks import Task
from lrtune.tasks.options import validate
from lrtune.verdict.summary import Finalist, room_for
from lrtune.verdict.verdict import Plan, standing

MORE = 20  # trainings that ``confirm`` adds where nobody says how many
DEFAULT = round(CONFIRMED * TRAININGS)  # trainings after a search that only trials bound


@dataclass(frozen=True, slots=True)
class FinalistScores:
    """A finalist, as far as it was trained again."""

    schedule: Schedule  # what is trained
    scores: dict[int, float]  # by seed; NaN of a training that diverged or failed
    goes_on: bool  # whether more seeds of it are trained, or may be


@dataclass(frozen=True, slots=True)
class ConfirmationState:
    """The confirmation as it stands."""

    # Of the whole run's budget that is spent, 0 ... 1.
    share: float
    done: float  # trainings of this round that are over, those under way in part
    jobs: int  # trainings of this round
    finalists: Sequence[FinalistScores] = ()  # all of them
    ended: Sequence[Final] = ()  # trainings that ended since the last time


class Listener:
    """Is told what happens, and says nothing; subclasses show it."""

    def started(self, task: Task, facts: Mapping[str, Any]) -> None:
        """The data are there, and the work begins."""

    def tell(self, line: str) -> None:
        """A line on what is being done."""

    def hosts(self, pool: SpreadPool) -> None:
        """Hosts of a cluster train; the pool knows which serve, and which were lost."""

    def search(self, state: SearchState) -> None:
        """The search as it stands, after each segment and each trial's end."""

    def confirmation(self, state: ConfirmationState) -> None:
        """The confirmation as it stands, after each segment."""

    def finished(self, run: Run, total: int | None) -> None:
        """All is written; the verdict is on this horizon, the search's own where None."""

    def close(self) -> None:
        """Nothing more comes, whatever the reason."""


def confirm(
    run: Run | str | Path,
    task: Task,
    *,
    plan: Plan | None = None,
    total: int | None = None,
    trainings: float | None = None,
    baselines: Sequence[Schedule] | None = None,
    engine: Engine | None = None,
    listener: Listener | None = None,
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
        engine: what trains, and on which devices or cluster; the kind is the search's where auto.
        listener: is told what happens.

    Returns:
        The verdict, see ``lrtune.verdict.verdict``; the run's files are written anew.

    Raises:
        InputError: an argument of another kind, another task than was searched, nothing to confirm,
            a plan that makes no sense.
        Superseded: another session of this run has taken over, on another machine say.
        KeyboardInterrupt: after Ctrl-C; the same call goes on.
    """
    expect("run", run, Run | str | Path, "a run or its folder")
    expect("task", task, Task, "the lrtune.Task that was searched")
    expect("plan", plan, Plan | None, "an lrtune.Plan")
    check_positive("trainings", trainings)
    run = run if isinstance(run, Run) else Run(run)
    expect("engine", engine, Engine | None, "an lrtune.Engine")
    plan, listener, engine = plan or Plan(), listener or Listener(), engine or Engine()
    trainings = MORE if trainings is None else trainings
    _check_task(run, task, engine)
    check_baselines(baselines or (), task, task.horizon if total is None else total)
    tuned = tuned_names(task, run.settings.tune)
    task = replace(
        _stretched(task, total), tuned=tuned, average=None
    )  # nobody ends these trainings early
    deterministic = run.choice.deterministic
    with (
        locked(run.folder.resolve(), listener.tell),
        own_settings(deterministic),
        take(run.storage, run.settings.study, run.settings.owner).under_way(),
    ):
        if baselines is not None:
            run = with_baselines(run, baselines)
        allowed = trained(run, task.horizon) + trainings
        rounds = Rounds(run, task.horizon, plan, listener, allowed=lambda: allowed)
        if not run.finalists():
            raise InputError(f"{run.folder}: no trial came to a value: there is nothing to confirm")
        if wanted := rounds.wanted():
            one_by_one = any(schedule.schedule_free for schedule in run.settings.baselines)
            kind = run.choice.name if engine.kind == "auto" else engine.kind
            kind = "serial" if one_by_one else kind
            engine = replace(engine, kind=kind, deterministic=deterministic)
            updates = len(wanted) * task.horizon
            states = states_of(run.folder / CHECKPOINT)
            # They need not wait for each other: as many at once as there are.
            most = len(wanted)
            with place_of(engine, listener.tell, states, lambda n: (min(n, most), "")) as place:
                task, _ = place.with_features(task)
                # The pool of the search, or what trains fastest on other devices in its way.
                pool, _ = choose_pool(task, place, run.choice, updates=updates)
                if engine.cluster is not None and isinstance(pool, SpreadPool):
                    listener.hosts(pool)
                works = [rounds.work(pool)]
                loop = Loop(pool, works, checkpoint=run.folder / CHECKPOINT, tell=listener.tell)
                try:
                    loop.run()
                finally:
                    with_hosts(run.settings, pool).write(run.folder / "run.json")
            run = Run(run.folder)
        verdict = rounds.verdict()
        if verdict is None:
            raise InputError(
                f"trainings={trainings:g}: too few to compare two schedules: give at least {FEWEST}"
            )
        run.write_verdict(verdict)
    return verdict


def confirm_study(
    folder: Path,
    given: dict[str, Any],
    listener: Listener,
    *,
    total: int | None = None,
    trainings: float | None = None,
    command: str = "",
    trust: bool = False,
) -> None:
    """Do what ``lrtune confirm`` asks for.

    The keys ``given`` come before those that the run was searched with. Code that these name is run
    where it is of the project in the working folder; other code only with ``trust``.

    Raises:
        InputError: what ``confirm`` refuses; a run that was made from Python; code of others.
    """
    run = Run(folder)
    keys = run.settings.asked
    if keys is None:
        raise InputError(
            f"{folder}: was made from Python, with a task of its own: lrtune.confirm(run, task)"
        )
    if not trust:
        _check_code(folder, keys | given)
    # The pool is that of the run's last session; whoever names where to train takes all of that.
    old = {"engine", "slots"}
    old |= {*CLUSTER} if "device" in given else {"device"} if "cluster" in given else set()
    keys = {name: value for name, value in keys.items() if name not in old}
    study = validate(StudyFile, keys | given, str(folder / "run.json"), typed=given)
    baselines = baselines_of(study) if "baseline" in given else None
    task = load(study)
    facts = {"seed": run.settings.seed, "families": run.settings.families}
    facts |= {"lr_ratios": [group.to_json() for group in run.settings.task.lr_ratios]}
    listener.started(task, {"command": command, "budget": None, **facts})
    confirm(
        run,
        task,
        plan=Plan(margin=study.margin),
        total=total,
        trainings=trainings,
        baselines=baselines,
        engine=engine_of(study),
        listener=listener,
    )
    finish(study, run, run.settings.horizon if total is None else total, listener)


def _check_code(folder: Path, keys: Mapping[str, Any]) -> None:
    """Refuse to run code that is not of this project: whoever wrote run.json has named it."""
    for key in ("task", "optimizer"):
        what = str(keys.get(key) or "")
        where, _, function = what.rpartition(":")
        if not where or not function.isidentifier() or Path(what).exists():
            continue
        first = where if where.endswith(".py") else where.partition(".")[0]
        ways = [Path(first), Path(f"{first}.py")]
        here = any(way.exists() and way.resolve().is_relative_to(Path.cwd()) for way in ways)
        if not here or any(way.resolve().is_relative_to(folder.resolve()) for way in ways):
            raise InputError(
                f"{folder}: its {key} {what} is code from outside of this folder: read it, and "
                "add --trust to run it"
            )


def finish(study: StudyFile, run: Run, total: int | None, listener: Listener) -> None:
    """Write what was asked for beside the report, and tell that all is done."""
    if study.tensorboard and (folder := run.write_tensorboard()) is not None:
        listener.tell(f"for TensorBoard: {folder}")
    listener.finished(run, total)


def check_baselines(baselines: Sequence[Schedule], task: Task, horizon: int) -> None:
    """Refuse schedules that cannot be trained, before anything is."""
    expect("baselines", baselines, list | tuple, "a list of schedules")
    for schedule in baselines:
        expect("each of baselines", schedule, Schedule, "an lrtune.Schedule")
        rates_of(schedule, horizon)
        tuned_on(task, schedule)
        if schedule.schedule_free:
            check_schedule_free(task)
        if schedule.cycles_momentum:
            check_momentum(task.optimizer_name, optimizer_settings(task))


def trained(run: Run, horizon: int) -> int:
    """Trainings of the confirmation on this horizon that are over."""
    return int((run.finals()["horizon"] == horizon).sum())


def with_baselines(run: Run, baselines: Sequence[Schedule]) -> Run:
    """The run, which from now on knows the user's own schedules."""
    settings = run.settings.model_copy(update={"baselines": list(baselines)})
    settings.write(run.folder / "run.json")
    return Run(run.folder)


class Rounds:
    """Which trainings the verdict still needs, round by round, and how the finalists stand."""

    def __init__(
        self,
        run: Run,
        horizon: int,  # updates of a training
        plan: Plan,
        listener: Listener,
        *,
        # Trainings of all finalists, earlier sessions included; the plan's where None.
        allowed: Callable[[], float] | None = None,
        # The share of the whole run's budget that its clock and its search have spent.
        spent: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._run, self._horizon = run, horizon
        self._plan = replace(plan, width=run.choice.slots)
        self._listener, self._allowed, self._spent = listener, allowed, spent
        self._objective = run.settings.objective
        self._left: list[Job] = []  # of this round
        self._jobs = 0  # of this round, at its begin
        self._ended: list[Final] = []  # since the listener was told
        self._scores: list[FinalistScores] = []
        self._settled = False

    @cached_property
    def _spent_before(self) -> float:
        """The budget that was spent before the first training of this session, 0 ... 1."""
        return self._spent()

    @cached_property
    def plan(self) -> Plan:
        """The plan, with the number of trainings of all finalists, earlier sessions included."""
        if self._allowed is None:
            return replace(self._plan, trainings=self._plan.trainings or DEFAULT)
        return replace(self._plan, trainings=int(self._allowed() + 1e-9))

    @cached_property
    def finalists(self) -> list[Finalist]:
        """As many as the trainings suffice for; none where they do not suffice for two."""
        trainings = self.plan.trainings or 0
        if trainings < FEWEST:
            return []
        everyone = self._run.finalists()
        yours = sum(finalist.role == "yours" for finalist in everyone)
        return everyone[: min(room_for(trainings, yours), trainings // 2)]

    def verdict(self) -> Verdict | None:
        """The verdict as things stand; None where nothing can be compared on two seeds."""
        if not self.finalists:
            return None
        verdict = self._run.judged(self.plan, self._horizon, self.finalists)
        if verdict.answer.place != "unfinished":
            return verdict
        seeds = {row.family: row.seeds for row in verdict.families}
        compared = [finalist for finalist in self.finalists if seeds[finalist.family] > 1]
        if len(compared) < min(2, len(self.finalists)):
            return None
        return self._run.judged(self.plan, self._horizon, compared, over=True)

    def work(self, pool: Pool, begun: Callable[[], bool] = lambda: True) -> Confirmation:
        """The same as work for the loop, which waits until the finalists are known."""
        return Confirmation(
            pool,
            lambda: self.wanted() if begun() else None,
            self.over,
            judge=self._run.settings.judge,
            watch=self._watch,
        )

    def wanted(self) -> list[Job]:
        """What is still to be trained of this round; of the next one where none is left."""
        if not self._left and not self._settled:
            self._next_round()
        return self._left

    def _next_round(self) -> None:
        """Find out who needs more seeds."""
        if not self.finalists:
            self._settled = True
            return
        finals = self._run.finals()
        finals = finals[finals["horizon"] == self._horizon]
        seeds = final_seeds(self._run.settings.seed, self.plan.trainings or 0)
        needed = standing(finals, self.finalists, self._objective, seeds, self.plan).wanted
        name = f"final_{self._objective.name}"
        scores: dict[str, dict[int, float]] = {}
        for row in finals.to_dict("records"):
            scores.setdefault(row["schedule"], {})[row["seed"]] = row.get(name, math.nan)
        self._scores = [
            FinalistScores(
                finalist.schedule,
                scores.get(finalist.schedule.to_json(), {}),
                finalist.family in needed,
            )
            for finalist in self.finalists
        ]
        # Seed by seed: so a stop leaves whole comparisons.
        jobs = [
            Job(finalist.schedule, seed)
            for number, seed in enumerate(seeds)
            for finalist in self.finalists
            if number < needed.get(finalist.family, 0)
            and seed not in scores.get(finalist.schedule.to_json(), {})
        ]
        self._left = list(dict.fromkeys(jobs))  # yours may be what is recommended
        self._jobs, self._settled = len(self._left), not self._left
        if self._left:
            schedules = plural(len({job.schedule for job in self._left}), "schedule", "schedules")
            most = plural(max(needed.values()), "fresh seed", "fresh seeds")
            trainings = plural(self._jobs, "training", "trainings")
            self._listener.tell(
                f"confirmation: {schedules} on {most}, {trainings} of {self._horizon:,} updates"
            )

    def over(self, final: Final) -> None:
        """Take in a training that is over."""
        append_final(self._run.folder / FINALS, final)
        self._left.remove(Job(final.schedule, final.seed))
        self._ended.append(final)
        score = final.metrics.get(self._objective.name, math.nan)
        for finalist in self._scores:
            if finalist.schedule == final.schedule:
                finalist.scores[final.seed] = score

    def _watch(self, under_way: float) -> None:
        """Tell how they stand, with so many trainings under way."""
        if not self._jobs:
            return
        ended, self._ended = self._ended, []
        done = self._jobs - len(self._left) + under_way
        made = sum(len(finalist.scores) for finalist in self._scores) + under_way
        assert self.plan.trainings
        share = self._spent_before
        share += (1 - share) * min(1.0, made / self.plan.trainings)
        share = max(share, self._spent())  # time may be over before the trainings are
        self._listener.confirmation(ConfirmationState(share, done, self._jobs, self._scores, ended))


def _check_task(run: Run, task: Task, engine: Engine) -> None:
    """Refuse another task than was searched."""
    names = ("families", "warmup", "cycle_momentum", "seed", "storage", "judge")
    tune = [f"{name}={facts.low!r}:{facts.high!r}" for name, facts in run.settings.tune.items()]
    same = {name: getattr(run.settings, name) for name in names}
    study = StudyFile(task=task.name, tune=tune, **same)
    settings = settings_for(task, study, engine.devices[0])
    check_same(shown(run.folder), settings, None, run.settings)


def _stretched(task: Task, total: int | None) -> Task:
    if total is None or total == task.horizon:
        return task
    if type(total) is not int or total < 1:
        raise InputError(f"total={total!r}: a number of updates, at least 1")
    longer = replace(task, epochs=total * task.batch_size / task.train.samples)
    assert longer.horizon == total
    return longer
