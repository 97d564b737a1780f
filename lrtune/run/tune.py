"""tune: from a task to a confirmed schedule: range test, search, confirmation, results."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from optuna.samplers import BaseSampler

from lrtune.engine import Pool, range_test
from lrtune.engine.checkpoint import states_of
from lrtune.engine.choose import Choice
from lrtune.engine.devices import Engine, own_settings
from lrtune.engine.place import Place, choose_pool, maker, place_of
from lrtune.engine.range_test import FEWEST_UPDATES, UPDATES
from lrtune.engine.spread import SpreadPool
from lrtune.errors import InputError, expect
from lrtune.files import check, shown
from lrtune.format import command_without_secrets, duration, plural
from lrtune.model.transfer import Transfer, nothing, published
from lrtune.run.confirm import Listener, Rounds, check_baselines, finish, trained
from lrtune.run.folder import CHECKPOINT, TRANSFER, Run, locked
from lrtune.run.run_json import check_same, range_test_facts, settings_for, with_hosts
from lrtune.run.study_file import (
    StudyFile,
    baselines_of,
    budget_of,
    engine_of,
    folder_of,
    from_python,
    load,
    stopping_of,
)
from lrtune.schedule import FAMILIES, Schedule
from lrtune.search import SearchState, SurrogateSampler, records
from lrtune.search.budget import (
    CONFIRMED,
    FEWEST,
    PROPOSED,
    TRAININGS,
    Budget,
    Clock,
    Limits,
    width,
)
from lrtune.search.early_stopping import Stopping
from lrtune.search.loop import Loop, Work
from lrtune.search.search import Search
from lrtune.search.storage import judge_of
from lrtune.search.study import kept_url, take
from lrtune.search.trials import tuned_names
from lrtune.tasks import Task
from lrtune.tasks.sanity_check import dummy_scores
from lrtune.verdict.best import guessed
from lrtune.verdict.settings import (
    EngineFacts,
    RangeTestFacts,
    RunSettings,
    StoppingFacts,
)
from lrtune.verdict.verdict import Plan

SWEEPS, SWEPT = 3, 0.05  # seeds of the range test at most, and its share of the search
LEAST_UPDATES = 20  # of a range test, however small the budget
WHOLE = math.ceil(FEWEST / CONFIRMED)  # trainings of the smallest run that confirms something
TOO_SMALL = "the budget is too small to confirm what is found: give at least {}"
NO_RATE = 1e-12  # of a training that is begun for its validation alone
DOUBTS = 2.5  # peaks searched: so many standard deviations to both sides of the range test's


def tune(
    task: Task | str,
    *,
    budget: Budget | float | str | None = None,
    time: float | str | None = None,
    families: Iterable[str] | None = None,
    peak_lr: tuple[float, float] | None = None,
    stopping: Stopping | None = None,
    engine: Engine | str | None = None,
    sampler: BaseSampler | None = None,
    plan: Plan | Literal["bounded"] | None = "bounded",
    baselines: Sequence[Schedule] = (),
    transfer: Transfer | None = None,
    out: str | Path | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> Run:
    """Search the learning-rate schedules of a task; called again, go on where it stopped.

    Progress and the answer are printed as ``lrtune search`` prints them, in a notebook too, unless
    a listener is given: ``listener=Listener()`` prints nothing.

    Args:
        task: a Task, or what ``load_task`` takes.
        budget: whole trainings, a time such as ``"10m"``, or a Budget; 50 trainings where None.
        time: limit on the clock, in seconds or as ``90s``, ``10m``, ``1h30m``.
        families: names of FAMILIES; all that can be searched where None.
        peak_lr: lowest and highest peak rate; from a range test where None.
        stopping: when a trial ends early.
        engine: what trains, and on which devices; or its kind: auto, serial or fused.
        sampler: any Optuna sampler, in place of SurrogateSampler.
        plan: how the verdict is reached, for which a part of the budget is kept; search only where
            None. Unless given, it is ``Plan()`` where a budget bounds the whole run, and None where
            trials alone bound the search.
        baselines: your own schedules, which the verdict compares with.
        transfer: what other tasks teach; what comes with lrtune where None.
        out: the run's folder; ``runs/<study>`` where None.
        listener: is told what happens.
        **options: warmup, cycle_momentum, tune (``{"weight_decay": (1e-3, 1)}``), seed, judge and
            storage, as a study file has them; and those of ``load_task`` where the task is a
            string: ``target="price"``, ``epochs=5``.

    Returns:
        The run, its files written; ``run.best()`` is the schedule to use.

    Raises:
        InputError: for any mistake in the above, or another search in the same folder.
        Superseded: another session of this run has taken over, on another machine say.
        KeyboardInterrupt: after Ctrl-C, files written; the same call goes on.
    """
    study = from_python(task, {"families": families, "peak_lr": peak_lr, "out": out, **options})
    if not isinstance(budget, Budget):
        trainings, time = (None, budget) if isinstance(budget, str) else (budget, time)
        budget = Budget(trainings=trainings, time=time)
    elif time is not None:
        raise InputError("time: the budget is a Budget, which has its own: Budget(time=...)")
    if plan == "bounded":
        trials_alone = budget.trainings is budget.updates is budget.time is None
        plan = None if trials_alone and budget.trials is not None else Plan()
    expect("plan", plan, Plan | None, "an lrtune.Plan, or None")
    expect("stopping", stopping, Stopping | None, "an lrtune.Stopping")
    engine = Engine(kind=engine) if isinstance(engine, str) else engine or Engine()
    expect("engine", engine, Engine, "an lrtune.Engine, or its kind")
    named = isinstance(task, str)
    with nullcontext(listener) if listener is not None else closing(_screen()) as listener:
        tuning = Tuning(
            task=load(study) if isinstance(task, str) else task,
            study=study,
            budget=budget,
            stopping=stopping or Stopping(),
            engine=engine,
            plan=plan,
            sampler=sampler,
            baselines=baselines,
            transfer=published() if transfer is None else transfer,
            listener=listener,
            asked=study.model_dump(exclude_unset=True) if named else None,
        )
        run = tuning.run()
        listener.finished(run, None)
    return run


def search(study: StudyFile, listener: Listener, command: str = "") -> Run:
    """Do what a study file asks for; ``command`` is what the user typed, for the record."""
    task, budget = load(study), budget_of(study)
    if budget == Budget(trials=budget.trials):
        budget = replace(budget, trainings=TRAININGS)
        listener.tell(f"budget: {TRAININGS} trainings in all (--budget, --updates, --time)")
    tuning = Tuning(
        task=task,
        study=study,
        budget=budget,
        stopping=stopping_of(study),
        engine=engine_of(study),
        plan=None if study.no_confirm else Plan(margin=study.margin),
        baselines=baselines_of(study),
        transfer=nothing() if study.no_transfer else published(),
        listener=listener,
        asked=study.model_dump(exclude_unset=True),
        command=command,
    )
    run = tuning.run()
    finish(study, run, None, listener)
    return run


def _kept(asked: dict[str, Any]) -> dict[str, Any]:
    """The storage that was asked for, as it may be written down."""
    return {"storage": kept_url(asked["storage"])} if asked.get("storage") else {}


def _screen() -> Listener:
    """What ``lrtune search`` shows; a terminal is nothing to a library's import."""
    from lrtune.cli.console import console_of
    from lrtune.cli.progress import Screen

    return Screen(console_of())


