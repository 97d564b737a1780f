"""SurrogateSampler in anyone's study."""

import math
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

import lrtune
from lrtune import InputError, SchedulePruner
from lrtune.model.transfer import nothing
from lrtune.schedule import Schedule, Setting
from lrtune.search import Space, SurrogateSampler
from lrtune.search.sampler import Tuner, guess_in
from lrtune.search.space import SCHEDULE

optuna.logging.set_verbosity(optuna.logging.ERROR)
FAMILIES, PEAKS, TOTAL = ("cosine", "linear", "constant", "wsd"), (1e-3, 1.0), 100
SPACE = Space(FAMILIES, PEAKS)


def ours(seed: int = 1) -> dict:
    return {"sampler": SurrogateSampler(SPACE, TOTAL, seed=seed), "pruner": SchedulePruner(TOTAL)}


def objective(trial: optuna.Trial) -> float:
    """Best at a peak of 0.05 and a weight decay of 0.001."""
    decay = trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
    schedule = lrtune.suggest(trial, families=FAMILIES, peak_lr=PEAKS)
    loss = 0.1 + abs(math.log(schedule.peak_lr / 0.05)) + abs(math.log10(decay) + 3)
    for step in (25, 50, 75, 100):
        lrtune.report(trial, loss * (1 + 10 / step), step, averaged=loss * (1 + 9 / step))
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss


def drawn(study: optuna.Study) -> list[dict]:
    return [trial.params for trial in study.trials]


def test_a_fresh_sampler_goes_on_as_the_old_one_would(tmp_path: Path) -> None:
    """Pruned trials are among what is known, whose forecasts change."""
    unbroken = optuna.create_study(**ours())
    unbroken.optimize(objective, n_trials=20)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal.log")))
    for trials in (3, 6, 5, 6):
        kept = {"storage": storage, "study_name": "s", "load_if_exists": True}
        broken = optuna.create_study(**kept, **ours())
        broken.optimize(objective, n_trials=trials)
    assert drawn(broken) == drawn(unbroken)
    assert unbroken.best_value < 1
    other = optuna.create_study(**ours(seed=2))
    other.optimize(objective, n_trials=3)
    assert drawn(other) != drawn(unbroken)[:3]


def overfits(trial: optuna.Trial) -> float:
    """Best where all rates together come to 0.3, on the way or at the end; worse after that."""
    schedule = lrtune.suggest(trial, families=FAMILIES, peak_lr=PEAKS)
    for step in range(5, TOTAL + 1, 5):
        loss = 0.2 + abs(math.log(schedule.rates(TOTAL)[:step].sum() / 0.3))
        trial.report(loss, step)
    return loss


def test_trainings_that_overfit_lead_to_lower_peaks() -> None:
    study = optuna.create_study(sampler=SurrogateSampler(SPACE, TOTAL, seed=1))
    study.optimize(overfits, n_trials=10)
    peaks = [Schedule.from_json(t.user_attrs[SCHEDULE]).peak_lr for t in study.trials]
    assert peaks[0] > 0.02 > max(peaks[5:]) and study.best_value < 0.5


def test_two_workers_and_many_slots_try_different_schedules_of_different_families() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, **ours())
    second = optuna.load_study(study_name=study.study_name, storage=storage, **ours())
    asked = [(study, second)[i % 2].ask() for i in range(8)]
    schedules = [lrtune.suggest(trial, families=FAMILIES, peak_lr=PEAKS) for trial in asked]
    assert len(set(schedules)) == 8
    assert {schedule.family for schedule in schedules[:4]} == {*FAMILIES}


def test_threads_of_one_study() -> None:
    study = optuna.create_study(**ours())
    study.optimize(objective, n_trials=12, n_jobs=4)
    assert len(study.trials) == 12


@pytest.mark.parametrize("asked", [{"families": ("cosine", "rex")}, {"peak_lr": (10.0, 20.0)}])
def test_a_sampler_for_another_space(asked: dict) -> None:
    trial = optuna.create_study(**ours()).ask()
    with pytest.raises(InputError, match="made for another space"):
        lrtune.suggest(trial, **{"families": FAMILIES, "peak_lr": PEAKS, **asked})


