"""Whole searches at equal updates: lrtune, a tuned cosine, TPE and a Gaussian process of Optuna's.

    python scripts/bench/race.py --images CIFAR_FOLDER --text tinyshakespeare.txt
    python scripts/bench/race.py --images CIFAR_FOLDER --text tinyshakespeare.txt --clock
    python scripts/bench/race.py --table
    python scripts/bench/race.py --tune --images CIFAR_FOLDER --text tinyshakespeare.txt

Eight tasks of ``recorded_tasks.py`` on samples that were not recorded, ten master seeds, the
updates of 6 and of 20 whole trainings. A search ends when its trials have spent them, lrtune's
range test counted; a trial under way is then lost. What it calls best is trained again on five
fresh seeds and judged on the test split. One file a task under ``studies/results/bench/race/``;
what is there is not run again, so that a run may be cut short, and several processes may share the
work by ``--only``. ``--tune`` runs lrtune alone, without and with its own
``--tune weight_decay``, on tasks of AdamW, into ``race-tune/``.

The rivals' searches of one task and method train side by side, a slot a master seed, each trial
after the other; a pool gives a trial the same result in any company. ``--clock`` times each search
alone, rivals in a plain loop, on a machine that has nothing else to do.
"""

import argparse
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import torch
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState
from race_table import OURS, show
from recorded import group_of, read
from recorded_tasks import TASKS

sys.path.insert(0, str(Path(__file__).parents[1]))
from transfer import learn

import lrtune
from lrtune import files
from lrtune.engine import Pool, Progress, SerialPool, choose
from lrtune.engine.choose import WAVES
from lrtune.model.transfer import Transfer
from lrtune.schedule import Schedule
from lrtune.search import SearchState
from lrtune.search.confirmation import Confirmation, Final, Job
from lrtune.search.loop import Loop
from lrtune.search.space import FAMILY, Space
from lrtune.tasks import Task

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
BUDGETS, SEEDS = (6, 20), 10  # whole trainings; master seeds
FRESH = (1001, 1002, 1003, 1004, 1005)
SAMPLE = 1  # seed of splits and made-up data; the recorded tasks have 0
VALIDATIONS = 30
CHOSEN = (
    "digits-mlp-sgd-noise",
    "digits-mlp-rmsprop",
    "clusters-mlp-adamw",
    "friedman-mlp-nesterov",
    "visits-mlp-adamw",
    "shakespeare-grams-sgd",
    "shakespeare-grams-adamw",
    "cifar10-mlp-adamw",
)
# Four decades of the peak rate, as one who knows the optimizer but not the task would take them.
PEAK_LR = {
    **dict.fromkeys(("sgd", "nesterov", "adagrad"), (1e-4, 1.0)),
    **dict.fromkeys(("adam", "adamw", "rmsprop"), (1e-5, 0.1)),
}
FAMILIES = ("constant", "step", "exponential", "linear", "cosine", "one_cycle")

Peaks = tuple[float, float]
Drawn = tuple[optuna.Trial, Schedule]


def cosine(study: optuna.Study, peak_lr: Peaks) -> Drawn:
    """Peak and warmup of a cosine to zero: what most people tune."""
    trial = study.ask()
    peak = trial.suggest_float("peak_lr", *peak_lr, log=True)
    warmup = trial.suggest_float("warmup", 0.0, 0.2)
    return trial, Schedule("cosine", peak_lr=peak, warmup=warmup)


def conditional(study: optuna.Study, peak_lr: Peaks) -> Drawn:
    """A family, then its own parameters."""
    trial = study.ask()
    return trial, lrtune.suggest(trial, families=FAMILIES, peak_lr=peak_lr)


def flat(study: optuna.Study, peak_lr: Peaks) -> Drawn:
    """The same space with all parameters in every trial, as GPSampler needs it.

    Peak and warmup are the same parameter for all families; of the knobs those of the trial's
    family are used.
    """
    space = Space(FAMILIES, peak_lr)
    own = {family: space.distributions(family) for family in FAMILIES}
    every = {shared(name): d for family in FAMILIES for name, d in own[family].items()}
    trial = study.ask({FAMILY: CategoricalDistribution(FAMILIES), **every})
    family = trial.params[FAMILY]
    params = {name: trial.params[shared(name)] for name in own[family]}
    return trial, space.schedule({FAMILY: family, **params})


def shared(name: str) -> str:
    """Of a parameter of one family, its name in the flat space."""
    short = name.partition(".")[2]
    return short if short in ("peak_lr", "warmup") else name


