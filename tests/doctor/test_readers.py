"""Files: what is read of them, and what is said of those that cannot be."""

import json
import math
from pathlib import Path
from typing import Any

import frameworks
import numpy as np
import pytest

from lrtune.doctor import examine
from lrtune.errors import InputError
from lrtune.schedule import Schedule


def pickled(folder: Path) -> Path:
    import torch

    path = folder / "whole.pt"
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    return path


def two_runs(folder: Path) -> Path:
    for name in ("a", "b"):
        frameworks.as_events(folder / name, [0.1] * 5)
    return folder


def raw(content: bytes):
    return lambda folder: (folder / "x.pt").write_bytes(content) and folder / "x.pt"


def saved(**state: Any):
    def write(folder: Path) -> Path:
        import torch

        torch.save(state, folder / "x.pt")
        return folder / "x.pt"

    return write


OURS = {"schedule": Schedule("cosine", peak_lr=0.1).to_dict(), "total": 9}


def text(name: str, content: str):
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


BAD = {
    "nothing there": (lambda folder: folder / "none.csv", "No such file"),
    "an empty file": (text("log.csv", ""), "is empty"),
    "an empty folder": (lambda folder: folder, "no trainer_state.json"),
    "no rates": (text("log.csv", "step,loss\n1,2\n"), "no column of learning rates"),
    "no rows": (text("log.csv", "step,lr\n"), "no column of learning rates"),
    "words": (text("log.csv", "step,lr\n1,fast\n"), "row 1: lr='fast'"),
    "cut JSON": (text("trainer_state.json", '{"log_history": [{"step": 1,'), "cut short?"),
    "cut JSON lines": (text("log.jsonl", '{"lr": 1}\n{"lr'), "line 2 is not JSON"),
    "a state without rates": (text("trainer_state.json", '{"log_history": []}'), "no column"),
    "a pickle": (pickled, "runs nobody's code"),
    "no checkpoint": (text("x.pt", "hello"), "refuses it"),
    "a pickle cut short": (raw(b"\x80\x02X"), "refuses it"),
    "a pickle of nothing": (raw(b"\x80\x02(."), "refuses it"),
    "endless steps": (saved(last_epoch=math.inf, _last_lr=[0.1]), "not a scheduler's state"),
    "updates below zero": (saved(**OURS, update=-3), "update=-3: expected 0"),
    "a number too large": (text("log.jsonl", f'{{"lr": {"9" * 400}}}'), "not a number"),
    "deep JSON lines": (text("log.jsonl", "[" * 99999), "nested too deeply"),
    "no events": (text("events.out.tfevents.1", "hello"), ""),
    "two runs": (two_runs, "holds 2 runs"),
    "two runs in a file": (
        text("log.csv", "step,lr\n0,1\n1,1\n2,1\n0,1\n1,1\n"),
        "two runs in one log",
    ),
    "bytes": (lambda f: (f / "x").write_bytes(b"\x00\x01\xff") and f / "x", "no log that is known"),
    "latin-1": (
        lambda f: (f / "x.csv").write_bytes(b"lr\n\xff\n") and f / "x.csv",
        "is not text",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_read(make, message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as error:
        examine(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_our_own_export_is_read_as_a_log(tmp_path: Path) -> None:
    from lrtune.export.table import as_json

    path = tmp_path / "rates.json"
    schedule = Schedule("cosine", peak_lr=0.1, warmup=0.1)
    path.write_text(as_json(schedule, 60))
    (case,) = examine(path)
    np.testing.assert_array_equal(case.log.rates, schedule.rates(60))


def test_a_log_with_its_settings_beside_it_is_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"epochs": 20, "lr": [1 - i / 20 for i in range(20)]}))
    (case,) = examine(path)
    assert len(case.log.rates) == 20


@pytest.mark.parametrize(
    "state",
    [
        {"T_max": 0, "eta_min": 0.0},
        {"step_size": 0, "gamma": 0.1},
        {"total_iters": 0, "power": 1.0},
    ],
)
def test_a_length_of_zero_is_no_warning(state, tmp_path: Path) -> None:
    (case,) = examine(saved(**state, last_epoch=9, _last_lr=[0.01], base_lrs=[0.1])(tmp_path))
    assert case.log.rates.tolist() == [0.01]


def test_an_endless_run_has_no_total(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    rows = ", ".join(f'{{"step": {i}, "learning_rate": 0.1}}' for i in range(1, 9))
    path.write_text(f'{{"max_steps": 1e400, "log_history": [{rows}]}}')
    (case,) = examine(path)
    assert case.log.total is None
