"""The space in other people's searches: beside parameters of their own, and in Ray Tune."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import BaseSampler, TPESampler

import lrtune
from lrtune.schedule import Schedule

FAMILIES, PEAKS = ("constant", "cosine", "multistep", "wsd"), (1e-3, 1.0)
SPACE = lrtune.Space(FAMILIES, PEAKS)
SAMPLERS = {
    "SurrogateSampler": lambda: lrtune.SurrogateSampler(SPACE, 100),
    "TPE": lambda: TPESampler(seed=0),
}


@pytest.mark.parametrize("first", ["theirs", "ours"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_other_parameters_may_be_tuned_beside_the_schedule(sampler: str, first: str) -> None:
    def theirs(trial: optuna.Trial) -> float:
        batch = trial.suggest_categorical("batch_size", [16, 32, 64])
        decay = trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
        layers = trial.suggest_int("layers", 1, 3)
        return batch / 64 + decay + layers

    def objective(trial: optuna.Trial) -> float:
        if first == "theirs":
            cost = theirs(trial)
        schedule = lrtune.suggest(trial, families=FAMILIES, peak_lr=PEAKS)
        if first == "ours":
            cost = theirs(trial)
        return cost + abs(schedule.rates(100).mean() - 0.1)

    study = optuna.create_study(sampler=SAMPLERS[sampler]())
    study.optimize(objective, n_trials=26)
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(trials) == 26
    for trial in trials:
        own = SPACE.distributions(trial.params["family"])
        assert {*trial.params} == {"family", "batch_size", "weight_decay", "layers", *own}
        assert Schedule.from_json(trial.user_attrs["lrtune.schedule"]) == SPACE.schedule(
            trial.params
        )
    for name in ("batch_size", "weight_decay", "layers"):
        assert len({trial.params[name] for trial in trials}) > 2  # drawn, not stuck
    if sampler == "SurrogateSampler":
        assert {trial.params["family"] for trial in trials[:4]} == {*FAMILIES}


def test_parameters_of_the_same_name_without_the_prefix_are_the_users_own() -> None:
    ours = {"family": "cosine", "cosine.peak_lr": 0.1, "cosine.warmup": 0.1}
    ours |= {"cosine.T_max": 1.0, "cosine.eta_min": 0.0}
    theirs = {"warmup": 0.5, "peak_lr": 9.0, "eta_min": 0.3, "wsd.warmup": 0.4}
    assert SPACE.schedule({**ours, **theirs}) == SPACE.schedule(ours)
    one_cycle = lrtune.Space(("one_cycle",), PEAKS)  # which has a rise of its own
    params = {name: 0.1 for name in one_cycle.distributions("one_cycle")}
    params |= {"family": "one_cycle", "one_cycle.anneal_strategy": "cos"}
    params |= {"one_cycle.div_factor": 25.0, "one_cycle.final_div_factor": 1e3}
    assert one_cycle.schedule({**params, "warmup": 0.5}).warmup == 0


def test_parameters_whose_names_are_anagrams_are_drawn_apart() -> None:
    study = optuna.create_study(sampler=SAMPLERS["SurrogateSampler"]())
    for _ in range(3):
        trial = study.ask()
        drawn = {trial.suggest_float(name, 0.0, 1.0) for name in ("drop_in", "drop_ni", "nord_ip")}
        assert len(drawn) == 3


class Ray:
    """What Ray's Tuner asks of a search, without a cluster."""

    def __init__(self, sampler: BaseSampler) -> None:
        from ray.tune.search.optuna import OptunaSearch

        self.search = OptunaSearch(SPACE.define, "loss", "min", sampler=sampler)

    def tell(self, name: str, config: dict[str, Any]) -> None:
        loss = abs(SPACE.schedule(config).rates(100).mean() - 0.1)
        result = {"loss": loss, "training_iteration": 1}
        self.search.on_trial_result(name, result)
        self.search.on_trial_complete(name, result)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rays_configs_have_one_family_and_make_its_schedule(sampler: str, tmp_path: Path) -> None:
    ray = Ray(SAMPLERS[sampler]())
    seen = []
    for number in range(24):
        config = ray.search.suggest(str(number))
        family = config["family"]
        assert {*config} == {"family", *SPACE.distributions(family)}
        assert SPACE.schedule({**config, "batch_size": 32}).family == family
        ray.tell(str(number), config)
        seen.append(family)
    if sampler == "SurrogateSampler":
        assert {*seen[:4]} == {*FAMILIES}
    ray.search.save(str(tmp_path / "search.pkl"))  # as the Tuner does after each result
    assert (tmp_path / "search.pkl").stat().st_size > 0