def hyperband(task: Task) -> BasePruner:
    every = task.horizon // len(task.checkpoints)
    return HyperbandPruner(min_resource=every, max_resource=task.horizon, reduction_factor=3)


class Rival(NamedTuple):
    """A sampler by its seed, a pruner, and how a trial and its schedule are drawn."""

    sampler: Callable[[int], BaseSampler]
    pruner: Callable[[Task], BasePruner]
    draw: Callable[[optuna.Study, Peaks], Drawn]


def tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


RIVALS = {
    "tuned cosine": Rival(tpe, lambda task: MedianPruner(), cosine),
    "TPE": Rival(tpe, lambda task: NopPruner(), conditional),
    "TPE + median": Rival(tpe, lambda task: MedianPruner(), conditional),
    "TPE + Hyperband": Rival(tpe, hyperband, conditional),
    "GP": Rival(lambda seed: GPSampler(seed=seed), lambda task: NopPruner(), flat),
}
METHODS = (OURS, *RIVALS)
TUNED = "lrtune, weight decay tuned"
RANGES = {"weight_decay": (1e-3, 3.0)}
ADAMW = (
    "breast-cancer-mlp-adamw",
    "diabetes-mlp-adamw",
    "digits-mlp-adamw-large-batch",
    *(name for name in CHOSEN if name.endswith("adamw")),
)


class Pick(NamedTuple):
    """What a search calls best when it has spent its budget.

    Attributes:
        schedule: the best trial's.
        whole: whether that trial was trained to the end; where none was, it had the best value.
        updates: spent.
        trials: started.
        seconds: from the start of the search, of all that trained beside it together.
    """

    schedule: Schedule
    whole: bool
    updates: int
    trials: int
    seconds: float


class Search:
    """One search of a rival: its study, the trial under way, and what is spent."""

    def __init__(self, rival: Rival, task: Task, name: str, seed: int) -> None:
        self.rival = rival
        self.task = task
        self.seed = seed
        self.study = optuna.create_study(
            study_name=f"{name} {seed}",  # Hyperband draws brackets by it
            sampler=rival.sampler(seed),
            pruner=rival.pruner(task),
        )
        self.schedules: list[Schedule] = []  # by trial
        self.ended = 0  # updates of all trials but the one under way
        self.done = 0  # of that one

    @property
    def spent(self) -> int:
        return self.ended + self.done

    def start(self, pool: Pool, slot: int) -> None:
        """Draw a trial and put it in this slot; all trials meet the same seed, as lrtune's do."""
        self.trial, schedule = self.rival.draw(self.study, PEAK_LR[self.task.optimizer])
        self.schedules.append(schedule)
        pool.start(slot, schedule.rates(self.task.horizon), self.seed)

    def take(self, progress: Progress) -> bool:
        """Report a validation; whether the trial is over."""
        if progress.error is not None:
            raise SystemExit(f"{self.schedules[-1]}: {progress.error}")
        self.done = progress.update
        value = progress.metrics[self.task.objective.name]
        if not math.isfinite(value):
            # As the worst of values rather than none, so that the samplers learn to keep off.
            self.study.tell(self.trial, math.inf)
        else:
            self.trial.report(value, progress.update)
            if progress.update == self.task.horizon:
                self.study.tell(self.trial, value)
            elif self.trial.should_prune():
                self.study.tell(self.trial, state=TrialState.PRUNED)
            else:
                return False
        self.ended, self.done = self.spent, 0
        return True

    def pick(self, seconds: float) -> Pick:
        """The best trial of those trained to the end; where there is none, by the last report."""
        trials = self.study.get_trials(deepcopy=False)
        whole = {
            t.number: t.value
            for t in trials
            if t.state == TrialState.COMPLETE and math.isfinite(t.value)
        }
        partial = {
            t.number: t.intermediate_values[t.last_step] for t in trials if t.intermediate_values
        }
        values = whole or partial
        best = min(values, key=values.__getitem__) if values else 0
        return Pick(self.schedules[best], bool(whole), self.spent, len(trials), seconds)


def rival_searches(
    rival: Rival, name: str, pool: Pool, seeds: Sequence[int], budgets: Sequence[int]
) -> Iterator[tuple[int, int, Pick]]:
    """Search with each master seed in a slot of its own; master seeds, budgets and picks.

    None of the rivals knows its budget, so that a search with the largest one has passed through
    all others.
    """
    began, horizon = time.perf_counter(), pool.task.horizon
    searches = [Search(rival, pool.task, name, seed) for seed in seeds]
    for slot, search in enumerate(searches):
        search.start(pool, slot)
    left = {seed: sorted(budgets) for seed in seeds}
    while any(left.values()):
        for progress in pool.advance():
            search = searches[progress.slot]
            over = search.take(progress)
            due = left[search.seed]
            while due and search.spent >= due[0] * horizon:
                yield search.seed, due.pop(0), search.pick(time.perf_counter() - began)
            if over or not due:
                pool.release(progress.slot)
            if over and due:
                search.start(pool, progress.slot)


