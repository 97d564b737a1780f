"""SchedulePruner in Optuna: what goes on, what ends, and that all who ask hear the same."""

import json
import math
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import optuna
import pytest
from optuna.pruners import BasePruner, MedianPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

import lrtune
from lrtune import InputError, Schedule, SchedulePruner
from lrtune.search.pruner import (
    CAUTION,
    EPSILON,
    FIRST,
    PRUNERS,
    Decision,
    make_pruner,
    rates_ahead,
)
from lrtune.search.space import SCHEDULE
from lrtune.search.store import AVERAGED

optuna.logging.set_verbosity(optuna.logging.WARNING)
TOTAL, EVERY = 400, 20
STEPS = range(EVERY, TOTAL + 1, EVERY)
Reports = dict[int, float]


def constant(peak_lr: float = 0.1) -> Schedule:
    return Schedule("constant", peak_lr=peak_lr)


def cosine(floor: float = 0.0) -> Schedule:
    return Schedule("cosine", peak_lr=0.1, knobs={"T_max": 1.0, "eta_min": floor})


def wsd(decay: float = 0.1) -> Schedule:
    return Schedule("wsd", peak_lr=0.1, knobs={"decay": decay})


def cyclic(base_lr: float = 0.05) -> Schedule:
    """At its top after 50, 150, 250, 350 updates; it ends at its lowest."""
    return Schedule("cyclic", peak_lr=0.1, knobs={"base_lr": base_lr, "step_size_up": 0.125})


def losses(schedule: Schedule, skill: float = 1.0) -> Reports:
    """A loss that goes down as the rate does: the noise of the updates, as it is in training."""
    rates = rates_ahead(schedule, TOTAL) / schedule.peak_lr
    return {s: skill * (0.2 + 0.8 * rates[s - 1] ** 0.5) * (1 + 20 / s) for s in STEPS}


class Bench:
    """A study with trials that are over, and one that is asked about."""

    def __init__(
        self,
        shown: Callable[[float], float] = lambda loss: loss,
        direction: str = "minimize",
        **study: object,
    ) -> None:
        self.study = optuna.create_study(direction=direction, **study)
        self.shown = shown

    def add(
        self,
        schedule: Schedule | None,
        reports: Reports,
        state: TrialState = TrialState.COMPLETE,
    ) -> int:
        """A trial as it is in the storage; its number."""
        reports = {step: self.shown(loss) for step, loss in reports.items()}
        carried = {} if schedule is None else {SCHEDULE: schedule.to_json()}
        self.study.add_trial(
            create_trial(
                state=state,
                value=reports[max(reports)] if state == TrialState.COMPLETE else None,
                intermediate_values=reports,
                user_attrs={**carried, AVERAGED: True},
            )
        )
        return len(self.study.trials) - 1

    def run_up_to(
        self, step: int, schedule: Schedule | None, skill: float = 1.0, **other: Reports
    ) -> int:
        """A trial that is under way; its number."""
        curve = other.get("curve") or losses(schedule or constant(), skill)
        reports = {s: loss for s, loss in curve.items() if s <= step}
        return self.add(schedule, reports, TrialState.RUNNING)

    def decide(self, number: int, pruner: SchedulePruner | None = None) -> Decision:
        trial = self.study.get_trials(deepcopy=False)[number]
        return (pruner or SchedulePruner(TOTAL)).decide(self.study, trial)

    def asked(self, step: int, schedule: Schedule, skill: float = 1.0) -> Decision:
        """About a new trial that has come so far."""
        return self.decide(self.run_up_to(step, schedule, skill))


def bench(*families: Callable[[float], Schedule], **changed: object) -> Bench:
    """Six trials of each family are over, some better than others."""
    made = Bench(**changed)
    for i in range(6):
        for family in families:
            schedule = family(0.05 + 0.02 * i)
            made.add(schedule, losses(schedule, skill=1 + 0.03 * i))
    return made


