"""Pruners in studies of Optuna, and that all who ask SchedulePruner hear the same."""

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
from made import (
    EVERY,
    TOTAL,
    Bench,
    bench,
    constant,
    cosine,
    cyclic,
    losses,
    objective,
    study_with,
    wsd,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

import lrtune
from lrtune import InputError, Schedule, SchedulePruner
from lrtune.search.pruner import PRUNERS, make_pruner
from lrtune.search.space import SCHEDULE

optuna.logging.set_verbosity(optuna.logging.WARNING)


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
