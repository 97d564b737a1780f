"""How many seeds do qualifiers need, and should each have a validation split of its own?

    python scripts/bench/reproduce.py studies/digits.toml
    python scripts/bench/qualifiers.py runs/reproduce/*

The runs are of one study, whose objective is a loss. Every candidate of each is trained on 20
qualifying seeds and judged on validation; on 20 more, four for each of five other cuts of the same
samples into training and validation; and on the 20 seeds of the finals, judged on test. The regret
of a rule is how much worse on test the candidate is that it sends to the finals than the family's
best one.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lrtune.config import StudyFile, load
from lrtune.engine import make_pool
from lrtune.judgement import candidates_of
from lrtune.options import validate
from lrtune.run import Run
from lrtune.search.final import Final
from lrtune.search.finals import Job, final_seeds, qualifying_seeds, train_finals
from lrtune.tasks import Split, Task
from lrtune.tasks.tree import concat

SEEDS, CUTS = 20, 5
RULES: dict[str, Callable[[dict[str, Any]], float]] = {
    "the search's first": lambda row: row["place"],
    **{f"{n} seeds": lambda row, n=n: mean(row["validation"][:n]) for n in (1, 3, 5, 10, 20)},
    **{
        f"{n} seeds, {min(n, CUTS)} cuts": lambda row, n=n: mean(in_turn(row["cuts"])[:n])
        for n in (3, 5, 10, 20)
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs on embedded data")
    parser.add_argument("--out", type=Path, help="JSON: all scores")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for folder in args.runs:
        rows += measured(Run(folder))
        print(f"{folder.name}: {len(rows)} candidates so far", flush=True)
    if args.out is not None:
        args.out.write_text(json.dumps(rows) + "\n")
    print(summary(rows))


def measured(run: Run) -> list[dict[str, Any]]:
    """A run's candidates and their scores; NaN where a training was lost."""
    seed = run.settings["seed"]
    task = replace(load(validate(StudyFile, run.settings["asked"], "run.json")), average=None)
    found = candidates_of(run)
    seeds = qualifying_seeds(seed, 2 * SEEDS)
    mine, theirs = seeds[:SEEDS], np.split(np.array(seeds[SEEDS:]), CUTS)

    def scores(task: Task, seeds: Sequence[int], examined: bool) -> dict[str, list[float]]:
        jobs = [Job(one.schedule, int(seed)) for seed in seeds for one in found]
        return trained(task, run, jobs, examined)

    validation, test = scores(task, mine, False), scores(task, final_seeds(seed, SEEDS), True)
    cuts = [scores(cut(task, seed, number), part, False) for number, part in enumerate(theirs)]
    return [
        {
            "seed": seed,
            "family": one.family,
            "trial": one.trial,
            "place": place,
            "validation": validation[key],
            "cuts": [part[key] for part in cuts],
            "test": test[key],
        }
        for place, one in enumerate(found)
        for key in (one.schedule.to_json(),)
    ]


def cut(task: Task, seed: int, number: int) -> Task:
    """With another part of the samples for validation, none of it in a part before."""
    whole: Split = concat([task.train, task.val])
    order = np.random.default_rng(seed).permutation(whole.samples)
    order = np.roll(order, number * task.val.samples)
    val, train = np.split(order, [task.val.samples])
    return replace(task, train=whole.take(train), val=whole.take(val))


def trained(task: Task, run: Run, jobs: Sequence[Job], examined: bool) -> dict[str, list[float]]:
    """By schedule the objective, in the order of the jobs."""
    found: dict[tuple[str, int], float] = {}

    def ended(final: Final) -> None:
        score = final.metrics.get(task.objective.name, math.nan)
        found[final.schedule.to_json(), final.seed] = score

    train_finals(make_pool(task, run.choice, "cpu", print), jobs, ended, examined=examined)
    by_schedule: dict[str, list[float]] = {}
    for job in jobs:
        key = job.schedule.to_json()
        by_schedule.setdefault(key, []).append(found[key, job.seed])
    return by_schedule


def in_turn(cuts: Sequence[Sequence[float]]) -> list[float]:
    """The first seed of each cut, then the second ones."""
    return [score for some in zip(*cuts, strict=True) for score in some]


def mean(scores: Sequence[float]) -> float:
    """Lower is better; a lost training makes it the worst."""
    return float(np.nan_to_num(np.mean(scores), nan=np.inf))


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """In Markdown: by rule the mean regret over runs and families, its standard error, and more."""
    families: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["seed"], row["family"]), []).append(row)
    lines = ["| rule | mean regret | of 0.01 or more | largest |", "|---|---:|---:|---:|"]
    for name, rule in RULES.items():
        chosen = [mean(min(own, key=rule)["test"]) for own in families.values()]
        best = [min(mean(row["test"]) for row in own) for own in families.values()]
        regrets = np.subtract(chosen, best)[np.isfinite(best)]
        error = regrets.std(ddof=1) / math.sqrt(len(regrets))
        share = np.mean(regrets >= 0.01)
        lines.append(
            f"| {name} | {regrets.mean():.4f} ± {error:.4f} | {share:.0%} | {regrets.max():.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
