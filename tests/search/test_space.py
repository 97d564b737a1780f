"""The space in anyone's study: in Optuna with any sampler, beside own parameters, in Ray Tune."""

from pathlib import Path

import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler

import lrtune
from lrtune import InputError
from lrtune.schedule import FAMILIES, Schedule
from lrtune.search import SEARCHABLE, Space, SurrogateSampler, report, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)
NAMES, PEAKS = ("constant", "cosine", "multistep", "wsd"), (1e-3, 1.0)
SPACE = Space(NAMES, PEAKS)
SAMPLERS = {
    "SurrogateSampler": lambda: SurrogateSampler(SPACE, 100),
    "TPE": lambda: TPESampler(seed=0),
}


@pytest.mark.parametrize("family", SEARCHABLE)
def test_every_suggestion_is_a_schedule_with_rates(family: str) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    seen = {suggest(study.ask(), families=[family], peak_lr=(1e-3, 0.3)) for _ in range(40)}
    assert len(seen) == 40
    for schedule in seen:
        assert 1e-3 <= schedule.peak_lr <= 0.3
        rates = schedule.controller(50).rates if schedule.closed_loop else schedule.rates(50)
        assert (rates > 0).all()
    distributions = Space((family,)).distributions(family)
    for end in (0, -1):  # the ends of every range are admissible
        params = {
            name: (d.low, d.high)[end] if hasattr(d, "low") else d.choices[end]
            for name, d in distributions.items()
        }
        assert Space((family,)).schedule({"family": family, **params}).family == family


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ()}, "families is empty"),
        ({"families": ("cosin",)}, "did you mean 'cosine'"),
        ({"families": ("custom",)}, "no ranges to search"),
        ({"families": ("cosine", "cosine")}, "one of them twice"),
        ({"peak_lr": (0.0, 1.0)}, r"peak_lr=\(0.0, 1.0\): expected two rates"),
        ({"peak_lr": (1.0, 0.1)}, "the lower first"),
        ({"peak_lr": (float("nan"), 1.0)}, r"peak_lr=\(nan"),
        ({"warmup": (0.0, 1.0)}, "fractions in"),
        ({"warmup": (-0.1, 0.2)}, r"warmup=\(-0.1, 0.2\)"),
        ({"families": "cosine"}, "families must be a list of names"),
        ({"cycle_momentum": "yes"}, "cycle_momentum must be True or False"),
    ],
)
def test_what_cannot_be_searched(arguments: dict, message: str) -> None:
    assert set(FAMILIES) - set(SEARCHABLE) == {"sequence", "custom", "schedule_free"}
    with pytest.raises(InputError, match=message):
        Space(**arguments)


@pytest.mark.parametrize("first", ["theirs", "ours"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_other_parameters_may_be_tuned_beside_the_schedule(sampler: str, first: str) -> None:
    def theirs(trial: optuna.Trial) -> float:
        batch = trial.suggest_categorical("batch_size", [16, 32, 64])
        decay = trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
        return batch / 64 + decay + trial.suggest_int("layers", 1, 3)

    def objective(trial: optuna.Trial) -> float:
        cost = theirs(trial) if first == "theirs" else 0.0
        schedule = lrtune.suggest(trial, families=NAMES, peak_lr=PEAKS)
        cost += theirs(trial) if first == "ours" else 0.0
        return cost + abs(schedule.rates(100).mean() - 0.1)

    study = optuna.create_study(sampler=SAMPLERS[sampler]())
    study.optimize(objective, n_trials=26)
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert len(trials) == 26
    for trial in trials:
        own = SPACE.distributions(trial.params["family"])
        assert {*trial.params} == {"family", "batch_size", "weight_decay", "layers", *own}
        carried = Schedule.from_json(trial.user_attrs["lrtune.schedule"])
        assert carried == SPACE.schedule(trial.params)
    for name in ("batch_size", "weight_decay", "layers"):
        assert len({trial.params[name] for trial in trials}) > 2  # drawn, not stuck
    if sampler == "SurrogateSampler":
        assert {trial.params["family"] for trial in trials[:4]} == {*NAMES}


@pytest.mark.parametrize("call", [suggest, lambda trial: report(trial, 1.0, 1)])
def test_a_trial_that_is_none(call) -> None:
    with pytest.raises(InputError, match="trial must be an Optuna trial"):
        call(3)


def test_parameters_of_the_same_name_without_the_prefix_are_the_users_own() -> None:
    ours = {"family": "cosine", "cosine.peak_lr": 0.1, "cosine.warmup": 0.1}
    ours |= {"cosine.T_max": 1.0, "cosine.eta_min": 0.0}
    theirs = {"warmup": 0.5, "peak_lr": 9.0, "eta_min": 0.3, "wsd.warmup": 0.4}
    assert SPACE.schedule({**ours, **theirs}) == SPACE.schedule(ours)
    one_cycle = Space(("one_cycle",), PEAKS)  # which has a rise of its own
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


@pytest.mark.filterwarnings("ignore:Define-by-run function")  # of Ray, on a busy machine
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rays_configs_have_one_family_and_make_its_schedule(sampler: str, tmp_path: Path) -> None:
    """What Ray's Tuner asks of a search, without a cluster."""
    from ray.tune.search.optuna import OptunaSearch

    search, seen = OptunaSearch(SPACE.define, "loss", "min", sampler=SAMPLERS[sampler]()), []
    for name in map(str, range(24)):
        config = search.suggest(name)
        family = config["family"]
        assert {*config} == {"family", *SPACE.distributions(family)}
        assert SPACE.schedule({**config, "batch_size": 32}).family == family
        loss = abs(SPACE.schedule(config).rates(100).mean() - 0.1)
        result = {"loss": loss, "training_iteration": 1}
        search.on_trial_result(name, result)
        search.on_trial_complete(name, result)
        seen.append(family)
    if sampler == "SurrogateSampler":
        assert {*seen[:4]} == {*NAMES}
    search.save(str(tmp_path / "search.pkl"))  # as the Tuner does after each result
    assert (tmp_path / "search.pkl").stat().st_size > 0


@pytest.mark.parametrize("family", SEARCHABLE)
def test_defaults_are_a_place_in_the_space(family: str) -> None:
    space = Space()
    params = {"family": family, f"{family}.peak_lr": 0.1, f"{family}.warmup": 0.0}
    params |= space.defaults(family)
    assert space.contains(params)
    assert space.schedule(params) == Schedule(family, 0.1)
