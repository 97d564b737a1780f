"""What ``replay.py`` found: tables and a figure of the regret by budget."""

from pathlib import Path

import numpy as np
import pandas as pd

OURS, BEFORE = "model", "random, today's forecast"
DRAWS = 10_000  # of the bootstrap
WHAT = {
    "regret": "above the best of 160 trainings, %",
    "true": "the same, noise between seeds smoothed away, %",
}


def averaged(found: pd.DataFrame) -> pd.DataFrame:
    """Means over the orders: one row a policy, task and budget."""
    group = found.groupby(["policy", "task", "budget"], sort=False)
    return group[["regret", "true", "seconds"]].mean().assign(orders=group.size()).reset_index()


def markdown(means: pd.DataFrame, what: str) -> str:
    """A table: by policy and budget the mean over the tasks, and the worst task."""
    table = means.groupby(["policy", "budget"], sort=False)[what].agg(["mean", "max"])
    budgets = sorted(means["budget"].unique())
    rows = [["budget", *map(str, budgets)], ["---"] * (1 + len(budgets))]
    for policy in means["policy"].unique():
        cells = [table.loc[policy, budget] for budget in budgets]
        rows.append([policy, *(f"{cell['mean']:.1f} ({cell['max']:.0f})" for cell in cells)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ratios(means: pd.DataFrame, what: str) -> str:
    """Of the regret of OURS and BEFORE, means over tasks, by budget; 95 % bootstrap over tasks."""
    ours, before = (
        means[means["policy"] == policy].pivot(index="task", columns="budget", values=what)
        for policy in (OURS, BEFORE)
    )
    which = np.random.default_rng(0).integers(len(ours), size=(DRAWS, len(ours)))
    said = []
    for budget in ours:
        a, b = ours[budget].to_numpy(), before[budget].to_numpy()
        low, high = np.quantile(a[which].mean(1) / b[which].mean(1), [0.025, 0.975])
        said.append(f"{a.mean() / b.mean():.2f} [{low:.2f}, {high:.2f}] at {budget}")
    return f"{OURS} over {BEFORE}: {', '.join(said)}"


def draw(means: pd.DataFrame, path: Path) -> None:
    """A panel a regret, a line a policy, the mean over the tasks by budget."""
    from matplotlib.figure import Figure  # of the extra bench; the replays need none

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, len(WHAT), sharey=True)
    for axes, (what, title) in zip(panels, WHAT.items(), strict=True):
        for policy, own in means.groupby("policy", sort=False):
            line = own.groupby("budget")[what].mean()
            ours = policy == OURS
            style = {"color": "tab:blue", "linewidth": 2.5} if ours else {"alpha": 0.7}
            axes.plot(line.index, line, marker="o", markersize=3, label=policy, **style)
        budgets = sorted(means["budget"].unique())
        axes.set(title=title, xlabel="whole trainings", xscale="log", yscale="log")
        axes.set_xticks(budgets, list(map(str, budgets)), minor=False)
        axes.set_xticks([], minor=True)
        axes.set_yticks([5, 10, 20, 40], ["5", "10", "20", "40"], minor=False)
        axes.set_yticks([], minor=True)
        axes.grid(alpha=0.3)
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def show(means: pd.DataFrame, path: Path) -> None:
    """Print the tables, and draw the figure beside the file of the means."""
    for what in WHAT:
        print(what, markdown(means, what), sep="\n\n", end="\n\n")
        if {OURS, BEFORE} <= set(means["policy"]):
            print(ratios(means, what), end="\n\n")
    draw(means, path.with_suffix(".png"))
