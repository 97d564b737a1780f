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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.py", "def (", "is not Python"),
        ("a.py", "print(1)", "no scheduler that doctor knows"),
        ("a.yaml", "a: [1", "is not YAML"),
        ("a.toml", "a = ", "is not TOML"),
        ("a.yaml", "model: resnet", "says nothing of learning rates"),
        ("a.yaml", "!!python/object/apply:os.system [exit]", "is not YAML"),
    ],
)
def test_what_cannot_be_read(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        examine(path)
