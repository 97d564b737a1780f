"""confirm: from a search to a verdict, by qualifiers and finals on fresh seeds."""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lrtune.engine import Pool
from lrtune.engine.devices import SpreadPool
from lrtune.errors import InputError
from lrtune.identity import check_same, settings_for
from lrtune.pools import devices_of, own_threads, spread
from lrtune.results.finalists import QUALIFYING_SEEDS, candidates, mean_of, qualified
from lrtune.results.markup import plural
from lrtune.results.quickest import check_target
from lrtune.results.verdict import Finalist, Plan, standing, verdict
from lrtune.run import FINALS, QUALIFIERS, Run, locked
from lrtune.search import Space
from lrtune.search.final import Final, append_final, read_finals
from lrtune.search.finals import Job, final_seeds, qualifying_seeds, train_finals
from lrtune.search.history import racing
from lrtune.tasks import Task


@dataclass(frozen=True, slots=True)
class Tally:
    """How they stand, for whoever watches.

    Attributes:
        stage: qualifiers or finals.
        done: trainings of this round that are over, those under way in part.
        jobs: trainings in this round.
    """

    stage: str
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
    with locked(run.folder.resolve()), own_threads():
        if not finalists_of(run):
            raise InputError(f"{run.folder}: no trial came to a value: there is nothing to confirm")
        with _Work(run, task, devices_of(device), watch, tell) as work:
            if task.horizon == run.settings["horizon"]:
                work.qualify()
            work.decide(finalists_of(run), plan)
        found = judged(run, plan, task.horizon)
        run.write_verdict(found)
    return found


def finalists_of(run: Run) -> list[Finalist]:
    """Who takes part, as search and qualifiers stand."""
    objective = run.settings["objective"]
    return qualified(_candidates(run), run.qualifiers(), objective, _qualifying(run))


def _candidates(run: Run) -> list[Finalist]:
    settings = run.settings
    ranges = (tuple(settings[name]) for name in ("families", "peak_lr", "warmup"))
    space = Space(*ranges)
    return candidates(run.trials(), racing(run.study(), space), settings["objective"])


def _qualifying(run: Run) -> list[int]:
    return qualifying_seeds(run.settings["seed"], QUALIFYING_SEEDS)


def judged(
    run: Run, plan: Plan, horizon: int, finalists: list[Finalist] | None = None
) -> dict[str, Any]:
    """The verdict on the finals that there are; on those of today's finalists where None."""
    finals = run.finals()
    seeds = final_seeds(run.settings["seed"], plan.max_seeds)
    of_horizon = finals[finals["horizon"] == horizon]
    who = finalists_of(run) if finalists is None else finalists
    found = verdict(run.trials(), of_horizon, who, run.settings, seeds, plan)
    return found | {"bias": _bias(run)}


def _bias(run: Run) -> dict[str, Any] | None:
    """The search's best trial, and what it came to in the qualifiers."""
    objective, seeds = run.settings["objective"], _qualifying(run)
    known = [one for one in _candidates(run) if one.value is not None]
    if not known:
        return None
    sign = 1 if objective["direction"] == "minimize" else -1
    first = min(known, key=lambda one: sign * (one.value or 0.0))
    again = mean_of(first, run.qualifiers(), objective, seeds)
    if again is None or not math.isfinite(again):
        return None
    return {
        "family": first.family,
        "trial": first.trial,
        "searched": first.value,
        "again": again,
        "seeds": len(seeds),
    }


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
        found, seeds = _candidates(self._run), _qualifying(self._run)
        counts = Counter(one.family for one in found)
        several = [f for f, count in counts.items() if count > 1 or f == found[0].family]
        meeting = [one for one in found if one.family in several]
        jobs = self._missing(meeting, seeds, dict.fromkeys(several, len(seeds)), QUALIFIERS)
        if jobs:
            said = f"qualifiers: {len(meeting)} configurations of {len(several)} families"
            self._train(jobs, QUALIFIERS, len(seeds), said)

    def decide(self, finalists: list[Finalist], plan: Plan) -> None:
        """Finals, until no more seeds are wanted."""
        seeds = final_seeds(self._run.settings["seed"], plan.max_seeds)
        while True:
            finals = self._of_horizon(FINALS)
            objective = self._run.settings["objective"]
            wanted = standing(finals, finalists, objective, seeds, plan).wanted
            jobs = self._missing(finalists, seeds, wanted, FINALS)
            if not jobs:
                return
            self._train(jobs, FINALS, max(wanted.values()), f"finals: {len(wanted)} families")

    def _of_horizon(self, log: str) -> pd.DataFrame:
        found = read_finals(self._run.folder / log)
        return found[found["horizon"] == self._task.horizon]

    def _missing(
        self, who: list[Finalist], seeds: list[int], wanted: Mapping[str, int], log: str
    ) -> list[Job]:
        """What is wanted and not there, seed by seed: so a stop leaves whole comparisons."""
        own = self._of_horizon(log)
        there = set(zip(own["schedule"], own["seed"], strict=True))
        return [
            Job(one.schedule, seed)
            for number, seed in enumerate(seeds)
            for one in who
            if number < wanted.get(one.family, 0) and (one.schedule.to_json(), seed) not in there
        ]

    def _train(self, jobs: list[Job], log: str, seeds: int, said: str) -> None:
        self._tell(
            f"{said} up to {plural(seeds, 'fresh seed', 'fresh seeds')}, "
            f"{plural(len(jobs), 'training', 'trainings')} of {self._task.horizon:,} updates"
        )
        if self._pool is None:
            choice = self._run.choice
            if choice.threads is not None:
                torch.set_num_threads(choice.threads)
            choice = replace(choice, slots=max(choice.slots, len(self._devices)))
            self._pool = spread(self._task, choice, self._devices, self._tell)
        done, path = 0, self._run.folder / log

        def ended(final: Final) -> None:
            nonlocal done
            done += 1
            append_final(path, final)

        train_finals(
            self._pool,
            jobs,
            ended,
            examined=log == FINALS,
            checkpoint=path.with_name(f"{path.stem}-{self._task.horizon}.safetensors"),
            watch=lambda under_way: self._watch(Tally(path.stem, done + under_way, len(jobs))),
            tell=self._tell,
        )


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