@dataclass(kw_only=True)
class Tuning:
    """One session of a search and its confirmation; most attributes are as in ``tune``."""

    task: Task
    study: StudyFile  # the search space, seed, judge, storage and folder
    budget: Budget
    stopping: Stopping
    engine: Engine
    plan: Plan | None
    baselines: Sequence[Schedule]
    transfer: Transfer
    listener: Listener
    sampler: BaseSampler | None = None
    asked: dict[str, Any] | None = None  # keys with which ``lrtune confirm`` makes the task again
    command: str = ""  # what the user typed

    def __post_init__(self) -> None:
        """Check everything, before anything is trained or kept."""
        task, study = self.task, self.study
        self._clock = Clock()
        self._tell = self.listener.tell
        self._limits = self.budget.limits(task.horizon)
        self._confirms = False
        self._device = self.engine.devices[0]
        check_baselines(self.baselines, task, task.horizon)
        stopping = StoppingFacts(**self.stopping.settings(len(task.checkpoints)))
        more = {"stopping": stopping, "transfer": self.transfer.fingerprint}
        self._settings = settings_for(task, study, self._device).model_copy(update=more)
        if self._settings.tune:
            self.task = replace(task, tuned=tuned_names(task, self._settings.tune))
        self._folder = folder_of(study, self._settings.study)
        families = *self._settings.families, *(schedule.family for schedule in self.baselines)
        self._schedule_free = any(FAMILIES[name].schedule_free for name in families)
        if self._schedule_free and self.engine.kind == "fused":
            raise InputError("engine fused: schedule_free trains one training at a time")
        if self._schedule_free:
            self.engine = replace(self.engine, kind="serial")
        self._trained, self._features = task, ""  # see Place.with_features

    def run(self) -> Run:
        """Search, confirm and write the results; go on where an earlier session stopped.

        Raises:
            InputError: another search in the same folder.
            Superseded: another session has taken over, on another machine say.
            KeyboardInterrupt: after Ctrl-C, files written.
        """
        self._introduce()
        settings = own_settings(self.engine.deterministic)
        with (
            locked(self._folder, self._tell),
            settings,
            self._session() as (earlier, owner),
            self._place() as place,
        ):
            before = None if earlier is None else earlier.choice
            seconds = math.inf if self._limits.seconds is None else self._limits.seconds
            self._trained, self._features = place.with_features(self.task)
            updates = self._limits.most(self.task.horizon)
            pool, choice = choose_pool(
                self._trained, place, before, updates=updates, seconds=seconds
            )
            if self.engine.cluster is not None and isinstance(pool, SpreadPool):
                self.listener.hosts(pool)
            if earlier is None:
                run = self._new(pool, choice, owner, place)
            else:
                run = self._continued(earlier, choice)
            search = self._search(run, pool, choice)
            return self._train(run, pool, search, self._rounds(run, search), place)

    def _place(self) -> Place:
        """Where it trains."""
        trials = self._limits.most(self.task.horizon) / self.task.horizon
        states = states_of(self._folder / CHECKPOINT)
        return place_of(self.engine, self._tell, states, partial(width, trials=trials))

    def _introduce(self) -> None:
        """Tell what is trained."""
        task, study = self.task, self.study
        self._tell(
            f"{task.name}: {task.train.samples:,} training and {task.val.samples:,} "
            f"validation samples, model {task.model_name}, {task.optimizer_name}, "
            f"{task.horizon:,} updates a trial"
        )
        for note in task.notes:
            self._tell(f"  {note}")
        if self._schedule_free:
            self._tell("engine: serial, since schedule_free trains one training at a time")
        for label, ratio, what in self._settings.task.rates:
            self._tell(f"  {label}: {ratio} ({what})")
        facts = {"command": self.command, "seed": study.seed}
        facts |= {"families": self._settings.families, "budget": asdict(self._limits)}
        facts |= {"lr_ratios": [group.to_json() for group in self._settings.task.lr_ratios]}
        self.listener.started(task, facts)

    @contextmanager
    def _session(self) -> Iterator[tuple[Run | None, str]]:
        """The run of an earlier session, if there is one, and whose trials these are.

        From here on, no earlier session writes any more.
        """
        run = Run(self._folder) if (self._folder / "run.json").exists() else None
        name = self._settings.study
        if run is not None:
            check_same(shown(self._folder), self._settings, self.study.peak_lr, run.settings)
            owner = run.settings.owner
            session = take(run.storage, name, owner)
        else:
            # The storage first: what cannot be opened must not cost a range test.
            storage = self._settings.storage or self._folder / "journal.log"
            owner = os.urandom(8).hex()
            session = take(storage, name, owner, self.task.objective.direction)
        with session.under_way():
            if run is not None:
                run = Run(self._folder)  # as it was left
                self._clock = Clock(self._clock.seconds + elapsed(run))
            yield run, owner

    def _new(self, pool: Pool, choice: Choice, owner: str, place: Place) -> Run:
        """Find the peak rates that are worth searching, and write down what the run is."""
        total = self._limits.most(self.task.horizon)
        if self._limits.seconds is not None:
            total = min(total, self._limits.seconds / choice.seconds)
        peak_lr, test = peak_settings(
            self._trained,
            self.study.peak_lr,
            self._tell,
            total,
            place,
            slots=choice.slots // place.count,
            make=maker(replace(choice, compiled=False), place.say),
        )
        torch.cuda.empty_cache()  # the search is on that device too, maybe in another process
        if self.transfer is not published():
            self.transfer.save(self._folder / TRANSFER)
        RunSettings(
            **dict(self._settings),
            peak_lr=peak_lr,
            range_test=test,
            command=command_without_secrets(self.command),
            owner=owner,
            asked=self.asked and {**self.asked, **_kept(self.asked)},
            dummy_scores=dummy_scores(self.task),
            placement=pool.placement,
            features=self._features,
            engine=EngineFacts(**asdict(choice)),
            baselines=list(self.baselines),
        ).write(self._folder / "run.json")
        return Run(self._folder)

    def _continued(self, run: Run, choice: Choice) -> Run:
        """The run of an earlier session, which may have other baselines from now on."""
        changes = {"engine": EngineFacts(**asdict(choice)), "baselines": list(self.baselines)}
        run.settings.model_copy(update=changes).write(self._folder / "run.json")
        return Run(self._folder)

    def _search(self, run: Run, pool: Pool, choice: Choice) -> Search:
        """The search as work for the loop."""
        task, seed, tell = self.task, self.study.seed, self._tell
        tell("data: " + ", ".join(f"{split} {where}" for split, where in pool.placement.items()))
        study = run.study()
        guess = guessed(self._folder, run.settings)
        guess = guess and {**guess, **run.space.start}
        if guess and run.space.contains(guess) and not study.get_trials(deepcopy=False):
            tell("the schedule that lrtune guess said is tried first")
            study.enqueue_trial(guess)
        study.sampler = self.sampler or SurrogateSampler(
            run.space, task.horizon, seed=seed, peak=run.peak_guess, transfer=self.transfer
        )
        validations = len(task.checkpoints)
        study.pruner = self.stopping.make_pruner(task.horizon, validations, self.transfer)
        test, spent = run.settings.range_test, self._clock.seconds
        swept = 0 if test is None else test.updates
        pace = self._pace(pool, choice)
        kept = 0.0
        if self.plan is not None:
            kept = self._limits.kept(task.horizon, pace, spent)
            # Whether there is time for it is seen by the pace of the run itself.
            updates_alone = replace(self._limits, seconds=None)
            self._confirms = updates_alone.kept(task.horizon, pace, spent) > 0
            if not self._confirms:
                tell(TOO_SMALL.format(f"{WHOLE} trainings"))
        timed = self._confirms and self._limits.seconds is not None
        state = SearchState(
            self._limits.of_search(swept, spent, kept),
            clock=self._clock,
            kept=kept,
            pace=pace,
            slots=choice.slots,
            began=spent if timed else None,
            limits=self._limits,
            swept=swept,
        )
        search = Search(
            study,
            run.space,
            pool,
            state,
            stopping=self.stopping,
            judge=judge_of(self.study.judge),
            seed=seed,
            owner=run.settings.owner,
            watch=self.listener.search,
            tell=tell,
        )
        tell(planned(self._limits, task.horizon, pace, spent, kept))
        return search

    def _pace(self, pool: Pool, choice: Choice) -> float:
        """Seconds per update, validations in it, of all slots together."""
        task, validation = self.task, 0.0
        slot = next(slots.start for group, slots in enumerate(pool.groups) if pool.open(group))
        for more in reversed(range(1 + choice.compiled)):  # the first compiles
            began = self._clock.seconds
            pool.start(slot, np.full(task.horizon, NO_RATE), self.study.seed + more)
            validation = self._clock.seconds - began
            pool.release(slot)
        return choice.seconds + validation * (len(task.checkpoints) + 1) / task.horizon

    def _rounds(self, run: Run, search: Search) -> Rounds | None:
        """The confirmation; None where there is none."""
        if self.plan is None or not self._confirms:
            return None
        bounded = self._limits.updates is not None or self._limits.seconds is not None
        allowed = partial(self._allowed, run, search.state.swept) if bounded else None
        return Rounds(
            run,
            self.task.horizon,
            self.plan,
            self.listener,
            allowed=allowed,
            spent=lambda: search.state.share,
        )

    def _train(
        self,
        run: Run,
        pool: Pool,
        search: Search,
        rounds: Rounds | None,
        place: Place,
    ) -> Run:
        """Train until the budget is spent or all is known; write the results, whatever happens."""
        works: list[Work[Any]] = [search]
        if rounds is not None:
            works.append(rounds.work(pool, lambda: search.over))
        checkpoint, spent = self._folder / CHECKPOINT, partial(self._spent, search)
        loop = Loop(pool, works, checkpoint=checkpoint, spent=spent, tell=self._tell)
        cut, answers = False, True
        try:
            cut = loop.run()
        except TimeoutError:  # of the storage, from which results are read
            answers = False
            raise
        finally:
            place.close()
            check()
            if loop.segments:
                ended = {"elapsed": self._clock.seconds, "cut": cut}
                settings = with_hosts(run.settings, pool).model_copy(update=ended)
                settings.write(self._folder / "run.json")
            if answers:
                self._write(search, rounds)
        if search.over and not search.state.trials:
            training = plural(self.task.horizon, "update", "updates")
            raise InputError(
                f"no trial was trained: the range test took all {search.state.swept} updates that "
                f"there are to search with ({training} a training): more --epochs, a larger "
                "--budget, or --peak-lr LOW,HIGH in place of the range test"
            )
        return Run(self._folder)

    def _write(self, search: Search, rounds: Rounds | None) -> None:
        """Write what came of it so far."""
        run = Run(self._folder)
        verdict = rounds.verdict() if rounds and search.over else None
        if verdict is not None:
            run.write_verdict(verdict)
            return
        seconds = WHOLE * self.task.horizon * pace_of(run.trials())
        if rounds and search.over and not rounds.finalists and math.isfinite(seconds):
            self._tell(TOO_SMALL.format(duration(seconds)))
        run.write()

    def _allowed(self, run: Run, swept: int) -> float:
        """Whole trainings that there may be of all finalists, those that are over included."""
        trials, limits, horizon = run.trials(), self._limits, self.task.horizon
        searched = float(trials["updates"].sum())
        by_updates = math.inf if limits.updates is None else limits.updates - swept - searched
        by_time = math.inf
        if limits.seconds is not None:
            by_time = trained(run, horizon) * horizon
            by_time += (limits.seconds - self._clock.seconds) / pace_of(trials)
        return float(max(0.0, min(by_updates, by_time)) / horizon)

    def _spent(self, search: Search) -> bool:
        """Whether the whole budget is."""
        limits, state = self._limits, search.state
        if limits.seconds is not None and self._clock.seconds >= limits.seconds:
            return True
        return limits.updates is not None and state.swept + state.spent[1] >= limits.updates


