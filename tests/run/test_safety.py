"""What a run keeps to itself, and what commands that only look leave as it is."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from optuna.storages import RDBStorage

from lrtune import InputError
from lrtune.search import load_study, open_study
from lrtune.search.study import open_storage

WORDS = "search digits --epochs 1 --batch-size 64 --families constant --peak-lr 0.01,0.1"


def test_a_password_is_in_no_file(lrtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite asks for none; what is kept of a URL is the same for any database."""
    place = f"sqlite:///{tmp_path}/study.db"
    url = f"{place}?password=secret"
    words = ["--no-confirm", "--storage", url, "--out", tmp_path / "run", "--trials"]
    asked = set[str]()
    monkeypatch.setattr(
        "lrtune.search.database.RDBStorage", lambda whole: (asked.add(whole), RDBStorage(place))[1]
    )
    told = [lrtune(WORDS, *words, trials) for trials in (2, 3)]
    told += [lrtune(command, tmp_path / "run") for command in ("report", "show --json")]
    assert [code for code, _, _ in told] == [0, 0, 0, 0] and asked == {url}
    files = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 3 and not any(b"secret" in content for content in files)
    assert "secret" not in str(told)


def test_the_environment_has_the_whole_url(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, kept = "nosuch://me:secret@host/db", "nosuch://me@host/db"
    with pytest.raises(InputError, match=f"{kept}: .*keeps no password: set LRTUNE_STORAGE to the"):
        load_study(kept, "s")
    asked: list[str] = []
    monkeypatch.setattr("lrtune.search.study.open_database", asked.append)
    for told in (whole, "nosuch://me:secret@elsewhere/db"):
        monkeypatch.setenv("LRTUNE_STORAGE", told)
        open_storage(kept)
    assert asked == [whole, kept]


@pytest.mark.parametrize("url", ["sqlite://host:1/db?user=me&passwd=secret", "redis://me:secret"])
def test_an_error_that_quotes_a_part_of_the_url_tells_no_secret(url: str) -> None:
    with pytest.raises(
        InputError, match=r"storage \w+://\S+: (Invalid SQLite|not a database)"
    ) as told:
        open_study(url, "s", "minimize")
    assert "secret" not in str(told.value)


def with_a_bad_byte(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:3], lines[3].replace(b'"', b"\xff", 1), *lines[4:]])


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a byte": (with_a_bad_byte, "line 4 is damaged, and nothing was changed: bring the file back"),
    "the end": (lambda content: content[:-20], ""),
    "trials": (lambda content: content.splitlines(keepends=True)[0], "has 8 trials, and the study"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_commands_that_look_leave_a_damaged_journal_as_it_is(
    lrtune, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr("lrtune.reports.dashboard._Server.serve_forever", lambda _: None)
    monkeypatch.setattr("lrtune.reports.dashboard.signal.signal", lambda *_: None)
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    make, message = DAMAGES[damage]
    (folder / "journal.log").write_bytes(make((folder / "journal.log").read_bytes()))
    names = ("journal.log", "trials.parquet", "best.json", "run.json")
    before = {name: (folder / name).read_bytes() for name in names}
    code, _, said = lrtune("report", folder)
    assert (code, message in said) == (2 if message else 0, True)
    for command in ("show", "export", "dashboard"):
        assert lrtune(command, folder)[0] in (0, 2)
    after = {name: (folder / name).read_bytes() for name in names}
    assert [name for name in names if after[name] != before[name]] == []
    assert not list(folder.glob("*.damaged*"))


def test_commands_that_look_make_no_database(lrtune, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    text = (folder / "run.json").read_text()
    database = tmp_path / "gone.db"
    assert '"storage": null' in text
    text = text.replace('"storage": null', f'"storage": "sqlite:///{database}"', 1)
    (folder / "run.json").write_text(text)
    for command in ("show", "report", "dashboard"):
        code, _, said = lrtune(command, folder)
        assert code == 2 and "has no study" in said
    assert not database.exists()


@pytest.mark.parametrize("name", ["journal.log", "finals.jsonl", "verdict.json"])
def test_a_pipe_in_a_runs_folder_holds_up_nobody(lrtune, run: Path, tmp_path: Path, name: str):
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for words in ("show", "report", f"{WORDS} --out"):
        code, _, said = lrtune(words, folder)
        assert code == 2 and f"{name}: a pipe or a device" in said


def test_what_cannot_be_replaced_is_named(lrtune, run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "copy"))
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    code, _, said = lrtune("report", folder)
    assert code == 1 and f"{folder}/report.html: Is a directory" in said


def test_nothing_is_written_after_a_torn_line(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    study = open_study(journal, "s", "minimize")
    study.ask()
    torn = journal.read_bytes()[:-5]
    journal.write_bytes(torn)
    with pytest.raises(InputError, match="ends within a line: the next lrtune search mends it"):
        study.ask()
    assert journal.read_bytes() == torn


def test_a_report_is_written_beside_a_search(lrtune, run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    with FileLock(folder / "lock"):
        assert lrtune("report", folder)[0] == 0


@pytest.mark.parametrize("code", ["{there}/evil.py:make", "{run}/evil.py:make", "os:abort"])
def test_code_of_others_is_run_only_if_it_is_trusted(
    lrtune, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(run, "copy"))
    there = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    for place in (there, folder, tmp_path):
        place.mkdir(exist_ok=True)
        (place / "evil.py").write_text("def make():\n    raise SystemExit('it ran')\n")
    task = code.format(there=there, run=folder)
    text = (folder / "run.json").read_text()
    settings = {**json.loads(text), "asked": {"task": task}}
    (folder / "run.json").write_text(json.dumps(settings))
    code, _, said = lrtune("confirm", folder, "--quiet")
    assert code == 2 and "is code from outside of this folder: read it, and add --trust" in said
    if "evil" in task:
        assert "it ran" in lrtune("confirm", folder, "--quiet", "--trust")[2]
    settings["asked"]["task"] = "evil.py:make"  # of the project
    (folder / "run.json").write_text(json.dumps(settings))
    assert "it ran" in lrtune("confirm", folder, "--quiet")[2]


MOVES = """
import os
from dataclasses import replace
import lrtune

def make():
    {early}
    task = lrtune.load_task("digits", batch_size=32, epochs=0.2)
    def loss(outputs, targets):
        {late}
        return task.loss(outputs, targets)
    return replace(task, loss=loss)
"""


@pytest.mark.parametrize("removed", [False, True])
@pytest.mark.parametrize("when", ["early", "late"])
def test_a_task_that_changes_the_working_folder_moves_no_file_of_the_run(
    lrtune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, removed: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    moves = f"os.makedirs({str(elsewhere)!r}, exist_ok=True); os.chdir({str(elsewhere)!r})"
    if removed:
        moves += f"; os.rmdir({str(elsewhere)!r})"
    (tmp_path / "moves.py").write_text(MOVES.format(**{"early": "", "late": "", when: moves}))
    monkeypatch.chdir(tmp_path)
    words = "search moves.py:make --trials 2 --engine serial --families cosine --no-transfer"
    code, shown, _ = lrtune(f"{words} --peak-lr 0.01,0.1 --no-confirm --out run")
    assert code == 0 and f"report: {tmp_path}/run/report.html" in shown
    assert (tmp_path / "run" / "best.json").exists() and not list(elsewhere.glob("*"))
