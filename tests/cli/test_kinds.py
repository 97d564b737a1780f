"""Each kind of data, and a loss of one's own, through `lrtune search`, to the report."""

import html
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from lrtune.verdict.verdict import Verdict


def digit_images(folder: Path) -> Path:
    """A folder a class, 40 digits each, one of them cut short."""
    raw = load_digits()
    for label in range(3):
        (folder / str(label)).mkdir(parents=True)
        for i, pixels in enumerate(raw.images[raw.target == label][:40]):
            Image.fromarray((pixels * 15).astype(np.uint8)).save(
                folder / str(label) / f"{i:02}.png"
            )
    broken = folder / "1" / "07.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    return folder


def sales(path: Path) -> Path:
    draw = np.random.default_rng(0)
    size = draw.normal(100, 20, 120)
    frame = pd.DataFrame({"size": size, "town": draw.choice(["Ulm", "Trier"], 120)})
    frame["price"] = 3 * size + 50 * (frame["town"] == "Ulm") + draw.normal(0, 5, 120)
    frame.loc[3:7, "size"] = np.nan
    frame.to_csv(path, index=False)
    return path


def reviews(path: Path) -> Path:
    words = np.random.default_rng(0).choice(["good", "bad", "old", "new"], (120, 3))
    frame = pd.DataFrame({"review": [" ".join(row) for row in words]})
    frame["happy"] = np.where((words == "good").any(1), "yes", "no")
    frame.to_csv(path, index=False, sep=";")
    return path


def book(path: Path) -> Path:
    path.write_text("the cat sat on the mat and the dog sat on the log\n" * 60)
    return path


CASES = {
    "digits": (lambda folder: "digits", [], "scikit-learn load_digits", []),
    "streamed images": (
        lambda folder: digit_images(folder / "images"),
        ["--skip-bad", "--memory", "1KB", "--augment", "crop", "--batch-size", "20"],
        "images",
        ["streamed by", "1 of 120 images left out: cannot be read"],
    ),
    "table": (
        lambda folder: sales(folder / "sales.csv"),
        ["--target", "price", "--metric", "mae"],
        "sales.csv",
        ["size"],
    ),
    "text": (
        lambda folder: book(folder / "book.txt"),
        ["--context", "16", "--metric", "bits_per_character", "--ema", "0.2"],
        "book.txt, characters",
        ["ema 0.2"],
    ),
    "text in a table": (
        lambda folder: reviews(folder / "reviews.csv"),
        ["--text", "review", "--target", "happy", "--tokens", "byte"],
        "reviews.csv: review, bytes",
        ["columns are separated by semicolons"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_search_and_its_report(lrtune, case: str, tmp_path: Path) -> None:
    make, options, source, notes = CASES[case]
    words = ["search", make(tmp_path), *options, "--epochs", 1, "--trials", 2, "--budget", 8]
    words += ["--families", "cosine,constant", "--peak-lr", "0.001,0.01", "--out", tmp_path / "r"]
    code, _, err = lrtune(*words)
    assert (code, err) == (0, "")
    task = json.loads((tmp_path / "r" / "run.json").read_text())["task"]
    report = html.unescape((tmp_path / "r" / "report.html").read_text())
    record = re.sub(r"<[^>]+>", " ", report[report.index('id="record"') :])
    splits = [f"{task[name]:,}" for name in ("train", "val", "test")]
    for said in [source, task["fingerprint"], *splits, *notes]:
        assert said in record, said
    verdict = Verdict.read(tmp_path / "r" / "verdict.json")
    assert verdict.split == "test" and verdict.decided
    assert [row.seeds >= 2 for row in verdict.families] == [True, True]
    code, _, err = lrtune(*words, "--seed", 1)
    assert code == 2
    assert "seed=0, now seed=1" in err


# A loss of the user's own: the search is judged by it.
TASK = """
import torch
from lrtune import Metric, Split, Task

inputs = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
targets = inputs[:, :1] + inputs[:, 1:2] ** 2

class Weighted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(3.0))

    def forward(self, outputs, targets):
        return self.scale * (outputs - targets).abs().mean()

def make(**given):
    return Task(
        name="mine", train=Split(inputs[:200], targets[:200]),
        val=Split(inputs[200:300], targets[200:300]), test=Split(inputs[300:], targets[300:]),
        model=lambda: torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(),
                                          torch.nn.Linear(16, 1)),
        loss=Weighted(), batch_size=20, epochs=6, **given,
    )

def make_with_metric():
    return make(metrics=(Metric("squared", torch.nn.functional.mse_loss, "minimize"),))
"""


def test_the_search_is_judged_by_the_loss_unless_a_metric_is_given(lrtune, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TASK)
    words = ["--budget", 5, "--families", "cosine,linear", "--peak-lr", "0.001,0.3"]
    for function, objective in (("make", "loss"), ("make_with_metric", "squared")):
        folder = tmp_path / function
        code, _, err = lrtune("search", f"{tmp_path}/mine.py:{function}", *words, "--out", folder)
        assert code == 0, err
        run = json.loads((folder / "run.json").read_text())
        assert run["objective"]["name"] == objective and [*run["metrics"]] == [objective]
        trials = pd.read_parquet(folder / "trials.parquet")
        whole = trials[trials["state"] == "complete"]
        assert len(whole) > 0
        judged = whole[f"val_{objective}"].map(lambda curve: curve[-1])
        pd.testing.assert_series_equal(judged, whole["value"], check_names=False)
        losses = whole["loss"].map(lambda curve: curve[-1])
        assert (losses == whole["value"]).all() == (objective == "loss")
        assert "report.html" in {path.name for path in folder.iterdir()}