def optuna_prunes(pruner: BasePruner, made: Bench, number: int) -> bool:
    return pruner.prune(made.study, made.study.trials[number])


# A rate that is high with a decay still to come, and one that stays.


def test_a_late_bloomer_goes_on_where_the_median_ends_it() -> None:
    made = bench(cosine, wsd)
    number = made.run_up_to(320, wsd(0.1))
    decision = made.decide(number)
    assert decision.probability is not None and not decision.prune
    assert decision.ahead["fall"] > 3
    assert decision.final < decision.best < 0.5
    assert made.study.trials[number].intermediate_values[320] > 1
    assert optuna_prunes(MedianPruner(n_warmup_steps=100), made, number)


def test_flat_and_high_ends_where_no_decay_is_to_come() -> None:
    made = bench(cosine, wsd, constant)
    decision = made.asked(320, constant())
    assert decision.prune and decision.ahead["fall"] == 0
    assert not made.asked(320, wsd(0.1)).prune  # which looks the same


@pytest.mark.parametrize("update", [60, 140, 160, 260, 340])
def test_a_cyclic_rate_at_its_top_goes_on(update: int) -> None:
    made = bench(cyclic, cosine)
    number = made.run_up_to(update, cyclic(0.05), skill=0.85)
    decision = made.decide(number)
    assert not decision.prune
    assert decision.ahead["fall"] > 1.5 and decision.ahead["rise"] < 0.3
    shown = made.study.trials[number].intermediate_values[update]
    assert shown > 2 * max(decision.best, decision.final)


def test_worse_by_far_ends_whatever_the_rate_does() -> None:
    made = bench(cosine, wsd, constant)
    for schedule in (cosine(), wsd(0.1), constant()):
        assert made.asked(200, schedule, skill=8).prune
        assert not made.asked(200, schedule, skill=0.1).prune


def test_slow_but_steady_is_judged_by_its_end() -> None:
    """Both stand where they stand; those that came from there in the same way ended well."""
    made = Bench()
    for i in range(8):
        made.add(cosine(0.01 * i), {s: 1.02 - 0.002 * s + 0.001 * i for s in STEPS})
    curve = {s: 1.0 - 0.002 * s for s in STEPS}
    assert not made.decide(made.run_up_to(200, cosine(0.03), curve=curve)).prune


# A closed loop: as if its rate were held.


def test_a_closed_loop_is_forecast_with_its_rate_held() -> None:
    def plateau(factor: float) -> Schedule:
        return Schedule("plateau", peak_lr=0.1, knobs={"factor": factor})

    made = bench(plateau, wsd)
    decision = made.asked(100, plateau(0.3), skill=1.0)
    assert decision.ahead == pytest.approx({"remainder": math.log(4), "fall": 0, "rise": 0})
    assert made.asked(200, plateau(0.3), skill=8).prune


# Any objective: scores, zero, negative values.

MIRRORS: dict[str, tuple[Callable[[float], float], str]] = {
    "scores": (lambda loss: 1 - loss, "maximize"),  # some of them negative
    "scores far above 1": (lambda loss: 100 - 10 * loss, "maximize"),
    "negated losses": (lambda loss: -loss, "maximize"),
    "losses through zero": (lambda loss: loss - 0.5, "minimize"),
    "negative losses": (lambda loss: loss - 5, "minimize"),
    "tiny losses": (lambda loss: 1e-9 * loss, "minimize"),
    "huge losses": (lambda loss: 1e9 * loss, "minimize"),
}
CASES = [(320, constant(), 1.0), (200, cosine(), 8.0), (200, wsd(0.1), 0.9), (380, wsd(0.1), 1.0)]


