"""The sections of the report that answer: settings, families and figures."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from lrtune.format import aligned, count, measured, number, plural, setting
from lrtune.reports import figures, learning_curves, rates
from lrtune.reports.answer import Run, nothing
from lrtune.reports.blocks import Block, Cell, Code, Fold, Section, Table, Text, drawn
from lrtune.reports.exports import chosen, exports, found_with
from lrtune.reports.tables import responses
from lrtune.schedule import FAMILIES, Schedule
from lrtune.verdict.summary import PARTIAL, best, by_family
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import words

ENDED = ("complete", *PARTIAL)  # columns of a family's trials, those that were lost aside


def settings(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Section:
    """The winning schedule in the field's terms, and as code to copy."""
    title, horizon = "Settings and code", run["horizon"]
    found = chosen(trials, run, verdict)
    if found is None:
        return Section("settings", title, "None yet", [Text(nothing(trials))])
    schedule = found.schedule
    load = (
        f"{found_with(run)}import lrtune\n\n"
        'schedule = lrtune.load("best.json")  # written beside this report\n'
        f"scheduler = schedule.torch(optimizer, total={horizon})\n"
    )
    if schedule.closed_loop:  # the search fed it the validation loss, whatever the objective was
        load += "# scheduler.step() after each update, scheduler.step(loss) after each validation\n"
    said = (
        f"{found.where} The settings hold for {count(horizon)} updates; the form for any horizon "
        "counts lengths in fractions of the run and low rates in ratios of the peak."
    )
    blocks: list[Block] = [
        Text(said),
        _terms(schedule, found.resolved, horizon),
        Code("load", load),
    ]
    for one in exports(schedule, run):
        code: Block = Code(one.anchor, one.source) if one.source else Text(one.why)
        blocks.append(Fold(f"For {one.label}", [code]))
    blocks.append(Fold("As JSON, for lrtune.load", [Code("json", schedule.to_json())]))
    summary = f"{schedule.family} over {count(horizon)} updates, and for any horizon"
    return Section("settings", title, summary, blocks)


def _terms(schedule: Schedule, resolved: Mapping[str, Any], horizon: int) -> Table:
    """The settings side by side: in the field's terms, for any horizon, and what they mean."""
    free = {"peak_lr": schedule.peak_lr, **schedule.to_dict()["knobs"]}
    meaning = {"peak_lr": "the highest rate"}
    row = FAMILIES[schedule.family]
    meaning |= {knob.name: knob.doc for knob in (*row.knobs, *row.optional)}
    if schedule.warmup:
        rise = {"warmup_steps": schedule.warmup, "warmup_start": schedule.warmup_start}
        free = rise | free
        resolved = {"warmup_start": schedule.warmup_start, **resolved}
        meaning |= {"warmup_steps": "fraction of the horizon", "warmup_start": "ratio of the peak"}
    rows = [
        (
            name,
            setting(resolved[name]) if name in resolved else "",
            setting(free[name]) if name in free else "",
            meaning.get(name, ""),
        )
        for name in dict.fromkeys(["peak_lr", *free, *resolved])
    ]
    heads = ["setting", f"{count(horizon)} updates", "any horizon", "meaning"]
    return Table(heads, rows, style="terms", numeric=9)


def families(trials: pd.DataFrame, run: Run) -> Section:
    """How each family did: a table and a figure."""
    objective, title = run["objective"], "Families in the search"
    heads = ["family", "best", "median", "middle half", "peak rate", "trial"]
    heads += ["tried", "finished", *ENDED[1:], "lost", "updates"]
    rows = [
        _family(row, objective) for _, row in by_family(trials, objective["direction"]).iterrows()
    ]
    note = (
        "Best: the final value that is expected on another seed of each family's best schedule. "
        "Finished: trained to the end, the trials whose value counts. Lost: diverged or failed."
    )
    if trials["state"].isin(PARTIAL).any():
        note += (
            " Medians and halves are of the finished trials alone: what ended before was mostly "
            "worse."
        )
    caption = (
        "A dot is a finished trial, the box the middle half of them, the large mark the best. "
        f"{_better(objective).capitalize()} is better."
    )
    figure = drawn("wins", figures.wins(trials, objective), caption, nothing(trials))
    table: list[Block] = [Table(heads, rows, style="sortable")] if rows else []
    return Section("families", title, _best(trials, run), [Text(note), *table, figure])


