"""How a good peak of whole trainings relates to what a range test says.

    python scripts/bench/range_test.py

For each recorded task with a range test: the good peak is the median peak of the best tenth of its
complete trainings. Each relation from landmarks of the range test to it (a constant, or a constant
and a weight, added to a landmark's logarithm) is fitted on all other tasks; printed is by how much
it misses on the task left out, in nats. Then the constants that ``lrtune/engine/range_test.py``
has, each task with what the package suggests, and how far that is off with fewer seeds.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lrtune.engine.range_test import (
    FROM_BLOW_UP,
    FROM_BLOW_UP_SD,
    FROM_MIDDLE,
    FROM_MIDDLE_SD,
    Landmarks,
    RangeTest,
    changes_of,
    landmarks,
    suggest_range,
)
from lrtune.run.tune import DOUBTS

CURVES = Path(__file__).parents[2] / "studies" / "results" / "curves"
BEST = 0.1  # the share of the trainings whose peaks are good
Array = Any


class Recorded(NamedTuple):
    """A task's range test, and a good peak's logarithm."""

    name: str
    marks: Landmarks
    test: RangeTest
    peak: float


class Relation(NamedTuple):
    """A good peak from a landmark, and from a column that is weighed."""

    landmark: Callable[[Landmarks], float]
    column: Callable[[Landmarks], float] | None = None


RELATIONS = {
    "valley": Relation(lambda m: m.valley),
    "steepest": Relation(lambda m: m.steepest),
    "max_lr": Relation(lambda m: m.top),
    "lowest loss": Relation(lambda m: 2 * m.valley - m.base),
    "middle of base_lr and max_lr": Relation(lambda m: m.middle),
    "base_lr and max_lr, weighed": Relation(lambda m: m.base, lambda m: m.top - m.base),
}
MIDDLE, BLOW_UP = RELATIONS["middle of base_lr and max_lr"], Relation(lambda m: m.end)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, default=CURVES)
    folder = parser.parse_args().curves
    names = sorted(path.name for path in (folder / "range_tests").glob("*.parquet"))
    tasks = [recorded(folder, name) for name in names if (folder / name).exists()]
    clear = [task for task in tasks if task.marks.clear]
    blown = [task for task in tasks if task.marks.blown]
    print(f"{len(tasks)} tasks; the loss falls clearly on {len(clear)}, blows up on {len(blown)}\n")
    print("| from | missed by, left out | median | worst |\n|---|---|---|---|")
    for name, relation in RELATIONS.items():
        print(f"| {name} | {row(left_out(relation, clear))} |")
    print(f"| blow-up | {row(left_out(BLOW_UP, blown))} |\n")
    for name, relation, some, own in (
        ("FROM_MIDDLE", MIDDLE, clear, (FROM_MIDDLE, FROM_MIDDLE_SD)),
        ("FROM_BLOW_UP", BLOW_UP, blown, (FROM_BLOW_UP, FROM_BLOW_UP_SD)),
    ):
        (constant,), sd = fitted(relation, some), rms(left_out(relation, some))
        print(f"{name}, {name}_SD = {constant:.2f}, {sd:.2f}  # now {own[0]}, {own[1]}")
    print("\n| task | good peak | suggested | off, in doubts | searched | message |")
    print("|---|---|---|---|---|---|")
    offs = []
    for task in tasks:
        found = task.test.suggestion
        offs.append((np.log(found.peak_lr) - task.peak) / found.doubt)
        factor = np.exp(DOUBTS * found.doubt)
        print(
            f"| {task.name} | {np.exp(task.peak):.2g} | {found.peak_lr:.2g} | {offs[-1]:+.1f} "
            f"| {found.peak_lr / factor:.1g} to {found.peak_lr * factor:.1g} "
            f"| {task.test.message} |"
        )
    shares = [f"{np.mean(np.abs(offs) <= limit):.0%} within {limit:g}" for limit in (1, 2, DOUBTS)]
    print(f"\n{', '.join(shares)} doubts")
    print("\n| seeds | suggestion off by, nats | median | worst |\n|---|---|---|---|")
    for seeds in ([0], [1], [2], [0, 1, 2]):
        missed = [
            np.log(suggest_range(t.test.rates, t.test.losses[seeds]).suggestion.peak_lr) - t.peak
            for t in tasks
        ]
        print(f"| {', '.join(map(str, seeds))} | {row(np.array(missed))} |")


def recorded(folder: Path, name: str) -> Recorded:
    """What is recorded of a task."""
    sweeps = pd.read_parquet(folder / "range_tests" / name)
    rates, losses = np.array(sweeps["rate"][0]), np.array(sweeps["loss"].tolist())
    marks, _ = landmarks(np.log(rates), changes_of(losses)[0])
    trainings = pd.read_parquet(folder / name, columns=["schedule", "seed", "state", "loss"])
    done = trainings[(trainings["state"] == "complete") & (trainings["seed"] == 0)]
    best = done.assign(final=done["loss"].str[-1]).nsmallest(round(BEST * len(done)), "final")
    peaks = [json.loads(schedule)["peak_lr"] for schedule in best["schedule"]]
    found = suggest_range(rates, losses)
    return Recorded(Path(name).stem, marks, found, float(np.median(np.log(peaks))))


def fitted(relation: Relation, tasks: list[Recorded]) -> Array:
    """The constant, and the weight where there is a column."""
    target = [task.peak - relation.landmark(task.marks) for task in tasks]
    return np.linalg.lstsq(columns(relation, tasks), np.array(target), rcond=None)[0]


def columns(relation: Relation, tasks: list[Recorded]) -> Array:
    kept = [np.ones(len(tasks))]
    if relation.column is not None:
        kept.append(np.array([relation.column(task.marks) for task in tasks]))
    return np.stack(kept, axis=1)


def left_out(relation: Relation, tasks: list[Recorded]) -> Array:
    """By how much each task is missed by what all others say, in nats."""
    missed = []
    for task in tasks:
        weights = fitted(relation, [other for other in tasks if other is not task])
        said = relation.landmark(task.marks) + float(columns(relation, [task])[0] @ weights)
        missed.append(task.peak - said)
    return np.array(missed)


def row(missed: Array) -> str:
    sizes = np.abs(missed)
    return f"{rms(missed):.2f} | {np.median(sizes):.2f} | {sizes.max():.2f}"


def rms(missed: Array) -> float:
    return float(np.sqrt(np.mean(missed**2)))


if __name__ == "__main__":
    main()