@pytest.mark.parametrize("name", MIRRORS)
def test_any_objective_decides_alike(name: str) -> None:
    shown, direction = MIRRORS[name]
    plain = bench(cosine, wsd, constant)
    other = bench(cosine, wsd, constant, shown=shown, direction=direction)
    for case in CASES:
        expected, found = plain.asked(*case), other.asked(*case)
        assert found.prune == expected.prune
        best, low, high = found.best, found.low, found.high
        assert best == pytest.approx(shown(expected.best))
        assert low <= found.final <= high if direction == "minimize" else low >= found.final >= high


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Scores whose distance to 1 is the loss; and values that only differ by their sign.
        ((lambda loss: loss, "minimize"), (lambda loss: 1 - loss, "maximize")),
        ((lambda loss: loss - 5, "minimize"), (lambda loss: 5 - loss, "maximize")),
    ],
)
def test_mirrored_objectives_have_the_same_figures(one: tuple, other: tuple) -> None:
    benches = [
        bench(cosine, wsd, constant, shown=lambda x, f=f: f(x / 10), direction=direction)
        for f, direction in (one, other)
    ]
    for case in CASES:
        found, mirrored = (made.asked(*case) for made in benches)
        assert found.prune == mirrored.prune
        assert found.probability == pytest.approx(mirrored.probability, abs=1e-6)
        assert abs(found.final - found.best) == pytest.approx(
            abs(mirrored.final - mirrored.best), abs=1e-6
        )


def test_zero_is_a_loss_like_any_other() -> None:
    made = bench(cosine, wsd)
    made.add(cosine(), dict.fromkeys(STEPS, 0.0))
    for step, schedule, skill in CASES[1:]:
        decision = made.asked(step, schedule, skill)
        assert math.isfinite(decision.final) and math.isfinite(decision.best)
        assert 0 <= decision.probability <= 1
    assert not made.decide(made.run_up_to(200, cosine(), curve=dict.fromkeys(STEPS, 0.0))).prune


# Not a number.


def test_nan_on_the_way_of_a_finished_trial_breaks_nothing() -> None:
    clean, made = bench(cosine, wsd), bench(cosine, wsd)
    broken = losses(cosine())
    for bad in (math.nan, math.inf):
        made.add(cosine(), {**broken, 60: bad})
    for step in (60, 100, 320):
        found, expected = made.asked(step, wsd(0.1)), clean.asked(step, wsd(0.1))
        assert math.isfinite(found.final)
        assert found == expected  # they are left out


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_trial_that_is_no_number_ends(bad: float) -> None:
    made = bench(cosine, wsd)
    curve = {**losses(cosine()), 100: bad}
    decision = made.decide(made.run_up_to(100, cosine(), curve=curve))
    assert decision.prune
    assert str(bad) in decision.reason
    alone = Bench()
    assert alone.decide(alone.run_up_to(100, cosine(), curve=curve)).prune


# Few trials.


@pytest.mark.parametrize("epsilon", [1e-9, 0.2, 1 - 1e-9])
def test_one_trial_alone_is_never_pruned(epsilon: float) -> None:
    alone = Bench()
    for step in STEPS:
        number = alone.run_up_to(step, cosine(), skill=100)
        assert not alone.decide(number, SchedulePruner(TOTAL, epsilon=epsilon)).prune
        alone.study.tell(number, state=TrialState.FAIL)


@pytest.mark.parametrize("startup", [3, 5, 8])
def test_startup(startup: int) -> None:
    made = Bench()
    pruner = SchedulePruner(TOTAL, startup=startup)
    hopeless = 1e3
    for i in range(10):
        decision = made.decide(made.run_up_to(300, cosine(), hopeless), pruner)
        assert decision.prune == (i >= startup)
        assert decision.trials == (i if i >= startup else 0)
        schedule = cosine(0.01 * i)
        made.add(schedule, losses(schedule, 1 + 0.01 * i))
        # Neither of these can teach anything.
        made.add(None, losses(schedule))
        made.add(cosine(), {100: 0.5}, TrialState.PRUNED)
        made.add(cosine(), {100: 0.5}, TrialState.FAIL)


