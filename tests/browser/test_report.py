"""The report as a person meets it: in a browser, at a desk and on a phone, by day and by night."""

import re

import pytest
from looks import WIDE, opened

from lrtune.reports.first_screen import LABELS
from lrtune.run.folder import Run
from lrtune.verdict.recommendation import recommendation

pytestmark = pytest.mark.browser

RUNS = ("run", "digits", "thousand")
DESKTOP, PHONE = 1280, 390
SECTIONS = ["answer", "settings", "finals", "families", "curves", "peak"]
SECTIONS += ["stopping", "trials", "record"]

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
        fits: (inside?.width > 200 && inside.right <= innerWidth),
    };
})"""
# What is wider than the page, or scrolls sideways within it.
CUT = """() => [...document.querySelectorAll("main *:not(svg *)")].filter((part) => {
    const box = part.getBoundingClientRect();
    return box.right > innerWidth + 1 || (part.scrollWidth > part.clientWidth + 1
        && getComputedStyle(part).overflowX === "auto");
}).map((part) => part.outerHTML.slice(0, 80))"""


@pytest.fixture
def report(request: pytest.FixtureRequest):
    """The page of a run by its name."""
    return lambda name: request.getfixturevalue(name) / "report.html"


@pytest.mark.parametrize(
    ("name", "width", "scheme"),
    [
        ("run", PHONE, "light"),
        ("digits", DESKTOP, "dark"),
        ("digits", PHONE, "light"),
        ("thousand", DESKTOP, "light"),
    ],
)
def test_everything_is_there(report, page_at, faults, name: str, width: int, scheme: str) -> None:
    page = opened(page_at(width, scheme), report(name))
    assert faults == []
    there = {section.get_attribute("id"): section for section in page.locator("section").all()}
    assert list(there) == [part for part in SECTIONS if name != "run" or part != "finals"]
    for section in there.values():
        assert section.is_visible() and len(section.inner_text().split()) > 5
    figures = page.evaluate(FIGURES)
    assert len(figures) >= 3
    for figure in figures:
        assert figure["given"] == figure["held"] > 0, figure
        assert figure["painted"] >= figure["seen"] > 0, figure
        assert figure["fits"], figure
    assert page.evaluate(WIDE) <= 0
    if width == PHONE:  # nothing is cut off
        assert page.evaluate(CUT) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = max(map(int, re.findall(r"\d+", paper)[:3]))
    assert shade < 60 if scheme == "dark" else shade > 240


@pytest.mark.parametrize("name", RUNS)
def test_the_first_screen_says_it_all(report, page_at, faults, name: str) -> None:
    page, path = page_at(DESKTOP), report(name)
    page.goto(path.as_uri())
    run = Run(path.parent)
    lines = recommendation(run.trials(), run.public_settings, run.verdict()).lines
    shown = page.locator("#answer")
    words = " ".join(shown.inner_text().split())
    assert all(" ".join(line.split()) in words for _, line in lines)
    drawn = {"rates", "gains"} if run.verdict() else {"rates"}
    assert {box.get_attribute("data-figure") for box in shown.locator(".figure").all()} == {
        f"{figure}-data" for figure in drawn
    }
    assert shown.locator(".copy button").count() == len(LABELS)
    end = page.evaluate("document.querySelector('#answer').getBoundingClientRect().bottom")
    assert end <= page.viewport_size["height"]
    assert page.locator("details[open]").count() == 0
    assert page.locator(".folded .main-svg").count() == 0  # what nobody looks at is not drawn
    assert faults == []


def test_what_is_folded_opens(report, page_at, faults) -> None:
    page = page_at()
    page.goto(f"{report('digits').as_uri()}#finals")
    page.wait_for_selector("#finals .main-svg")
    assert page.locator("#finals table").is_visible()
    assert not page.locator("#record table").is_visible()
    page.evaluate("location.hash = '#code-keras'")
    page.wait_for_selector("#code-keras", state="visible")
    page.get_by_role("button", name="Open all").click()
    page.wait_for_selector("#curves .main-svg")
    assert page.locator("#record table").is_visible()
    page.get_by_role("button", name="Close all").click()
    assert page.locator(".folded > details[open]").count() == 0
    assert faults == []


@pytest.mark.parametrize("clipboard", ["open", "closed", "none"])
def test_the_copied_code_is_what_is_shown(report, page_at, faults, clipboard: str) -> None:
    page = page_at()
    if clipboard != "open":  # as browsers do for pages opened from a file
        page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(Error())")
    if clipboard == "none":
        page.add_init_script("document.execCommand = () => false")
    page.goto(report("run").as_uri())
    button, code = page.locator("#answer").get_by_role("button", name="Keras"), "#code-keras"
    button.click()
    if clipboard == "none":  # then it is selected, for the reader to copy
        page.get_by_role("button", name="Press Ctrl+C").wait_for()
        copied = page.evaluate("getSelection().toString()")
    else:
        page.get_by_role("button", name="Copied").wait_for()
        copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.split() == page.locator(code).text_content().split() and faults == []
    button.wait_for()


KEYS = """([table, column]) => [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    return cell.dataset.key ?? cell.textContent.trim();
})"""


def test_tables_are_sorted(report, page_at, faults) -> None:
    page = page_at()
    page.goto(report("thousand").as_uri())
    page.get_by_role("button", name="Open all").click()
    tables = page.locator("table.sortable").all()
    assert len(tables) == 3
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


def test_paper_shows_black_on_white_what_is_folded(report, page_at, faults) -> None:
    page = page_at(DESKTOP, "dark")
    page.goto(report("digits").as_uri())
    page.evaluate("""addEventListener("beforeprint", () => {
        window.folded = document.querySelectorAll("details:not([open])").length;
        window.blank = [...document.querySelectorAll("[data-figure]")].filter(
            (box) => !box.querySelector(".main-svg")).length;
    })""")
    assert page.pdf(format="A4").startswith(b"%PDF")
    assert page.evaluate("[window.folded, window.blank]") == [0, 0]
    assert page.locator("details[open]").count() == 0  # as it was before
    page.emulate_media(media="print", color_scheme="dark")
    style = "getComputedStyle(document.body)"
    assert page.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
    assert not any(button.is_visible() for button in page.locator("[data-copy]").all())
    assert page.evaluate(WIDE) <= 0 and faults == []
