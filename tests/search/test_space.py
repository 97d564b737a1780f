import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler

from lrtune import InputError
from lrtune.schedule import FAMILIES
from lrtune.search import SEARCHABLE, Space, SurrogateSampler, suggest

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("family", SEARCHABLE)
def test_every_suggestion_is_a_schedule_with_rates(family: str) -> None:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    seen = {suggest(study.ask(), families=[family], peak_lr=(1e-3, 0.3)) for _ in range(40)}
    assert len(seen) == 40
    for schedule in seen:
        assert 1e-3 <= schedule.peak_lr <= 0.3
        table = schedule.controller(50).rates if schedule.closed_loop else schedule.rates(50)
        assert (table > 0).all()


@pytest.mark.parametrize("family", SEARCHABLE)
@pytest.mark.parametrize("end", ["low", "high"])
def test_the_ends_of_every_range_are_admissible(family: str, end: str) -> None:
    space = Space((family,), warmup=(0.0, 0.2))
    params = {
        name: getattr(d, end) if hasattr(d, end) else d.choices[0 if end == "low" else -1]
        for name, d in space.distributions(family).items()
    }
    schedule = space.schedule({"family": family, **params})
    assert schedule.family == family


def test_families_made_by_hand_are_not_searched() -> None:
    assert set(FAMILIES) - set(SEARCHABLE) == {"sequence", "custom"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"families": ()}, "families is empty"),
        ({"families": ("cosin",)}, "did you mean 'cosine'"),
        ({"families": ("custom",)}, "no ranges to search"),
        ({"families": ("cosine", "cosine")}, "one of them twice"),
        ({"peak_lr": (0.0, 1.0)}, "peak_lr=0.0, 1.0"),
        ({"peak_lr": (1.0, 0.1)}, "the lower first"),
        ({"peak_lr": (float("nan"), 1.0)}, "peak_lr=nan"),
        ({"warmup": (0.0, 1.0)}, "fractions in"),
        ({"warmup": (-0.1, 0.2)}, "warmup=-0.1"),
    ],
)
def test_what_cannot_be_searched(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Space(**arguments)


@pytest.mark.parametrize("sampler", [TPESampler(seed=0), RandomSampler(seed=0), None])
def test_suggest_in_anyones_objective(sampler: optuna.samplers.BaseSampler | None) -> None:
    space = Space(("cosine", "step", "constant"), peak_lr=(1e-3, 1.0))
    study = optuna.create_study(sampler=sampler or SurrogateSampler(space, 100))

    def objective(trial: optuna.Trial) -> float:
        schedule = suggest(trial, families=space.families, peak_lr=space.peak_lr)
        trial.suggest_float("weight_decay", 1e-5, 1e-2, log=True)  # a parameter outside the space
        return abs(schedule.rates(100).mean() - 0.05)

    study.optimize(objective, n_trials=30)
    assert study.best_value < 0.03
