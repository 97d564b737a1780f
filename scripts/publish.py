"""Publish verdicts: run the study files, keep what they found, rewrite the README's table.

    python scripts/publish.py --images CIFAR_FOLDER --text tinyshakespeare.txt

Each study file is searched and confirmed as a user would, but without what other tasks teach, some
of which are made of the same data, in a folder of its own under ``--runs``; a run that is there
goes on where it stopped. The verdicts go to ``studies/results/<task>.json``, and the wins-per-task
table between two marks in README.md.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from lrtune.results.compare import find_verdicts, markdown, table, wins
from lrtune.settings import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "studies" / "results"
MARKS = "<!-- wins per task: scripts/publish.py -->", "<!-- end -->"

# By the name of the result: the study file for two cores, and for a GPU.
STUDIES = {
    "digits-mlp": ("digits", "digits"),
    "digits-cnn": ("digits-cnn", "digits-cnn"),
    "breast-cancer": ("breast-cancer", "breast-cancer"),
    "diabetes": ("diabetes", "diabetes"),
    "cifar10": ("cifar10-two-cores", "cifar10"),
    "shakespeare": ("shakespeare-two-cores", "shakespeare"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help="CIFAR-10 as a folder of images")
    parser.add_argument("--text", help="tiny Shakespeare")
    parser.add_argument("--only", help=f"of {','.join(STUDIES)}; 'none' rewrites the tables alone")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "publish")
    parser.add_argument("--gpu", action="store_true", help="the study files for a GPU")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(STUDIES)
    if unknown := set(chosen) - STUDIES.keys() - {"none"}:
        parser.error(f"--only: {', '.join(sorted(unknown))}: some of {', '.join(STUDIES)}")
    for name in (name for name in STUDIES if name in chosen):
        given = {"cifar10": args.images, "shakespeare": args.text}.get(name)
        publish(name, STUDIES[name][args.gpu], args.runs / name, given)
    rewrite(ROOT / "README.md", readme_table())


def publish(name: str, study: str, run: Path, task: str | None) -> None:
    """Search and confirm one study file; keep its verdict."""
    words = ["search", f"studies/{study}.toml", "--no-transfer", "--out", str(run)]
    words += ["--task", task] if task else []
    subprocess.run([sys.executable, "-m", "lrtune", *words], cwd=ROOT, check=True)
    verdict = json.loads((run / "verdict.json").read_text())
    if task:  # where it lies here is nobody else's business
        verdict["task"]["data"] = name
    write_json(RESULTS / f"{name}.json", verdict)


def readme_table() -> str:
    there = [path for name in STUDIES if (path := RESULTS / f"{name}.json").exists()]
    found = table(find_verdicts(there))
    return markdown(found, wins(found))


def rewrite(readme: Path, text: str) -> None:
    """Put ``text`` between the marks."""
    first, last = MARKS
    before, _, rest = readme.read_text().partition(first)
    _, mark, after = rest.partition(last)
    if not mark:
        raise SystemExit(f"{readme.name}: has not the marks {first} and {last}")
    readme.write_text(f"{before}{first}\n{text.strip()}\n{last}{after}")


if __name__ == "__main__":
    main()
