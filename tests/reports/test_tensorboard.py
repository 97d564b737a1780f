"""TensorBoard's event files, read back with TensorBoard's own reader."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from lrtune.errors import InputError
from lrtune.run import tensorboard
from lrtune.schedule import Schedule
from lrtune.verdict.summary import best_of_each
from tests.reports.conftest import HORIZON
from tests.reports.test_finals_report import make

VALIDATIONS = {"validation/cross_entropy", "validation/accuracy"}


def curves(reader: EventAccumulator) -> dict[str, dict[int, float]]:
    tags = reader.Tags()["scalars"]
    return {tag: {event.step: event.value for event in reader.Scalars(tag)} for tag in tags}


def test_finals_are_written_as_they_were_recorded(many, tmp_path: Path) -> None:
    trials, run, verdict, finals = make("lost", *many)
    finals["train_loss"] = finals["val_cross_entropy"]
    folder = tensorboard.write(tmp_path / "tensorboard", trials, run, verdict, finals)
    expected = {f"{row.family}/seed-{row.seed}" for row in finals.itertuples()}
    assert {f"{p.parent.name}/{p.name}" for p in folder.glob("*/seed-*")} == expected
    for row in finals.head(3).itertuples():
        reader = EventAccumulator(str(folder / row.family / f"seed-{row.seed}")).Reload()
        found, schedule = curves(reader), Schedule.from_json(row.schedule)
        assert found.keys() >= {*VALIDATIONS, "learning_rate", "train/loss", "test/cross_entropy"}
        losses = dict(zip(row.step, np.float32(row.val_cross_entropy).tolist(), strict=True))
        assert found["validation/cross_entropy"] == losses
        rates = schedule.rates(HORIZON).astype(np.float32)
        assert all(rates[update] == rate for update, rate in found["learning_rate"].items())
        content = reader.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        kept = parse_session_start_info_plugin_data(content).hparams
        assert kept["peak_lr"].number_value == schedule.peak_lr
        assert {"family", "warmup", *schedule.knobs} <= kept.keys()


def test_before_a_verdict_the_best_trial_of_each_family_in_place_of_what_was_there(
    many, tmp_path: Path
) -> None:
    trials, run = many
    (tmp_path / "tensorboard" / "old").mkdir(parents=True)
    folder = tensorboard.write(tmp_path / "tensorboard", trials, run, None, trials.iloc[:0])
    best = best_of_each(trials, "minimize")
    names = {f"{row.family}/trial-{row.number}" for row in best.itertuples()}
    assert {f"{p.parent.name}/{p.name}" for p in folder.glob("*/*-*")} == names
    assert not (folder / "old").exists()
    row = next(row for row in best.itertuples() if row.family == "plateau")
    reader = EventAccumulator(str(folder / row.family / f"trial-{row.number}")).Reload()
    assert [*curves(reader)["learning_rate"]] == [0, *row.step]  # of a closed loop as recorded
    lost = trials.assign(state="diverged")
    assert tensorboard.write(folder, lost, run, None, trials.iloc[:0]) is None


def test_tensorboard_that_is_not_installed(monkeypatch, many, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r"pip install 'lrtune\[tensorboard\]'"):
        tensorboard.write(tmp_path / "tensorboard", *many, None, many[0].iloc[:0])
    assert list(tmp_path.iterdir()) == []
