import itertools
import math
import statistics
from collections import Counter

import optuna
import pytest
from lrtune.search.history import BLOCK, REMEMBERED
from lrtune.search.race import ROUND
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from lrtune.search import FamilySampler, Space
from lrtune.search.space import suggest_from
from lrtune.search.store import RECORD

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = Space(("cosine", "linear", "constant", "rex"), peak_lr=(1e-3, 1.0))


def run(study: optuna.Study, trials: int, space: Space = SPACE) -> None:
    for _ in range(trials):
        trial = study.ask()
        schedule = suggest_from(space, trial)
        # Cosine has the best optimum; all have theirs at a peak of 0.1.
        worse = {"cosine": 0.0, "linear": 0.2}.get(schedule.family, 0.5)
        study.tell(trial, worse + abs(schedule.peak_lr - 0.1))


def test_shares_then_race() -> None:
    study = optuna.create_study(sampler=FamilySampler(SPACE, seed=1))
    run(study, 70)
    families = [trial.params["family"] for trial in study.trials]
    assert Counter(families[: 4 * ROUND]) == dict.fromkeys(SPACE.families, ROUND)
    assert set(families[4 * ROUND :]) == {"cosine", "linear"}


def test_knobs_move_towards_the_best_of_their_own_family() -> None:
    early, late = [], []
    for seed in range(5):
        study = optuna.create_study(sampler=FamilySampler(SPACE, seed=seed))
        run(study, 100)
        peaks = [t.params.get("cosine.peak_lr") for t in study.trials]
        off = [abs(math.log10(peak / 0.1)) for peak in peaks if peak is not None]
        early += off[:ROUND]
        late += off[-10:]
    assert statistics.median(late) < 0.5 * statistics.median(early)


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    def params(seed: int) -> list[dict]:
        study = optuna.create_study(sampler=FamilySampler(SPACE, seed=seed))
        run(study, 40)
        return [trial.params for trial in study.trials]

    assert params(0) == params(0)
    assert params(0) != params(1)


@pytest.mark.parametrize("stops", [(1, 7, 20, 39), (25, 26, 27), (REMEMBERED, REMEMBERED + BLOCK)])
def test_a_fresh_sampler_goes_on_as_the_old_one_would(stops: tuple[int, ...]) -> None:
    space = Space(("constant", "linear"), peak_lr=(1e-3, 1.0))  # both stay: histories grow long
    total = 2 * (REMEMBERED + BLOCK) + 30 if max(stops) >= REMEMBERED else 60
    unbroken = optuna.create_study(sampler=FamilySampler(space, seed=3))
    run(unbroken, total, space)
    broken = optuna.create_study()
    for start, stop in itertools.pairwise((0, *stops, total)):
        broken.sampler = FamilySampler(space, seed=3)
        run(broken, stop - start, space)
    assert [t.params for t in broken.trials] == [t.params for t in unbroken.trials]


def test_pruned_diverged_failed_and_running_trials_are_known() -> None:
    study = optuna.create_study(sampler=FamilySampler(SPACE, seed=0))
    left = []
    for number in range(40):
        trial = study.ask()
        schedule = suggest_from(SPACE, trial)
        match number % 5:
            case 0:
                trial.report(2.0, step=3)
                study.tell(trial, state=TrialState.PRUNED)
            case 1:
                trial.set_constraint("diverged", 1.5)
                trial.report(9.0, step=1)
                study.tell(trial, state=TrialState.PRUNED)
            case 2:
                study.tell(trial, state=TrialState.FAIL)
            case 3:
                left.append(trial)
            case _:
                study.tell(trial, schedule.peak_lr)
    for trial in left:
        study.tell(trial, 0.5)
    run(study, 20)
    assert len(study.trials) == 60


def test_a_family_that_is_given_is_kept() -> None:
    study = optuna.create_study(sampler=FamilySampler(SPACE))
    run(study, 40)
    study.enqueue_trial({"family": "rex"})
    trial = study.ask()
    assert suggest_from(SPACE, trial).family == "rex"
    # All of its knobs were drawn together, and not one by one as for unknown parameters.
    assert set(trial.params) - {"family"} == set(trial.relative_params) - {"family"}


def test_any_sampler_may_draw_the_knobs() -> None:
    sampler = FamilySampler(SPACE, knobs=lambda seed: RandomSampler(seed=seed))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    run(study, 40)
    assert study.trials[-1].params["family"] in ("constant", "rex")  # the worst, now the best


def test_a_forecast_beyond_all_numbers_counts_as_none() -> None:
    study = optuna.create_study(sampler=FamilySampler(SPACE))
    for _ in range(len(SPACE.families) * ROUND + 1):
        trial = study.ask()
        suggest_from(SPACE, trial)
        figures = {"final": 3.0, "low": 0.1, "high": None}  # as an infinite one is stored
        trial.set_user_attr(RECORD, {"state": "pruned", "evidence": figures})
        study.tell(trial, state=TrialState.PRUNED)
    standings = study.sampler._history.standings.values()
    assert all(outcome.value == math.inf for s in standings for outcome in s.outcomes)


def test_a_pruned_trial_counts_with_what_it_would_have_ended_with() -> None:
    """Half are pruned, with a forecast: the sampler learns from them as from others."""

    def known(forecast: bool) -> list[float]:
        study = optuna.create_study(sampler=FamilySampler(Space(("cosine",), peak_lr=(1e-3, 1.0))))
        for number in range(60):
            trial = study.ask()
            peak = suggest_from(Space(("cosine",), peak_lr=(1e-3, 1.0)), trial).peak_lr
            value = abs(math.log10(peak / 0.1))
            if number % 2:
                study.tell(trial, value)
                continue
            figures = {"final": value, "low": value / 2, "high": 2 * value} if forecast else {}
            trial.set_user_attr(RECORD, {"state": "pruned", "evidence": figures})
            trial.report(3.0, 10)
            study.tell(trial, state=TrialState.PRUNED)
        own = study.sampler._history.study_of("cosine").get_trials()
        return [t.value for t in own if t.state == TrialState.COMPLETE]

    assert len(known(True)) > 1.8 * len(known(False))
