"""The sections of the report that are tables: the budget, the trials, the record."""

from typing import Any

import pandas as pd

from lrtune.format import aligned, count, duration, number, plural, setting
from lrtune.results.blocks import Block, Cell, Heading, Section, Shares, Table, Text, drawn
from lrtune.results.canvas import words
from lrtune.results.prose import Run, nothing, second_metric
from lrtune.results.stopping import in_words
from lrtune.results.summary import beside, by_end, ranked, reasons
from lrtune.results.timeline import timeline

WEIGHTS = {"last": "the weights at the end", "best": "the best checkpoint by validation"}
ROWS = 50  # trials printed; the table of all of them is trials.parquet


def budget(trials: pd.DataFrame, run: Run) -> Section:
    """What each way to end cost, and why trials were lost."""
    title = "Where the budget went"
    if trials.empty:
        return Section("budget", title, nothing(trials), [Text(nothing(trials))])
    ends = by_end(trials)
    total = ends["updates"].sum()
    rows, bars = [], []
    for row in ends.to_dict("records"):
        share = 100 * row["updates"] / total if total else 0.0
        cost = (count(row["updates"]), f"{share:.0f} %", duration(row["seconds"]))
        rows.append((Cell(row["end"], end=row["end"]), row["trials"], *cost))
        bars.append((row["end"], share))
    caption = (
        "The trials one behind the other, as they were started. Above: what each finished trial "
        "reached, in its family's colour, and the best so far. Below: how the trials ended that "
        "the updates went to."
    )
    figure = timeline(trials, run["objective"])
    said = f"{count(total)} updates in {duration(ends['seconds'].sum())} of trial time."
    blocks: list[Block] = [
        Text(said),
        Shares(bars),
        Table(["ended", "trials", "updates", "share", "time"], rows),
        drawn("timeline", figure, caption, "No update was trained, so there is no timeline."),
        *_reasons(reasons(trials)),
    ]
    return Section("budget", title, said, blocks)


def _reasons(why: pd.DataFrame) -> list[Block]:
    if why.empty:
        return []
    shown = why.head(20)
    rows = [(row["end"], row["reason"] or "–", row["trials"]) for row in shown.to_dict("records")]
    rest = len(why) - len(shown)
    more = [Text(f"and {rest} more reasons in trials.parquet")] if rest else []
    listing = Table(["ended", "why", "trials"], rows, numeric=2)
    return [Heading("Why trials were lost"), listing, *more]


def all_trials(trials: pd.DataFrame, run: Run) -> Section:
    """The best trials as a table that sorts, and where the rest is."""
    objective, second, title = run["objective"], second_metric(run), "All trials"
    best_first = ranked(trials, objective["direction"])
    others = trials[~trials["number"].isin(best_first["number"])].sort_values("number")
    shown = pd.concat([best_first, others]).head(ROWS)
    heads = ["trial", "family", "ended", words(objective["name"])]
    heads += [words(second["name"])] if second else []
    rows = [_trial(trial, objective["name"], second) for _, trial in shown.iterrows()]
    if shown.empty:
        return Section("trials", title, nothing(trials), [Text(nothing(trials))])
    rest = len(trials) - len(shown)
    note = (
        f"The best {len(shown)} of {len(trials)}; all are in " if rest else "The same table is in "
    )
    listing = Table(
        [*heads, "peak rate", "warmup", "updates", "time"], rows, style="sortable", numeric=3
    )
    summary = f"{plural(len(trials), 'trial', 'trials')}, best first"
    return Section("trials", title, summary, [listing, Text(f"{note}trials.parquet.")])


def _trial(trial: "pd.Series[Any]", objective: str, second: Any) -> list[object]:
    value = [beside(trial, second["name"])] if second else []
    cells: list[object] = [Cell(aligned(v), v) for v in (float(trial["value"]), *value)]
    cells += [Cell(number(v, 3), v) for v in (float(trial["peak_lr"]), float(trial["warmup"]))]
    updates, seconds = trial["updates"], float(trial["seconds"])
    costs: list[object] = [Cell(count(updates), updates), Cell(duration(seconds), seconds)]
    return [trial["number"], trial["family"], trial["state"], *cells, *costs]


def record(run: Run) -> Section:
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
        ("command", Cell(run["command"], style="code")),
    ]
    shown = [(name, value) for name, value in rows if value is not None]
    summary = "Data, model, optimizer, engine, versions, command: all that it takes to run it again"
    listing = Table(["", ""], shown, style="record", numeric=9)
    return Section("record", "The record", summary, [listing])


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
