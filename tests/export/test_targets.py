"""What the targets say: where there is no way, in what unit, and that no framework is needed."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lrtune.errors import InputError
from lrtune.export import EXPORTERS, export
from lrtune.export.context import ExportContext
from lrtune.export.formula import FORMULAS, ratio
from lrtune.schedule import FAMILIES, Schedule

ROOT = Path(__file__).parents[2]
SOURCES = [target for target in EXPORTERS if target not in ("csv", "json")]


def unread(source):
    """The names that a function in the source assigns and does not read."""
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            own = [line for line in function.body if not isinstance(line, ast.FunctionDef)]
            names = [n for line in own for n in ast.walk(line) if isinstance(n, ast.Name)]
            stored, read = ({n.id for n in names if isinstance(n.ctx, c)} for c in CONTEXTS)
            yield from stored - read


CONTEXTS = (ast.Store, ast.Load)


@pytest.mark.parametrize("target", ["torch", "keras"])
def test_what_is_written_holds_no_idle_line(opened, target):
    source = export(opened, to=target, total=40)
    assert [*unread(source)] == []
    assert ("import math" in source) == ("math." in source)


def test_a_sequence_leaves_the_names_of_its_parts_to_them():
    knobs = {"schedules": [Schedule("rex", 0.3), Schedule("cosine", 0.3)], "milestones": [0.5]}
    source = export(Schedule("sequence", 0.3, knobs=knobs), to="keras", total=40)
    assert source.count("left = ") == 1 and [*unread(source)] == []


@pytest.mark.parametrize("total", [40, 997])
def test_a_formula_gives_the_rates_in_numpy_and_then_keeps_the_last(opened, total):
    names = {"np": np, "math": __import__("math")}
    exec(ratio(ExportContext(opened, total), "np"), names)
    used = [opened.peak_lr * float(names["ratio"](t)) for t in range(total + 3)]
    wanted = opened.rates(total)
    np.testing.assert_allclose(used[:total], wanted, rtol=1e-11, atol=1e-15 * opened.peak_lr)
    assert used[total:] == [used[total - 1]] * 3


def test_only_the_users_own_function_has_no_formula():
    assert {name for name, row in FAMILIES.items() if row.body} - {*FORMULAS} == {"custom"}


@pytest.mark.parametrize("target", SOURCES)
def test_the_source_says_how_it_is_used_and_what_it_needs(target):
    for name in ("cosine", "plateau"):
        for warmup in (0.0, 0.1):
            source = export(Schedule(name, 0.5, warmup), to=target, total=1234)
            said = ast.get_docstring(ast.parse(source))
            assert said.startswith(f"{name}: ") and "1234" in said
            assert re.search(r"updates?\b|scheduler\.step\(\)", said)
            assert '"peak_lr": 0.5' in said
            if target != "torch":
                assert "pip install" in said
            assert "lrtune." not in source.replace(said, "")
            assert max(map(len, source.replace(said, "").splitlines())) <= 130


@pytest.mark.parametrize(
    ("target", "family", "install"),
    [
        ("timm", "wsd", "timm>=1.0.31"),
        ("timm", "cosine", "timm"),
        ("huggingface", "greedy", "transformers[torch]>=5.4"),
        ("huggingface", "cosine", "transformers[torch]"),
    ],
)
def test_the_version_is_that_which_brought_what_is_used(target, family, install):
    assert f'`pip install "{install}"`' in export(Schedule(family, 0.5), to=target, total=40)


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
    ("target", "family", "message"),
    [
        ("optax", "greedy", "optax cannot hold greedy: .* --replay"),
        ("csv", "plateau", "a table cannot hold plateau: .* --replay"),
        ("json", "greedy", "a table cannot hold greedy: .* --replay"),
        ("kears", "cosine", "'kears' is unknown: did you mean 'keras'"),
        ("pytorch_lightning", "cosine", "'pytorch_lightning' is unknown"),
    ],
)
def test_what_cannot_be_is_refused(target, family, message):
    with pytest.raises(InputError, match=message):
        export(Schedule(family, 0.1), to=target, total=10)


@pytest.mark.parametrize("target", EXPORTERS)
def test_a_total_that_is_none_is_refused(target):
    with pytest.raises(InputError, match="total=0"):
        export(Schedule("cosine", 0.1), to=target, total=0)


def test_huggingface_is_native_only_where_the_rise_is_the_same():
    knobs = {"end_factor": 0.1}
    same = Schedule("wsd", 0.5, 0.1, 0.1, knobs)
    other = Schedule("wsd", 0.5, 0.1, 0.01, knobs)
    assert '"lr_scheduler_type": "warmup_stable_decay"' in export(same, to="huggingface", total=40)
    assert "optimizers=(optimizer, scheduler)" in export(other, to="huggingface", total=40)


def test_the_guides_table_is_up_to_date():
    script = runpy.run_path(str(ROOT / "scripts" / "native.py"))
    text = script["PAGE"].read_text()
    assert script["rewritten"](text) == text, "run scripts/native.py"
