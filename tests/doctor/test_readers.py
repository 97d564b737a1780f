"""Files: what is read of them, and what is said of those that cannot be."""

import json
import math
import re
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


def raw(content: bytes, name: str = "x.pt"):
    return lambda folder: (folder / name).write_bytes(content) and folder / name


def large(name: str, size: int):
    def write(folder: Path) -> Path:
        with (folder / name).open("wb") as file:
            file.truncate(size)  # takes no room on the disk
        return folder / name

    return write


def saved(**state: Any):
    def write(folder: Path) -> Path:
        import torch

        torch.save(state, folder / "x.pt")
        return folder / "x.pt"

    return write


def text(name: str, content: str):
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


BAD = {
    "nothing there": (lambda folder: folder / "none.csv", "No such file"),
    "an empty file": (text("log.csv", ""), "is empty"),
    "an empty folder": (lambda folder: folder, "trainer_state.json, metrics.csv"),
    "no rates": (text("log.csv", "step,loss\n1,2\n"), "no column of learning rates"),
    "no rows": (text("log.csv", "step,lr\n"), "no column of learning rates"),
    "words": (
        text("log.csv", "step,lr\n1,fast\n"),
        "lr: could not convert string to float: 'fast'",
    ),
    "cut JSON": (text("trainer_state.json", '{"log_history": [{"step": 1,'), "cut short?"),
    "one line, cut": (text("log.jsonl", '{"lr": 1, "st'), "line 1 is not JSON"),
    "a line cut within": (text("log.jsonl", '{"lr": 1}\n{"lr\n{"lr": 1}'), "line 2 is not JSON"),
    "a list at the end": (text("log.jsonl", '{"lr": 1}\n[1]'), "line 2: expected an object"),
    "bytes in a line": (raw(b'{"lr": 1}\n\xff\n', "log.jsonl"), "line 2 is not JSON"),
    "much JSON": (large("log.json", 2**30), "at most 268,435,456 bytes are read: thin the log"),
    "a script": (text("train.py", "import torch\n"), "expected a log"),
    "a state without rates": (text("trainer_state.json", '{"log_history": []}'), "no column"),
    "a pickle": (pickled, "runs nobody's code"),
    "no checkpoint": (text("x.pt", "hello"), "refuses it"),
    "a pickle cut short": (raw(b"\x80\x02X"), "refuses it"),
    "a pickle of nothing": (raw(b"\x80\x02(."), "refuses it"),
    "no epoch": (saved(_last_lr=[0.1]), "not a scheduler's state"),
    "no list of rates": (saved(last_epoch=3, _last_lr=0.1), "_last_lr=0.1: expected a list"),
    "a number too large": (text("log.jsonl", f'{{"lr": {"9" * 400}}}'), "too large"),
    "deep JSON lines": (text("log.jsonl", "[" * 99999), "recursion"),
    "no events": (text("events.out.tfevents.1", "hello"), ""),
    "two runs in a file": (
        text("log.csv", "step,lr\n0,1\n1,1\n2,1\n0,1\n1,1\n"),
        "two runs in one log",
    ),
    "bytes": (lambda f: (f / "x").write_bytes(b"\x00\x01\xff") and f / "x", "expected a log"),
    "latin-1": (
        lambda f: (f / "x.csv").write_bytes(b"lr\n\xff\n") and f / "x.csv",
        "cannot be read: 'utf-8' codec",
    ),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_read(make, message: str, tmp_path: Path) -> None:
    path = make(tmp_path)
    with pytest.raises(InputError) as error:
        examine(path)
    assert message in str(error.value) and str(path) in str(error.value)


def test_tensorboard_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frameworks.as_events(tmp_path, [0.1] * 5)
    monkeypatch.setattr("lrtune.doctor.readers.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^tensorboard: .*pip install 'lrtune\[tensorboard\]'$"):
        examine(tmp_path)


@pytest.mark.parametrize("last", ['{"step": 9, "l', '{"step": 9, "lr": 0.', '{"name": "caf\xc3'])
def test_a_last_line_that_was_cut_is_left_out(last: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [json.dumps({"step": step, "lr": 1 - step / 9}) for step in range(9)]
    path.write_bytes("\n".join([*lines, last]).encode("latin-1"))
    (diagnosis,) = examine(path)
    assert len(diagnosis.log.rates) == 9
    assert diagnosis.log.notes == ("line 10, the last, was cut short and is left out",)


def test_columns_with_a_rate_that_is_no_number_are_two(tmp_path: Path) -> None:
    for bad in (math.nan, math.inf):
        path = tmp_path / f"{bad}.csv"
        rates = [(1 - i / 50, 0.1 if i < 25 else 0.01) for i in range(50)]
        rates[7] = (bad, bad)
        rows = "\n".join(f"{i},{a},{b},{a / 2}" for i, (a, b) in enumerate(rates))
        path.write_text(f"step,lr-a,lr-b,lr-c\n{rows}\n")
        first, second = examine(path)
        assert first.log.notes == ("lr-c is the same × 0.5",) and second.log.name == "lr-b"


def one_cycles(*settings: dict[str, float]) -> tuple[list[Any], list[Any]]:
    """Optimizers and schedulers of a GAN, after 20 updates."""
    from torch.optim.lr_scheduler import OneCycleLR

    optimizers = [frameworks.optimizer_of(1.0) for _ in settings]
    pairs = zip(optimizers, settings, strict=True)
    schedulers = [OneCycleLR(one, total_steps=60, **more) for one, more in pairs]
    for _ in range(20):
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()
    return [one.state_dict() for one in optimizers], [one.state_dict() for one in schedulers]


SMALL, LARGE = {"max_lr": 0.1, "pct_start": 0.2}, {"max_lr": 0.4, "pct_start": 0.5}
ALIKE = {"max_lr": 0.4, "pct_start": 0.5, "div_factor": 100.0}  # begins where SMALL does
SPARE = frameworks.optimizer_of(1.0).state_dict()
KEPT = {
    "in order": (LARGE, lambda o, s: {"optimizer_states": o, "lr_schedulers": s}),
    "in order, from one rate": (ALIKE, lambda o, s: {"optimizers": o, "lr_schedulers": s}),
    "crossed": (LARGE, lambda o, s: {"o": o[::-1], "lr_schedulers": s}),
    "one more optimizer": (LARGE, lambda o, s: {"o": [SPARE, *o], "lr_schedulers": s}),
}


@pytest.mark.parametrize(("other", "keep"), KEPT.values(), ids=KEPT)
def test_each_scheduler_has_its_own_optimizer(other, keep, tmp_path: Path) -> None:
    from torch.optim.lr_scheduler import OneCycleLR

    diagnoses = examine(saved(**keep(*one_cycles(SMALL, other)))(tmp_path))
    assert len(diagnoses) == 2
    for diagnosis, more in zip(diagnoses, (SMALL, other), strict=True):
        used = frameworks.used(lambda o, m=more: OneCycleLR(o, total_steps=60, **m), 20)
        np.testing.assert_allclose(diagnosis.log.rates, used, rtol=1e-6)


def test_a_scheduler_without_its_optimizer_tells_its_last_rate(tmp_path: Path) -> None:
    _, (first, second) = one_cycles(SMALL, LARGE)
    data = {"optimizer": SPARE, "a": first, "b": second}
    for diagnosis in examine(saved(**data)(tmp_path)):
        assert "keeps no more than its last rate" in diagnosis.log.notes[0]


def test_our_own_export_is_read_as_a_log(tmp_path: Path) -> None:
    from lrtune.export import export

    path = tmp_path / "rates.json"
    schedule = Schedule("cosine", peak_lr=0.1, warmup=0.1)
    path.write_text(export(schedule, to="json", total=60))
    (diagnosis,) = examine(path)
    np.testing.assert_array_equal(diagnosis.log.rates, schedule.rates(60))


def test_a_log_with_its_settings_beside_it_is_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"epochs": 20, "lr": [1 - i / 20 for i in range(20)]}))
    (diagnosis,) = examine(path)
    assert len(diagnosis.log.rates) == 20


