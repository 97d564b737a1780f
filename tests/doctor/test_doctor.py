"""Every broken run is told by its fault, every sound one is left in peace."""

import functools
import math
from pathlib import Path

import frameworks
import numpy as np
import pytest
from cases import BROKEN, SOUND, Broken, checkpoint, of

from lrtune.doctor import Diagnosis, examine, findings
from lrtune.doctor.readers import read_csv
from lrtune.schedule import FAMILIES, Schedule


@functools.cache
def cases_of(path: Path, **options: int) -> list[Diagnosis]:
    found = examine(path, **options)
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_run_is_told(broken: Broken, log_of) -> None:
    (case,) = cases_of(log_of(broken.log), **broken.options)
    found = {one.name: one for one in findings(case)}
    assert broken.finding in found, found
    assert broken.words in found[broken.finding].evidence
    others = {"never-annealed", "overshoot"} if broken.options else set()
    assert set(found) <= {broken.finding, *others}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_a_sound_run_is_left_in_peace(make, log_of) -> None:
    (case,) = cases_of(log_of(make))
    assert findings(case) == []


FITTED = {
    "Trainer: linear": "linear",
    "Trainer: cosine with warmup": "cosine",
    "Trainer: cosine with warmup, seldom logged": "cosine",
    "transformers: constant with warmup": "constant",
    "transformers: cosine with restarts": "cosine_restarts",
    "transformers: warmup, stable, decay": "wsd",
    "transformers: inverse square root": "inverse_sqrt",
    "Lightning: OneCycleLR per step": "one_cycle",
    "Lightning: cosine per epoch": "cosine",
    "torch: warm restarts": "cosine_restarts",
    "torch: triangles": "cyclic",
    "torch: triangles that shrink": "cyclic",
    "torch: StepLR per epoch": "step",
    "torch: MultiStepLR": "multistep",
    "torch: ExponentialLR": "exponential",
    "torch: plateau": "multistep",
    "lrtune: rex": "rex",
    "lrtune: wsd": "wsd",
}


@pytest.mark.parametrize("name", FITTED)
def test_the_family_is_found_with_settings_that_give_its_rates(name: str, log_of) -> None:
    (case,) = cases_of(log_of(SOUND[name]))
    fit = case.known
    assert fit is not None and fit.family == FITTED[name] and fit.schedule is not None
    rates = fit.schedule.rates(fit.total)
    at = (case.log.at[case.log.at % case.per == 0] / case.per) if case.by_step else case.log.at
    used = case.log.rates[case.log.at % case.per == 0] if case.by_step else case.log.rates
    inside = at < fit.total
    assert np.abs(rates[at[inside].astype(int)] - used[inside]).max() < 5e-3 * case.top


@pytest.mark.parametrize(
    "family", [name for name, row in FAMILIES.items() if row.body and row.searchable]
)
def test_no_schedule_of_ours_is_called_broken(family: str, tmp_path: Path) -> None:
    warmup = 0.1 if FAMILIES[family].takes_warmup else 0.0
    rates = Schedule(family, peak_lr=0.1, warmup=warmup).rates(250)
    path = tmp_path / "log.csv"
    path.write_text("step,lr\n" + "\n".join(f"{i},{rate:.6g}" for i, rate in enumerate(rates)))
    (case,) = cases_of(path)
    assert findings(case) == []


def test_a_checkpoint_gives_the_rates_that_torch_used(log_of) -> None:
    for make in (
        of("CosineAnnealingLR", 40),
        of("CosineAnnealingWarmRestarts", 7, 2),
        of("OneCycleLR", 0.3, total_steps=60, three_phase=True),
        of("CyclicLR", 0.01, 0.1, 5, 9, mode="triangular2"),
        of("StepLR", 9, 0.3),
        of("MultiStepLR", [9, 9, 30]),
        of("LinearLR", 0.1, total_iters=9),
        of("PolynomialLR", 50, 2.0),
        of("ExponentialLR", 0.97),
        of("ConstantLR", 0.1, 9),
    ):
        (case,) = cases_of(log_of(checkpoint(make, 50)))
        np.testing.assert_allclose(case.log.rates, frameworks.used(make, 50), rtol=1e-6, atol=1e-12)