def test_queued_trials_are_kept() -> None:
    study = optuna.create_study(**ours())
    study.enqueue_trial({"family": "wsd"})
    study.enqueue_trial({"family": "wsd", "wsd.peak_lr": 5.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's, of what lies outside the range
        study.optimize(objective, n_trials=4)
    assert [trial.params["family"] for trial in study.trials[:2]] == ["wsd", "wsd"]
    assert study.trials[1].params["wsd.peak_lr"] == 5.0


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("value", [0.0, 1.0, -5.0, math.inf, math.nan])
def test_values_that_teach_nothing_are_no_error(direction: str, value: float) -> None:
    study = optuna.create_study(direction=direction, **ours())

    def teaches_nothing(trial: optuna.Trial) -> float:
        lrtune.suggest(trial, families=FAMILIES, peak_lr=PEAKS)
        lrtune.report(trial, value, 50, averaged=value)
        return value

    study.optimize(teaches_nothing, n_trials=5)
    assert len(study.trials) == 5


def test_a_step_beyond_the_horizon_is_refused_each_time() -> None:
    study = optuna.create_study(sampler=SurrogateSampler(SPACE, TOTAL))
    trial = study.ask()
    lrtune.suggest(trial, families=FAMILIES, peak_lr=PEAKS)
    trial.report(1.0, 2 * TOTAL)
    study.tell(trial, 1.0)
    for _ in range(2):
        with pytest.raises(InputError, match="one study, one horizon"):
            lrtune.suggest(study.ask(), families=FAMILIES, peak_lr=PEAKS)


def test_trials_without_a_schedule_are_told_of_once() -> None:
    study = optuna.create_study(sampler=SurrogateSampler(SPACE, TOTAL))
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.warns(UserWarning, match="carry no schedule") as told:
        for _ in range(3):
            assert SCHEDULE not in study.trials[0].user_attrs
            lrtune.suggest(study.ask(), families=FAMILIES, peak_lr=PEAKS)
    assert len(told) == 1


def tuner(objective, families=("cosine", "constant"), trials: int = 24) -> Tuner:
    """After a search for this objective."""
    space = Space(families, PEAKS)
    sampler = SurrogateSampler(space, TOTAL, transfer=nothing())
    study = optuna.create_study(sampler=sampler)

    def run(trial: optuna.Trial) -> float:
        schedule = lrtune.suggest(trial, families=families, peak_lr=PEAKS)
        return objective(schedule)

    study.optimize(run, n_trials=trials)
    return Tuner(study, space, TOTAL, guess_in(space), nothing())


def test_settings_that_do_not_matter_go_back_to_their_defaults() -> None:
    def off(schedule: Schedule) -> float:
        return 1 + abs(math.log(schedule.peak_lr / 0.05))

    def ends_high(schedule: Schedule) -> float:
        return off(schedule) + 3 * (0.4 - schedule.rates(TOTAL)[-1] / schedule.peak_lr)

    odd = Schedule("cosine", 0.05, warmup=0.1, knobs={"T_max": 1.45, "eta_min": 0.09})
    assert tuner(off, ("cosine",)).plain(odd, 0.25).knobs["T_max"] == 1.0
    assert tuner(ends_high, ("cosine", "linear")).plain(odd, 0.25).knobs["T_max"] == 1.45
    closed = Schedule("plateau", 0.05, knobs={"factor": 0.3})
    assert tuner(off).plain(closed, 0.25) == closed


def test_a_tuned_baseline_has_no_odd_settings_and_a_peak_near_the_best() -> None:
    model = tuner(lambda schedule: 1 + abs(math.log(schedule.peak_lr / 0.05)))
    for family in ("cosine", "constant"):
        found = model.tuned(family)
        assert found.complexity[0] <= 1 and 0.02 < found.peak_lr < 0.125


def test_a_setting_whose_range_leaves_out_the_task_s_own_stays_as_it_was_trained() -> None:
    """Of the task's own value no trial tells anything."""
    for own, plain in ((1e-6, {"weight_decay": 0.5}), (0.5, {})):
        space = Space(("constant",), tune=(Setting("weight_decay", 0.3, 3.0, own),))
        study = optuna.create_study(sampler=SurrogateSampler(space, TOTAL))
        tuner = Tuner(study, space, TOTAL, guess_in(space), nothing())
        schedule = Schedule("constant", 0.02, settings={"weight_decay": 0.5})
        assert dict(tuner.plain(schedule, 1e9).settings) == plain
