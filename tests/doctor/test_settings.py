"""Scripts and configs are read, never run."""

from pathlib import Path

import pytest

from lrtune.doctor import Settings, examine
from lrtune.errors import InputError

LOOP = """
import torch
from torch.optim.lr_scheduler import {what}
raise SystemExit("a script is never run")
EPOCHS = 20
{make}
for epoch in range(EPOCHS):
    for batch in loader:
        optimizer.step()
{steps}
"""
PER_BATCH, PER_EPOCH = "        scheduler.step()", "    scheduler.step()"


def script(folder: Path, make: str, steps: str) -> Settings:
    path = folder / "train.py"
    path.write_text(LOOP.format(what=make.split("(")[0].split()[-1], make=make, steps=steps))
    found = examine(path)
    assert isinstance(found, Settings)
    return found


@pytest.mark.parametrize(
    ("make", "steps", "finding"),
    [
        ("scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS)", PER_BATCH, "wrong-unit"),
        ("scheduler = CosineAnnealingLR(optimizer, 20)", PER_BATCH, "wrong-unit"),
        (
            "scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))",
            PER_EPOCH,
            "wrong-unit",
        ),
        (
            "scheduler = OneCycleLR(optimizer, 0.1, epochs=EPOCHS, steps_per_epoch=len(loader))",
            PER_EPOCH,
            "wrong-unit",
        ),
        ("scheduler = CosineAnnealingLR(optimizer, T_max=10)", PER_EPOCH, "overshoot"),
        ("scheduler = PolynomialLR(optimizer, total_iters=80)", PER_EPOCH, "never-annealed"),
        ("scheduler = StepLR(optimizer, 30)", "", "never-stepped"),
        (
            "scheduler = get_linear_schedule_with_warmup(optimizer, 2000, 1000)",
            PER_BATCH,
            "warmup-unfinished",
        ),
        (
            "args = TrainingArguments('out', warmup_steps=500, max_steps=5 * 100)",
            "",
            "warmup-unfinished",
        ),
        (
            "args = TrainingArguments('out', lr_scheduler_type='constant', warmup_steps=50)",
            "",
            "warmup-ignored",
        ),
    ],
)
def test_a_script_with_a_mistake(make: str, steps: str, finding: str, tmp_path: Path) -> None:
    found = script(tmp_path, make, steps)
    assert [one.name for one in found.findings] == [finding]


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        ("scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS)", PER_EPOCH),
        ("scheduler = CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))", PER_BATCH),
        ("scheduler = OneCycleLR(optimizer, 0.1, total_steps=total)", PER_BATCH),
        ("scheduler = StepLR(optimizer, 30)", PER_EPOCH),
        ("scheduler = CosineAnnealingLR(optimizer, T_max=args.epochs)", PER_EPOCH),
        ("self.scheduler = CosineAnnealingLR(optimizer, T_max=100)", ""),
        ("fit(model, CosineAnnealingLR(optimizer, T_max=100))", ""),
        ("args = TrainingArguments('out', lr_scheduler_type='cosine', warmup_steps=50)", ""),
    ],
)
def test_a_script_without_one(make: str, steps: str, tmp_path: Path) -> None:
    assert script(tmp_path, make, steps).findings == ()


MAKE = "scheduler = CosineAnnealingLR(optimizer, T_max={})\n"
LOOPS = {
    "counted from one": MAKE.format(100)
    + """
for epoch in range(1, 101):
    scheduler.step()
""",
    "a range with a step": MAKE.format(100)
    + """
for epoch in range(0, 100, 1):
    scheduler.step()
""",
    "resumed at epoch 80": MAKE.format(20)
    + """
for epoch in range(80, 100):
    scheduler.step()
""",
    "stepped after the warmup": "EPOCHS = 100\nWARMUP = 5\n"
    + MAKE.format("EPOCHS - WARMUP")
    + """
for epoch in range(EPOCHS):
    if epoch >= WARMUP:
        scheduler.step()
""",
    "a scheduler for each fold": """
for fold in range(5):
    scheduler = CosineAnnealingLR(optimizer, T_max=5)
    for epoch in range(5):
        for batch in loader:
            optimizer.step()
        scheduler.step()
""",
    "a scheduler for each of the folds": """
for fold in folds:
    scheduler = CosineAnnealingLR(optimizer, T_max=5)
    for epoch in range(5):
        scheduler.step()
""",
    "one scheduler for all folds": MAKE.format(25)
    + """
for fold in range(5):
    for epoch in range(5):
        scheduler.step()
""",
    "two functions": """
def short():
    scheduler = CosineAnnealingLR(optimizer, T_max=10)
    for epoch in range(10):
        scheduler.step()
def long():
    scheduler = CosineAnnealingLR(optimizer, T_max=20)
    for epoch in range(20):
        scheduler.step()
""",
    "made here, stepped in a function": MAKE.format(20)
    + """
def train_some():
    for epoch in range(10):
        scheduler.step()
train_some(), train_some()
""",
    "two names": """
a = b = CosineAnnealingLR(optimizer, T_max=10)
for epoch in range(10):
    b.step()
""",
    "stepped at two places": MAKE.format(20)
    + """
for epoch in range(10):
    scheduler.step()
for epoch in range(10):
    scheduler.step()
""",
    "ended early": MAKE.format(50)
    + """
for epoch in range(100):
    scheduler.step()
    if epoch == 49:
        break
""",
}


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_a_loop_without_a_mistake(loop: str, tmp_path: Path) -> None:
    assert script(tmp_path, loop, "").findings == ()


