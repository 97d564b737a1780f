"""The report as a person meets it: in a browser, at a desk and on a phone, by day and by night."""

import re

import pytest
from looks import WIDE, opened

pytestmark = pytest.mark.browser

RUNS = ("tiny", "digits", "thousand")
DESKTOP, PHONE = 1280, 390
ALWAYS = {"answer", "settings", "families", "curves", "peak", "budget", "stopping", "trials"}
ALWAYS |= {"inside", "record"}
FINALS = {"tiny": set(), "digits": {"finals"}, "thousand": {"finals"}}

# Of each figure: the traces in its data, in plotly's hands, to be painted, and painted.
FIGURES = """() => [...document.querySelectorAll("[data-figure]")].map((box) => {
    const { data } = JSON.parse(document.getElementById(box.dataset.figure).textContent);
    const seen = (box.data ?? []).filter((t) => (t.visible ?? true) === true && t.type !== "table"
        && (t.x ?? t.y ?? t.z)?.length);
    const inside = box.querySelector(".main-svg")?.getBoundingClientRect();
    return {
        name: box.dataset.figure, given: data.length, held: box.data?.length,
        seen: seen.length,
        painted: box.querySelectorAll(".cartesianlayer :is(.trace, .hm, .contour)").length,
        fits: box.closest("[hidden]") || (inside?.width > 200 && inside.right <= innerWidth),
    };
})"""


@pytest.fixture
def report(request: pytest.FixtureRequest):
    """The page of a run by its name."""
    return lambda name: request.getfixturevalue(name) / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", RUNS)
def test_everything_is_there(report, page_at, faults, name: str, width: int, scheme: str) -> None:
    path = report(name)
    page = opened(page_at(width, scheme), path)
    assert faults == []
    written = re.findall(r'<section id="([\w-]+)"', path.read_text(encoding="utf-8"))
    there = {section.get_attribute("id"): section for section in page.locator("section").all()}
    assert list(there) == written and ALWAYS | FINALS[name] <= set(there)
    for section in there.values():
        assert section.is_visible() and len(section.inner_text().split()) > 5
    figures = page.evaluate(FIGURES)
    assert len(figures) >= 4
    for figure in figures:
        assert figure["given"] == figure["held"] > 0, figure
        assert figure["painted"] >= figure["seen"] > 0, figure
        assert figure["fits"], figure
    assert page.evaluate(WIDE) <= 0
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = max(map(int, re.findall(r"\d+", paper)[:3]))
    assert shade < 60 if scheme == "dark" else shade > 240


@pytest.mark.parametrize("clipboard", ["open", "closed"])
def test_the_copy_buttons_copy(report, page_at, faults, clipboard: str) -> None:
    page = page_at()
    if clipboard == "closed":  # as browsers do for pages opened from a file
        page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(Error())")
    opened(page, report("tiny"))
    buttons = page.locator("[data-copy]").all()
    assert len(buttons) >= 3
    for button in buttons:
        button.click()
        page.wait_for_function("(b) => b.textContent === 'Copied'", arg=button.element_handle())
        code = page.locator(f"#{button.get_attribute('data-copy')}").text_content()
        assert page.evaluate("navigator.clipboard.readText()") == code
    assert "peak_lr" in code and faults == []


def test_the_copied_code_runs(report, page_at) -> None:
    import torch

    page = opened(page_at(), report("digits"))
    names: dict = {}
    exec(page.locator("#snippet").text_content(), names)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    names["make_scheduler"](optimizer)
    assert 0 < optimizer.param_groups[0]["lr"] != 0.1


def test_the_rate_axis_is_switched(report, page_at, faults) -> None:
    page = opened(page_at(), report("digits"))
    toggles = page.locator(".toggle").all()
    assert toggles
    for toggle in toggles:
        box = toggle.locator("xpath=following-sibling::*[@data-figure][1]").element_handle()
        kinds = {}
        for button in toggle.locator("button").all():
            button.click()
            assert button.get_attribute("aria-pressed") == "true"
            assert toggle.locator("[aria-pressed=true]").count() == 1
            axis = "(box) => box.layout.yaxis.type"
            page.wait_for_timeout(100)
            kinds[button.inner_text()] = page.evaluate(axis, box)
        assert sorted(kinds.values()) == ["linear", "log"], kinds
    assert faults == []


KEYS = """([table, column]) => [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    return cell.dataset.key ?? cell.textContent.trim();
})"""


def test_tables_are_sorted(report, page_at, faults) -> None:
    page = opened(page_at(), report("thousand"))
    tables = page.locator("table.sortable").all()
    assert len(tables) >= 2
    for table in tables:
        handle = table.element_handle()
        for column, head in enumerate(table.locator("thead th").all()):
            before = page.evaluate(KEYS, [handle, column])
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == "ascending"
            rising = page.evaluate(KEYS, [handle, column])
            assert sorted(rising) == sorted(before)
            assert rising == sorted(rising, key=rank)
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == "descending"
            falling = [rank(key) for key in page.evaluate(KEYS, [handle, column])]
            known = [key for key in falling if key[0] < 2]
            assert known == sorted(known, reverse=True)
            assert falling[: len(known)] == known  # those without a value stay below
    assert faults == []


def rank(key: str) -> tuple[int, float, str]:
    """Numbers by size, before words by letter, before a dash for none."""
    plain = key.replace(",", "")
    if re.fullmatch(r"-?[\d.]+(e[-+]?\d+)?", plain):
        return 0, float(plain), ""
    return (2, 0.0, "") if key == "–" else (1, 0.0, key.lower())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_prints_black_on_white(report, page_at, faults, scheme: str) -> None:
    page = opened(page_at(DESKTOP, scheme), report("digits"))
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print", color_scheme=scheme)
    style = "getComputedStyle(document.body)"
    assert page.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
    for button in page.locator("[data-copy], .toggle").all():
        assert not button.is_visible()
    assert page.evaluate(WIDE) <= 0 and faults == []
