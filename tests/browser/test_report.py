"""The report as a person meets it: in a browser, at a desk and on a phone, by day and by night."""

import re

import pytest
from looks import WIDE, opened

from lrtune.reports.exports import LABELS
from lrtune.run.folder import Run
from lrtune.verdict.recommendation import recommendation

pytestmark = pytest.mark.browser

RUNS = ("tiny", "digits", "thousand")
DESKTOP, PHONE = 1280, 375
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


# What is wider than the page, or scrolls sideways within it.
CUT = """() => [...document.querySelectorAll("main *:not(svg *)")].filter((part) => {
    const box = part.getBoundingClientRect();
    return box.right > innerWidth + 1 || (part.scrollWidth > part.clientWidth + 1
        && getComputedStyle(part).overflowX === "auto");
}).map((part) => part.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("name", RUNS)
def test_the_first_screen_says_it_all(report, page_at, faults, name: str) -> None:
    page, path = page_at(DESKTOP), report(name)
    page.goto(path.as_uri())
    run = Run(path.parent)
    lines = recommendation(run.trials(), run.told, run.verdict()).lines
    shown = page.locator("#answer")
    said = " ".join(shown.inner_text().split())
    assert all(" ".join(line.split()) in said for _, line in lines)
    assert shown.locator(".sketch .plot path").count() >= 2 or name == "tiny"
    verdict = run.verdict()
    gains = verdict.answer.gains if verdict else []
    assert shown.locator(".gain").count() == len(gains) >= (name != "tiny")
    assert shown.locator(".copy button").count() == len(LABELS)
    end = page.evaluate("document.querySelector('#answer').getBoundingClientRect().bottom")
    assert end <= page.viewport_size["height"]
    assert page.locator("details[open]").count() == 0
    assert page.locator(".main-svg").count() == 0  # what nobody looks at is not drawn
    assert faults == []


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_cut_off_on_a_phone(report, page_at, name: str) -> None:
    page = opened(page_at(PHONE), report(name))
    assert page.evaluate(CUT) == []


def test_links_open_what_is_folded(report, page_at, faults) -> None:
    page = page_at()
    page.goto(f"{report('digits').as_uri()}#finals")
    page.wait_for_selector("#finals .main-svg")
    assert page.locator("#finals table").is_visible()
    assert not page.locator("#record table").is_visible()
    page.evaluate("location.hash = '#code-keras'")
    page.wait_for_selector("#code-keras", state="visible")
    assert faults == []


@pytest.mark.parametrize("search", ["of the browser", "of ours"])
def test_a_search_in_the_page_opens_what_is_folded(report, page_at, search: str) -> None:
    page = page_at()
    if search == "of ours":  # where the browser opens nothing by itself
        page.add_init_script("delete HTMLElement.prototype.onbeforematch")
    page.goto(report("tiny").as_uri())
    page.keyboard.press("Control+f")
    opens = page.evaluate("document.querySelectorAll('.folded > details[open]').length")
    assert opens == (page.locator(".folded").count() if search == "of ours" else 0)


def test_one_button_opens_and_folds_everything(report, page_at) -> None:
    page = page_at()
    page.goto(report("digits").as_uri())
    page.get_by_role("button", name="Open all").click()
    page.wait_for_selector("#curves .main-svg")
    assert page.locator("#record table").is_visible()
    page.get_by_role("button", name="Close all").click()
    assert page.locator("details[open]").count() == 0


@pytest.mark.parametrize("clipboard", ["open", "closed", "missing"])
def test_the_copy_buttons_copy(report, page_at, faults, clipboard: str) -> None:
    page = page_at()
    if clipboard == "closed":  # as browsers do for pages opened from a file
        page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(Error())")
    if clipboard == "missing":
        page.add_init_script(
            "window.theirs = navigator.clipboard;"
            "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
        )
    opened(page, report("tiny"))
    buttons = page.locator("[data-copy]").all()
    assert len(buttons) >= 3
    for button in buttons:
        label = button.inner_text()
        button.click()
        page.wait_for_function("(b) => b.textContent === 'Copied'", arg=button.element_handle())
        code = page.locator(f"#{button.get_attribute('data-copy')}").text_content()
        assert page.evaluate("(window.theirs ?? navigator.clipboard).readText()") == code
        page.wait_for_function(
            "([b, label]) => b.textContent === label", arg=[button.element_handle(), label]
        )
    assert "peak_lr" in code and faults == []


def test_code_that_cannot_be_copied_is_selected(report, page_at) -> None:
    page = page_at()
    page.add_init_script(
        "navigator.clipboard.writeText = () => Promise.reject(Error());"
        "document.execCommand = () => false"
    )
    page.goto(report("tiny").as_uri())
    page.locator("#answer").get_by_role("button", name="PyTorch").click()
    page.get_by_role("button", name="Press Ctrl+C").wait_for()
    code = page.locator("#code-torch")
    assert code.is_visible()
    assert page.evaluate("getSelection().toString()").split() == code.text_content().split()


def test_the_copied_code_runs(report, page_at) -> None:
    import torch

    page = page_at()
    page.goto(report("digits").as_uri())
    page.locator("#answer").get_by_role("button", name="PyTorch").click()
    page.get_by_role("button", name="Copied").wait_for()
    names: dict = {}
    exec(page.evaluate("navigator.clipboard.readText()"), names)
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


def test_paper_shows_what_is_folded(report, page_at, faults) -> None:
    page = page_at()
    page.goto(report("digits").as_uri())
    page.evaluate("""addEventListener("beforeprint", () => {
        window.folded = document.querySelectorAll("details:not([open])").length;
        window.blank = [...document.querySelectorAll("[data-figure]")].filter(
            (box) => !box.closest("[hidden]") && !box.querySelector(".main-svg")).length;
    })""")
    page.pdf(format="A4")
    assert page.evaluate("[window.folded, window.blank]") == [0, 0]
    assert page.locator("details[open]").count() == 0  # as it was before
    assert faults == []
