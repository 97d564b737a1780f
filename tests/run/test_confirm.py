"""From a search to a verdict: finals on real data, resumed, at another horizon, by the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from listeners import Told

import lrtune as package
from lrtune import Budget, Engine, InputError, Listener, Plan
from lrtune.run.confirm import confirm, confirm_study
from lrtune.run.folder import Run
from lrtune.run.tune import elapsed
from lrtune.schedule import Schedule
from lrtune.search import confirmation as log
from lrtune.tasks import Task
from lrtune.verdict.recommendation import notes
from tests.documents import RUN, changed

TRAININGS = 8


@pytest.fixture(scope="module")
def task() -> Task:
    return package.load_task("digits", batch_size=32, epochs=2)


@pytest.fixture(scope="module")
def confirmed(run: Path, task: Task, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The session's run with its finals. Read it, never write in it."""
    folder = tmp_path_factory.mktemp("confirmed") / "run"
    shutil.copytree(run, folder)
    confirm(folder, task, trainings=TRAININGS)
    return Run(folder)


def test_all_families_meet_the_same_seeds_and_are_judged_on_test(
    confirmed: Run, task: Task
) -> None:
    table = confirmed.finals()
    assert set(table["family"]) == {"cosine", "constant"}
    assert set(table["split"]) == {"test"} and set(table["horizon"]) == {task.horizon}
    seeds = [set(own["seed"]) for _, own in table.groupby("family")]
    assert seeds[0] == seeds[1] and 2 * len(seeds[0]) <= TRAININGS
    assert not seeds[0] & set(confirmed.trials()["seed"])
    assert not table.duplicated(["schedule", "seed"]).any()
    assert (table["final_cross_entropy"] != table["val_cross_entropy"].map(lambda v: v[-1])).all()


def test_each_family_sends_its_best_schedule_or_a_plainer_one(confirmed: Run) -> None:
    trials, table = confirmed.trials(), confirmed.finals()
    best = trials[trials["state"] == "complete"].sort_values("expected").drop_duplicates("family")
    rows = {row.family: row for row in confirmed.verdict().families}
    assert {row.role for row in rows.values()} <= {"leader", "baseline"}
    for one in best.to_dict("records"):
        row, tried = rows[one["family"]], Schedule.from_json(one["schedule"])
        assert set(table.loc[table["family"] == row.family, "schedule"]) == {row.schedule.to_json()}
        as_tried = row.trial == one["number"] and row.schedule == tried
        plainer = row.trial is None and row.schedule.complexity < tried.complexity
        assert as_tried or plainer


def test_the_verdict_is_kept_and_best_json_carries_it(confirmed: Run) -> None:
    verdict, best = confirmed.verdict(), json.loads((confirmed.folder / "best.json").read_text())
    assert verdict is not None and verdict.decided
    first = verdict.families[0]
    means = confirmed.finals().groupby("family")["final_cross_entropy"].mean()
    assert first.mean == pytest.approx(means[first.family])
    assert first.family == verdict.answer.recommended
    assert best["schedule"] == first.schedule.to_dict()
    assert best["verdict"]["families"] == verdict.answer.families
    assert first.family in best["verdict"]["lines"][0]
    assert package.load(confirmed.folder / "best.json") == confirmed.best()


def test_confirmed_again_nothing_is_trained_and_nothing_changes(
    confirmed: Run, task: Task, tmp_path: Path
) -> None:
    folder = tmp_path / "again"
    shutil.copytree(confirmed.folder, folder)
    told = Told()
    left = TRAININGS - len(Run(folder).finals())
    found = confirm(folder, task, trainings=left, listener=told)
    assert told.lines == [] and found == confirmed.verdict()
    assert found.earlier == []
    other = Run(folder).judged(Plan(trainings=6), task.horizon, found.finalists, over=True)
    assert other.earlier == [TRAININGS]
    assert f"judged before with {TRAININGS} trainings" in str(notes(other))