def lrtune_search(
    task: Task,
    transfer: Transfer,
    updates: int,
    seed: int,
    tune: dict[str, tuple[float, float]] | None = None,
    **engine: Any,
) -> Pick:
    """One search by ``lrtune.tune`` as a user calls it.

    Args:
        task: what is searched.
        transfer: learnt from recorded tasks that have nothing of this one's data.
        updates: of all trials and the range test together.
        seed: the master seed.
        tune: what is tuned with the schedule.
        engine: name and slots, where they are not chosen by speed.
    """
    began = time.perf_counter()
    spent, started = 0, 0

    class Watching(lrtune.Listener):
        def search(self, state: SearchState) -> None:
            nonlocal spent, started
            spent, started = int(state.spent[1]), state.trials + len(state.running)

    with tempfile.TemporaryDirectory() as folder:
        run = lrtune.tune(
            task,
            budget=lrtune.Budget(updates=updates),
            plan=None,
            seed=seed,
            out=folder,
            engine=lrtune.Engine(**engine, device="cpu"),
            transfer=transfer,
            tune=tune,
            listener=Watching(),
        )
        trials, best, test = run.trials(), run.best(), run.settings.range_test
        swept = 0 if test is None else test.updates
    seconds = time.perf_counter() - began
    if best is None:
        last = trials[f"val_{task.objective.name}"].str[-1]
        best = Schedule.from_json(trials.loc[last.idxmin(), "schedule"])
    whole = bool(trials["value"].notna().any())
    return Pick(best, whole, spent + swept, started, seconds)


