"""What ``race.py`` found: tables and a figure of whole searches at equal updates."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd

OURS = "lrtune"
DRAWS = 10_000  # of the bootstrap
COLUMNS = ["method", "seed", "budget", "schedule", "whole", "trainings", "trials"]


def results(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Searches, with ``loss``, the mean test loss of what each picked, and ``excess``; clocks.

    A model worse than an untrained one counts as that one: a training that diverges has no loss.
    """
    searches, clocks = [], []
    for path in sorted(folder.glob("*.json")):
        kept = json.loads(path.read_text())
        cap, count = kept["untrained"], max(map(len, kept["finals"].values()), default=0)
        means = {
            schedule: np.mean([cap if loss is None else min(loss, cap) for loss in losses.values()])
            for schedule, losses in kept["finals"].items()
            if len(losses) == count
        }
        rows = pd.DataFrame(kept["searches"], columns=COLUMNS).assign(task=path.stem)
        rows = rows.assign(loss=rows["schedule"].map(means)).dropna(subset="loss")
        searches.append(rows.assign(excess=np.log(rows["loss"] / rows["loss"].min())))
        clocks.append(pd.DataFrame(kept["clocks"], columns=["method", "budget", "seconds"]))
    return pd.concat(searches, ignore_index=True), pd.concat(clocks, ignore_index=True)


def averaged(values: pd.Series) -> tuple[float, float, float]:
    """Mean over tasks of means over master seeds, and its 95 % bootstrap interval.

    Tasks are drawn anew, and in each of them master seeds.

    Args:
        values: indexed by task and seed.
    """
    draw = np.random.default_rng(0)
    tasks = [own.to_numpy() for _, own in values.groupby("task")]
    count = len(tasks)
    means = np.stack([draw.choice(own, (DRAWS, count, len(own))).mean(-1) for own in tasks])
    which = draw.integers(count, size=(1, DRAWS, count))
    drawn = np.take_along_axis(means, which, 0)[0].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(np.mean([own.mean() for own in tasks])), float(low), float(high)


def cells_of(searches: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Log of the excess: a row a task and master seed that all methods have, a column a method."""
    own = searches[searches["budget"] == budget]
    cells = own.pivot(index=["task", "seed"], columns="method", values="excess").dropna()
    return cells[cells.mean().sort_values().index]


def table(searches: pd.DataFrame, clocks: pd.DataFrame, budget: int) -> pd.DataFrame:
    """A row a method, at one budget."""
    cells = cells_of(searches, budget)
    ranks = cells.rank(axis=1).groupby("task").mean().mean()
    own = searches[searches["budget"] == budget].groupby("method")
    means = own[["trainings", "trials", "whole"]].mean()
    seconds = clocks[clocks["budget"] == budget].groupby("method")["seconds"].mean()
    rows = []
    for method in cells:
        excess = [100 * math.expm1(value) for value in averaged(cells[method])]
        row = {
            "method": method,
            "excess %": "{:.1f} [{:.1f}, {:.1f}]".format(*excess),
            "mean rank": f"{ranks[method]:.2f}",
        }
        if OURS in cells:
            ratio = np.exp(averaged(cells[OURS] - cells[method]))
            said = "{:.3f} [{:.3f}, {:.3f}]".format(*ratio)
            row["lrtune's loss over its"] = "" if method == OURS else said
        row |= {
            "trainings": f"{means.loc[method, 'trainings']:.2f}",
            "trials": f"{means.loc[method, 'trials']:.1f}",
            "picked a whole training": f"{means.loc[method, 'whole']:.0%}",
            "seconds alone": f"{seconds[method]:.1f}" if method in seconds else "",
        }
        rows.append(row)
    return pd.DataFrame(rows)


def by_task(searches: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Excess in percent by task, geometric means over master seeds."""
    means = 100 * np.expm1(cells_of(searches, budget).groupby("task").mean())
    return means.map("{:.1f}".format).reset_index()


def markdown(frame: pd.DataFrame) -> str:
    rows = [list(frame), ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def draw(searches: pd.DataFrame, path: Path) -> None:
    """Test loss over the best known: a panel a budget, a line a method, a dot a task."""
    from matplotlib.figure import Figure  # of the extra bench; the searches need none
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    budgets = sorted(searches["budget"].unique())
    figure = Figure(figsize=(5.5 * len(budgets), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(budgets)))
    for axes, budget in zip(panels, budgets, strict=True):
        cells = cells_of(searches, budget)
        for place, method in enumerate(cells):
            mean, low, high = averaged(cells[method])
            color = "tab:blue" if method == OURS else "tab:gray"
            tasks = cells[method].groupby("task").mean()
            axes.plot(tasks, [place] * len(tasks), "o", color=color, alpha=0.25, markersize=4)
            axes.plot([low, high], [place, place], color=color, linewidth=2)
            axes.plot(mean, place, "o", color=color)
        axes.set(title=f"updates of {budget} trainings", xlabel="test loss over the best known")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{math.exp(value):.2f}"))
        axes.set_yticks(range(len(cells.columns)), cells.columns)
        axes.grid(axis="x", alpha=0.3)
        axes.invert_yaxis()
    figure.savefig(path, dpi=110)


def show(folder: Path) -> None:
    """Print the tables and draw the figure beside the folder."""
    searches, clocks = results(folder)
    for budget in sorted(searches["budget"].unique()):
        cells = cells_of(searches, budget)
        tasks, seeds = (len(cells.index.unique(level)) for level in cells.index.names)
        print(f"\nUpdates of {budget} trainings, {tasks} tasks, {seeds} master seeds\n")
        print(markdown(table(searches, clocks, budget)))
        print(f"\nExcess in percent by task, {budget} trainings\n")
        print(markdown(by_task(searches, budget)))
    draw(searches, folder.with_suffix(".png"))
