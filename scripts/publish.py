"""Publish answers: search many tasks with the default budget, keep what was found, write the table.

    python scripts/publish.py --images CIFAR_FOLDER --text tinyshakespeare.txt

The tasks are some of those whose trainings are recorded (``scripts/bench/recorded_tasks.py``):
tables, images and texts that two cores can train. Nothing is learnt from the recorded trainings
(``transfer=nothing()``), which were made on the same tasks. A run that is there goes on where it
stopped. The verdicts go to ``studies/results/<task>.json``, and the table to ``studies/README.md``,
between two marks.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd

import lrtune
from lrtune.model.transfer import nothing
from lrtune.reports.compare import find_verdicts, table, wins
from lrtune.verdict.recommendation import amount_of, range_of
from lrtune.verdict.verdict import Gain, Verdict

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

from recorded_tasks import TASKS  # noqa: E402


class Published(Verdict):
    """A verdict, and what it cost."""

    seconds: float
    searched: float  # updates


RESULTS, PAGE = ROOT / "studies" / "results", ROOT / "studies" / "README.md"
MARKS = "<!-- answers: scripts/publish.py -->", "<!-- end -->"
CHOSEN = (
    "digits-mlp-sgd",
    "digits-cnn-adamw",
    "digits-resnet-nesterov",
    "breast-cancer-mlp-sgd",
    "diabetes-mlp-adamw",
    "wine-mlp-adam",
    "affairs-mlp-adagrad",
    "visits-mlp-adamw",
    "friedman-mlp-nesterov",
    "clusters-mlp-adamw",
    "patches-mlp-adam",
    "cifar10-mlp-adamw",
    "cifar10-cnn-sgd",
    "shakespeare-grams-sgd",
    "shakespeare-grams-adamw",
    "shakespeare-transformer-adamw",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", help="tiny Shakespeare")
    parser.add_argument("--only", help=f"of {','.join(CHOSEN)}; 'none' rewrites the page alone")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "publish")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(CHOSEN)
    if unknown := set(chosen) - {*CHOSEN, "none"}:
        parser.error(f"--only: {', '.join(sorted(unknown))}: some of {', '.join(CHOSEN)}")
    for name in (name for name in CHOSEN if name in chosen):
        publish(name, args)
    rewrite(PAGE, answers())


class Printing(lrtune.Listener):
    """Prints what is being done."""

    def tell(self, line: str) -> None:
        print(line)


def publish(name: str, args: argparse.Namespace) -> None:
    """Search and confirm one task; keep its verdict."""
    task = TASKS[name].make(args)
    run = lrtune.tune(task, out=args.runs / name, transfer=nothing(), listener=Printing())
    verdict = run.verdict()
    assert verdict is not None
    # Where the data lies here is nobody's business.
    kept = dict(verdict) | {"task": verdict.task.model_copy(update={"data": name, "name": name})}
    cost = {
        "seconds": run.settings.elapsed,
        "searched": float(run.trials()["updates"].sum()),
    }
    Published(**kept, **cost).write(RESULTS / f"{name}.json")


def answers() -> str:
    """The answers, a line per task; then what each family came to."""
    there = [RESULTS / f"{name}.json" for name in CHOSEN if (RESULTS / f"{name}.json").exists()]
    rows = pd.DataFrame([answer(path) for path in there])
    told = wins(table(find_verdicts(there)))[["family", "tasks", "wins", "ties", "losses"]]
    counted = [
        f"{column}: yes on {sum('**' in cell for cell in rows[column])} of "
        f"{sum(cell != '–' for cell in rows[column])}"
        for column in ("better than a tuned constant by", "than a tuned cosine by")
    ]
    return "\n\n".join((markdown(rows), f"{'; '.join(counted)}.", markdown(told.round(2))))


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""
    lines = [list(table), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def answer(path: Path) -> dict[str, str]:
    """A line of the table; what is shown, not chance, is bold."""
    verdict = Published.read(path)
    found = verdict.answer
    gains = {gain.over: gain for gain in found.gains}
    others = [name for name in found.families if name != found.recommended]
    trainings = (verdict.searched + verdict.trained) / verdict.horizon
    return {
        "task": path.stem,
        "metric": verdict.objective.name,
        "updates": f"{verdict.horizon:,}",
        "use": found.recommended or "–",
        "better than a tuned constant by": shown(verdict, gains.get("constant")),
        "than a tuned cosine by": shown(verdict, gains.get("cosine")),
        "as good": ", ".join(others) or "–",
        "trainings": f"{trainings:.0f}",
    }


def shown(verdict: Verdict, gain: Gain | None) -> str:
    if gain is None:
        return "–"
    metric = verdict.objective
    said = f"{amount_of(metric, gain.gain)} ({range_of(metric, gain.low, gain.high)})"
    return f"**{said}**" if gain.sure else said


def rewrite(page: Path, text: str) -> None:
    """Put ``text`` between the marks."""
    first, last = MARKS
    before, _, rest = page.read_text().partition(first)
    _, mark, after = rest.partition(last)
    if not mark:
        raise SystemExit(f"{page.name}: has not the marks {first} and {last}")
    page.write_text(f"{before}{first}\n{text.strip()}\n{last}{after}")


if __name__ == "__main__":
    main()