@pytest.mark.parametrize(("warmup", "expected"), [(0.0, 20), (0.1, 40), (0.5, 200), (0.51, 220)])
def test_warmup(warmup: float, expected: int) -> None:
    made = bench(cosine)
    pruner = SchedulePruner(TOTAL, warmup=warmup)
    first = next(s for s in STEPS if made.decide(made.run_up_to(s, cosine(), 1e3), pruner).prune)
    assert first == expected


def test_at_its_end_no_trial_is_pruned() -> None:
    made = bench(cosine)
    assert made.asked(TOTAL - EVERY, cosine(), 1e3).prune
    assert not made.asked(TOTAL, cosine(), 1e3).prune


def test_the_first_trial_of_a_family_is_given_a_better_chance() -> None:
    made = bench(cosine)
    first, second = (made.run_up_to(200, wsd()) for _ in range(2))
    whole = made.decide(second).threshold
    assert made.decide(first).threshold == pytest.approx(FIRST * whole)
    made.study.tell(first, state=TrialState.FAIL)  # then the second is the first
    assert made.decide(second).threshold == pytest.approx(FIRST * whole)
    third = made.run_up_to(200, wsd())
    made.study.tell(second, state=TrialState.PRUNED)  # it had its chance
    assert made.decide(third).threshold == pytest.approx(whole)


def test_the_fewer_trials_are_known_the_more_careful() -> None:
    few, many = bench(cosine), bench(cosine, wsd)
    thresholds = [made.asked(200, cosine()).threshold for made in (few, many)]
    assert thresholds == [pytest.approx(EPSILON * n / (n + CAUTION)) for n in (6, 12)]


def test_a_finished_trial_counts_as_far_as_it_was_reported() -> None:
    made = Bench()
    for i in range(6):
        schedule = cosine(0.01 * i)
        made.add(schedule, {s: v for s, v in losses(schedule).items() if s <= 200})  # stalled, say
    assert made.asked(200, cosine()).trials == 6
    assert made.asked(220, cosine()).trials == 0


def test_steps_between_the_reports_of_others_are_read_in_proportion() -> None:
    made, other = Bench(), Bench()
    for i in range(6):
        schedule = cosine(0.01 * i)
        line = {s: 1 + 0.1 * i - 0.002 * s for s in STEPS}
        made.add(schedule, line)
        other.add(schedule, {s: v for s, v in line.items() if s % 80 == 0})
    curve = {s: 1.2 - 0.002 * s for s in STEPS}
    found, expected = (b.decide(b.run_up_to(200, cosine(), curve=curve)) for b in (made, other))
    assert found.final == pytest.approx(expected.final, rel=0.05)
    assert found.trials == expected.trials == 6


# The threshold.


@pytest.mark.parametrize("skill", [0.5, 1.0, 1.1, 1.3, 8.0])
def test_epsilon(skill: float) -> None:
    made = bench(cosine, wsd, constant)
    number = made.run_up_to(200, cosine(0.1), skill)
    low, mid, high = (
        made.decide(number, SchedulePruner(TOTAL, epsilon=epsilon))
        for epsilon in (1e-12, 0.2, 1 - 1e-12)
    )
    assert low.probability == mid.probability == high.probability
    assert low.prune <= mid.prune <= high.prune
    for decision in (low, mid, high):
        assert decision.prune == (decision.probability < decision.threshold)


def test_epsilon_does_decide() -> None:
    made = bench(cosine, wsd, constant)
    number = made.run_up_to(200, cosine(0.1), 1.02)
    chance = made.decide(number).probability
    assert 0 < chance < 1
    assert not made.decide(number, SchedulePruner(TOTAL, epsilon=0.99 * chance)).prune
    assert made.decide(number, SchedulePruner(TOTAL, epsilon=chance + 0.01 * (1 - chance))).prune