def test_after_a_stop_only_the_rest_is_trained(
    run: Path, confirmed: Run, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    append, left = log.append_final, 2

    def stops(path: Path, final: log.Final) -> None:
        nonlocal left
        append(path, final)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr("lrtune.run.confirm.append_final", stops)
    with pytest.raises(KeyboardInterrupt):
        confirm(folder, task, trainings=TRAININGS)
    assert len(Run(folder).finals()) == 2 and Run(folder).verdict() is None
    monkeypatch.undo()
    found = confirm(folder, task, trainings=TRAININGS - 2)
    kept, whole = found.families, confirmed.verdict().families
    assert [row.family for row in kept] == [row.family for row in whole]
    assert [row.mean for row in kept] == pytest.approx([row.mean for row in whole], rel=1e-3)


def test_another_horizon_has_a_verdict_of_its_own(
    confirmed: Run, task: Task, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(confirmed.folder, folder)
    found = confirm(folder, task, trainings=4, total=30)
    again = Run(folder)
    assert found.horizon == 30 and again.horizons == [30, task.horizon]
    assert again.verdict(30) == found and again.verdict() == confirmed.verdict()
    steps = again.finals().groupby("horizon")["step"].agg(lambda steps: steps.iloc[0][-1])
    assert steps.to_dict() == {30: 30, task.horizon: task.horizon}


def test_another_task_or_nothing_to_confirm(run: Path, task: Task, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"was searched with task.batch_size=32"):
        confirm(run, replace(task, batch_size=16))
    with pytest.raises(InputError, match="total=0: a number of updates"):
        confirm(run, task, total=0)
    lost = package.tune(
        task, budget=Budget(trials=2), families=["constant"], peak_lr=(900, 1000), out=tmp_path
    )
    with pytest.raises(InputError, match="there is nothing to confirm"):
        confirm(lost, task)


def test_finals_that_all_diverge_are_no_winner(
    run: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    monkeypatch.setattr("lrtune.search.confirmation.diverged", lambda *_: "by decree")
    found = confirm(folder, task, trainings=TRAININGS)
    assert found.answer.place == "none"
    assert all(row.reasons == ["by decree"] for row in found.families)
    best = json.loads((folder / "best.json").read_text())
    assert package.load(folder / "best.json") == Run(run).best()
    assert best["verdict"]["lines"][0].startswith("No winner")


def test_the_commands(lrtune, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["search digits --batch-size 32 --epochs 1 --families cosine,constant --trials 4"]
    code, out, _ = lrtune(*words, "--out", folder)
    assert code == 0 and "confirmation: 2 schedules on 3 fresh seeds, 6 trainings" in out
    assert pd.read_json(folder / "finals.jsonl", lines=True)["horizon"].eq(36).all()
    code, out, _ = lrtune("confirm", folder, "--total", 18, "--budget", 4)
    assert code == 0 and "18 updates" in out
    code, out, _ = lrtune("show", folder, "--total", 18, "--margin", 100)
    assert code == 0 and "18 updates" in out


MISTAKES = {
    "has no verdict on 50 updates yet: lrtune confirm": "show RUN --total 50",
    "was made from Python, with a task of its own": "confirm RUN",
    "not a run: it has no run.json": "confirm nowhere",
    "--margin must be at least 0 (got -1.0)": "search digits --margin -1",
    "says no peak rate: step:peak_lr=0.1": "search digits --baseline step:gamma=0.1",
    "family 'stp'": "search digits --baseline stp:peak_lr=0.1",
    "nowhere.json": "search digits --baseline nowhere.json",
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes(
    lrtune, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = lrtune(MISTAKES[message].replace("RUN", str(run)))
    assert code == 2 and message in err and not list(tmp_path.iterdir())


def test_what_you_use_now_is_compared_with(lrtune, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = ["search digits --batch-size 32 --epochs 1 --families cosine,linear --trials 3"]
    words += ["--out", folder]
    yours = ["--baseline", "constant:peak_lr=0.0001", "--baseline", "step:peak_lr=0.1,gamma=0.1"]
    code, out, _ = lrtune(*words, *yours)
    assert code == 0
    gain = next(line for line in out.splitlines() if line.startswith("Gain"))
    assert "better than your constant (95 %: " in gain and "than your step (95 %: " in gain
    verdict = Run(folder).verdict()
    roles = {row.family: row.role for row in verdict.families}
    assert roles["yours"] == roles["yours 2"] == "yours"
    assert verdict.answer.recommended not in ("yours",)  # it hardly trains
    assert "than your constant" in (folder / "report.html").read_text()
    code, out, _ = lrtune("confirm", folder, "--baseline", folder / "best.json", "--budget", 30)
    assert code == 0 and "your " in out and "than your constant" not in out


def test_confirm_adds_certainty_within_its_budget(run: Path, task: Task, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    with pytest.raises(InputError, match="trainings=2: too few to compare"):
        confirm(folder, task, trainings=2)
    first = confirm(folder, task, trainings=4)
    assert len(Run(folder).finals()) == 4
    more = confirm(folder, task, trainings=8)
    assert 4 < len(Run(folder).finals()) <= 12
    seeds = [max(row.seeds for row in found.families) for found in (first, more)]
    assert seeds[1] > seeds[0] == 2


def test_what_is_yours_and_recommended_is_trained_once(
    run: Path, task: Task, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    first = Run(folder).finalists()[0]
    found = confirm(folder, task, trainings=TRAININGS, baselines=[first.schedule])
    finals = Run(folder).finals()
    assert not finals.duplicated(["schedule", "seed"]).any()
    (yours,) = [row for row in found.families if row.family == "yours"]
    own = next(row for row in found.families if row.family == first.family)
    assert yours.mean == own.mean and yours.seeds == own.seeds


def test_a_baseline_that_cannot_be_trained_is_refused_first(task: Task, tmp_path: Path) -> None:
    knobs = {"base_momentum": 0.85, "max_momentum": 0.95}
    cycles = Schedule("one_cycle", peak_lr=0.1, knobs=knobs)
    without = replace(task, optimizer="adagrad", settings={})
    with pytest.raises(InputError, match="optimizer adagrad has no momentum to cycle"):
        package.tune(without, baselines=[cycles], out=tmp_path / "run")
    late = Schedule("cosine", peak_lr=0.1, warmup=0.9999)
    with pytest.raises(InputError, match="warmup"):
        package.tune(task, baselines=[late], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_killed_session_counts_what_its_trainings_took(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    settings = Run(folder).settings
    trained = float(Run(folder).trials()["seconds"].sum())
    assert trained > 0
    for kept, expected in ((0.0, trained), (1e6, 1e6)):
        changed(settings, elapsed=kept).write(folder / "run.json")
        assert elapsed(Run(folder)) == pytest.approx(expected)


CLUSTER = {"cluster": "auto", "hosts": 4, "num_gpus": 1.0}


@pytest.mark.parametrize(
    ("kept", "given", "engine"),
    [
        (CLUSTER | {"slots": 8, "engine": "serial"}, {}, Engine(**CLUSTER)),
        (CLUSTER, {"hosts": 2, "slots": 6}, Engine(**CLUSTER | {"hosts": 2, "slots": 6})),
        (CLUSTER, {"device": "cpu"}, Engine(device="cpu")),
        ({"device": "cpu,cpu"}, {"cluster": "auto"}, Engine(cluster="auto")),
    ],
)
def test_it_trains_where_the_search_did_unless_told_otherwise(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    task: Task,
    kept: dict[str, object],
    given: dict[str, object],
    engine: Engine,
) -> None:
    changed(RUN, asked={"task": "digits", **kept}).write(tmp_path / "run.json")
    engines = []
    monkeypatch.setattr("lrtune.run.confirm.load", lambda _: task)
    monkeypatch.setattr(
        "lrtune.run.confirm.confirm", lambda *_, **how: engines.append(how["engine"])
    )
    monkeypatch.setattr("lrtune.run.confirm.finish", lambda *_: None)
    confirm_study(tmp_path, given, Listener())
    assert engines == [engine]