def elapsed(run: Run) -> float:
    """Seconds of earlier sessions; of one that was killed, at least what its trainings took."""
    seconds = sum(record.seconds for record in records(run.study()))
    finals = run.finals()
    seconds += float(finals["seconds"].sum()) if len(finals) else 0.0
    return max(run.settings.elapsed, seconds)


def pace_of(trials: pd.DataFrame) -> float:
    """Seconds per update of all slots together; infinite before there was any."""
    updates = float(trials["updates"].sum())
    return float(trials["seconds"].sum()) / updates if updates else math.inf


def planned(limits: Limits, horizon: int, pace: float, spent: float, kept: float) -> str:
    """What is to be done, and how long it will take, in a line; ``pace`` as in ``Limits``."""
    trials = "" if limits.trials is None else f"at most {plural(limits.trials, 'trial', 'trials')}"
    trainings = limits.trainings(horizon, pace, spent)
    if math.isinf(trainings):
        return f"plan: {trials}"
    parts = [f"about {plural(round(trainings), 'training', 'trainings')}"]
    if kept:
        searched = (1 - kept) * trainings
        parts.append(f"{searched:.0f} to search, {trainings - searched:.0f} to confirm")
    plan = ", ".join([*parts, trials] if trials else parts)
    seconds = trainings * horizon * pace + (1 - kept) * trainings * PROPOSED
    return f"plan: {plan}" + (f": {duration(seconds)}" if math.isfinite(seconds) else "")