def test_a_decision_says_what_it_rests_on() -> None:
    made = bench(cosine, wsd)
    decision = made.asked(200, cosine(), skill=3)
    assert decision.prune and decision.probability < decision.threshold < EPSILON
    assert decision.trials == 12
    finals = [trial.value for trial in made.study.get_trials(states=(TrialState.COMPLETE,))]
    assert decision.best == pytest.approx(min(finals))
    assert decision.best < decision.low < decision.final < decision.high
    assert set(decision.ahead) == {"remainder", "fall", "rise"}
    for figure in (decision.final, decision.low, decision.high, decision.best):
        assert f"{figure:.4g}" in decision.reason
    assert f"{decision.probability:.2g}" in decision.reason
    json.dumps(asdict(decision), allow_nan=False)


# In Optuna.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"total": 0}, "total=0"),
        ({"total": -400}, "total=-400"),
        ({"total": 400.0}, r"total=400\.0"),
        ({"total": True}, "total=True"),
        ({"total": "400"}, "total='400'"),
        ({"epsilon": 0}, "epsilon=0"),
        ({"epsilon": 1}, "epsilon=1"),
        ({"epsilon": math.nan}, "epsilon=nan"),
        ({"startup": 2}, "startup=2"),
        ({"startup": 5.0}, r"startup=5\.0"),
        ({"warmup": 1}, "warmup=1"),
        ({"warmup": -0.1}, r"warmup=-0\.1"),
        ({"warmup": math.nan}, "warmup=nan"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        SchedulePruner(**{"total": TOTAL, **arguments})


@pytest.mark.parametrize("step", [TOTAL + 1, 5000])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    made = Bench()
    number = made.add(cosine(), {step: 0.5}, TrialState.RUNNING)
    with pytest.raises(InputError, match=rf"step {step}: .*{TOTAL}"):
        made.decide(number)


def test_a_finished_trial_with_a_step_outside_the_run_is_refused() -> None:
    made = bench(cosine)
    made.add(cosine(), {200: 0.5, TOTAL + 100: 0.4})
    with pytest.raises(InputError, match=rf"{TOTAL + 100}.*{TOTAL}"):
        made.asked(200, cosine())


def test_the_untrained_value_of_a_finished_trial_does_no_harm() -> None:
    clean, made = bench(cosine), Bench()
    for trial in clean.study.trials:
        schedule = Schedule.from_json(trial.user_attrs[SCHEDULE])
        made.add(schedule, {0: 7.0, **trial.intermediate_values})
    assert made.asked(200, cosine()) == clean.asked(200, cosine())


def test_a_trial_without_a_schedule_is_never_pruned() -> None:
    made = bench(cosine, wsd)
    for step in STEPS:
        decision = made.decide(made.run_up_to(step, None, skill=1e6))
        assert not decision.prune and decision.reason == "no schedule"


def test_a_trial_that_has_reported_nothing_is_not_pruned() -> None:
    made = bench(cosine)
    trial = made.study.ask()
    lrtune.suggest(trial, families=["cosine"])
    assert not made.decide(trial.number).prune


@pytest.mark.parametrize(
    ("direction", "value", "averaged", "told"),
    [
        ("minimize", 0.5, 0.4, 0.4),
        ("minimize", 0.4, 0.5, 0.4),
        ("maximize", 0.5, 0.4, 0.5),
        ("maximize", 0.4, 0.5, 0.5),
        ("minimize", 0.5, math.nan, 0.5),
        ("maximize", 0.5, math.inf, 0.5),
        ("minimize", -0.5, 0.0, -0.5),
        ("minimize", 0.5, None, 0.5),
    ],
)
def test_optuna_is_told_the_better_of_the_two(
    direction: str, value: float, averaged: float | None, told: float
) -> None:
    study = optuna.create_study(direction=direction)
    trial = study.ask()
    lrtune.report(trial, value, 10, averaged=averaged)
    assert study.trials[0].intermediate_values == {10: told}
    assert (AVERAGED in study.trials[0].user_attrs) == (averaged is not None)


def test_weights_that_are_no_numbers_are_not_hidden_by_their_average() -> None:
    trial = optuna.create_study().ask()
    lrtune.report(trial, math.nan, 10, averaged=0.4)
    assert math.isnan(trial.study.trials[0].intermediate_values[10])


def objective(averages: bool) -> Callable[[optuna.Trial], float]:
    """Anyone's: a loss that follows the rate, averaged weights that are ahead of it."""

    def train(trial: optuna.Trial) -> float:
        schedule = lrtune.suggest(trial, families=["cosine", "constant"], peak_lr=(1e-3, 1.0))
        skill = 1 + abs(math.log(schedule.peak_lr / 0.05))
        for step, loss in losses(schedule, skill).items():
            lrtune.report(trial, loss, step, averaged=0.8 * loss if averages else None)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    return train


def study_with(pruner: BasePruner) -> optuna.Study:
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner)


