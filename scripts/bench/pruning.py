"""What does it cost to stop trials early, and what is lost? Every pruner, replayed over whole runs.

    python scripts/bench/pruning.py

Replays the trainings under ``studies/results/curves/`` (``curves.py`` records them) in random
orders, one trial after the other, with the pruners as a search uses them, Optuna's own classes too.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.trial import TrialState

from lrtune.schedule import Schedule
from lrtune.search import SchedulePruner
from lrtune.search.forecast import Scale
from lrtune.search.pruner import rates_ahead
from lrtune.search.referee import MIN_DELTA, PATIENCE
from lrtune.search.space import SCHEDULE
from lrtune.search.stopping import plateaued

CURVES = Path(__file__).parents[2] / "studies" / "results" / "curves"
RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
TRIALS, ORDERS, BUDGET = 64, 24, 20


@dataclass(frozen=True)
class Run:
    """One whole training."""

    schedule: str
    steps: list[int]
    raw: list[float]
    averaged: list[float]
    complete: bool

    @property
    def signal(self) -> list[float]:
        return np.fmin(self.raw, self.averaged).tolist()

    @property
    def final(self) -> float:
        return self.raw[-1] if self.complete else float("inf")


class Policy(NamedTuple):
    """A pruner, made for a horizon and so many updates between validations, and what it sees."""

    make: Callable[[int, int], BasePruner]
    sees: str  # raw or signal


POLICIES = {
    "no pruning": Policy(lambda total, every: NopPruner(), "raw"),
    "Optuna median": Policy(lambda total, every: MedianPruner(), "raw"),
    "Optuna median, 30 % warmup": Policy(
        lambda total, every: MedianPruner(n_warmup_steps=round(0.3 * total)), "raw"
    ),
    "Optuna halving, η 3, from 4/30": Policy(
        lambda total, every: SuccessiveHalvingPruner(min_resource=4 * every, reduction_factor=3),
        "raw",
    ),
    "Optuna Hyperband, η 3": Policy(
        lambda total, every: HyperbandPruner(
            min_resource=every, max_resource=total, reduction_factor=3
        ),
        "raw",
    ),
    "median, 30 % warmup, averaged": Policy(
        lambda total, every: MedianPruner(n_warmup_steps=round(0.3 * total)), "signal"
    ),
    "halving, averaged": Policy(
        lambda total, every: SuccessiveHalvingPruner(min_resource=4 * every, reduction_factor=3),
        "signal",
    ),
    "SchedulePruner, raw": Policy(lambda total, every: SchedulePruner(total), "raw"),
}
EPSILONS = (0.1, 0.2, 0.3, 0.4)
OURS = {f"SchedulePruner, ε {epsilon}": epsilon for epsilon in EPSILONS}
POLICIES |= {
    name: Policy(
        partial(lambda e, total, every: SchedulePruner(total, epsilon=e), epsilon), "signal"
    )
    for name, epsilon in OURS.items()
}


def load(path: Path) -> tuple[int, list[Run]]:
    """The horizon, and the trainings with the first seed."""
    frame = pd.read_parquet(path)
    frame = frame[frame["seed"] == 0]
    runs = [
        Run(r.schedule, list(r.step), list(r.loss), list(r.averaged), r.state == "complete")
        for r in frame.itertuples()
    ]
    return int(frame["horizon"].iloc[0]), runs


def replay(
    runs: Iterable[Run], horizon: int, policy: Policy, updates: float = np.inf
) -> tuple[list[int], list[Run]]:
    """Train one after the other until so many updates are spent.

    Returns:
        Updates of each, and those that reached their end.
    """
    pruner = policy.make(horizon, horizon // 30)
    study = optuna.create_study(study_name="replay", pruner=pruner)  # Hyperband draws by the name
    spent: list[int] = []
    ended: list[Run] = []
    for run in runs:
        if sum(spent) >= updates:
            break
        trial = study.ask()
        trial.set_user_attr(SCHEDULE, run.schedule)
        trial.set_user_attr("lrtune.averaged", True)
        shown = run.raw if policy.sees == "raw" else run.signal
        for step, value in zip(run.steps, shown, strict=True):
            if np.isfinite(value):
                trial.report(value, step)
            if step < run.steps[-1] and trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                spent.append(step)
                break
        else:
            spent.append(run.steps[-1])
            if run.complete:
                study.tell(trial, run.final)
                ended.append(run)
            else:
                study.tell(trial, state=TrialState.PRUNED)
    return spent, ended


def measure(task: str, name: str, order: int, folder: Path) -> dict[str, object]:
    """One order of one task under one policy."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    horizon, runs = load(folder / f"{task}.parquet")
    shuffled = [runs[i] for i in np.random.default_rng(order).permutation(len(runs))]
    some = shuffled[:TRIALS]
    spent, ended = replay(some, horizon, POLICIES[name])
    best = min(run.final for run in some)
    found = min((run.final for run in ended), default=np.inf)
    _, within = replay(shuffled, horizon, POLICIES[name], BUDGET * horizon)
    whole = min(run.final for run in runs)
    budget = min((run.final for run in within), default=np.inf)
    return {
        "task": task,
        "policy": name,
        "order": order,
        "spent": sum(spent) / sum(run.steps[-1] for run in some),
        "regret": 100 * (found / best - 1),
        "kept": found == best,
        "budget": 100 * (budget / whole - 1),
    }