def _family(row: "pd.Series[Any]", objective: Mapping[str, Any]) -> list[object]:
    half = f"{aligned(row['q1'])} – {aligned(row['q3'])}" if row["best"] == row["best"] else "–"
    return [
        Cell(row["family"], family=row["family"]),
        Cell(measured(row["best"], objective), row["best"], style="strong"),
        aligned(row["median"]),
        half,
        number(row["peak_lr"], 3),
        "–" if pd.isna(row["number"]) else row["number"],
        row["trials"],
        *(row[name] for name in ENDED),
        int(row["diverged"] + row["failed"]),
        count(row["updates"]),
    ]


def _best(trials: pd.DataFrame, run: Run) -> str:
    """Which family was the best of how many."""
    first = best(trials, run["objective"]["direction"])
    if first is None:
        return nothing(trials)
    tried = plural(trials["family"].nunique(), "family", "families")
    value = measured(first["value"], run["objective"], 3)
    return (
        f"Best of {tried}: {first['family']}, validation {words(run['objective']['name'])} {value}"
    )


def _better(objective: Mapping[str, Any]) -> str:
    return "lower" if objective["direction"] == "minimize" else "higher"


def curves(trials: pd.DataFrame, run: Run) -> Section:
    """The best trial of each family, rate and metric."""
    figure = learning_curves.curves(trials, run["objective"], run["horizon"])
    caption = (
        "The best trial of each family in the search. The leading families are drawn: a click on "
        "the legend shows another, a double click isolates it. The metric's axis fits the last "
        "two thirds of training; a double click on the figure shows all of it."
    )
    metric = words(run["objective"]["name"])
    summary = f"Learning rate and validation {metric} of each family's best trial"
    figures_ = [drawn("curves", figure, caption, nothing(trials))]
    return Section("curves", "Curves in the search", summary, figures_)


def against_peak(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Section:
    """Value against peak rate."""
    test = run["range_test"]
    bracket = (float(test["base_lr"]), float(test["max_lr"])) if test else None
    figure = figures.against_peak(trials, run["objective"], bracket)
    caption = (
        f"A dot is a finished trial; {_better(run['objective'])} is better. Crosses are trials "
        "that diverged, of any family. Trials that were pruned or plateaued have no final value "
        "and are not shown."
    )
    low, high = (number(rate, 3) for rate in run["peak_lr"])
    summary = f"Final scores of peak learning rates from {low} to {high}"
    blocks = [drawn("against-peak", figure, caption, nothing(trials))]
    blocks += [] if verdict is None else responses(verdict)
    return Section("peak", "Score against peak rate", summary, blocks)


def range_test(run: Run) -> Section | None:
    """The range test, if one was run."""
    result = run["range_test"]
    if not result:
        return None
    loss = run["task"]["loss"]
    unit = run["metrics"].get(loss, {}).get("unit")
    figure = rates.range_test(result, f"training {words(loss)}" + (f" ({unit})" if unit else ""))
    caption = "Loss while the rate grows, before any schedule is tried."
    low, high = (number(result[name], 3) for name in ("base_lr", "max_lr"))
    summary = f"The loss falls at rates from {low} to {high}"
    message: list[Block] = []
    if result.get("message"):
        said = result["message"]
        message, summary = [Text(said)], said[:1].upper() + said[1:]
    shown = drawn("range-test", figure, caption, "The range test recorded no losses.")
    return Section("range", "Range test", summary, [*message, shown])