def test_in_anyones_objective() -> None:
    pruner = SchedulePruner(TOTAL)
    study = study_with(pruner)
    study.optimize(objective(averages=True), n_trials=40)
    states = Counter(trial.state for trial in study.trials)
    assert states[TrialState.PRUNED] > 5 and states[TrialState.COMPLETE] > 5
    full = study_with(optuna.pruners.NopPruner())
    full.optimize(objective(averages=True), n_trials=40)
    assert study.best_value < 1.5 * full.best_value
    for trial in study.trials:
        assert pruner.decisions[trial.number].prune == (trial.state == TrialState.PRUNED)


def test_without_averaged_values_it_says_so_once() -> None:
    study = study_with(SchedulePruner(TOTAL))
    with pytest.warns(UserWarning, match="averaged= to lrtune.report") as said:
        study.optimize(objective(averages=False), n_trials=8)
    assert len(said) == 1
    with pytest.warns(UserWarning, match="averaged weights") as said:
        study_with(SchedulePruner(TOTAL)).optimize(objective(averages=False), n_trials=2)
    assert len(said) == 1  # of each pruner


def test_with_averaged_values_it_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study_with(SchedulePruner(TOTAL)).optimize(objective(averages=True), n_trials=8)


# All who ask hear the same.


def test_what_was_read_when_does_not_matter() -> None:
    """Trials that end out of their order, as they do with many workers."""
    made, grown = Bench(), SchedulePruner(TOTAL)
    makers = (cosine, wsd, constant, cyclic)
    curves = [makers[i % 4](0.05 + 0.013 * i) for i in range(24)]
    for group in (curves[:8], curves[8:16], curves[16:]):
        running = [made.run_up_to(200, schedule, 1 + 0.05 * i) for i, schedule in enumerate(group)]
        for i in (5, 2, 7, 0, 3, 1, 6, 4):
            for number in running:
                assert made.decide(number, grown) == made.decide(number)
            loss = losses(group[i], 1 + 0.05 * i)
            made.study.tell(running[i], loss[TOTAL])
        assert made.decide(running[3], grown).trials > 0


def test_another_study_is_read_from_its_start() -> None:
    pruner = SchedulePruner(TOTAL)
    for made in (bench(cosine), bench(constant, wsd), bench(cosine, cyclic)):
        number = made.run_up_to(200, cosine(), 1.1)
        assert made.decide(number, pruner) == made.decide(number)


SECOND = """
import json, sys
from dataclasses import asdict
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from lrtune import SchedulePruner
optuna.logging.set_verbosity(optuna.logging.ERROR)
for line in sys.stdin:
    number, url = json.loads(line)
    storage = url if "://" in url else JournalStorage(JournalFileBackend(url))
    study = optuna.load_study(study_name="s", storage=storage)
    decision = SchedulePruner({total}).decide(study, study.trials[number])
    print(json.dumps(asdict(decision)), flush=True)
"""


