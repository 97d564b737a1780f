"""Files: what is read of them, and what is said of those that cannot be."""

import json
import sys

import numpy as np
import pytest
import torch

from lrtune.doctor import examine
from lrtune.doctor.log import TENSORBOARD
from lrtune.errors import InputError
from tests.doctor.runs import as_events


def raw(content, name="x.pt"):
    return lambda folder: ((folder / name).write_bytes(content), folder / name)[1]


def large(name, size):
    def write(folder):
        with (folder / name).open("wb") as file:
            file.truncate(size)  # takes no room on the disk
        return folder / name

    return write


def saved(**state):
    def write(folder):
        torch.save(state, folder / "x.pt")
        return folder / "x.pt"

    return write


def text(name, content):
    return lambda folder: ((folder / name).write_text(content), folder / name)[1]


BAD = {
    "nothing there": (lambda folder: folder / "none.csv", "No such file"),
    "an empty file": (text("log.csv", ""), "is empty"),
    "an empty folder": (lambda folder: folder, "trainer_state.json, metrics.csv"),
    "no rates": (text("log.csv", "step,loss\n1,2\n"), "no column of learning rates"),
    "no rows": (text("log.csv", "step,lr\n"), "no column of learning rates"),
    "words": (text("log.csv", "step,lr\n1,fast\n"), "lr: could not convert string to float: 'fa"),
    "cut JSON": (text("trainer_state.json", '{"log_history": [{"step": 1,'), "cut short?"),
    "a line that is cut": (text("log.jsonl", '{"lr": 1}\n{"lr": 1, "st'), "cut short?"),
    "much JSON": (large("log.json", 2**30), "at most 268,435,456 bytes are read: thin the log"),
    "a script": (text("train.py", "import torch\n"), "expected a log"),
    "a state without rates": (text("trainer_state.json", '{"log_history": []}'), "no column"),
    "a pickle": (saved(model=torch.nn.Linear(1, 1)), "runs nobody's code"),
    "no checkpoint": (text("x.pt", "hello"), "refuses it"),
    "a pickle cut short": (raw(b"\x80\x02X"), "refuses it"),
    "a pickle of nothing": (raw(b"\x80\x02(."), "refuses it"),
    "no epoch": (saved(_last_lr=[0.1]), "not a scheduler's state"),
    "no list of rates": (saved(last_epoch=3, _last_lr=0.1), "not a scheduler's state"),
    "a number too large": (text("log.jsonl", f'{{"lr": {"9" * 400}}}'), "too large"),
    "deep JSON lines": (text("log.jsonl", "[" * 99999), "recursion"),
    "no events": (text("events.out.tfevents.1", "hello"), ""),
    "two runs in a file": (text("log.csv", "step,lr\n0,1\n1,1\n2,1\n0,1\n"), "two runs in one log"),
    "bytes": (raw(b"\x00\x01\xff", "x"), "expected a log"),
    "latin-1": (raw(b"lr\n\xff\n", "x.csv"), "cannot be read: 'utf-8' codec"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_read(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(InputError) as error:
        examine(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_tensorboard_is_missing(tmp_path, monkeypatch):
    as_events(tmp_path, [0.1] * 5)
    monkeypatch.setitem(sys.modules, TENSORBOARD, None)
    with pytest.raises(InputError, match=r"^tensorboard is .*pip install 'lrtune\[tensorboard\]'$"):
        examine(tmp_path)


def test_a_row_per_line_and_an_endless_run_without_a_total(tmp_path):
    rows = [json.dumps({"step": i, "learning_rate": 1 - i / 9}) for i in range(9)]
    (diagnosis,) = examine(text("log.jsonl", "\n".join(rows))(tmp_path))
    np.testing.assert_allclose(diagnosis.log.rates, 1 - np.arange(9) / 9)
    endless = f'{{"max_steps": 1e400, "log_history": [{", ".join(rows)}]}}'
    (diagnosis,) = examine(text("trainer_state.json", endless)(tmp_path))
    assert diagnosis.log.total is None


# States of torch's schedulers with one value that torch would not have saved.
BAD_STATES = {
    "T_0": {"T_0": 0, "T_mult": 1, "eta_min": 0.0},
    "T_mult": {"T_0": 5, "T_mult": 0, "eta_min": 0.0},
    "ZeroDivisionError": {"T_max": 0, "eta_min": 0.0},
    "-1": {"T_max": 9, "eta_min": 0.0, "last_epoch": -1},
}


@pytest.mark.parametrize(("cause", "state"), BAD_STATES.items(), ids=BAD_STATES)
def test_a_bad_value_in_a_checkpoint_is_told(cause, state, tmp_path):
    whole = {"last_epoch": 9, "_last_lr": [0.01], "base_lrs": [0.1], **state}
    with pytest.raises(InputError, match=rf"x.pt: lr_scheduler: .*{cause}"):
        examine(saved(lr_scheduler=whole)(tmp_path))
