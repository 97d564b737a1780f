"""The section of the report on each family's own trials: its knobs, and which of them mattered."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lrtune.format import limited, measured, number, plural
from lrtune.results.blocks import Block, Cell, Choice, Heading, Section, Table, Text, drawn
from lrtune.results.knobs import FEWEST, Importance, importance, knobs_of, scored
from lrtune.results.prose import Run, nothing
from lrtune.results.slices import landscape, slices
from lrtune.results.summary import best, by_family

CAVEAT = (
    "Functional analysis of variance over the finished trials: the share of the differences "
    "between scores that a knob explains by itself; the rest lies in combinations. Read it with "
    "care: these trials are few, pruning kept the good ones, and the sampler tried related "
    "settings together, so that one knob may stand in for another."
)


def inside(trials: pd.DataFrame, run: Run) -> Section:
    """One family at a time, the best one first: a choice, and what belongs to each."""
    title = "Inside each family"
    order = by_family(trials, run["objective"]["direction"])["family"].astype(str).tolist()
    if not order:
        return Section("inside", title, nothing(trials), [Text(nothing(trials))])
    options = [
        (limited(name, 60), _family(trials, run["objective"], name, f"inside-{place}"))
        for place, name in enumerate(order)
    ]
    summary = "Scores against each knob, one family at a time, and which knobs mattered"
    return Section("inside", title, summary, [Choice("inside", "family", options)])


def _family(
    trials: pd.DataFrame, objective: Mapping[str, Any], family: str, key: str
) -> list[Block]:
    own = scored(trials, family)
    found = importance(own, family, objective)
    shaded = ""
    if own["finished"].sum() >= FEWEST:
        shaded = " The shade is a local mean of the finished trials, drawn where enough lie around."
    return [
        Text(_summary(trials[trials["family"] == family], objective, family)),
        drawn(
            f"{key}-slices",
            slices(trials, family, objective),
            f"Scores on validation, a panel a knob. {_key(own)}",
            f"No figure of its knobs: {_why_alike(own, family)}",
        ),
        drawn(
            f"{key}-landscape",
            landscape(trials, family, objective, found),
            f"The fuller the colour, the better the score. Small marks: forecasts.{shaded}",
            "No figure over two knobs: fewer than three trials have a score, or two numbers.",
        ),
        Heading("What mattered"),
        *_mattered(found),
    ]


def _mattered(found: Importance) -> list[Block]:
    if found.why:
        return [Text(f"That cannot be said of this family: {found.why}.")]
    rows = [
        (
            name,
            Cell(f"{100 * mean:.0f}", mean, share=mean),
            f"{100 * low:.0f} to {100 * high:.0f}",
        )
        for name, mean, low, high in zip(
            found.names, found.mean, found.low, found.high, strict=True
        )
    ]
    heads = ["knob", "explains by itself (%)", "middle half of the trees"]
    return [Text(CAVEAT, "note"), Table(heads, rows, numeric=2)]


def _summary(own: pd.DataFrame, objective: Mapping[str, Any], family: str) -> str:
    """How many trials, and the best of them."""
    tried = plural(len(own), "trial", "trials")
    done = int(own["state"].eq("complete").sum())
    top = best(own, objective["direction"])
    said = f"{tried}, {done} of them finished."
    if top is not None:
        said += (
            f" The best, trial {top['number']}, reached {measured(top['value'], objective)} with a "
            f"peak rate of {number(top['peak_lr'], 3)}."
        )
    return f"{family}: {said}"


def _key(own: pd.DataFrame) -> str:
    """What the marks mean."""
    said = "Filled: finished, the best large."
    if not own["finished"].all():
        said += " Open: ended before, at the value that was forecast then."
    return said


def _why_alike(own: pd.DataFrame, family: str) -> str:
    if own.empty:
        return "none of its trials has a score."
    if not knobs_of(own, family):
        return "no knob differs between its trials with a score."
    return ""