@pytest.fixture(scope="module")
def decided_elsewhere() -> Iterator[Callable[[int, str], dict]]:
    """What another process decides about a trial of a study in this storage."""
    command = [sys.executable, "-c", SECOND.format(total=TOTAL)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as second:

        def decided(number: int, url: str) -> dict:
            print(json.dumps([number, url]), file=second.stdin, flush=True)
            return json.loads(second.stdout.readline())

        yield decided
        second.stdin.close()
    assert second.returncode == 0


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_two_processes_on_one_storage_decide_alike(
    kind: str, tmp_path: Path, decided_elsewhere: Callable[[int, str], dict]
) -> None:
    path = str(tmp_path / "study")
    url = path if kind == "journal" else f"sqlite:///{path}"
    storage = JournalStorage(JournalFileBackend(path)) if kind == "journal" else url
    pruner = SchedulePruner(TOTAL)
    sampler = optuna.samplers.RandomSampler(seed=0)
    made = Bench(storage=storage, study_name="s", pruner=pruner, sampler=sampler)
    for i in range(3):
        for schedule in (cosine(0.01 * i), constant(), wsd(0.1 + 0.05 * i)):
            made.add(schedule, losses(schedule, 1 + 0.1 * i))
    decisions = []
    for i, family in enumerate(["cosine", "wsd", "cyclic", "constant", "cyclic"]):
        made.study.enqueue_trial({"family": family})
        trial = made.study.ask()
        schedule = lrtune.suggest(trial, peak_lr=(0.1, 0.1))
        curve = losses(schedule, skill=0.1 if i % 2 == 0 else 3)
        for step in (20, 140, 300):
            lrtune.report(trial, 1.1 * curve[step], step, averaged=curve[step])
            ended = trial.should_prune()
            decisions.append(pruner.decisions[trial.number])
            assert decided_elsewhere(trial.number, url) == asdict(decisions[-1])
            if ended:
                break
        if ended:
            made.study.tell(trial, state=TrialState.PRUNED)
        else:
            made.study.tell(trial, curve[TOTAL])
    assert {decision.prune for decision in decisions} == {True, False}
    assert any(decision.ahead for decision in decisions if not decision.prune)


def test_each_finished_trial_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench(cosine, wsd, constant)
    # Of these nothing can be learnt: looked at once as well.
    made.add(cosine(), {**losses(cosine()), 60: math.nan})
    number = made.run_up_to(300, wsd(0.1))
    pruner = SchedulePruner(TOTAL)
    read: Counter[str] = Counter()
    parse = Schedule.from_json

    def counted(text: str) -> Schedule:
        read[text] += 1
        return parse(text)

    monkeypatch.setattr(Schedule, "from_json", counted)
    expected = Counter(
        trial.user_attrs[SCHEDULE]
        for trial in made.study.trials
        if trial.state == TrialState.COMPLETE
    )
    own = made.study.trials[number].user_attrs[SCHEDULE]
    for _ in range(20):
        made.decide(number, pruner)
    read.pop(own)
    expected.pop(own, None)
    assert read == expected
    late = cosine(0.09)
    made.add(late, losses(late))
    for _ in range(20):
        made.decide(number, pruner)
    read.pop(own)
    assert read - expected == Counter([late.to_json()])


# By name.


@pytest.mark.parametrize("name", PRUNERS)
def test_every_pruner_by_name_runs(name: str) -> None:
    study = study_with(make_pruner(name, TOTAL, EVERY))
    study.optimize(objective(averages=True), n_trials=30)
    states = {trial.state for trial in study.trials}
    expected = {TrialState.COMPLETE} | ({TrialState.PRUNED} if name != "none" else set())
    assert states == expected


def test_a_pruner_that_there_is_none_of() -> None:
    with pytest.raises(InputError, match=r"pruner 'medain': one of .*median"):
        make_pruner("medain", TOTAL, EVERY)
