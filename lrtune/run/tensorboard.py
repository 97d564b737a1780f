"""TensorBoard's event files: a folder per training, with its curves and its settings."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from lrtune.errors import package
from lrtune.format import setting
from lrtune.reports.figures import rates_of
from lrtune.schedule import Schedule
from lrtune.verdict.settings import RunSettings
from lrtune.verdict.summary import best_of_each, curve_of, finals_of
from lrtune.verdict.verdict import Verdict


def check() -> None:
    """Check early that what ``write`` needs is installed."""
    package("tensorboard", install="'lrtune[tensorboard]'")


def write(
    folder: Path,
    trials: pd.DataFrame,
    run: RunSettings,
    verdict: Verdict | None,
    finals: pd.DataFrame,
) -> Path | None:
    """Write the finalists' trainings, or before a verdict the best trial of each family.

    Args:
        folder: to be made or replaced, with all that is in it.
        trials: the search's table.
        run: what was searched (run.json).
        verdict: on the horizon that was searched.
        finals: see ``lrtune.search.confirmation.read_finals``.

    Returns:
        The folder; None where there is nothing to write.

    Raises:
        InputError: tensorboard is not installed.
    """
    check()
    shutil.rmtree(folder, ignore_errors=True)
    if verdict is None:
        rows, what, key = best_of_each(trials, run.objective.direction), "trial", "number"
    else:
        each = [finals_of(finals, row.schedule, run.horizon) for row in verdict.families]
        rows, what, key = pd.concat(each), "seed", "seed"
    for _, row in rows.iterrows():
        _write(folder / str(row["family"]) / f"{what}-{row[key]}", row, run)
    return None if rows.empty else folder


def _write(folder: Path, row: "pd.Series[Any]", run: RunSettings) -> None:
    from torch.utils.tensorboard import SummaryWriter

    content, step = Schedule.from_json(row["schedule"]).to_dict(), curve_of(row, "step")
    settings = {name: content[name] for name in ("family", "peak_lr", "warmup")}
    settings |= {name: str(setting(value)) for name, value in content["knobs"].items()}
    settings |= content.get("settings", {})
    updates, rates, _ = rates_of(row, run.horizon)
    curves = {"learning_rate": (updates, rates), "train/loss": (step, curve_of(row, "train_loss"))}
    curves |= {f"validation/{m}": (step, curve_of(row, f"val_{m}")) for m in run.metrics}
    ends = {f"{row['split']}/{m}": row[f"final_{m}"] for m in run.metrics if f"final_{m}" in row}
    with SummaryWriter(folder) as log:
        log.add_hparams(settings, ends or {"value": row["value"]}, run_name=".")
        for tag, (at, values) in curves.items():
            for update, value in zip(at.astype(int).tolist(), values.tolist(), strict=False):
                log.add_scalar(tag, value, update)