@pytest.mark.parametrize(
    "loop",
    [
        "def f():\n    s = CosineAnnealingLR(o, 10)\n    for e in range(1, 101):\n        s.step()",
        "if True:\n    s = CosineAnnealingLR(o, 10)\n    try:\n        for e in range(0, 20):\n"
        "            with x:\n                s.step()\n    finally:\n        pass",
        "for fold in folds:\n    s = CosineAnnealingLR(o, 10)\n    for e in range(9, 5, -1):\n"
        "        s.step()",
    ],
)
def test_a_loop_that_is_too_long_or_too_short(loop: str, tmp_path: Path) -> None:
    (one,) = script(tmp_path, loop, "").findings
    assert one.name == ("never-annealed" if "fold" in loop else "overshoot")


def test_what_only_a_run_knows_is_said(tmp_path: Path) -> None:
    make = "scheduler = CosineAnnealingLR(optimizer, T_max=args.epochs)"
    assert script(tmp_path, make, PER_EPOCH).unknown == (
        "line 6: T_max of CosineAnnealingLR: known only when it runs",
    )


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("a.yaml", "lr_scheduler_type: cosine\nwarmup_steps: 500\nmax_steps: 400\n",
         ["warmup-unfinished"]),
        ("a.yaml", "train:\n  sched: cosine\n  epochs: 5\n  warmup_epochs: 5\n",
         ["warmup-unfinished"]),
        ("a.yaml", "warmup_steps: 500\na:\n  b:\n    max_steps: 100\n", ["warmup-unfinished"]),
        ("a.yaml", "max_steps: 900\na:\n  max_steps: 100\n  warmup_steps: 500\n",
         ["warmup-unfinished"]),
        ("a.yaml", "warmup_steps: 500\nmax_steps: 100\ndata:\n  epochs: 3\n",
         ["warmup-unfinished"]),
        ("a.yaml", "stage1:\n  max_steps: 100\nstage2:\n  warmup_steps: 500\n  epochs: 3\n", []),
        ("a.yaml", "warmup_steps: 500\nmax_steps: 9000\neval:\n  max_steps: 100\n", []),
        ("a.yaml", "sched: constant\nwarmup_steps: 500\n", []),
        ("a.yaml", "lr_scheduler:\n  scheduler: constant\n  warmup_steps: 500\n", []),
        ("a.yaml", "backbone:\n  lr: 0.0\nhead:\n  lr: 0.1\n", []),
        ("a.yaml", "backbone:\n  lr: 0.0\nhead:\n  lr: 0.0\n", ["zero-rate"]),
        ("a.json", '{"lr_scheduler_type": "constant", "warmup_ratio": 0.1}', ["warmup-ignored"]),
        ("a.toml", "learning_rate = 0.0\nmax_steps = 10", ["zero-rate"]),
        ("a.toml", "learning_rate = 0.1\nwarmup_ratio = 10", ["warmup-unfinished"]),
        ("a.yaml", "lr_scheduler_type: cosine\nwarmup_steps: 50\nmax_steps: 400\n", []),
        ("a.json", '{"learning_rate": 0.1, "num_train_epochs": 3, "warmup_ratio": 0.1}', []),
    ],
)  # fmt: skip
def test_a_config(name: str, content: str, names: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    found = examine(path)
    assert isinstance(found, Settings) and [one.name for one in found.findings] == names


def test_the_suffix_of_a_script_may_be_in_capitals(tmp_path: Path) -> None:
    path = tmp_path / "TRAIN.PY"
    path.write_text("s = StepLR(optimizer, 30)")
    found = examine(path)
    assert isinstance(found, Settings) and [one.name for one in found.findings] == ["never-stepped"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "def (", "is not Python"),
        ("a.py", "print(1)", "no scheduler that doctor knows"),
        ("a.yaml", "a: [1", "is not YAML"),
        ("a.toml", "a = ", "is not TOML"),
        ("a.yaml", "model: resnet", "says nothing of learning rates"),
        ("a.yaml", "!!python/object/apply:os.system [exit]", "is not YAML"),
        ("a.yaml", "[" * 9000, "is not YAML"),
        ("a.json", "[" * 99999, "is nested too deeply"),
    ],
)
def test_what_cannot_be_read(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        examine(path)