# States of torch's schedulers with one value that torch would not have saved.
BAD_VALUES = {
    "T_0": {"T_0": 0, "T_mult": 1, "eta_min": 0.0},
    "T_mult": {"T_0": 5, "T_mult": 0, "eta_min": 0.0},
    "T_max": {"T_max": 0, "eta_min": 0.0},
    "eta_min": {"T_max": 9, "eta_min": "low"},
    "step_size": {"step_size": 0, "gamma": 0.1},
    "gamma": {"step_size": 5, "gamma": math.nan},
    "total_iters": {"total_iters": -1, "power": 1.0},
    "start_factor": {"start_factor": 0, "end_factor": 1.0, "total_iters": 5},
    "end_factor": {"start_factor": 0.1, "end_factor": 2.0, "total_iters": 5},
    "factor": {"factor": -1.0, "total_iters": 5},
    "total_size": {"max_lrs": [0.1], "total_size": 0, "step_ratio": 0.5, "mode": "triangular",
                   "gamma": 1.0},
    "last_epoch": {"T_max": 9, "eta_min": 0.0, "last_epoch": math.inf},
    "base_lrs": {"T_max": 9, "eta_min": 0.0, "base_lrs": [-0.1]},
}  # fmt: skip


@pytest.mark.parametrize("key", BAD_VALUES)
def test_a_bad_value_in_a_checkpoint_is_named(key: str, tmp_path: Path) -> None:
    state = {"last_epoch": 9, "_last_lr": [0.01], "base_lrs": [0.1], **BAD_VALUES[key]}
    value = state[key][0] if key == "base_lrs" else state[key]
    with pytest.raises(InputError, match=re.escape(f"x.pt: lr_scheduler: {key}={value!r}: ")):
        examine(saved(lr_scheduler=state)(tmp_path))


def test_an_endless_run_has_no_total(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    rows = ", ".join(f'{{"step": {i}, "learning_rate": 0.1}}' for i in range(1, 9))
    path.write_text(f'{{"max_steps": 1e400, "log_history": [{rows}]}}')
    (diagnosis,) = examine(path)
    assert diagnosis.log.total is None
