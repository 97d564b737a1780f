"""Where a run was trained: kept in run.json, shown by the command and by the report."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from listeners import Told

from lrtune import Budget, Engine, load_task, tune
from lrtune.engine.place import place_of
from lrtune.search import SearchState
from lrtune.search.budget import width


class Kills(Told):
    """Kills one of the processes that train, once the first trial is over."""

    killed = False

    def search(self, state: SearchState) -> None:
        if state.trials and not self.killed:
            self.killed = True
            psutil.Process().children()[0].kill()


def test_a_lost_process_is_kept_in_the_run_and_shown(lrtune, tmp_path: Path) -> None:
    task = load_task("digits", batch_size=32, epochs=1)
    how = {"peak_lr": (0.01, 0.5), "engine": Engine("serial", slots=2, device="cpu,cpu")}
    run = tune(task, budget=Budget(trials=4), out=tmp_path / "run", listener=Kills(), **how)
    (loss,) = run.settings.losses
    assert run.settings.hosts == ["cpu"] and {*run.trials()["hosts"].map(tuple)} == {("cpu",)}
    assert f"trained on 1 host; {loss}" in lrtune("show", run.folder)[1].splitlines()
    assert str(loss).startswith("host cpu lost at ")
    assert str(loss) in (run.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("given", "count"), [({}, 36), ({"hosts": 40}, 40), ({"slots": 8}, 8)])
def test_a_search_takes_no_more_hosts_than_it_can_learn_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: dict[str, int], count: int
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("lrtune.engine.cluster.Cluster", lambda *_: SimpleNamespace(room=50))
    told, engine = Told(), Engine(cluster="auto", **given)
    place = place_of(engine, told.tell, tmp_path / "states", partial(width, trials=108))
    assert place.count == count
    assert bool(given) != any("36 slots: a third of 108 trials" in line for line in told.lines)
