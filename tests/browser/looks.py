"""How the tests look at a page that lrtune wrote."""

from pathlib import Path

READY = """() => [...document.querySelectorAll("[data-figure]")].every(
    (box) => box.data && box.querySelector(".main-svg"))"""
WIDE = "() => document.documentElement.scrollWidth - innerWidth"


def opened(page, path: Path):
    """The page with all that folds unfolded and all that waits for the eye drawn."""
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    for chooser in page.locator("select").all():
        for value in chooser.locator("option").evaluate_all("all => all.map((one) => one.value)"):
            chooser.select_option(value)
    page.wait_for_function(READY)
    return page
