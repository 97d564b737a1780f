"""What came out of a run, as the terminal says it: who leads, and whether that is old."""

import json
import shutil
from pathlib import Path

import pytest

from lrtune.run.folder import Run
from tests.documents import changed
from tests.reports.conftest import make as searched
from tests.reports.test_finals_report import make

LEADS = {"winner": "winner", "tie": "first of the tie"}
LEADS |= {"none": "best trial of the search", "unfinished": "best trial of the search"}


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


@pytest.mark.parametrize("kind", LEADS)
def test_the_first_is_called_what_the_verdict_makes_it(lrtune, copy: Path, kind: str) -> None:
    judged(Run(copy), kind, 8)
    for words in (["show", copy], ["show", copy, "--total", 20]):
        code, out, err = lrtune(*words)
        if "--total" in words and kind in ("none", "unfinished"):
            assert code == 2 and "has no verdict yet" in err
            continue
        assert code == 0
        if "--total" in words:
            assert any(line.startswith(f"the {LEADS[kind]} so far") for line in out.splitlines())
            continue
        assert out.startswith("Use ")
        assert ("no: each trial ran once" in out) == (kind in ("none", "unfinished"))


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
    out = lrtune("show", copy)[1]
    heads = next(line for line in out.splitlines() if line.startswith("family"))
    assert "accuracy" in heads
    row = next(line for line in out.splitlines() if line.startswith("cosine")).split()
    best, median, accuracy = row[1], row[2], row[-2]
    assert all(len(figure.replace(".", "").lstrip("0")) == 3 for figure in (best, median, accuracy))
    curves = trials.loc[trials["family"] == "cosine", "val_accuracy"]
    assert float(accuracy) in [pytest.approx(curve[-1], abs=6e-4) for curve in curves]
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


def test_the_ranking_counts_in_whole_numbers(lrtune, copy: Path, monkeypatch) -> None:
    from lrtune.cli import result

    def many(trials, direction):
        return by_family(trials, direction).assign(trials=12345, median=float("nan"))

    by_family = result.by_family
    monkeypatch.setattr(result, "by_family", many)
    shown = lrtune("show", copy)[1]
    assert "12,345" in shown and "e+04" not in shown and "nan" not in shown
