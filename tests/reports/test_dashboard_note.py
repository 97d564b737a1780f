import pytest
from hostile import NAMES

from lrtune.reports.dashboard import LONGEST, note, plain
from tests.documents import changed


@pytest.mark.parametrize("name", NAMES)
def test_names_are_text_in_markdown(many, name: str) -> None:
    trials, run = many
    hostile = NAMES[name]
    task = {"data": hostile, "model": hostile}
    run = changed(run, study=hostile, task=task, command=hostile)
    said = note(trials, run, None, hostile)
    said.encode()
    prose, fence = said.split("```", 1)[0], said[said.index("```") :]
    for mark in "<>`[]":  # of those alone that begin an element or a link
        assert prose.replace(f"\\{mark}", "").count(mark) == 0
    assert len(plain(hostile)) <= 2 * LONGEST + 40
    assert "\n#" not in plain(hostile) and "\u202e" not in said
    assert fence.count("\n") >= 2


def test_a_very_long_command_is_cut(many) -> None:
    trials, run = many
    said = note(trials, changed(run, command="lrtune search " + "x" * 100_000), None, "report.html")
    assert "lrtune search xxx" in said and "(100,014 characters)" in said and len(said) < 20_000