class Race:
    """All searches of one task, and the file that they are kept in."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name = name
        self.args = args
        self.path = args.out / f"{name}.json"
        self.kept: dict[str, Any] = {"searches": [], "finals": {}, "clocks": []}
        if self.path.exists():
            self.kept = json.loads(self.path.read_text())

    @cached_property
    def task(self) -> Task:
        return replace(TASKS[self.name].make(self.args, seed=SAMPLE), validations=VALIDATIONS)

    @cached_property
    def transfer(self) -> Transfer:
        """What the recorded tasks teach that have nothing of this one's data."""
        return learn([task for task in read() if task.group != group_of(self.name)])

    @cached_property
    def plain(self) -> Task:
        """Without the averaged weights that only lrtune looks at."""
        return replace(self.task, average=None)

    @cached_property
    def pool(self) -> Pool:
        """A slot a master seed, for rivals and final trainings."""
        updates = len(RIVALS) * self.args.seeds * max(BUDGETS) * self.task.horizon
        slots = self.args.seeds
        return choose(self.plain, "cpu", engine="fused", slots=slots, updates=updates)[1]

    def run(self, method: str) -> None:
        """What is missing of one method, searches and final trainings."""
        began = time.perf_counter()
        known = {(r["method"], r["seed"], r["budget"]) for r in self.kept["searches"]}
        missing = [
            (seed, budget)
            for seed in range(self.args.seeds)
            for budget in self.args.budgets
            if (method, seed, budget) not in known
        ]
        for seed, budget, pick in self._searches(method, missing):
            self.kept["searches"].append(self._row(method, seed, budget, pick))
            if method in (OURS, TUNED):  # the others' all end at about the same time
                self.save()
        searched = time.perf_counter()
        count = self._confirm()
        if missing or count:
            self.save()
            print(
                f"{self.name}, {method}: {len(missing)} searches {searched - began:.0f} s, "
                f"{count} final trainings {time.perf_counter() - searched:.0f} s",
                flush=True,
            )

    def _searches(
        self, method: str, missing: list[tuple[int, int]]
    ) -> Iterator[tuple[int, int, Pick]]:
        if method in (OURS, TUNED):
            tune = RANGES if method == TUNED else None
            for seed, budget in missing:
                updates = budget * self.task.horizon
                # As many slots as are chosen at most; the results are the same on any pool.
                how: dict[str, Any] = {"kind": "serial", "slots": max(1, budget // WAVES)}
                pick = lrtune_search(self.task, self.transfer, updates, seed, tune, **how)
                yield seed, budget, pick
        elif missing:
            seeds = sorted({seed for seed, _ in missing})
            study = f"{self.name} {method}"
            picks = rival_searches(RIVALS[method], study, self.pool, seeds, self.args.budgets)
            yield from (found for found in picks if found[:2] in missing)

    def _row(self, method: str, seed: int, budget: int, pick: Pick) -> dict[str, Any]:
        return {
            "method": method,
            "seed": seed,
            "budget": budget,
            "schedule": pick.schedule.to_json(),
            "whole": pick.whole,
            "trainings": pick.updates / self.task.horizon,
            "trials": pick.trials,
        }

    def _confirm(self) -> int:
        """Train each schedule that was picked on the fresh seeds; how many trainings it took."""
        jobs = [
            Job(Schedule.from_json(schedule), seed)
            for schedule in dict.fromkeys(row["schedule"] for row in self.kept["searches"])
            for seed in FRESH
            if str(seed) not in self.kept["finals"].get(schedule, {})
        ]
        left = list(jobs)

        def over(final: Final) -> None:
            left.remove(Job(final.schedule, final.seed))
            self._judged(final)

        if jobs:
            Loop(self.pool, [Confirmation(self.pool, lambda: left, over)]).run()
        return len(jobs)

    def _judged(self, final: Final) -> None:
        if final.state == "failed":
            raise SystemExit(f"{final.schedule}: {final.reason}")
        loss = final.metrics.get(self.task.objective.name)  # none of one that diverged
        losses = self.kept["finals"].setdefault(final.schedule.to_json(), {})
        losses[str(final.seed)] = loss
        self.save()

    def clock(self, method: str) -> None:
        """Seconds of one search alone, by budget."""
        known = {(r["method"], r["budget"]) for r in self.kept["clocks"]}
        missing = [budget for budget in self.args.budgets if (method, budget) not in known]
        if not missing:
            return
        if method == OURS:
            picks = [
                (0, b, lrtune_search(self.task, self.transfer, b * self.task.horizon, 0))
                for b in missing
            ]
        else:
            pool = SerialPool(self.plain)
            study = f"{self.name} {method}"
            picks = list(rival_searches(RIVALS[method], study, pool, [0], missing))
        for _, budget, pick in picks:
            row = {"method": method, "budget": budget, "seconds": pick.seconds}
            self.kept["clocks"].append(row)
            print(f"{self.name}, {method}, {budget}: {pick.seconds:.1f} s", flush=True)
        self.save()

    def forget(self, method: str) -> None:
        """Leave out what is kept of a method, to run it anew."""
        for part in ("searches", "clocks"):
            self.kept[part] = [row for row in self.kept[part] if row["method"] != method]

    def save(self) -> None:
        if "untrained" not in self.kept:
            self.kept["untrained"] = self._untrained()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.replace(self.path, (json.dumps(self.kept, indent=2, allow_nan=False) + "\n").encode())

    def _untrained(self) -> float:
        """The objective before the first update, mean over the fresh seeds."""
        pool, found = SerialPool(self.plain), []
        for seed in FRESH:
            told = pool.start(0, np.ones(self.task.horizon), seed)
            found.append(told.metrics[self.task.objective.name])
            pool.release(0)
        return float(np.mean(found))


def names(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Reads a list of names with commas between."""

    def read(text: str) -> list[str]:
        given = text.split(",")
        for name in given:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r}: of {', '.join(known)}")
        return given

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", help="tiny Shakespeare")
    parser.add_argument("--only", type=names(list(TASKS)), default=CHOSEN, help="tasks")
    parser.add_argument("--methods", type=names(METHODS), default=METHODS)
    parser.add_argument("--forget", type=names(METHODS), default=[], help="methods to run anew")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--budgets", type=lambda text: [int(part) for part in text.split(",")], default=BUDGETS
    )
    parser.add_argument("--clock", action="store_true", help="time one search alone instead")
    parser.add_argument("--table", action="store_true", help="show what there is")
    parser.add_argument("--tune", action="store_true", help="lrtune without and with --tune")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.out = args.out or RESULTS / ("race-tune" if args.tune else "race")
    if args.tune:
        args.only = ADAMW if args.only == CHOSEN else args.only
        args.methods = (OURS, TUNED)
    if args.table:
        return show(args.out)
    for option, prefix in ("images", "cifar10"), ("text", "shakespeare"):
        if getattr(args, option) is None and any(name.startswith(prefix) for name in args.only):
            parser.error(f"--{option} is needed for {prefix}")
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    for name in args.only:
        race = Race(name, args)
        for method in args.forget:
            race.forget(method)
        for method in args.methods:
            race.clock(method) if args.clock else race.run(method)
    return None


if __name__ == "__main__":
    main()
