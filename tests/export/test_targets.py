"""What the targets say: where there is no way, in what unit, and that no framework is needed."""

import argparse
import ast
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lrtune.engine.optimizers import settings_of
from lrtune.errors import InputError
from lrtune.export import EXPORTERS, TABLES, FoundOptimizer, export
from lrtune.export.source import ExportContext
from lrtune.export.timm import timm_cli
from lrtune.schedule import Schedule
from tests.export.conftest import SCHEDULES
from tests.export.frameworks import TOTAL, parameter, run

ROOT = Path(__file__).parents[2]
SOURCES = [target for target in EXPORTERS if target not in TABLES]
ADAMW = FoundOptimizer("adamw", settings_of("adamw", {}), "decay_matrices")


@pytest.mark.parametrize("target", SOURCES)
@pytest.mark.parametrize("family", ["cosine", "plateau"])
@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_source_says_how_it_is_used_and_what_it_needs(target, family, warmup):
    schedule = Schedule(family, 0.5, warmup)
    source = export(schedule, to=target, total=1234)
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring.startswith(f"{family}: ") and "1234 updates" in docstring.replace(
        "update of the optimizer, 1234 in all", "1234 updates"
    )
    assert schedule.to_json() in docstring and "pip install" in docstring
    code = source.replace(docstring, "")
    assert "lrtune." not in code and max(map(len, code.splitlines())) <= 110


def test_the_source_is_formatted_and_its_imports_are_sorted_and_used(tmp_path):
    """But for tables, which are one line."""
    for target in SOURCES:
        for place, schedule in enumerate(SCHEDULES):
            if (target, schedule.family) == ("optax", "greedy"):
                continue
            source = export(schedule, to=target, total=TOTAL, optimizer=ADAMW)
            if "ratios = [" not in source and "table = " not in source:
                (tmp_path / f"{target}_{place}.py").write_text(source)
    for command in (["format", "--line-length=100", "--diff"], ["check", "--select=F,I"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", str(tmp_path)]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[:4000]


def test_no_framework_is_needed_to_write_for_it():
    frameworks = ["torch", "lightning", "transformers", "timm", "keras", "jax", "optax"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({frameworks}))\n"
        "from lrtune.export import EXPORTERS, export\n"
        "from lrtune.schedule import Schedule\n"
        "for to in EXPORTERS: print(len(export(Schedule('rex', 0.1), to=to, total=10)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) == len(EXPORTERS)


@pytest.mark.parametrize(
    ("target", "family", "total", "message"),
    [
        ("optax", "greedy", 10, "optax cannot hold greedy: .* --replay"),
        ("csv", "plateau", 10, "a table cannot hold plateau: .* --replay"),
        ("json", "greedy", 10, "a table cannot hold greedy: .* --replay"),
        ("kears", "cosine", 10, "'kears' is unknown: did you mean 'keras'"),
        *((target, "cosine", 0, "total=0") for target in EXPORTERS),
    ],
)
def test_what_cannot_be_is_refused(target, family, total, message):
    with pytest.raises(InputError, match=message):
        export(Schedule(family, 0.1), to=target, total=total)


def test_huggingface_is_native_only_where_the_rise_is_the_same():
    for start, native in ((0.1, True), (0.01, False)):
        made = run(Schedule("wsd", 0.5, 0.1, start, {"end_factor": 0.1}), "huggingface")
        assert hasattr(made, "ARGUMENTS") == native


def test_the_guides_table_is_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "native.py"))
    text = script["PAGE"].read_text()
    assert script["rewritten"](text) == text, "run scripts/native.py"


EPOCHS = [s for s in SCHEDULES if not s.closed_loop and timm_cli(ExportContext(s, TOTAL))]


def test_train_py_has_the_families_that_timm_has():
    names = {"constant", "step", "multistep", "exponential", "linear", "polynomial", "cosine"}
    assert {schedule.family for schedule in EPOCHS} == {*names, "wsd"}


@pytest.mark.parametrize("schedule", EPOCHS, ids=lambda s: f"{s.family}-{s.warmup}")
def test_the_arguments_of_timms_train_py_give_the_rates_by_epoch(schedule):
    from timm.scheduler import create_scheduler

    parser = argparse.ArgumentParser()  # as train.py has them
    for name in ("lr", "warmup-lr", "min-lr", "decay-rate", "decay-epochs"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("epochs", "warmup-epochs"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--decay-milestones", type=int, nargs="+")
    parser.add_argument("--warmup-prefix", action="store_true")
    parser.add_argument("--sched")
    parser.add_argument("--lr-decay-fn")
    words = timm_cli(ExportContext(schedule, TOTAL)).split()
    assert " ".join(words) in " ".join(export(schedule, to="timm", total=TOTAL).split())
    given = {k: v for k, v in vars(parser.parse_args(words)).items() if v is not None}
    optimizer = torch.optim.SGD([parameter()], lr=given["lr"])
    scheduler, epochs = create_scheduler(argparse.Namespace(**given), optimizer)
    assert epochs == TOTAL
    used = []
    for epoch in range(epochs):
        used.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)
    np.testing.assert_allclose(used, schedule.rates(TOTAL), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("family", ["plateau", "greedy"])
def test_timm_scales_each_group(family):
    made = run(Schedule(family, 0.5, 0.1, 0.3, {"factor": 0.5, "patience": 0}), "timm")
    groups = [{"params": [parameter()], "lr_scale": scale} for scale in (1.0, 0.3)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler, used = made.make_scheduler(optimizer), []
    for step in (lambda: None, lambda: scheduler.step_update(17), lambda: scheduler.step(1, 1.0)):
        step()
        used.append([group["lr"] for group in optimizer.param_groups])
    scheduler.step(2, 1.0)
    used.append([group["lr"] for group in optimizer.param_groups])
    expected = np.outer([0.15, 0.5, 0.5, 0.25], [1.0, 0.3])
    np.testing.assert_allclose(used, expected)
    scheduler.load_state_dict(scheduler.state_dict())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25, 0.075])
