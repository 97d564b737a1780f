"""Every broken run is told by its fault, every sound one is left in peace."""

import functools
import math

import numpy as np
import pytest

from lrtune.doctor import examine, findings
from lrtune.doctor.log import by_stair
from lrtune.schedule import FAMILIES, Schedule
from tests.doctor.runs import (
    BROKEN,
    SOUND,
    as_csv,
    checkpoint,
    in_csv,
    not_a_number,
    of,
    used,
    warm_cosine,
)


@functools.cache
def diagnosis_of(path, total=None):
    (diagnosis,) = examine(path, total=total)
    return diagnosis


def names(diagnosis):
    return [finding.name for finding in findings(diagnosis)]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_run_is_told(broken, log_of):
    diagnosis = diagnosis_of(log_of(broken.run), broken.total)
    assert names(diagnosis) == [broken.finding]
    if broken.horizon is not None:
        assert diagnosis.horizon == pytest.approx(broken.horizon, rel=0.02)


@pytest.mark.parametrize(("run", "family"), SOUND.values(), ids=SOUND)
def test_a_sound_run_is_left_in_peace_and_its_family_found(run, family, log_of):
    diagnosis = diagnosis_of(log_of(run))
    assert names(diagnosis) == []
    if family is None:
        return
    fit = diagnosis.known
    assert fit is not None and fit.family == family and fit.schedule is not None
    rates = fit.schedule.rates(fit.total)
    log = by_stair(diagnosis.log, diagnosis.per) if diagnosis.by_step else diagnosis.log
    inside = log.at < fit.total
    off = rates[log.at[inside].astype(int)] - log.rates[inside]
    assert np.abs(off).max() < 5e-3 * diagnosis.top


OURS = [name for name, row in FAMILIES.items() if row.body and row.searchable]


@pytest.mark.parametrize("family", OURS)
def test_no_schedule_of_ours_is_called_broken(family, tmp_path):
    warmup = 0.1 if FAMILIES[family].takes_warmup else 0.0
    rates = Schedule(family, peak_lr=0.1, warmup=warmup).rates(250)
    diagnosis = diagnosis_of(as_csv(tmp_path, [float(f"{rate:.6g}") for rate in rates]))
    assert names(diagnosis) == []
    assert diagnosis.known is not None or family in ("cyclic", "spline")


REPLAYED = {
    "cosine": of("CosineAnnealingLR", 40),
    "warm restarts": of("CosineAnnealingWarmRestarts", 7, 2),
    "step": of("StepLR", 9, 0.3),
    "multistep": of("MultiStepLR", [9, 9, 30]),
    "linear": of("LinearLR", 0.1, total_iters=9),
    "polynomial": of("PolynomialLR", 50, 2.0),
    "exponential": of("ExponentialLR", 0.97),
    "constant": of("ConstantLR", 0.1, 9),
    "in sequence": warm_cosine(5, 60),
}


