"""What came out of a run, as the terminal says it: who leads, and whether that is old."""

import json
import shutil
from pathlib import Path

import pytest

from lrtune.run.folder import Run
from tests.documents import changed
from tests.reports.conftest import make as searched
from tests.reports.test_finals_report import make


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def judged(run: Run, kind: str, trials: int) -> None:
    """Give the run a verdict that was made when it had this many trials."""
    _, _, verdict, _ = make(kind, *searched("many"))
    first, *others = verdict.families
    own = {"horizon": run.settings.horizon, "trials": trials}
    verdict = changed(verdict, families=[changed(first, trial=0), *others], **own)
    verdict.write(run.verdict_path(verdict.horizon))


@pytest.mark.parametrize("kind", ["winner", "tie", "none", "unfinished"])
def test_what_is_sure_by_the_verdict(lrtune, copy: Path, kind: str) -> None:
    judged(Run(copy), kind, 8)
    code, out, err = lrtune("show", copy)
    assert code == 0 and out.startswith("Use ")
    assert ("no: each trial ran once" in out) == (kind in ("none", "unfinished"))
    code, _, err = lrtune("show", copy, "--total", 20)
    assert code == 2 and "has no verdict on 20 updates yet (there is one on 72)" in err
    assert f"lrtune confirm {copy} --total 20" in err


def test_without_a_verdict_nobody_has_won(lrtune, copy: Path) -> None:
    code, out, _ = lrtune("show", copy)
    use, gain, sure, valid, cost, use_it, *_ = out.splitlines()
    assert code == 0 and use.startswith("Use ")
    assert gain.startswith("Gain    not measured; validation cross-entropy ")
    assert sure == "Sure    no: each trial ran once, on one seed"
    assert valid.startswith("Valid   sgd, ") and cost.startswith("Cost    ")
    assert use_it == f"Use it  lrtune export {copy} --to torch"


def test_figures_have_three_digits_and_accuracy_is_beside_the_loss(lrtune, copy: Path) -> None:
    trials = Run(copy).trials()
    lines = lrtune("show", copy)[1].splitlines()
    heads = next(line for line in lines if line.startswith("family")).split()
    row = next(line for line in lines if line.startswith("● cosine")).split()[1:]
    shown = dict(zip(heads, row, strict=True))
    figures = (shown["best"], shown["median"], shown["accuracy"])
    assert all(len(figure.replace(".", "").lstrip("0")) == 3 for figure in figures)
    curves = trials.loc[trials["family"] == "cosine", "val_accuracy"]
    assert float(shown["accuracy"]) in [pytest.approx(curve[-1], abs=6e-4) for curve in curves]
    judged(Run(copy), "winner", 8)
    assert "accuracy" in lrtune("show", copy)[1].split("finals: ")[1]


def test_a_verdict_that_is_older_than_the_trials(lrtune, copy: Path) -> None:
    judged(Run(copy), "winner", 8)
    for words in (["show", copy], ["show", copy, "--total", 72]):
        assert "gone on since" not in lrtune(*words)[1]
    judged(Run(copy), "winner", 5)
    said = "The search has gone on since, by 3 trials: lrtune confirm takes in what is better."
    for words in (["show", copy], ["show", copy, "--total", 72]):
        assert said in lrtune(*words)[1].splitlines()
    assert json.loads(lrtune("show", copy, "--json")[1])["since"] == said