def left_out(means: pd.DataFrame) -> pd.DataFrame:
    """Each task with the ε that finds the best within a budget on all the others."""
    ours = means[means["policy"].isin(list(OURS))]
    parts = []
    for task in ours["task"].unique():
        others = ours[ours["task"] != task].groupby("policy")["budget"].mean()
        parts.append(ours[(ours["task"] == task) & (ours["policy"] == others.idxmin())])
    return pd.concat(parts).assign(policy="SchedulePruner, ε by leaving one out")


def table(means: pd.DataFrame) -> pd.DataFrame:
    """Mean and worst of the tasks, each a mean over orders."""
    if set(OURS) <= set(means["policy"]):
        means = pd.concat([means, left_out(means)])
    group = means.groupby("policy", sort=False)
    return pd.DataFrame(
        {
            "spent": group["spent"].mean(),
            "regret %": group["regret"].mean(),
            "worst": group["regret"].max(),
            "kept": group["kept"].mean(),
            f"budget {BUDGET}, regret %": group["budget"].mean(),
            "worst ": group["budget"].max(),
        }
    ).reset_index()


def draw(found: pd.DataFrame, path: Path) -> None:
    """Spent against regret, a point a policy."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(
        xlabel="share of all updates spent", ylabel="regret, % of the final loss", xlim=(0.15, 1.1)
    )
    axes.grid(alpha=0.3)
    for row in found.itertuples():
        ours = row.policy in OURS
        seen = "averaged" in row.policy
        color = "tab:blue" if ours else "tab:green" if seen else "tab:gray"
        axes.plot(row.spent, found.loc[row.Index, "regret %"], "o", color=color)
        axes.annotate(
            row.policy,
            (row.spent, found.loc[row.Index, "regret %"]),
            textcoords="offset points",
            xytext=(6, 4),
            fontsize=8,
        )
    ours = found[found["policy"].isin(list(OURS))]
    axes.plot(ours["spent"], ours["regret %"], color="tab:blue", alpha=0.5)
    figure.savefig(path, dpi=110)


def markdown(frame: pd.DataFrame) -> str:
    """A table, numbers with three digits."""
    rows = [list(frame), ["---"] * len(frame.columns)]
    for values in frame.itertuples(index=False):
        rows.append([f"{v:.3g}" if isinstance(v, float) else str(v) for v in values])
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def plateaus(task: str, folder: Path) -> dict[str, float]:
    """What stopping at plateaus alone saves, and what it gives up."""
    frame = pd.read_parquet(folder / f"{task}.parquet")
    horizon, runs = load(folder / f"{task}.parquet")
    finals = frame[frame["seed"] > 0].assign(final=lambda f: np.log(f["loss"].str[-1]))
    sigma = float(np.sqrt(finals.groupby("number")["final"].var().median()))
    complete = [run for run in runs if run.complete]
    best_quarter = np.quantile([run.final for run in complete], 0.25)
    stops = lost = lost_best = saved = 0
    patience = round(PATIENCE * 30)
    for run in complete:
        schedule = Schedule.from_json(run.schedule)
        rates = rates_ahead(schedule, horizon)
        signal = Scale.of(np.array(run.signal), True).to(np.array(run.signal)).tolist()
        for n in range(1, len(run.steps)):
            update = run.steps[n - 1]
            ahead = None if schedule.closed_loop else rates[update - 1 :]
            left = float(rates[update:].sum() / rates.sum())
            if plateaued(signal[:n], ahead, left, patience=patience, min_delta=MIN_DELTA):
                stops += 1
                saved += run.steps[-1] - update
                worse = np.log(min(run.raw[:n])) - np.log(min(run.raw)) > 2 * sigma
                lost += worse
                lost_best += worse and run.final <= best_quarter
                break
    total = sum(run.steps[-1] for run in complete)
    return {
        "task": task,
        "σ of log loss": sigma,
        "stops": stops,
        "of": len(complete),
        "saved": saved / total,
        "gave up > 2σ": lost,
        "of the best quarter": lost_best,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--only", help=f"with ; between, of {'; '.join(POLICIES)}")
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "pruning.json")
    args = parser.parse_args()
    tasks = sorted(path.stem for path in args.curves.glob("*.parquet"))
    names = args.only.split(";") if args.only else list(POLICIES)
    work = list(product(tasks, names, range(args.orders)))
    with ProcessPoolExecutor(args.jobs) as pool:
        done = pool.map(partial(measure, folder=args.curves), *zip(*work, strict=True), chunksize=8)
        found = pd.DataFrame(list(done)).astype({"kept": float})
    columns = ["spent", "regret", "kept", "budget"]
    means = found.groupby(["policy", "task"], sort=False)[columns].mean().reset_index()
    if args.only and args.out.exists():  # what is there and was not run stays
        before = pd.DataFrame(json.loads(args.out.read_text())["policies"])
        means = pd.concat([before[~before["policy"].isin(names)], means])
    order = {name: number for number, name in enumerate(POLICIES)}
    means = means.sort_values("policy", key=lambda policy: policy.map(order), kind="stable")
    stops = pd.DataFrame([plateaus(task, args.curves) for task in tasks])
    content = {
        "trials": TRIALS,
        "orders": args.orders,
        "policies": json.loads(means.to_json(orient="records")),
        "plateaus": json.loads(stops.to_json(orient="records")),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(content, indent=1) + "\n")
    draw(table(means), args.out.with_suffix(".png"))
    print(markdown(table(means)))
    print(markdown(stops))


if __name__ == "__main__":
    main()
