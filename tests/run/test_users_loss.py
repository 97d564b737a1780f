"""A loss of the user's own, from the task's function to the report: the search is judged by it."""

import json
from pathlib import Path

import pandas as pd

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
