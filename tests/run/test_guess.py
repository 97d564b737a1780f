"""``lrtune guess``: a schedule from a range test and what other tasks taught, before any search."""

import json
from pathlib import Path

import numpy as np
import pytest
from listeners import Told

import lrtune
from lrtune import Budget, Engine
from lrtune.model.decide import recommend
from lrtune.model.features import features
from lrtune.model.surrogate import Observations, PeakGuess, Surrogate
from lrtune.model.transfer import published
from lrtune.run.guess import cost, guess
from lrtune.run.study_file import StudyFile
from lrtune.schedule import FAMILIES, Schedule
from lrtune.verdict.recommendation import described

WORDS = ("guess", "digits", "--model", "mlp", "--epochs", 1, "--device", "cpu")


def test_from_digits_to_code_and_a_search_that_begins_with_it(lrtune, tmp_path: Path) -> None:
    import torch

    from lrtune import load, load_task, tune

    code, out, err = lrtune(*WORDS, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    path = tmp_path / "run" / "best.json"
    best, schedule = json.loads(path.read_text()), load(path)
    training = "# The peak rate holds for sgd, momentum 0.9, weight decay 0, batch 4, "
    assert f"\n{training}" in out and f"\n# Guessed for {best['study']}: digits" in out
    assert f"guess: {described(schedule, best['horizon'])}\n" in out and f"wrote {path}" in out
    assert f"within {cost()['half']:g} % of the best of 160 schedules on half of" in out
    assert best["found"] is None and best["verdict"] is None
    assert best["guess"]["cost"] == cost()
    names: dict = {}
    exec(out[out.index('"""') : out.rindex("\nwrote ")], names)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    names["make_scheduler"](optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule.rates(best["horizon"])[0])

    task, told = load_task("digits", model="mlp", epochs=1), Told()
    options = {"engine": Engine("serial", 1, "cpu"), "out": tmp_path / "run"}
    run = tune(task, budget=Budget(trials=2), listener=told, **options)
    assert "the schedule that lrtune guess said is tried first" in told.lines
    trials = run.trials()
    assert Schedule.from_json(trials.loc[0, "schedule"]) == schedule
    assert Schedule.from_json(trials.loc[1, "schedule"]) != schedule
    assert json.loads(path.read_text())["found"] is not None
    assert len(tune(task, budget=Budget(trials=3), **options).trials()) == 3  # it is tried once

    code, out, err = lrtune(*WORDS, "--out", tmp_path / "run")
    assert code == 2 and "holds a search, which knows more than a guess" in err


def test_of_a_table_as_it_was_asked_for(lrtune, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 2))
    rows = "\n".join(f"{a},{b},{2 * a - b}" for a, b in x)
    (tmp_path / "table.csv").write_text(f"a,b,price\n{rows}\n")
    words = ["guess", tmp_path / "table.csv", "--target", "price", "--epochs", 20]
    words += ["--families", "cosine,plateau", "--warmup", "0.1,0.2", "--optimizer", "adamw"]
    code, _, err = lrtune(*words, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    schedule = Schedule.from_dict(json.loads((tmp_path / "run/best.json").read_text())["schedule"])
    assert schedule.family == "cosine" and 0.1 <= schedule.warmup <= 0.2
    code, _, _ = lrtune(*words, "--peak-lr", "0.5,0.6", "--out", tmp_path / "given")
    best = json.loads((tmp_path / "given/best.json").read_text())
    assert code == 0 and 0.5 <= best["schedule"]["peak_lr"] <= 0.6


def test_a_guess_for_another_task_is_not_tried(tmp_path: Path) -> None:
    options, told = {"peak_lr": (0.01, 0.1), "out": str(tmp_path)}, Told()
    study = StudyFile(task="digits", families=["cosine"], device="cpu", **options)
    path = guess(lrtune.load_task("digits", batch_size=32, epochs=1), study)
    task = lrtune.load_task("digits", batch_size=32, epochs=2)
    options |= {"engine": Engine("serial", 1, "cpu"), "families": ["cosine", "linear"]}
    run = lrtune.tune(task, budget=Budget(trials=1), listener=told, **options)
    assert not any("guess" in line for line in told.lines)
    assert lrtune.load(path) == run.best()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--families", "plateau"], "closed loop"),
        (["--families", "cosin"], "cosin"),
        (["--peak-lr", "1,0.1"], "peak_lr=(1.0, 0.1)"),
        (["--warmup", "0.1,1"], "warmup"),
        (["--device", "cudo"], "cudo"),
        (["--trials", 3], "--trials"),
        (["--out", "."], "name a folder"),
    ],
)
def test_bad_input(lrtune, options: list, said: str, tmp_path: Path) -> None:
    folder = [] if "--out" in options else ["--out", tmp_path / "run"]
    code, _, err = lrtune(*WORDS, *options, *folder)
    assert code == 2 and said in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("peak", [1e-3, 0.1])
def test_the_peak_of_a_guess_goes_with_the_range_test(peak: float) -> None:
    schedules = [Schedule("cosine", float(rate)) for rate in np.geomspace(1e-6, 100, 81)]
    x = np.array([features(schedule) for schedule in schedules])
    surrogate = Surrogate(published(), PeakGuess(float(np.log(peak)), 0.5))
    posterior = surrogate.posterior(Observations(x[:0], np.empty(0), np.empty(0)))
    chosen = schedules[recommend(posterior, x)]
    assert peak / 8 < chosen.peak_lr < 8 * peak
    assert not FAMILIES[chosen.family].closed_loop
