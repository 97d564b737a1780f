"""TensorBoard's event files: a folder per training, each written anew and never added to."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrtune.errors import InputError
from lrtune.files import replaced
from lrtune.format import setting
from lrtune.reports.plot_style import Array, thin
from lrtune.schedule import Schedule
from lrtune.verdict.settings import RunSettings
from lrtune.verdict.summary import best_of_each, curve_of, finals_of
from lrtune.verdict.verdict import Verdict

POINTS = 150  # of the rates, beside those of the validations: what a chart in a page can show


@dataclass(frozen=True, slots=True)
class Training:
    """One training to be written.

    Attributes:
        group: whose it is, one of several that differ in their seed alone.
        name: its folder in that of the group.
        horizon: updates of the whole training.
        row: of the search's table or of that of the finals.
    """

    group: str
    name: str
    horizon: int
    row: "pd.Series[Any]"

    def curves(self, metrics: Iterable[str]) -> dict[str, tuple[Array, Array]]:
        """Updates and values there, by tag."""
        step = curve_of(self.row, "step")
        columns = {"train/loss": "train_loss"}
        columns |= {f"validation/{name}": f"val_{name}" for name in metrics}
        curves = {"learning_rate": self._rates(step)}
        curves |= {tag: (step, curve_of(self.row, column)) for tag, column in columns.items()}
        if self.row.get("split") == "test":
            at = np.array([self.row["judged_at"]])
            ends = {f"test/{name}": self.row.get(f"final_{name}", np.nan) for name in metrics}
            curves |= {t: (at, np.array([v])) for t, v in ends.items() if np.isfinite(v)}
        return curves

    def _rates(self, step: Array) -> tuple[Array, Array]:
        """The rate of each update where it bends, and at every validation."""
        schedule = Schedule.from_json(self.row["schedule"])
        if schedule.closed_loop:  # only the record knows it
            return step, curve_of(self.row, "rate")
        table = schedule.rates(self.horizon)[: int(step[-1]) if step.size else 0]
        at = np.union1d(thin(table, POINTS), step.astype(int) - 1)
        return at + 1.0, table[at]

    def settings(self) -> dict[str, float | str]:
        """What it trained with, as TensorBoard's table of hyperparameters shows it."""
        content = Schedule.from_json(self.row["schedule"]).to_dict()
        knobs = [f"{name} {setting(value, 3)}" for name, value in content["knobs"].items()]
        shown = {name: content[name] for name in ("family", "peak_lr", "warmup")}
        return shown | {"knobs": ", ".join(knobs) or "none"}


def check() -> None:
    """Check early that what ``write`` needs is installed.

    Raises:
        InputError: it is not.
    """
    if find_spec("tensorboard") is None:
        raise InputError("tensorboard: is not installed: pip install 'lrtune[tensorboard]'")


def trainings(
    trials: pd.DataFrame,
    run: RunSettings,
    verdicts: Iterable[Verdict],
    finals: pd.DataFrame,
) -> Iterator[Training]:
    """The finalists' finals on every seed; the best trial of each family where there are none."""
    none = True
    for verdict in verdicts:
        horizon = verdict.horizon
        lead = "" if horizon == run.horizon else f"{horizon}-updates/"
        for finalist in verdict.families:
            for _, row in finals_of(finals, finalist.schedule, horizon).iterrows():
                none = False
                yield Training(lead + row["family"], f"seed-{row['seed']}", horizon, row)
    if none:
        for _, row in best_of_each(trials, run.objective.direction).iterrows():
            yield Training(row["family"], f"trial-{row['number']}", run.horizon, row)


def write(
    folder: Path,
    trials: pd.DataFrame,
    run: RunSettings,
    verdicts: Sequence[Verdict],
    finals: pd.DataFrame,
) -> Path | None:
    """Write the event files in place of those that are there.

    Args:
        folder: to be made or replaced, with all that is in it.
        trials: the search's table.
        run: what was searched (run.json).
        verdicts: of one horizon each.
        finals: those that they are of, see ``lrtune.search.confirmation.read_finals``.

    Returns:
        The folder; None where there is nothing to write.

    Raises:
        InputError: tensorboard is not installed.
    """
    check()
    several = list(trainings(trials, run, verdicts, finals))
    with replaced(folder) as part:
        for training in several:
            _write(part / training.group / training.name, training, run.metrics)
    return folder if several else None


def _write(folder: Path, training: Training, metrics: Iterable[str]) -> None:
    """One training's settings and curves."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # .api needs TensorFlow
    from torch.utils.tensorboard import SummaryWriter

    # Seconds were measured for the whole training alone: they are spread evenly over its updates.
    seconds, done = float(training.row["seconds"]), max(training.row["step"], default=1)
    start = time.time() - seconds
    with SummaryWriter(folder, filename_suffix=".lrtune") as log:
        # Seeds of one schedule are one group: TensorBoard shows the mean of their scores.
        settings = hparams_pb(training.settings(), training.group, start_time_secs=start)
        log.file_writer.add_summary(settings)
        for tag, (updates, values) in training.curves(metrics).items():
            for update, value in zip(updates.astype(int).tolist(), values.tolist(), strict=True):
                log.add_scalar(tag, value, update, walltime=start + seconds * update / done)
