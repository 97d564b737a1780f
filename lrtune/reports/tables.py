"""Sections of the report that are tables: budget, trials, record, time to target, sensitivity."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from lrtune.format import aligned, count, duration, measured, number, plural, setting
from lrtune.reports.answer import Run, nothing, second_metric
from lrtune.reports.blocks import Block, Cell, Heading, Section, Shares, Table, Text, drawn
from lrtune.reports.figures import optimization_history
from lrtune.reports.pruning import in_words
from lrtune.verdict.lr_sensitivity import LrSensitivity
from lrtune.verdict.summary import beside, by_end, ranked, reasons
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import time_to_target, words

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
        "What each finished trial reached, in its family's colour, and the best so far, in the "
        "order in which the trials were started."
    )
    figure = optimization_history(trials, run["objective"])
    said = f"{count(total)} updates in {duration(ends['seconds'].sum())} of trial time."
    blocks: list[Block] = [
        Text(said),
        Shares(bars),
        Table(["ended", "trials", "updates", "share", "time"], rows),
        drawn("history", figure, caption, nothing(trials)),
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


def target(verdict: Verdict) -> Section | None:
    """Updates to the target, family by family; None where there is no target."""
    found = verdict.time_to_target
    if found is None:
        return None
    rows = [
        (
            Cell(row.family, family=row.family),
            "–" if row.place == "lost" else row.place,
            Cell(f"{row.reached} of {row.seeds}", row.reached),
            "–" if math.isnan(row.updates) else Cell(count(row.updates), row.updates),
            "–" if math.isnan(row.low) else f"{count(row.low)} to {count(row.high)}",
        )
        for row in found.families
    ]
    note = (
        "On the validation curves of the finals, so to the validation after it was reached; only "
        "families that reached it on every seed are compared. A mean of fewer seeds is of those "
        "alone."
    )
    heads = ["family", "place", "seeds that reached it", "updates, mean", "95 % interval"]
    said = time_to_target(verdict)
    listing = Table(heads, rows, style="sortable", numeric=2)
    summary = said.removeprefix("Fewest updates ").capitalize()
    return Section("target", "Fewest updates", summary, [Text(said), listing, Text(note, "note")])


def responses(verdict: Verdict) -> list[Block]:
    """How far each finalist's peak may be off, from the search's trials."""
    effect = verdict.minimum_effect
    if math.isnan(effect):
        return []
    seen = [row for row in verdict.lr_sensitivity if not row.why]
    rows = [
        (
            Cell(row.family, family=row.family),
            _peak(row),
            _factor(row),
            number(row.diverged_from, 3),
            row.trials,
        )
        for row in seen
    ]
    note = (
        "A parabola over the logarithm of the peak, fitted to the search's trials of each "
        "finalist. Off by: the factor, either way, before the score is "
        f"{measured(effect, verdict.objective, 2)} worse, twice the standard deviation between "
        "seeds. Intervals hold with 90 %."
    )
    heads = ["family", "best peak rate", "off by", "diverged from", "trials"]
    known: list[Block] = [Text(note), Table(heads, rows)] if rows else []
    unseen = [Text(sentence) for sentence in _unseen(verdict.lr_sensitivity)]
    return [Heading("How far the peak may be off"), *known, *unseen]


def _unseen(rows: Iterable[LrSensitivity]) -> list[str]:
    """The families without an optimum, a sentence a reason."""
    families: dict[str, list[str]] = {}
    for row in rows:
        if row.why:
            families.setdefault(row.why, []).append(row.family)
    return [f"{', '.join(names)}: {why}." for why, names in families.items()]


def _peak(row: LrSensitivity) -> Cell:
    ends = f"{number(row.low, 3)} to {number(row.high, 3)}"
    return Cell(number(row.peak_lr, 3), row.peak_lr, below=ends)


def _factor(row: LrSensitivity) -> Cell:
    high = "or more" if math.isnan(row.factor_high) else f"to {number(row.factor_high, 2)}"
    ends = f"{number(row.factor_low, 2)} {high}"
    return Cell(number(row.factor, 2), row.factor, below=ends)
