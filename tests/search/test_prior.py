"""Prior: what won elsewhere is tried first, within what is searched here."""

import json
import math
from pathlib import Path

import optuna
import pytest

from lrtune import suggest
from lrtune.schedule import Schedule
from lrtune.search import FamilySampler, Space
from lrtune.search.prior import Prior, published, settings_in
from lrtune.search.space import as_spline, suggest_from

optuna.logging.set_verbosity(optuna.logging.WARNING)
ROOT = Path(__file__).parents[2]
SPACE = Space(("cosine", "step", "wsd"), peak_lr=(1e-3, 0.1))
ELSEWHERE = Prior(
    tuple(
        {"task": task, "family": "wsd", "place": place, "warmup": warmup, "decay": decay}
        | {"decay_shape": shape, "end_factor": 0.01}
        for task, place, warmup, decay, shape in (
            ("a", 0.5, 0.01, 0.2, "linear"),
            ("b", 0.6, 0.05, 0.4, "sqrt"),
            ("c", 0.9, 0.90, 0.9, "sqrt"),
        )
    )
)


def first_of(space: Space, prior: Prior | None, seed: int = 0) -> dict[str, Schedule]:
    study = optuna.create_study(sampler=FamilySampler(space, seed, prior=prior))
    found = {}
    for _ in range(2 * len(space.families)):
        trial = study.ask()
        schedule = suggest_from(space, trial)
        found.setdefault(schedule.family, schedule)
        study.tell(trial, 1.0)
    return found


def test_the_first_trial_of_a_family_is_the_middle_of_what_won() -> None:
    first = first_of(SPACE, ELSEWHERE)["wsd"]
    assert first.peak_lr == pytest.approx(math.exp(math.log(1e-3) + 0.6 * math.log(100)))
    assert (first.warmup, first.knobs["decay"], first.knobs["decay_shape"]) == (0.05, 0.4, "sqrt")


def test_what_it_does_not_say_is_drawn_but_never_what_it_was_made_of() -> None:
    found, without = first_of(SPACE, ELSEWHERE), first_of(SPACE, None)
    assert not set(found.values()) & set(without.values())
    assert first_of(SPACE, ELSEWHERE, seed=7)["wsd"] == found["wsd"]


def test_a_task_can_be_left_out() -> None:
    one = ELSEWHERE.without(["b", "c"])
    assert [setting["task"] for setting in one.settings] == ["a"]
    assert first_of(SPACE, one)["wsd"].knobs["decay_shape"] == "linear"
    assert not ELSEWHERE.without(["a", "b", "c"]).settings


def test_it_stays_within_the_ranges_searched() -> None:
    narrow = Space(("wsd",), peak_lr=(0.2, 0.2), warmup=(0.1, 0.15))
    first = first_of(narrow, ELSEWHERE)["wsd"]
    assert (first.peak_lr, first.warmup) == (pytest.approx(0.2), 0.1)


def test_a_verdict_adds_its_finalists_but_those_lost() -> None:
    schedule = Schedule("cosine", peak_lr=0.01)
    row = {"family": "cosine", "place": "tied", "schedule": schedule.to_dict()}
    row["params"] = {"peak_lr": 0.01, "warmup": 0.1, "T_max": 1.0, "eta_min": 0.01}
    lost = {**row, "family": "step", "place": "lost"}
    verdict = {"peaks": {"searched": [1e-3, 0.1], "base_lr": 0.004}, "families": [row, lost]}
    (setting,) = settings_in(verdict, "here")
    assert setting == {
        **{"task": "here", "family": "cosine", "place": pytest.approx(0.5)},
        **{"warmup": 0.1, "T_max": 1.0, "eta_min": 0.01},
    }
    verdict["peaks"]["base_lr"] = None  # nothing says where a peak lies
    assert settings_in(verdict, "here") == []


def test_what_is_shipped_is_what_was_published() -> None:
    """prior.json is made of studies/results; every family's first trial can be drawn of it."""
    results = ROOT / "studies" / "results"
    expected = [
        setting
        for path in sorted(results.glob("*.json"))
        for setting in settings_in(json.loads(path.read_text()), path.stem)
    ]
    assert list(published().settings) == expected
    families = {setting["family"] for setting in expected}
    space = Space(tuple(sorted(families)), peak_lr=(1e-3, 0.1))
    for family in families:
        knobs = space.distributions(family)
        drawn = published().draw(family, knobs)
        assert drawn is not None and drawn.keys() == knobs.keys()
        space.schedule({"family": family, **drawn})


@pytest.mark.parametrize("family", ["cosine", "one_cycle", "step", "constant"])
def test_the_spline_most_like_another_schedule(family: str) -> None:
    space = Space(("spline",), peak_lr=(1e-3, 1.0))
    schedule = Schedule(family, peak_lr=0.1)
    drawn = as_spline(schedule, space.distributions("spline"))
    spline = space.schedule({"family": "spline", **drawn})
    ours, theirs = spline.rates(400), schedule.rates(400)
    assert abs(ours - theirs).mean() < 0.08 * theirs.max()
    assert spline.peak_lr == schedule.peak_lr and spline.warmup == schedule.warmup


def test_the_spline_is_given_the_best_shape_once_a_round() -> None:
    space = Space(("cosine", "spline"), peak_lr=(1e-3, 1.0))
    study = optuna.create_study(sampler=FamilySampler(space))
    splines, best = [], (math.inf, None)

    for _ in range(12):
        trial = study.ask()
        schedule = suggest(trial, families=space.families, peak_lr=space.peak_lr)
        value = abs(math.log10(schedule.peak_lr / 0.1))
        if schedule.family == "spline":
            splines.append(schedule.peak_lr)
        else:
            best = min(best, (value, schedule.peak_lr))
        study.tell(trial, value)
    assert best[1] in splines
