"""TensorBoard's event files, read back with TensorBoard's own reader."""

import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from lrtune.errors import InputError
from lrtune.run import tensorboard
from lrtune.schedule import Schedule
from lrtune.verdict.summary import best_of_each
from tests.documents import changed
from tests.reports.conftest import HORIZON, STEPS
from tests.reports.test_finals_report import SEEDS, make

VALIDATIONS = {"train/loss", "validation/cross_entropy", "validation/accuracy"}


def scalars(folder: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by tag."""
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    found = {tag: reader.Scalars(tag) for tag in reader.Tags()["scalars"]}
    return {tag: ([e.step for e in es], [e.value for e in es]) for tag, es in found.items()}


def same(curve: tuple[list[int], list[float]], steps: list[int], values: list[float]) -> bool:
    return curve[0] == steps and np.array_equal(curve[1], np.float32(values), equal_nan=True)


def test_finals_are_written_as_they_were_recorded(many, tmp_path: Path) -> None:
    trials, run, verdict, finals = make("lost", *many)
    finals["train_loss"] = finals["val_cross_entropy"].map(lambda curve: [0.9 * v for v in curve])
    finals.at[0, "train_loss"][-1] = math.nan
    folder = tensorboard.write(tmp_path / "tensorboard", trials, run, [verdict], finals)
    assert folder == tmp_path / "tensorboard"
    expected = {f"{row.family}/seed-{row.seed}" for row in finals.itertuples()}
    assert {f"{p.parent.name}/{p.name}" for p in folder.glob("*/seed-*")} == expected
    for row in finals.itertuples():
        found = scalars(folder / row.family / f"seed-{row.seed}")
        assert same(found["train/loss"], row.step, row.train_loss)
        assert same(found["validation/cross_entropy"], row.step, row.val_cross_entropy)
        assert same(found["validation/accuracy"], row.step, row.val_accuracy)
        schedule, (steps, rates) = Schedule.from_json(row.schedule), found["learning_rate"]
        assert set(row.step) <= set(steps) and steps == sorted(steps)
        table = np.float32(schedule.rates(HORIZON)[np.array(steps) - 1])
        np.testing.assert_array_equal(rates, table)
        tests = {"test/cross_entropy", "test/accuracy"} if row.state == "complete" else set()
        assert found.keys() == VALIDATIONS | {"learning_rate"} | tests
        if tests:
            assert same(found["test/cross_entropy"], row.step[-1:], [row.final_cross_entropy])
        else:  # what was seen of it
            assert row.seed == SEEDS[2] and max(steps) == STEPS[2]


def test_the_settings_are_beside_the_curves(many, tmp_path: Path) -> None:
    trials, run, verdict, finals = make("one family", *many)
    tensorboard.write(tmp_path / "t", trials, run, [verdict], finals.assign(train_loss=finals.step))
    groups = set()
    schedule = verdict.families[0].schedule
    for folder in (tmp_path / "t").glob("*/*"):
        metadata = EventAccumulator(str(folder)).Reload().summary_metadata
        content = metadata["_hparams_/session_start_info"].plugin_data.content
        told = parse_session_start_info_plugin_data(content)
        groups.add(told.group_name)
        kept = {name: value.number_value for name, value in told.hparams.items()}
        assert kept["peak_lr"] == schedule.peak_lr and kept["warmup"] == schedule.warmup
        assert all(name in told.hparams["knobs"].string_value for name in schedule.knobs)
    assert groups == {"cosine"}  # all seeds are one row of the table


def test_without_finals_the_best_trial_of_each_family(many, tmp_path: Path) -> None:
    trials, run = many
    folder = tensorboard.write(tmp_path / "tensorboard", trials, run, [], trials.iloc[:0])
    best = best_of_each(trials, "minimize")
    names = {f"{row.family}/trial-{row.number}" for row in best.itertuples()}
    assert {f"{p.parent.name}/{p.name}" for p in folder.glob("*/*-*")} == names
    row = next(row for row in best.itertuples() if row.family == "plateau")
    found = scalars(folder / row.family / f"trial-{row.number}")
    assert found.keys() == VALIDATIONS | {"learning_rate"}
    assert same(found["validation/cross_entropy"], row.step, row.val_cross_entropy)
    assert same(found["learning_rate"], row.step, row.rate)  # of a closed loop as recorded


def test_another_horizon_has_folders_of_its_own(many) -> None:
    trials, run, verdict, finals = make("winner", *many)
    own = tensorboard.trainings(trials, run, [verdict], finals)
    assert {one.group for one in own} == {row.family for row in verdict.families}
    other = tensorboard.trainings(trials, changed(run, horizon=10), [verdict], finals)
    assert {one.group.split("/")[0] for one in other} == {f"{HORIZON}-updates"}


def test_written_again_it_replaces_what_was_there(many, tmp_path: Path, monkeypatch) -> None:
    trials, run = many
    only = trials[trials["family"].isin(["cosine", "linear"])]
    folder, write_one = tmp_path / "tensorboard", tensorboard._write
    tensorboard.write(folder, only, run, [], trials.iloc[:0])
    before = sorted(p.parent for p in folder.rglob("*.lrtune"))

    def meanwhile(*given: object) -> None:  # another process may write at the same time
        monkeypatch.undo()
        tensorboard.write(folder, only, run, [], trials.iloc[:0])
        write_one(*given)

    monkeypatch.setattr(tensorboard, "_write", meanwhile)
    tensorboard.write(folder, only, run, [], trials.iloc[:0])
    assert sorted(p.parent for p in folder.rglob("*.lrtune")) == before
    lost = only.assign(state="diverged")
    assert tensorboard.write(folder, lost, run, [], trials.iloc[:0]) is None
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_that_is_not_installed(monkeypatch, many, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    trials, run = many
    with pytest.raises(InputError, match=r"pip install 'lrtune\[tensorboard\]'"):
        tensorboard.write(tmp_path / "tensorboard", trials, run, [], trials.iloc[:0])
    assert list(tmp_path.iterdir()) == []
