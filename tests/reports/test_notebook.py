"""What a notebook shows of a run."""

import inspect
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import lrtune
from lrtune.reports.page import Verdict, summary
from lrtune.run.folder import Run
from lrtune.verdict.recommendation import of_verdict
from tests.documents import changed
from tests.reports.conftest import make as searched
from tests.reports.test_finals_report import KINDS, make

EVIL = "<script>alert(1)</script> <img src=x> \"q' &amp; مرحبا 🎉"
FINALS = {"gains", "finals_curves"}


def shown(verdict):
    return Verdict(**dict(verdict))


class Made(Run):
    """A run whose tables were made up."""

    def __init__(self, trials, settings, verdict=None, finals=None):
        self.folder, self.settings = Path("made"), settings
        self._tables = trials, None if verdict is None else shown(verdict), finals

    def trials(self):
        return self._tables[0]

    def verdict(self, total=None):
        return self._tables[1]

    def finals(self):
        return self._tables[2]


def test_the_figures_of_a_run_by_their_names(many, run: Path) -> None:
    drawn = {name for name, figure in Made(*make("winner", *many)).figures().items() if figure.data}
    assert drawn == {"rates", "curves", "against_peak", *FINALS}
    drawn = Made(*make("one family", *many)).figures()
    assert {name for name in FINALS if drawn[name].data} == {"finals_curves"}
    assert lrtune.open(run).figures(total=5).keys() == {"rates", "curves", "against_peak"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_shows_its_answer_and_its_families(many, kind: str) -> None:
    trials, settings, verdict, finals = make(kind, *many)
    run = Made(trials, settings, verdict, finals)
    page = run._repr_html_()
    assert of_verdict(verdict)[0].partition(" (")[0] in re.sub("<[^>]*>", "", page)
    names = re.findall(r"●</span> <bdi>(\w+)", page)
    families = set(KINDS[kind])
    assert set(names) == families if verdict.decided else set(names) >= families
    assert repr(run.verdict()).splitlines() == run.verdict().lines == of_verdict(verdict)


def test_text_of_others_is_shown_as_text(many) -> None:
    trials, settings, verdict, _ = make("lost", *many)
    settings = changed(settings, study=EVIL, task={"data": EVIL})
    for found in (None, verdict):
        page = summary(trials.assign(family=EVIL) if found is None else trials, settings, found)
        assert "<script" not in page and "<img" not in page and "&lt;" in page


def test_a_notebook_is_given_html_and_a_console_words(run: Path, tmp_path: Path) -> None:
    opened = lrtune.open(run)
    assert eval(repr(opened), {"lrtune": lrtune}).folder == run
    assert "no: each trial ran once, on one seed" in opened._repr_html_()
    bundle = opened.figures()["curves"]._repr_mimebundle_()
    assert isinstance(bundle, dict)


def confirmed(run: Path, parent: Path) -> Path:
    """A copy of a run that has a verdict."""
    folder, (_, _, verdict, _) = parent / "run", make("winner", *searched("many"))
    shutil.copytree(run, folder)
    first, *others = verdict.families
    rows, horizon = [changed(first, trial=0), *others], Run(run).settings.horizon
    changed(verdict, families=rows, horizon=horizon).write(folder / "verdict.json")
    return folder


def test_the_example_of_open_runs(run: Path, tmp_path: Path) -> None:
    folder = confirmed(run, tmp_path)
    example = inspect.getdoc(lrtune.open).split("::\n", 1)[1].split("\nArgs:")[0]
    source = textwrap.dedent(example).replace("runs/digits-mlp-sgd-862", str(folder))
    names: dict[str, Any] = {}
    exec(source, names)
    assert names["run"].folder == folder
    verdict = Verdict.read(folder / "verdict.json")
    assert names["run"].verdict().lines[0] == of_verdict(verdict)[0]
    assert isinstance(names["trials"], pd.DataFrame) and len(names["trials"]) == 8


def test_tensorboard_by_the_commands(lrtune, run: Path, tmp_path: Path, monkeypatch) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    code, out, err = lrtune("report", copy, "--tensorboard")
    assert (code, err) == (0, "") and f"tensorboard --logdir {copy / 'tensorboard'}" in out
    trials = Run(copy).trials()
    whole = set(trials[trials["state"] == "complete"]["family"])
    assert whole and {path.name for path in copy.glob("tensorboard/*/")} >= whole
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["search", "digits", "--trials", 1, "--out", tmp_path / "new", "--tensorboard"]
    for command in (words, ["report", copy, "--tensorboard"]):
        code, _, err = lrtune(*command)
        assert code == 2 and "pip install 'lrtune[tensorboard]'" in err
    assert not (tmp_path / "new").exists()
