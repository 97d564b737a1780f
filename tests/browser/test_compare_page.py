"""The comparison of the tasks that we publish, in a browser."""

import re
from pathlib import Path

import pytest
from looks import WIDE, opened

pytestmark = pytest.mark.browser

RESULTS = Path(__file__).parents[2] / "studies" / "results"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_there(lrtune, tmp_path, page_at, faults, width: int, scheme: str) -> None:
    code, _, err = lrtune("compare", RESULTS, "--out", tmp_path)
    assert (code, err) == (0, "")
    path = tmp_path / "compare.html"
    page = opened(page_at(width, scheme), path)
    assert faults == []
    sections = page.locator("section").all()
    written = re.findall(r'<section id="([\w-]+)"', path.read_text(encoding="utf-8"))
    assert [section.get_attribute("id") for section in sections] == written
    assert {"answer", "tasks", "families", "gaps", "sources"} <= set(written)
    for section in sections:
        assert section.is_visible() and len(section.inner_text().split()) > 5
    assert page.evaluate(WIDE) <= 0
    rank = page.locator("table.sortable th button", has_text="mean rank")
    rank.click()
    cells = page.locator("table.sortable tbody td:nth-child(6)").all_inner_texts()
    known = [float(cell) for cell in cells if cell != "–"]
    assert len(known) > 1 and known == sorted(known)
