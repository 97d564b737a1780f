"""TensorBoard's event files: a folder a training, each written anew and never added to."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from lrtune.verdict.summary import best_of_each, curve_of, finals_of
from lrtune.verdict.verdict import Verdict

Metrics = Mapping[str, Mapping[str, Any]]
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

    @property
    def schedule(self) -> Schedule:
        """What it trained with."""
        return Schedule.from_json(self.row["schedule"])

    def curves(self, metrics: Metrics) -> dict[str, tuple[Array, Array]]:
        """Updates and values there, by tag."""
        step = curve_of(self.row, "step")
        columns = {"train/loss": "train_loss"}
        columns |= {f"validation/{name}": f"val_{name}" for name in metrics}
        found = {"learning_rate": self._rates(step)}
        found |= {tag: (step, curve_of(self.row, column)) for tag, column in columns.items()}
        if self.row.get("split") == "test":
            ends = {f"test/{name}": self.row.get(f"final_{name}", np.nan) for name in metrics}
            at = np.array([self.row["judged_at"]])
            found |= {t: (at, np.array([v])) for t, v in ends.items() if np.isfinite(v)}
        return found

    def _rates(self, step: Array) -> tuple[Array, Array]:
        """The rate of each update where it bends, and at every validation."""
        if self.schedule.closed_loop:  # only the record knows it
            return step, curve_of(self.row, "rate")
        table = self.schedule.rates(self.horizon)[: int(step[-1]) if step.size else 0]
        at = np.union1d(thin(table, POINTS), step.astype(int) - 1)
        return at + 1.0, table[at]

    def settings(self) -> dict[str, float | str]:
        """What it trained with, as TensorBoard's table of hyperparameters shows it."""
        kept = self.schedule.to_dict()
        knobs = ", ".join(f"{name} {setting(value, 3)}" for name, value in kept["knobs"].items())
        shown = {name: kept[name] for name in ("family", "peak_lr", "warmup")}
        return shown | {"knobs": knobs or "none"}


def check() -> None:
    """Say early that what ``write`` needs is not there."""
    if find_spec("tensorboard") is None:
        raise InputError("tensorboard: is not installed: pip install 'lrtune[tensorboard]'")


def trainings(
    trials: pd.DataFrame,
    run: Mapping[str, Any],
    verdicts: Iterable[Verdict],
    finals: pd.DataFrame,
) -> Iterator[Training]:
    """The finalists' finals on every seed; the best trial of each family where there are none."""
    none = True
    for verdict in verdicts:
        horizon = verdict.horizon
        lead = "" if horizon == run["horizon"] else f"{horizon}-updates/"
        for finalist in verdict.families:
            for _, row in finals_of(finals, finalist.schedule, horizon).iterrows():
                none = False
                yield Training(lead + row["family"], f"seed-{row['seed']}", horizon, row)
    if none:
        for _, row in best_of_each(trials, run["objective"]["direction"]).iterrows():
            yield Training(row["family"], f"trial-{row['number']}", run["horizon"], row)


def write(
    folder: Path,
    trials: pd.DataFrame,
    run: Mapping[str, Any],
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
        for one in several[:1]:
            _overview(part, one, run["metrics"])
        for one in several:
            _write(part / one.group / one.name, one, run["metrics"])
    return folder if several else None


def _overview(folder: Path, one: Training, metrics: Metrics) -> None:
    """Which settings and scores the table of hyperparameters shows, and in which order."""
    from tensorboard.plugins.hparams import summary_v2

    scores = [tag for tag in one.curves(metrics) if tag.startswith(("test/", "validation/"))]
    shown = summary_v2.hparams_config_pb(
        [summary_v2.HParam(name) for name in one.settings()],
        [summary_v2.Metric(tag) for tag in sorted(scores)],  # of test before those of validation
    )
    _log(folder, [{"wall_time": time.time(), "summary": shown}])


def _write(folder: Path, one: Training, metrics: Metrics) -> None:
    """One training's settings and curves."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # .api needs TensorFlow

    # Seconds were measured for the whole training alone: they are spread evenly over its updates.
    seconds, done = float(one.row["seconds"]), max(one.row["step"], default=1)
    start = time.time() - seconds
    # Seeds of one schedule are one group: TensorBoard shows the mean of their scores.
    settings = hparams_pb(one.settings(), trial_id=one.group, start_time_secs=start)
    events: list[dict[str, Any]] = [{"wall_time": start, "summary": settings}]
    for tag, (updates, values) in one.curves(metrics).items():
        for update, value in zip(updates.astype(int).tolist(), values.tolist(), strict=True):
            scalar = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            at = start + seconds * update / done
            events.append({"wall_time": at, "step": update, "summary": scalar})
    _log(folder, events)


def _log(folder: Path, events: Iterable[Mapping[str, Any]]) -> None:
    """A file of events.

    Not by torch's SummaryWriter, which brings torch, nor by tensorboard's own Writer, whose scalars
    many readers take for tensors: these are the records that both of them write.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    with (folder / f"events.out.tfevents.{now:.0f}.lrtune").open("wb") as file:
        log = RecordWriter(file)
        log.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
        for event in events:
            log.write(Event(**event).SerializeToString())
