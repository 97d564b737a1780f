"""The sections of the report that are tables: the budget, the trials, the record."""

from typing import Any

import pandas as pd

from lrtune.results.canvas import words
from lrtune.results.markup import (
    Markup,
    aligned,
    count,
    duration,
    join,
    number,
    plural,
    section,
    setting,
    show,
    table,
    tag,
)
from lrtune.results.prose import Run, nothing, second_metric
from lrtune.results.stopping import in_words
from lrtune.results.summary import beside, by_end, ranked, reasons
from lrtune.results.timeline import timeline

WEIGHTS = {"last": "the weights at the end", "best": "the best checkpoint by validation"}
ROWS = 50  # trials printed; the table of all of them is trials.parquet


def budget(trials: pd.DataFrame, run: Run) -> Markup:
    """What each way to end cost, and why trials were lost."""
    title = "Where the budget went"
    if trials.empty:
        return section("budget", title, tag("p", nothing(trials)))
    ends = by_end(trials)
    total = ends["updates"].sum()
    rows, bars = [], []
    for row in ends.to_dict("records"):
        share = 100 * row["updates"] / total if total else 0.0
        cost = (count(row["updates"]), f"{share:.0f} %", duration(row["seconds"]))
        rows.append(
            (
                join([Markup(f'<i class="swatch {row["end"]}"></i>'), row["end"]]),
                row["trials"],
                *cost,
            )
        )
        bars.append(f'<i class="{row["end"]}" style="flex:{share:.2f}" title="{row["end"]}"></i>')
    why = reasons(trials)
    lost = Markup("") if why.empty else _reasons(why)
    heads = ["ended", "trials", "updates", "share", "time"]
    caption = (
        "The trials one behind the other, as they were started. Above: what each finished trial "
        "reached, in its family's colour, and the best so far. Below: how the trials ended that "
        "the updates went to."
    )
    figure = timeline(trials, run["objective"])
    return section(
        "budget",
        title,
        tag("p", f"{count(total)} updates in {duration(ends['seconds'].sum())} of trial time."),
        Markup(f'<div class="bar" aria-hidden="true">{"".join(bars)}</div>'),
        table(heads, rows),
        show(
            "timeline", figure, caption, Markup("No update was trained, so there is no timeline.")
        ),
        lost,
    )


def _reasons(why: pd.DataFrame) -> Markup:
    shown = why.head(20)
    rows = [(row["end"], row["reason"] or "–", row["trials"]) for row in shown.to_dict("records")]
    rest = len(why) - len(shown)
    more = tag("p", f"and {rest} more reasons in trials.parquet") if rest else Markup("")
    return join(
        [
            tag("h3", "Why trials were lost"),
            table(["ended", "why", "trials"], rows, numeric=2),
            more,
        ]
    )


def all_trials(trials: pd.DataFrame, run: Run) -> Markup:
    """The best trials as a table that sorts, and where the rest is."""
    objective, second = run["objective"], second_metric(run)
    best_first = ranked(trials, objective["direction"])
    others = trials[~trials["number"].isin(best_first["number"])].sort_values("number")
    shown = pd.concat([best_first, others]).head(ROWS)
    heads = ["trial", "family", "ended", words(objective["name"])]
    heads += [words(second["name"])] if second else []
    rows = [_trial(trial, objective["name"], second) for _, trial in shown.iterrows()]
    if shown.empty:
        return section("trials", "All trials", tag("p", nothing(trials)))
    rest = len(trials) - len(shown)
    note = (
        f"The best {len(shown)} of {len(trials)}; all are in " if rest else "The same table is in "
    )
    return section(
        "trials",
        "All trials",
        Markup(f"<details><summary>{plural(len(shown), 'trial', 'trials')}, best first</summary>"),
        table([*heads, "peak rate", "warmup", "updates", "time"], rows, css="sortable", numeric=3),
        Markup(f"<p>{note}<code>trials.parquet</code>.</p></details>"),
    )


def _trial(trial: "pd.Series[Any]", objective: str, second: Any) -> list[object]:
    value = [beside(trial, second["name"])] if second else []
    cells: list[object] = [(aligned(v), v) for v in (float(trial["value"]), *value)]
    cells += [(number(v, 3), v) for v in (float(trial["peak_lr"]), float(trial["warmup"]))]
    updates, seconds = trial["updates"], float(trial["seconds"])
    costs: list[object] = [(count(updates), updates), (duration(seconds), seconds)]
    return [trial["number"], trial["family"], trial["state"], *cells, *costs]


def record(run: Run) -> Markup:
    """Everything needed to run this search again."""
    task, objective = run["task"], run["objective"]
    optimizer = dict(run["optimizer"])
    splits = " · ".join(f"{count(task[part])} {part}" for part in ("train", "val", "test"))
    low, high = (number(rate, 3) for rate in run["peak_lr"])
    rows: list[tuple[str, object]] = [
        ("study", run["study"]),
        ("task", task["name"]),
        ("data", task["data"]),
        ("samples", splits),
        ("classes", task["classes"]),
        ("fingerprint", task["fingerprint"]),
        ("done to the data", "; ".join(task["notes"]) or None),
        ("where the data is", " · ".join(f"{k}: {v}" for k, v in run["placement"].items())),
        ("model", f"{task['model']}, {count(task['parameters'])} parameters"),
        ("loss", words(task["loss"])),
        ("objective", f"{objective['direction']} {words(objective['name'])} on validation"),
        ("judged", WEIGHTS[run["judge"]]),
        ("optimizer", f"{optimizer.pop('name')} ({_pairs(optimizer)})"),
        ("batch size", task["batch_size"]),
        ("augmentation", ", ".join(task["augment"]) or None),
        ("clipped at", task["clip_norm"] and f"norm {number(task['clip_norm'], 3)}"),
        ("averaged weights", task["ema"] and f"over {task['ema']:.0%} of the run"),
        ("precision", task["precision"]),
        ("parameter groups", task["groups"] and words(task["groups"])),
        ("horizon", f"{count(run['horizon'])} {run['unit']}, {number(run['epochs'], 3)} epochs"),
        ("peak rates", f"{low} to {high}"),
        ("families", ", ".join(run["families"])),
        ("device", run["device"]),
        ("engine", _engine(run["engine"])),
        ("engines timed", _timed(run["engine"])),
        ("early stopping", _stopping(run)),
        ("seed", run["seed"]),
        ("versions", _pairs(run["versions"])),
        ("command", tag("code", run["command"])),
    ]
    shown = [(name, value) for name, value in rows if value is not None]
    return section("record", "The record", table(["", ""], shown, css="record", numeric=9))


def _stopping(run: Run) -> str | None:
    return in_words(run["stopping"], run["validations"]) if "stopping" in run else None


def _engine(engine: dict[str, Any]) -> str:
    parts = [engine["name"], f"{engine['slots']} at once"]
    parts += ["compiled"] if engine["compiled"] else []
    parts += [f"{engine['threads']} CPU threads"] if engine["threads"] else []
    return f"{', '.join(parts)}: {engine['why']}"


def _timed(engine: dict[str, Any]) -> str | None:
    """What the choice rests on, the quickest first."""
    known = {name: v for name, v in engine.get("figures", {}).items() if v is not None}
    said = [f"{name} {count(1e6 * known[name])}" for name in sorted(known, key=known.__getitem__)]
    return f"µs an update of a trial: {', '.join(said)}" if said else None


def _pairs(settings: Any) -> str:
    return ", ".join(f"{name} {setting(value)}" for name, value in settings.items())
