"""What a trial costs late in a long search: counted, not timed."""

from pathlib import Path

import optuna
import pytest
from idle import NoisyPool, pruned_in

from lrtune.search import study_model
from lrtune.search.study_model import StudyModel


def test_a_report_reads_the_study_only_after_a_trial_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, asks, read = [], [], StudyModel.read

    def counted(model: StudyModel, study: optuna.Study, asked: int | None = None) -> object:
        (reads if asked is not None else asks).append(asked)
        return read(model, study, asked)

    monkeypatch.setattr(StudyModel, "read", counted)
    trials = pruned_in(tmp_path, NoisyPool(3), 30)
    assert len(asks) == len(trials) == 30
    assert 0 < len(reads) <= len(trials) < sum(len(record.curves.step) for record in trials) / 2


def test_forecasts_learn_from_the_last_whole_trainings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_model, "MOST_WHOLE", 4)
    counts, learn = [], study_model.learn_gain

    def counted(*given: object) -> object:
        counts.append(len(given[-1]))
        return learn(*given)

    monkeypatch.setattr(study_model, "learn_gain", counted)
    trials = pruned_in(tmp_path, NoisyPool(2), 40)
    assert sum(record.state == "complete" for record in trials) > 4
    assert max(counts) == 4
