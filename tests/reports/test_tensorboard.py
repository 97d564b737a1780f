"""TensorBoard's event files, read back with TensorBoard's own reader."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from lrtune.errors import InputError
from lrtune.reports import tensorboard
from lrtune.schedule import Schedule
from lrtune.verdict.summary import best_of_each
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
    trials, run, verdict, finals = make("winner", *many)
    finals["train_loss"] = finals["val_cross_entropy"].map(lambda curve: [0.9 * v for v in curve])
    folder = tensorboard.write(tmp_path / "tensorboard", trials, run, [verdict], finals)
    assert folder == tmp_path / "tensorboard"
    expected = {f"{row.family}/seed-{row.seed}" for row in finals.itertuples()}
    assert {f"{p.parent.name}/{p.name}" for p in folder.glob("*/seed-*")} == expected
    for row in finals.itertuples():
        found = scalars(folder / row.family / f"seed-{row.seed}")
        assert found.keys() == VALIDATIONS | {
            "learning_rate",
            "test/cross_entropy",
            "test/accuracy",
        }
        assert same(found["train/loss"], row.step, row.train_loss)
        assert same(found["validation/cross_entropy"], row.step, row.val_cross_entropy)
        assert same(found["validation/accuracy"], row.step, row.val_accuracy)
        assert same(found["test/cross_entropy"], row.step[-1:], [row.final_cross_entropy])
        schedule, (steps, rates) = Schedule.from_json(row.schedule), found["learning_rate"]
        if schedule.closed_loop:
            assert same((steps, rates), row.step, row.rate)
        else:
            assert set(row.step) <= set(steps) and steps == sorted(steps)
            np.testing.assert_array_equal(
                rates, np.float32(schedule.rates(HORIZON)[np.array(steps) - 1])
            )


def test_a_final_that_was_lost_has_what_was_seen_of_it(many, tmp_path: Path) -> None:
    trials, run, verdict, finals = make("lost", *many)
    finals["train_loss"] = finals["val_cross_entropy"].map(lambda curve: [*curve[:-1], math.nan])
    tensorboard.write(tmp_path / "tensorboard", trials, run, [verdict], finals)
    found = scalars(tmp_path / "tensorboard" / "cosine" / f"seed-{SEEDS[2]}")
    assert found["validation/cross_entropy"][0] == STEPS[:3]
    assert math.isnan(found["train/loss"][1][-1])
    assert "test/cross_entropy" not in found and max(found["learning_rate"][0]) == STEPS[2]


def test_the_settings_are_beside_the_curves(many, tmp_path: Path) -> None:
    trials, run, verdict, finals = make("one family", *many)
    tensorboard.write(tmp_path / "t", trials, run, [verdict], finals.assign(train_loss=finals.step))
    groups = set()
    for folder in (tmp_path / "t").glob("*/*"):
        metadata = EventAccumulator(str(folder)).Reload().summary_metadata
        content = metadata["_hparams_/session_start_info"].plugin_data.content
        told = parse_session_start_info_plugin_data(content)
        groups.add(told.group_name)
        kept = {name: value.number_value for name, value in told.hparams.items()}
        schedule = verdict.families[0].schedule
        assert kept["peak_lr"] == schedule.peak_lr and kept["warmup"] == schedule.warmup
        assert all(name in told.hparams["knobs"].string_value for name in schedule.knobs)
    assert groups == {"cosine"}  # all seeds are one row of the table


def test_without_finals_the_best_trial_of_each_family(many, tmp_path: Path) -> None:
    trials, run = many
    folder = tensorboard.write(tmp_path / "tensorboard", trials, run, [], trials.iloc[:0])
    best = best_of_each(trials, "minimize")
    names = {f"{row.family}/trial-{row.number}" for row in best.itertuples()}
    assert {f"{p.parent.name}/{p.name}" for p in folder.glob("*/*-*")} == names
    for row in best.itertuples():
        found = scalars(folder / row.family / f"trial-{row.number}")
        assert found.keys() == VALIDATIONS | {"learning_rate"}
        assert same(found["validation/cross_entropy"], row.step, row.val_cross_entropy)
        assert same(found["train/loss"], row.step, row.train_loss)


def test_another_horizon_has_folders_of_its_own(many, tmp_path: Path) -> None:
    trials, run, verdict, finals = make("winner", *many)
    finals = finals.assign(train_loss=finals["val_cross_entropy"])
    own = tensorboard.trainings(trials, run, [verdict], finals)
    assert {one.group for one in own} == {row.family for row in verdict.families}
    other = tensorboard.trainings(trials, {**run, "horizon": 10}, [verdict], finals)
    assert {one.group.split("/")[0] for one in other} == {f"{HORIZON}-updates"}


def test_written_again_it_replaces_what_was_there(many, tmp_path: Path) -> None:
    trials, run = many
    folder = tmp_path / "tensorboard"
    tensorboard.write(folder, trials, run, [], trials.iloc[:0])
    before = sorted(p.parent for p in folder.rglob("*.lrtune"))
    tensorboard.write(folder, trials, run, [], trials.iloc[:0])
    assert sorted(p.parent for p in folder.rglob("*.lrtune")) == before
    only = trials[trials["family"] == "cosine"]
    tensorboard.write(folder, only, run, [], trials.iloc[:0])
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["cosine"]
    lost = only.assign(state="diverged")
    assert tensorboard.write(folder, lost, run, [], trials.iloc[:0]) is None
    assert list(tmp_path.iterdir()) == []


def test_another_process_may_write_at_the_same_time(
    many, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, run = many
    folder, write_one = tmp_path / "tensorboard", tensorboard._write
    tensorboard.write(folder, trials, run, [], trials.iloc[:0])
    before = sorted(p.parent for p in folder.rglob("*.lrtune"))

    def meanwhile(*given: object) -> None:
        monkeypatch.undo()
        tensorboard.write(folder, trials, run, [], trials.iloc[:0])
        write_one(*given)

    monkeypatch.setattr(tensorboard, "_write", meanwhile)
    tensorboard.write(folder, trials, run, [], trials.iloc[:0])
    assert sorted(p.parent for p in folder.rglob("*.lrtune")) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_knobs_are_told_in_words(many) -> None:
    trials, run = many
    for one in tensorboard.trainings(trials, run, [], trials.iloc[:0]):
        told, kept = one.settings(), json.loads(one.row["schedule"])
        assert told["family"] == kept["family"]
        assert (told["knobs"] == "none") == (not kept["knobs"])


def test_tensorboard_that_is_not_installed(monkeypatch, many, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    trials, run = many
    with pytest.raises(InputError, match=r"pip install 'lrtune\[tensorboard\]'"):
        tensorboard.write(tmp_path / "tensorboard", trials, run, [], trials.iloc[:0])
    assert list(tmp_path.iterdir()) == []
