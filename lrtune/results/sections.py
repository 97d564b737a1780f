"""The sections of the report that answer: settings, families and figures."""

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lrtune.results import figures
from lrtune.results.canvas import words
from lrtune.results.markup import (
    Markup,
    aligned,
    code,
    count,
    join,
    measured,
    number,
    section,
    setting,
    show,
    swatch,
    table,
    tag,
    text,
)
from lrtune.results.notes import Verdict
from lrtune.results.plan import decided, recommended_row
from lrtune.results.prose import Run, nothing
from lrtune.results.questions import responses
from lrtune.results.summary import PARTIAL, by_family, recommended
from lrtune.schedule import FAMILIES, Schedule

ENDED = ("complete", *PARTIAL)  # columns of a family's trials, those that were lost aside


def settings(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Markup:
    """The winning schedule in the field's terms, and as code to copy."""
    from lrtune.export.snippet import snippet

    title, horizon = "Settings to copy", run["horizon"]
    found = _to_copy(trials, run, verdict)
    if found is None:
        return section("settings", title, tag("p", nothing(trials)))
    schedule, resolved, where = found
    load = (
        "import lrtune\n\n"
        'schedule = lrtune.load("best.json")  # written beside this report\n'
        f"scheduler = schedule.torch(optimizer, total={horizon})\n"
    )
    if schedule.closed_loop:  # the search fed it the validation loss, whatever the objective was
        load += "# scheduler.step() after each update, scheduler.step(loss) after each validation\n"
    return section(
        "settings",
        title,
        tag(
            "p",
            f"{where} The settings hold for {count(horizon)} updates; the form "
            "for any horizon counts lengths in fractions of the run and low rates in ratios of "
            "the peak.",
        ),
        _terms(schedule, resolved, horizon),
        code("load", load),
        Markup("<details><summary>As plain torch, without lrtune</summary>"),
        code("snippet", snippet(schedule, horizon)),
        Markup("</details><details><summary>As JSON, for lrtune.load</summary>"),
        code("json", schedule.to_json()),
        Markup("</details>"),
    )


def _to_copy(
    trials: pd.DataFrame, run: Run, verdict: Verdict | None
) -> tuple[Schedule, dict[str, Any], str] | None:
    """The schedule that best.json holds, its settings at the horizon, and where it is from."""
    if verdict is not None and decided(verdict):
        row = recommended_row(verdict)
        whose = row["family"] if row["trial"] is None else f"{row['family']}, trial {row['trial']}"
        if verdict["answer"]["place"] == "tie":
            whose += ", recommended of those that cannot be told apart"
        return Schedule.from_dict(row["schedule"]), row["resolved"], f"{whose}."
    winner = recommended(trials, run["objective"]["direction"])
    if winner is None:
        return None
    resolved, by = json.loads(winner["resolved"]), ""
    if winner["state"] != "complete":
        by = ", by its forecast, for none was trained to its end"
    return Schedule.from_json(winner["schedule"]), resolved, f"Trial {winner['number']}{by}."


def _terms(schedule: Schedule, resolved: dict[str, Any], horizon: int) -> Markup:
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
    return table(
        ["setting", f"{count(horizon)} updates", "any horizon", "meaning"], rows, numeric=9
    )


def families(trials: pd.DataFrame, run: Run) -> Markup:
    """How each family did: a table and a figure."""
    objective = run["objective"]
    heads = ["family", "best", "median", "middle half", "peak rate", "trial"]
    rows = []
    for _, row in by_family(trials, objective["direction"]).iterrows():
        lost = int(row["diverged"] + row["failed"])
        half = f"{aligned(row['q1'])} – {aligned(row['q3'])}" if row["best"] == row["best"] else "–"
        rows.append(
            (
                join([swatch(row["family"]), text(row["family"])]),
                (tag("strong", measured(row["best"], objective)), row["best"]),
                aligned(row["median"]),
                half,
                number(row["peak_lr"], 3),
                "–" if pd.isna(row["number"]) else row["number"],
                row["trials"],
                *(row[name] for name in ENDED),
                lost,
                count(row["updates"]),
            )
        )
    heads += ["tried", "finished", *ENDED[1:], "lost", "updates"]
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
        "A dot is a finished trial, the bar the middle half of them, the large mark the best. "
        f"{_better(objective).capitalize()} is better."
    )
    figure = figures.wins(trials, objective)
    return section(
        "families",
        "Families in the search",
        tag("p", note),
        table(heads, rows, css="sortable") if rows else Markup(""),
        show("wins", figure, caption, nothing(trials)),
    )


def _better(objective: Mapping[str, Any]) -> str:
    return "lower" if objective["direction"] == "minimize" else "higher"


def curves(trials: pd.DataFrame, run: Run) -> Markup:
    """The best trial of each family, rate and metric."""
    figure = figures.curves(trials, run["objective"], run["horizon"])
    caption = (
        "The best trial of each family in the search. The leading families are drawn: a click on "
        "the legend shows another, a double click isolates it. The metric's axis fits the last "
        "two thirds of training; a double click on the figure shows all of it."
    )
    return section(
        "curves", "Curves in the search", show("curves", figure, caption, nothing(trials))
    )


def against_peak(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Markup:
    """Value against peak rate."""
    test = run["range_test"]
    bracket = (float(test["base_lr"]), float(test["max_lr"])) if test else None
    figure = figures.against_peak(trials, run["objective"], bracket)
    caption = (
        f"A dot is a finished trial; {_better(run['objective'])} is better. Crosses are trials "
        "that diverged, of any family. Trials that were pruned or plateaued have no final value "
        "and are not shown."
    )
    title = "Score against peak rate"
    drawn = show("against-peak", figure, caption, nothing(trials))
    return section("peak", title, drawn, Markup("") if verdict is None else responses(verdict))


def range_test(run: Run) -> Markup:
    """The range test, if one was run."""
    result = run["range_test"]
    if not result:
        return Markup("")
    loss = run["task"]["loss"]
    unit = run["metrics"].get(loss, {}).get("unit")
    figure = figures.range_test(result, f"training {words(loss)}" + (f" ({unit})" if unit else ""))
    none = Markup("The range test recorded no losses.")
    said = tag("p", result["message"]) if result.get("message") else Markup("")
    caption = "Loss while the rate grows, before any schedule is tried."
    return section("range", "Range test", said, show("range-test", figure, caption, none))
