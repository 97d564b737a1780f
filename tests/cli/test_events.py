"""A search for scripts and logs: events, the result alone, and the result again."""

import io
import json
import math
import shlex
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from lrtune import load_task
from lrtune.cli.events import FIELDS, Events, listening
from lrtune.engine.spread import Loss
from lrtune.run.confirm import ConfirmationState
from lrtune.run.folder import Run
from lrtune.verdict.verdict import Verdict
from tests.documents import changed

WORDS = ["search digits --batch-size 32 --epochs 1 --trials 3 --families cosine,constant"]
WORDS += ["--peak-lr", "0.01,0.2", "--engine", "serial", "--budget", 10]


def strict(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def read(out: str) -> list[dict]:
    return [json.loads(line, parse_constant=strict) for line in out.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("events") / "run"


def test_a_search_as_events_then_quietly_then_shown(lrtune, folder: Path) -> None:
    code, out, err = lrtune(*WORDS, "--out", folder, "--json")
    assert code == 0 and "digits: 1,149 training" in err and "confirmation: 2 schedules" in err
    events = read(out)
    for event in events:
        assert list(event) == ["event", "time", *FIELDS[event["event"]].split()]
        assert datetime.fromisoformat(event["time"]).utcoffset() is not None
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started" and kinds[-2:] == ["verdict", "finished"]
    by_kind = {kind: [e for e in events if e["event"] == kind] for kind in FIELDS}
    assert by_kind["started"][0]["budget"] == {"trials": 3, "updates": 360, "seconds": None}
    assert sorted(e["number"] for e in by_kind["trial"]) == [0, 1, 2]
    assert all(e["schedule"]["family"] == e["family"] for e in by_kind["trial"])
    standings = by_kind["verdict"][0]["standings"]
    assert len(by_kind["final"]) == sum(row["seeds"] for row in standings)
    assert {e["split"] for e in by_kind["final"]} == {"test"}
    stages = {e["stage"] for e in by_kind["progress"]}  # one a second: short ones go unseen
    assert "search" in stages and stages <= {"search", "finals"}
    shares = [e["share"] for e in by_kind["progress"]]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    last = events[-1]
    assert last["winner"] == json.loads((folder / "best.json").read_text())["schedule"]
    assert sum(last["trials"][end] for end in ("complete", "plateaued", "pruned")) == 3
    assert all(Path(path).exists() for path in last["files"].values())
    assert {"best.json", "verdict.json", "report.html"} <= set(last["files"])

    code, quiet, err = lrtune(*WORDS, "--out", folder, "--quiet")  # nothing is left to be done
    assert (code, err) == (0, "")
    assert quiet.startswith("Use ") and "training and" not in quiet
    assert lrtune("show", folder) == (0, quiet, "")
    code, out, _ = lrtune(*WORDS, "--out", folder)
    assert out.endswith(quiet) and len(out) > len(quiet)


def search_in(lrtune, folder: Path) -> None:
    """Search, if another process has the test that does."""
    if not folder.exists():
        assert lrtune(*WORDS, "--out", folder, "--quiet")[0] == 0


def test_the_result_as_one_document(lrtune, folder: Path) -> None:
    search_in(lrtune, folder)
    code, out, err = lrtune("show", folder, "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out, parse_constant=strict)
    assert list(shown) == ["run", "answer", "best", "verdict", "since"] and shown["since"] is None
    for name in ("best", "verdict"):
        assert shown[name] == json.loads((folder / f"{name}.json").read_text())


def test_finals_as_events(lrtune, folder: Path) -> None:
    search_in(lrtune, folder)
    code, out, _ = lrtune("confirm", folder, "--total", 20, "--budget", 4, "--json")
    events = read(out)
    last = events[-1]
    assert code == 0 and last["horizon"] == 20
    decided = json.loads((folder / "verdict-20.json").read_text())
    assert last["files"]["verdict-20.json"] == str(folder / "verdict-20.json")
    assert decided["answer"]["place"] in ("winner", "tie")
    assert last["winner"] == decided["families"][0]["schedule"]
    assert sum(event["event"] == "final" for event in events) == 4
    code, out, _ = lrtune("confirm", folder, "--total", 20, "--quiet")
    assert code == 0 and out.startswith("Use ") and "finals: 20 updates" in out


def test_only_a_verdict_of_that_horizon_names_a_winner(
    lrtune, folder: Path, tmp_path: Path
) -> None:
    search_in(lrtune, folder)
    copy = Path(shutil.copytree(folder, tmp_path / "run"))

    def told() -> list[dict]:
        out = io.StringIO()
        Events(out).finished(Run(copy), None)
        return read(out.getvalue())

    verdict = Verdict.read(copy / "verdict.json")
    assert told()[-1]["winner"] == verdict.recommended.schedule.to_dict()
    changed(verdict, trials=1, answer={"place": "none"}).write(copy / "verdict.json")
    said, last = told()
    assert said["lines"][-1].startswith("The search has gone on since, by 2 trials")
    assert last["winner"] is None
    (copy / "verdict.json").unlink()
    (last,) = told()
    assert last["winner"] is None


def test_no_password_in_an_event() -> None:
    out = io.StringIO()
    events = Events(out)
    url = shlex.quote("mysql://me:se$cret@host/db")
    facts = {"command": f"lrtune search digits --storage={url}", "seed": 0, "families": []}
    events.started(
        load_task("digits", batch_size=32, epochs=1), facts | {"budget": None, "lr_ratios": []}
    )
    events.close()
    (found,) = read(out.getvalue())
    assert "cret" not in found["command"] and "me@host/db" in found["command"]


def test_a_lost_host_is_an_event_once() -> None:
    out, losses = io.StringIO(), [Loss("gpu-7/2", 1e9, "killed", trials=3)]
    pool = SimpleNamespace(slots=8, hosts=["gpu-1/0"], losses=losses)
    events = Events(out)
    events.hosts(pool)
    state = ConfirmationState(0.5, 1.0, 8)
    events.confirmation(state)
    events.confirmation(state)
    lost, progress = read(out.getvalue())
    assert (lost["event"], lost["host"], lost["trials"]) == ("lost", "gpu-7/2", 3)
    assert datetime.fromisoformat(lost["at"]).timestamp() == 1e9
    assert (progress["slots"], progress["hosts"]) == (8, 1)


def test_mistakes_go_to_stderr(lrtune, tmp_path: Path) -> None:
    for words, said in (
        (["search", "digit", "--json"], "did you mean 'digits'?"),
        ([*WORDS, "--out", tmp_path / "x", "--json", "--quiet"], "--quiet and --json"),
        (["show", tmp_path, "--json"], "not a run"),
        (["confirm", tmp_path, "--quiet"], "not a run"),
    ):
        code, out, err = lrtune(*words)
        assert (code, out) == (2, "") and said in err
        assert err.splitlines()[-1].startswith("lrtune: ")


def test_what_else_is_printed_goes_to_stderr_and_numbers_are_finite(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with listening(quiet=False, as_json=True) as events:
        print("a task of the user's own")
        events._emit("verdict", place="\x1b[31m", families=[], lines=["é\n"], standings=[math.nan])
    print("after")
    out, err = capsys.readouterr()
    line, after = out.splitlines()
    assert "user's own" in err and after == "after"
    assert line.isascii() and "\x1b" not in line
    assert json.loads(line)["standings"] == [None]
