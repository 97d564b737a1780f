"""The verdict's other questions: who is there first, and how far the peak rate may be off."""

from collections.abc import Iterable

from lrtune.format import aligned, count, measured, number
from lrtune.results.blocks import Block, Cell, Heading, Section, Table, Text
from lrtune.results.canvas import words
from lrtune.results.notes import Verdict
from lrtune.results.prose import Row
from lrtune.results.wording import listed


def target(verdict: Verdict) -> Section | None:
    """Updates to the target, family by family; None where there is no target."""
    found = verdict["quickest"]
    if found is None:
        return None
    rows = [
        (
            Cell(row["family"], family=row["family"]),
            "–" if row["place"] == "lost" else row["place"],
            Cell(f"{row['reached']} of {row['seeds']}", row["reached"]),
            "–" if row["updates"] is None else Cell(count(row["updates"]), row["updates"]),
            "–" if row["low"] is None else f"{count(row['low'])} to {count(row['high'])}",
        )
        for row in found["families"]
    ]
    note = (
        "On the validation curves of the finals, so to the validation after it was reached; only "
        "families that reached it on every seed are compared. A mean of fewer seeds is of those "
        "alone."
    )
    heads = ["family", "place", "seeds that reached it", "updates, mean", "95 % interval"]
    said = quickest(verdict)
    listing = Table(heads, rows, style="sortable", numeric=2)
    summary = said.removeprefix("Fewest updates ").capitalize()
    return Section("target", "Fewest updates", summary, [Text(said), listing, Text(note, "note")])


def responses(verdict: Verdict) -> list[Block]:
    """How far each finalist's peak may be off, from the search's trials."""
    amount = verdict["amount"]
    if amount is None:
        return []
    seen = [row for row in verdict["response"] if row["peak_lr"] is not None]
    rows = [
        (
            Cell(row["family"], family=row["family"]),
            _peak(row),
            _factor(row),
            number(row["diverged_from"], 3),
            row["trials"],
        )
        for row in seen
    ]
    note = (
        "A parabola over the logarithm of the peak, fitted to the search's trials of each "
        "finalist. Off by: the factor, either way, before the score is "
        f"{measured(amount, verdict['objective'], 2)} worse, twice the standard deviation between "
        "seeds. Intervals hold with 90 %."
    )
    heads = ["family", "best peak rate", "off by", "diverged from", "trials"]
    known: list[Block] = [Text(note), Table(heads, rows)] if rows else []
    unseen = [Text(sentence) for sentence in _unseen(verdict["response"])]
    return [Heading("How far the peak may be off"), *known, *unseen]


def _unseen(response: Iterable[Row]) -> list[str]:
    """The families without an optimum, a sentence a reason."""
    families: dict[str, list[str]] = {}
    for row in response:
        if row["peak_lr"] is None:
            families.setdefault(row["why"], []).append(row["family"])
    return [f"{', '.join(names)}: {why}." for why, names in families.items()]


def _peak(row: Row) -> Cell:
    ends = f"{number(row['low'], 3)} to {number(row['high'], 3)}"
    return Cell(number(row["peak_lr"], 3), row["peak_lr"], below=ends)


def _factor(row: Row) -> Cell:
    high = row["factor_high"]
    ends = (
        f"{number(row['factor_low'], 2)} {'or more' if high is None else f'to {number(high, 2)}'}"
    )
    return Cell(number(row["factor"], 2), row["factor"], below=ends)


def quickest(verdict: Verdict) -> str:
    """Who needs the fewest updates to the target."""
    found = verdict["quickest"]
    if found is None:
        return (
            "Fewest updates to a target: constant was not trained to the end on every seed to set "
            "one; name it: --goal."
        )
    name, value = words(found["metric"]["name"]), aligned(found["value"])
    unit = found["metric"].get("unit")
    target = f"{name} {value}{' ' + unit if unit else ''}"
    whose = f", where {found['from']} ends" if found["from"] else ""
    first = found["families"][0]
    if not found["tied"]:
        some = max(found["families"], key=lambda row: row["reached"])
        return (
            f"Fewest updates to {target} on validation{whose}: no family reached it on every "
            f"seed; {some['family']} did on {some['reached']} of {some['seeds']}."
        )
    who = listed(found["tied"])
    tie = " (a tie)" if len(found["tied"]) > 1 else ""
    return (
        f"Fewest updates to {target} on validation{whose}: {who}{tie}, "
        f"{count(first['updates'])} of {count(verdict['horizon'])} on average."
    )
