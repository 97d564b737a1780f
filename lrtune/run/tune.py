"""tune: a search from a task to its results."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from lrtune.engine import range_test
from lrtune.engine.choose import Choice, check_wishes
from lrtune.engine.devices import SpreadPool
from lrtune.engine.range_test import FEWEST_UPDATES, UPDATES
from lrtune.errors import expect
from lrtune.format import duration, plural
from lrtune.model.decide import EPSILON
from lrtune.model.transfer import Transfer, published
from lrtune.run.best_json import guessed
from lrtune.run.confirm import Finals, check_baselines, made, with_baselines
from lrtune.run.devices import choose_pool, devices_of, maker, own_threads
from lrtune.run.folder import CHECKPOINT, TRANSFER, Run
from lrtune.run.identity import check_same, settings_for
from lrtune.run.lock import locked
from lrtune.run.run_json import range_test_json, write_json
from lrtune.run.study_file import limits_of, made_of
from lrtune.run.tally import Tally
from lrtune.schedule import Schedule
from lrtune.search import (
    SEARCHABLE,
    Board,
    Budget,
    Rules,
    Search,
    Space,
    SurrogateSampler,
    make_pruner,
    records,
)
from lrtune.search.budget import CONFIRMED, FEWEST, Clock
from lrtune.search.loop import Loop, Work
from lrtune.search.ownership import check_owner, claim
from lrtune.search.record import judge_of
from lrtune.search.referee import AUDITED, LEAST_PATIENCE, MIN_DELTA, PATIENCE
from lrtune.search.sampler import fits
from lrtune.tasks import Task
from lrtune.tasks.ignorant import ignorant
from lrtune.verdict.plan import Plan

SWEEPS, SWEPT = 3, 0.05  # seeds of the range test at most, and its share of the search
DOUBTS = 2.5  # peaks searched: so many standard deviations to both sides of the range test's


def tune(
    task: Task | str,
    *,
    trials: int | None = None,
    updates: float | None = None,
    seconds: float | None = None,
    budget: float | None = None,
    time: str | None = None,
    families: Iterable[str] = SEARCHABLE,
    peak_lr: tuple[float, float] | None = None,
    warmup: tuple[float, float] = (0.0, 0.2),
    cycle_momentum: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    storage: str | None = None,
    device: str | None = None,
    engine: str = "auto",
    slots: int | None = None,
    sampler: BaseSampler | None = None,
    pruner: BasePruner | str = "schedule",
    epsilon: float = EPSILON,
    patience: int | None = None,
    min_delta: float = MIN_DELTA,
    audit: float = AUDITED,
    judge: str = "last",
    plan: Plan | Literal["bounded"] | None = "bounded",
    baselines: Sequence[Schedule] = (),
    transfer: Transfer | None = None,
    asked: dict[str, Any] | None = None,
    command: str = "",
    watch: Callable[[Board], None] | None = None,
    watch_finals: Callable[[Tally], None] | None = None,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> Run:
    """Search the learning-rate schedules of a task; called again, go on where it stopped.

    Progress and the answer are printed as ``lrtune search`` prints them, in a notebook too, unless
    one of the last three arguments is given: ``tell=lambda line: None`` prints nothing.

    Args:
        task: a Task, or what ``load_task`` takes.
        trials: of the search, at most. Budgets count the whole run, sessions before too; whichever
            is spent first ends it.
        updates: budget in optimizer updates: of range test, search and confirmation together.
        seconds: budget in seconds on the clock, in which all must be done.
        budget: budget in whole trainings; 40 where no budget is given at all.
        time: budget on the clock, in words: ``90s``, ``10m`` or ``1h30m``.
        families: names of FAMILIES.
        peak_lr: lowest and highest peak rate; from a range test where None.
        warmup: shortest and longest warmup, fractions of the horizon.
        cycle_momentum: whether one_cycle and cyclic also cycle the momentum, as torch's do.
        seed: of the trials and the sampler.
        out: the run's folder; ``runs/<study>`` where None.
        storage: any Optuna storage URL; a journal in the run's folder where None.
        device: as torch names it, several with commas between; CUDA where there is one, else the
            CPU, where None.
        engine: auto, serial or fused: what trains; auto takes what is measured to be fastest.
        slots: trials side by side; measured too where None.
        sampler: any Optuna sampler, in place of SurrogateSampler.
        pruner: a name of ``lrtune.search.PRUNERS`` or any Optuna pruner; it sees the better of
            the current and the averaged weights.
        epsilon: of the schedule pruner: it ends a trial that wins with less than this probability.
        patience: validations without a gain that make a plateau; a fifth of them, at least 3,
            where None; no trial plateaus where 0.
        min_delta: the least gain, as a share of the value.
        audit: share of the trials to be pruned that are trained to the end, to check on the pruner.
        judge: which weights of a training count, here and in the finals: "last", those at the end,
            or "best", those of its best validation, as people have them who keep the best
            checkpoint. The best of many noisy figures flatters itself on validation.
        plan: how the verdict is to be reached, for which a part of the budget is kept; search only
            where None. Unless given, it is ``Plan()`` where a budget bounds the whole run, and
            None where ``trials`` alone bounds the search.
        baselines: your own schedules, which the verdict compares with.
        transfer: what other tasks teach; what comes with lrtune where None.
        asked: the keys of a study file, for ``lrtune confirm``, which makes the task again.
        command: what the user typed, for the record.
        watch: called with the Board after each segment of the search.
        watch_finals: called with the Tally after each segment of the confirmation.
        tell: called with a line on what is being done.
        **options: of ``load_task``, where the task is a string: ``target="price"``, ``epochs=5``.

    Returns:
        The run, its files written; ``run.best()`` is the schedule to use.

    Raises:
        InputError: for any mistake in the above, or another search on the same folder.
        KeyboardInterrupt: after Ctrl-C, files written; the same call goes on.
    """
    clock = Clock()
    shown = None
    if watch is None and watch_finals is None and tell is None:
        # A terminal is nothing to a library's import.
        from lrtune.cli.console import console_of
        from lrtune.cli.progress import Screen

        shown = Screen(console_of())
        watch, watch_finals, tell = shown.search, shown.finals, shown.tell
    watch, watch_finals, tell = watch or nobody, watch_finals or nobody, tell or nobody
    if isinstance(task, str):
        asked = asked or {"task": task, "seed": seed, **options}
    task = made_of(task, seed, options)
    devices = devices_of(device)
    check_wishes(engine, slots)
    check_baselines(baselines, task, task.horizon)
    if peak_lr is not None:
        Space(peak_lr=peak_lr)  # looks at it before anything is kept
    device = devices[0]
    weights, limits = judge_of(judge), limits_of(task, trials, updates, seconds, budget, time)
    if plan == "bounded":
        plan = None if limits.updates is limits.seconds is None else Plan()
    expect("plan", plan, Plan | None, "an lrtune.Plan, or None")
    if shown is not None:
        shown.started(task, {})
    count = len(task.checkpoints)
    if patience is None:
        patience = max(LEAST_PATIENCE, round(PATIENCE * count))
    rules = Rules(patience, min_delta, audit)
    called = pruner if isinstance(pruner, str) else type(pruner).__name__
    transfer = published() if transfer is None else transfer
    if isinstance(pruner, str):
        every = max(1, task.horizon // count)
        pruner = make_pruner(pruner, task.horizon, every, epsilon, transfer)
    least = epsilon if called == "schedule" else None  # other pruners have their own settings
    stopping = {"pruner": called, "epsilon": least, **asdict(rules)}
    settings = settings_for(task, families, warmup, cycle_momentum, seed, storage, device)
    settings |= {"stopping": stopping, "transfer": transfer.fingerprint}
    settings["judge"] = judge
    folder = Path(out) if out is not None else Path("runs") / settings["study"]
    with locked(folder, tell), own_threads(), ExitStack() as processes:
        run = _continued(folder, settings, peak_lr)
        if run is not None:
            clock = Clock(clock.seconds + _elapsed(run))
        else:
            # The storage first: what cannot be opened must not cost a range test.
            owner, direction = os.urandom(8).hex(), task.objective.direction
            claim(storage or folder / "journal.log", settings["study"], direction, owner)
        before = None if run is None else run.choice
        pool, choice = choose_pool(task, limits, devices, engine, slots, before, tell)
        if isinstance(pool, SpreadPool):
            processes.enter_context(pool)
        if run is not None and choice is not before:
            write_json(folder / "run.json", run.settings | {"engine": choice.to_json()})
            run = Run(folder)
        if choice.threads is not None:
            torch.set_num_threads(choice.threads)
        if run is None:
            make = maker(replace(choice, compiled=False), tell)
            slots = choice.slots // len(devices)
            how: dict[str, Any] = {"device": device, "slots": slots, "make": make}
            total = limits.most(task.horizon)
            if limits.seconds is not None:
                total = min(total, limits.seconds / choice.seconds)
            peaks = peak_settings(task, peak_lr, tell, total, **how)
            torch.cuda.empty_cache()  # the search is on that device too, maybe in another process
            own: dict[str, Any] = {"command": command, "owner": owner}
            own |= {"asked": asked, "ignorant": ignorant(task)}
            own |= {"placement": pool.placement, "engine": choice.to_json()}
            if transfer is not published():
                transfer.save(folder / TRANSFER)
            write_json(folder / "run.json", settings | peaks | own)
            run = Run(folder)
        if baselines or run.settings.get("baselines"):
            run = with_baselines(run, baselines)
        tell("data: " + ", ".join(f"{split} {where}" for split, where in pool.placement.items()))
        study = run.study()
        check_owner(study, run.storage, run.settings["owner"])
        space = run.space
        first = guessed(folder, run.settings)
        if first is not None and fits(space, first) and not study.get_trials(deepcopy=False):
            tell("the schedule that lrtune guess said is tried first")
            study.enqueue_trial(first)
        study.sampler = sampler or SurrogateSampler(
            space, task.horizon, seed=seed, peak=run.peak_guess, transfer=transfer
        )
        study.pruner = pruner
        swept = swept_in(run.settings)
        kept = 0.0
        if plan is not None:
            kept = limits.kept(task.horizon, choice.seconds, clock.seconds)
            if not kept:
                tell(
                    f"the budget is too small to confirm what is found: give at least "
                    f"{math.ceil(FEWEST / CONFIRMED)} trainings"
                )
        search = Search(
            study,
            space,
            pool,
            limits.of_search(swept, clock.seconds, kept),
            rules=rules,
            judge=weights,
            seed=seed,
            owner=run.settings["owner"],
            clock=clock,
            kept=kept,
            pace=choice.seconds * choice.slots,
            limits=limits,
            swept=swept,
            watch=watch,
            tell=tell,
        )
        works: list[Work[Any]] = [search]
        finals = None
        if plan is not None and kept:
            bounded = limits.updates is not None or limits.seconds is not None
            allowed = partial(_allowed, run, limits, swept, clock) if bounded else None
            finals = Finals(
                run,
                task.horizon,
                plan,
                watch=watch_finals,
                tell=tell,
                allowed=allowed,
                spent=lambda: search.board.share,
            )
            works.append(finals.work(pool, lambda: search.over))
        tell(_planned(limits, task.horizon, choice, clock, kept))

        def spent() -> bool:
            if limits.seconds is not None and clock.seconds >= limits.seconds:
                return True
            return limits.updates is not None and swept + search.board.spent[1] >= limits.updates

        loop = Loop(pool, works, checkpoint=folder / CHECKPOINT, spent=spent, tell=tell)
        cut = False
        try:
            cut = loop.run()
        finally:
            processes.close()
            if loop.segments:
                ended = {"elapsed": clock.seconds, "cut": cut}
                write_json(folder / "run.json", run.settings | ended)
            run = Run(folder)
            verdict = finals.verdict() if finals is not None and search.over else None
            if verdict is None:
                run.write()
            else:
                run.write_verdict(verdict)
            if shown is not None:
                shown.close()
    if shown is not None:
        shown.finished(run, None)
    return run


def nobody(_: object) -> None:
    """Watch nothing."""


def _elapsed(run: Run) -> float:
    """Seconds of earlier sessions; of one that was killed, at least what its trainings took."""
    trained = sum(record.seconds for record in records(run.study()))
    finals = run.finals()
    trained += float(finals["seconds"].sum()) if len(finals) else 0.0
    return max(float(run.settings.get("elapsed", 0.0)), trained)


def _allowed(run: Run, budget: Budget, swept: int, clock: Clock) -> float:
    """Whole trainings that there may be of all finalists, those that there are counted."""
    trials, horizon = run.trials(), run.settings["horizon"]
    searched = float(trials["updates"].sum())
    by_updates = math.inf if budget.updates is None else budget.updates - swept - searched
    by_time = math.inf
    if budget.seconds is not None:
        pace = float(trials["seconds"].sum()) / searched if searched else math.inf
        by_time = made(run, horizon) * horizon + (budget.seconds - clock.seconds) / pace
    return float(max(0.0, min(by_updates, by_time)) / horizon)


def _planned(budget: Budget, horizon: int, choice: Choice, clock: Clock, kept: float) -> str:
    """What is to be done, and how long it will take, in a line."""
    trials = "" if budget.trials is None else f"at most {plural(budget.trials, 'trial', 'trials')}"
    trainings = budget.trainings(horizon, choice.seconds, clock.seconds)
    if math.isinf(trainings):
        return f"plan: {trials}"
    parts = [f"about {plural(round(trainings), 'training', 'trainings')}"]
    if kept:
        searched = (1 - kept) * trainings
        parts.append(f"{searched:.0f} to search, {trainings - searched:.0f} to confirm")
    said = ", ".join([*parts, trials] if trials else parts)
    seconds = trainings * horizon * choice.seconds
    return f"plan: {said}" + (f": {duration(seconds)}" if math.isfinite(seconds) else "")


def swept_in(settings: dict[str, Any]) -> int:
    """Updates that the range test of a run took."""
    test = settings["range_test"]
    return 0 if test is None else len(test["rates"]) * len(test["losses"])


def _continued(
    folder: Path, settings: dict[str, Any], peak_lr: tuple[float, float] | None
) -> Run | None:
    """The run in this folder, if there is one and it is the same search."""
    if not (folder / "run.json").exists():
        return None
    run = Run(folder)
    check_same(str(folder), settings, peak_lr, run.settings)
    return run


def sweep(task: Task, total: float) -> tuple[int, int]:
    """Updates and seeds of the range test before a search of so many updates.

    A seed costs a third of a training at most. More of them hardly tell more of a good peak
    (``scripts/bench/range_test.py``), so that all together have a twentieth of the search.
    """
    updates = min(UPDATES, max(FEWEST_UPDATES, task.horizon // 3))
    return updates, int(min(SWEEPS, max(1, SWEPT * total / updates)))


def peak_settings(
    task: Task,
    given: tuple[float, float] | None,
    tell: Callable[[str], None],
    total: float = math.inf,
    **how: Any,
) -> dict[str, Any]:
    """The peak rates to search, and the range test they come from: on what, ``how`` says."""
    if given is not None:
        return {"peak_lr": [float(rate) for rate in given], "range_test": None}
    tell("range test: which peak rates are worth searching")
    updates, seeds = sweep(task, total)
    test = range_test(task, updates=updates, seeds=range(seeds), **how)
    peak, factor = test.suggestion.peak_lr, math.exp(DOUBTS * test.suggestion.doubt)
    widest = test.rates[0] / 10, test.rates[-1] * 10
    low, high = (float(np.clip(rate, *widest)) for rate in (peak / factor, peak * factor))
    if test.message:
        searched = f"peak rates from {low:.2g} to {high:.2g} are searched"
        tell(f"range test unsure: {test.message}: {searched}")
    return {"peak_lr": [low, high], "range_test": range_test_json(test)}