def sweep(task: Task, total: float) -> tuple[int, int]:
    """Updates and seeds of the range test before a search of so many updates.

    A seed costs a third of a training at most. More of them hardly tell more of a good peak
    (``scripts/bench/range_test.py``), so that all together have a twentieth of the search. Where
    the budget is tiny, a fifth of it bounds the first one, unsure as that makes it.
    """
    updates = min(UPDATES, max(FEWEST_UPDATES, task.horizon // 3))
    updates = int(min(updates, max(LEAST_UPDATES, total / 5)))
    return updates, int(min(SWEEPS, max(1, SWEPT * total / updates)))


def peak_settings(
    task: Task,
    given: tuple[float, float] | None,
    tell: Callable[[str], None],
    total: float,
    place: Place,
    **how: Any,
) -> tuple[tuple[float, float], RangeTestFacts | None]:
    """The peak rates to search, and the range test they come from: with what, ``how`` says."""
    if given is not None:
        return (float(given[0]), float(given[1])), None
    tell("range test: which peak rates are worth searching")
    updates, seeds = sweep(task, total)
    test = place.run(range_test, task, updates=updates, seeds=range(seeds), **how)
    peak, factor = test.suggestion.peak_lr, math.exp(DOUBTS * test.suggestion.doubt)
    widest = test.rates[0] / 10, test.rates[-1] * 10
    low, high = (float(np.clip(rate, *widest)) for rate in (peak / factor, peak * factor))
    if test.message:
        searched = f"peak rates from {low:.2g} to {high:.2g} are searched"
        tell(f"range test unsure: {test.message}: {searched}")
    return (low, high), range_test_facts(test)