@pytest.mark.parametrize("make", REPLAYED.values(), ids=REPLAYED)
def test_a_checkpoint_gives_the_rates_that_torch_used(make, log_of):
    rates = diagnosis_of(log_of(checkpoint(make, 50))).log.rates
    np.testing.assert_allclose(rates, used(make, 50), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("make", [of("ReduceLROnPlateau"), of("OneCycleLR", 0.1, total_steps=90)])
def test_what_a_state_does_not_keep_is_said(make, log_of):
    diagnosis = diagnosis_of(log_of(checkpoint(make, 0)))
    assert "keeps no more than its last rate" in diagnosis.log.notes[0]


def test_a_checkpoint_of_several_processes(log_of):
    run = checkpoint(of("CosineAnnealingLR", 400), 200, global_step=50)
    assert names(diagnosis_of(log_of(run))) == ["stepped-too-often"]


@pytest.mark.parametrize(
    "rates",
    [
        [1e-3, 1e-3, 5e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4],
        [0.1, 1, 1, 0.1, 0.1, 0.1],
        [0.5, 1, 1, 0.5, 0.25, 0.25, 0.25, 0.25],
        np.repeat([1, 2, 1, 0.5, 0.5], 40),
        [1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        np.linspace(1e-310, 1e-320, 50),
        np.linspace(1e300, 1e290, 50),
    ],
)
def test_few_levels_and_odd_sizes_prove_no_horizon(rates, tmp_path):
    assert names(diagnosis_of(as_csv(tmp_path, rates))) == []


def cosine_to(floor, at):
    u = np.minimum(np.arange(200) / at, 1)
    return floor + (1 - floor) * np.cos(np.pi / 2 * u) ** 2


def wsd_to(floor, at):
    return np.interp(np.arange(200), [0, 10, 100, at], [0.05, 1, 1, floor])


@pytest.mark.parametrize(("shape", "at"), [(cosine_to, 170), (wsd_to, 160)])
def test_a_tail_at_a_floor_is_a_choice(shape, at, tmp_path):
    diagnosis = diagnosis_of(as_csv(tmp_path, shape(0.1, at)))
    assert names(diagnosis) == [] and diagnosis.horizon == pytest.approx(at, abs=2)


@pytest.mark.parametrize("shape", [cosine_to, wsd_to])
@pytest.mark.parametrize(("floor", "at"), [(0.1, 120), (1e-3, 170), (0.0, 170)])
def test_a_tail_that_is_none(shape, floor, at, tmp_path):
    assert names(diagnosis_of(as_csv(tmp_path, shape(floor, at)))) == ["overshoot"]


def test_a_folder_with_a_usual_name_in_it_is_read(log_of):
    diagnosis = diagnosis_of(log_of(SOUND["Trainer"][0]).parent)
    assert diagnosis.log.total == 60


@pytest.mark.parametrize("bad", [slice(17, 18), slice(50, 100), slice(100)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_rate_that_is_no_number_is_told_alone(value, bad, tmp_path):
    rates = np.array(used(of("CosineAnnealingLR", 80), 100))
    rates[bad] = value
    assert names(diagnosis_of(as_csv(tmp_path, rates))) == ["not-finite"]


def test_groups_that_are_frozen_or_differ_by_a_factor_are_one(log_of, tmp_path):
    log = diagnosis_of(log_of(SOUND["one group frozen"][0])).log
    assert log.name == "lr-SGD/pg2" and log.notes[0].startswith("1 more groups")
    path = tmp_path / "metrics.csv"
    rows = "\n".join(f"{i},{1 - i / 50},{0.1 * (1 - i / 50)},{0.5}" for i in range(50))
    path.write_text(f"step,lr-SGD/pg1,lr-SGD/pg2,lr-Adam\n{rows}\n")
    first, second = (diagnosis.log for diagnosis in examine(path))
    assert (first.name, second.name) == ("lr-SGD/pg1", "lr-Adam") and len(first.notes) == 1


def test_a_log_that_goes_back_was_resumed(tmp_path):
    path = tmp_path / "log.csv"
    steps = [*range(60), *range(40, 100)]
    path.write_text("step,lr\n" + "\n".join(f"{i},{1 - i / 100}" for i in steps))
    diagnosis = diagnosis_of(path)
    assert len(diagnosis.log.at) == 100 and "went back from step 59 to 40" in diagnosis.log.notes[0]
    assert names(diagnosis) == []


def test_the_command(lrtune, log_of, tmp_path):
    code, out, _ = lrtune("doctor", log_of(in_csv(of("CosineAnnealingLR", 200), 300)))
    assert code == 3 and "overshoot" in out and "  fix: " in out
    code, out, _ = lrtune("doctor", log_of(SOUND["Trainer"][0]))
    assert code == 0 and "nothing wrong was found" in out and "best fit: linear" in out
    code, _, err = lrtune("doctor", tmp_path / "none.csv")
    assert code == 2 and "No such file" in err
    code, out, _ = lrtune("doctor", log_of(in_csv(of("LambdaLR", not_a_number), 60)))
    assert code == 3 and "not-finite" in out and "nan at update 40" in out and "█" in out