def test_what_a_state_does_not_keep_is_said(log_of) -> None:
    (case,) = cases_of(log_of(checkpoint(of("ReduceLROnPlateau"), 0)))
    assert "keeps no more than its last rate" in case.log.notes[0]


def test_a_checkpoint_of_several_processes(log_of, tmp_path: Path) -> None:
    path = frameworks.as_checkpoint(tmp_path, of("CosineAnnealingLR", 400), 200, global_step=50)
    (case,) = cases_of(path)
    (one,) = findings(case)
    assert (
        one.name == "stepped-too-often" and "200 steps in 50 updates: 4 per update" in one.evidence
    )


@pytest.mark.parametrize(
    "rates",
    [
        [1e-3, 1e-3, 5e-4, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4],
        [0.1, 1, 1, 0.1, 0.1, 0.1],
        [0.5, 1, 1, 0.5, 0.25, 0.25, 0.25, 0.25],
        np.repeat([1, 2, 1, 0.5, 0.5], 40),
        [1, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    ],
)
def test_a_few_levels_prove_no_horizon(rates, tmp_path: Path) -> None:
    (case,) = cases_of(frameworks.as_csv(tmp_path, rates))
    assert findings(case) == []


def cosine_to(floor: float, at: int) -> np.ndarray:
    u = np.minimum(np.arange(200) / at, 1)
    return floor + (1 - floor) * np.cos(np.pi / 2 * u) ** 2


def wsd_to(floor: float, at: int) -> np.ndarray:
    return np.interp(np.arange(200), [0, 10, 100, at], [0.05, 1, 1, floor])


@pytest.mark.parametrize(("shape", "at"), [(cosine_to, 170), (wsd_to, 160)])
def test_a_tail_at_a_floor_is_a_choice(shape, at: int, tmp_path: Path) -> None:
    (case,) = cases_of(frameworks.as_csv(tmp_path, shape(0.1, at)))
    assert findings(case) == [] and case.horizon == pytest.approx(at, abs=2)


@pytest.mark.parametrize("shape", [cosine_to, wsd_to])
@pytest.mark.parametrize(("floor", "at"), [(0.1, 120), (1e-3, 170), (0.0, 170)])
def test_a_tail_that_is_none(shape, floor: float, at: int, tmp_path: Path) -> None:
    (case,) = cases_of(frameworks.as_csv(tmp_path, shape(floor, at)))
    assert [one.name for one in findings(case)] == ["overshoot"]


def test_a_folder_with_a_usual_name_in_it_is_read(log_of) -> None:
    (case,) = cases_of(log_of(SOUND["Trainer: linear"]).parent)
    assert case.log.total == 60


@pytest.mark.parametrize("bad", [[17], range(50, 100), range(100)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_rate_that_is_no_number_is_told_alone(value, bad, tmp_path: Path) -> None:
    rates = frameworks.used(of("CosineAnnealingLR", 80), 100)
    for place in bad:
        rates[place] = value
    (case,) = cases_of(frameworks.as_csv(tmp_path, rates))
    assert [one.name for one in findings(case)] == ["not-finite"]


def test_a_frozen_group_is_said(log_of) -> None:
    (case,) = cases_of(log_of(SOUND["torch: cosine, one group frozen"]))
    assert case.log.name == "lr-SGD/pg2" and case.log.notes == (
        "zero throughout, as the rates of frozen groups are: lr-SGD/pg1",
    )


def test_groups_that_differ_by_a_factor_are_one_case(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = "\n".join(f"{i},{1 - i / 50},{0.1 * (1 - i / 50)},{0.5}" for i in range(50))
    path.write_text(f"step,lr-SGD/pg1,lr-SGD/pg2,lr-Adam\n{rows}\n")
    first, second = read_csv(path)
    assert first.notes == ("lr-SGD/pg2 is the same × 0.1",) and second.name == "lr-Adam"


def test_a_log_that_goes_back_was_resumed(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    steps = [*range(60), *range(40, 100)]
    path.write_text("step,lr\n" + "\n".join(f"{i},{1 - i / 100}" for i in steps))
    (case,) = cases_of(path)
    assert len(case.log.at) == 100 and "went back from step 59 to 40" in case.log.notes[0]
    assert findings(case) == []
