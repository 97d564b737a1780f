"""Names from anyone's files, in the pages: they are shown as text, and nothing of them happens."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hostile import HIT, NAMES, SHORT
from looks import WIDE, opened

from lrtune.export import export
from lrtune.format import LONGEST
from lrtune.schedule import load

pytestmark = pytest.mark.browser
FILE = SHORT.replace("'", "") + "\udcff"  # the last one is no UTF-8


def plain(text: str) -> str:
    """As a page has it: lone surrogates written out, white space and direction marks aside."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return " ".join(re.sub(r"[\u2066-\u2069\u202a-\u202e]", "", text).split())


def given(name: str) -> str:
    """As much of a name as is shown in any case."""
    return plain(name[: LONGEST // 4])


def shown(page) -> str:
    return plain(page.evaluate("document.querySelector('main').textContent"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose task, metrics, notes and errors bear such names."""
    from madeup import madeup

    import lrtune

    task = lrtune.load_task("digits", batch_size=32, epochs=4)
    first, *others = task.metrics
    every = " / ".join(name for key, name in NAMES.items() if key != "long")
    task = replace(
        task,
        name=SHORT,
        model_name=SHORT,
        data=every,
        notes=tuple(NAMES.values()),
        metrics=(replace(first, unit=every), *(replace(m, name=SHORT) for m in others)),
    )
    folder = tmp_path_factory.mktemp("hostile") / FILE
    options = {"families": ["cosine", "constant", "wsd"], "peak_lr": (0.002, 0.3)}
    run = madeup(folder, 60, task=task, error=every, command=every, **options)
    assert "failed" in set(run.trials()["state"])
    return folder


def test_the_report(hostile: Path, page_at, faults) -> None:
    page = opened(page_at(390), hostile / "report.html")
    said = shown(page)
    for name in (*NAMES.values(), SHORT):
        assert given(name) in said
    assert page.title().startswith(SHORT)
    assert page.evaluate(HIT) == [] and faults == []
    assert page.evaluate(WIDE) <= 0
    found = json.loads((hostile / "best.json").read_text())
    assert found["task"]["notes"] == list(NAMES.values())
    source = export(load(hostile / "best.json"), to="torch", total=found["horizon"])
    compile(source, "snippet", "exec")
