"""The sections of the report below its first screen, as the values that its template shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from lrtune.format import (
    NARROW,
    aligned,
    count,
    duration,
    limited,
    listed,
    measured,
    number,
    plural,
    setting,
    words,
)
from lrtune.reports import figures
from lrtune.reports.first_screen import chosen, found_with, nothing
from lrtune.reports.parameters import importances, scored, slices
from lrtune.schedule import FAMILIES, Schedule
from lrtune.verdict.recommendation import notes
from lrtune.verdict.settings import Objective, RunSettings
from lrtune.verdict.summary import (
    PARTIAL,
    beside,
    best,
    by_end,
    by_family,
    figures_in,
    ranked,
    reasons,
)
from lrtune.verdict.verdict import FamilyResult, Verdict

ROWS = 50  # trials printed; the table of all of them is trials.parquet
REASONS = 20
# The rules that end a trial before its horizon: a trial's state, and what to say of it.
RULES = {"pruned": "pruned as unlikely to win", "plateaued": "plateaued", "diverged": "diverged"}
SURE = 0.95
WEIGHTS = {"last": "the weights at the end", "best": "the best checkpoint by validation"}
ABSENT = {
    "close": "as good, as far as the search tells",
    "behind": "behind, as the search tells",
    "open": "the search does not tell",
    "diverged": "no trial that did not diverge or fail",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table."""

    shown: object  # its text
    key: object = None  # what it is sorted by, where that is not the text
    below: str = ""  # smaller, under the text: what it rests on
    family: str = ""  # whose colour stands before the text
    share: float | None = None  # of 1, drawn as a bar before the text
    style: str = ""  # ``strong`` or ``code``

    @property
    def sorts(self) -> bool:
        """Whether it has a key; NaN is none."""
        return self.key is not None and self.key == self.key

    @property
    def text(self) -> str:
        """All that it says, on one line."""
        return f"{self.shown} ({self.below})" if self.below else str(self.shown)


@dataclass(frozen=True, slots=True)
class Table:
    """A table; columns from `numeric` on are right-aligned."""

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]  # of Cells, or of what they show
    style: str = ""  # a class of the style sheet
    numeric: int = 1

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


def _sorted_by(value: float, shown: str = "", below: str = "") -> Cell:
    return Cell(shown or aligned(value), value, below)


def settings(
    trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None
) -> dict[str, Any] | None:
    """The recommended schedule in the field's terms and as code; None where there is none."""
    found, horizon = chosen(trials, run, verdict), run.horizon
    if found is None:
        return None
    schedule = found.schedule
    load = (
        f"{found_with(run)}import lrtune\n\n"
        'schedule = lrtune.load("best.json")  # written beside this report\n'
        f"scheduler = schedule.torch(optimizer, total={horizon})\n"
    )
    if schedule.closed_loop:  # the search fed it the validation loss, whatever the objective was
        load += "# scheduler.step() after each update, scheduler.step(loss) after each validation\n"
    return {
        "family": schedule.family,
        "where": found.where,
        "updates": f"{count(horizon)} updates",
        "terms": _terms(schedule, found.resolved, horizon),
        "load": load,
        "json": schedule.to_json(),
    }


def _terms(schedule: Schedule, resolved: Mapping[str, Any], horizon: int) -> Table:
    """The settings side by side: in the field's terms, for any horizon, and what they mean."""
    free = {"peak_lr": schedule.peak_lr, **schedule.to_dict()["knobs"]}
    meaning = {"peak_lr": "the highest rate"}
    row = FAMILIES[schedule.family]
    meaning |= {knob.name: knob.doc for knob in (*row.knobs, *row.optional)}
    if schedule.warmup:
        free |= {"warmup_steps": schedule.warmup, "warmup_start": schedule.warmup_start}
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
    return Table(
        ["setting", f"{count(horizon)} updates", "any horizon", "meaning"], rows, "terms", 9
    )


def finals(verdict: Verdict, finals: pd.DataFrame, run: RunSettings) -> dict[str, Any]:
    """Every finalist beside the recommended one: table, gaps, curves."""
    families = verdict.families
    names = plural(len(families), "finalist", "finalists")
    seeds = plural(max(row.seeds for row in families), "fresh seed", "fresh seeds")
    top = verdict.answer.families
    outcome = f"{listed(top)} {'wins' if len(top) == 1 else 'cannot be told apart'}" if top else ""
    own = finals[finals["horizon"] == verdict.horizon]
    absent = {
        meaning: [gone.family for gone in verdict.absent if gone.why == why]
        for why, meaning in ABSENT.items()
    }
    margin = verdict.answer.margin
    return {
        "summary": f"{names} on {seeds}: {outcome if verdict.decided else 'no winner'}",
        "on_test": verdict.split == "test",
        "best_weights": run.judge == "best",
        "trainings": plural(len(own), "training", "trainings"),
        "updates": count(verdict.horizon),
        "time": duration(own["seconds"].sum()),
        "table": finalists(verdict, second_metric(run)),
        "several": any(not math.isnan(row.low) for row in families),
        "notes": notes(verdict),
        "lost": [(row.family, "; ".join(row.reasons)) for row in families if row.lost],
        "baseline": any(row.role == "baseline" for row in families),
        "absent": [f"{', '.join(names)} ({why})" for why, names in absent.items() if names],
        "first": families[0].family,
        "tied": {row.place for row in families} >= {"tied", "behind"},
        "margin": measured(margin, verdict.objective, 2) if margin > 0 else "",
        "differences": figures.paired_differences(verdict, finals),
        "closed_loop": any(row.schedule.closed_loop for row in families),
        "curves": figures.finals_curves(verdict, finals),
    }


def finalists(verdict: Verdict, second: Objective | None = None) -> Table:
    """The table of a verdict, wherever one is shown.

    Args:
        verdict: the verdict.
        second: a metric to show beside the objective.
    """
    on_test = verdict.split == "test"
    split = "test" if on_test else "validation"
    heads = ["family", "place", _head(split, verdict.objective), "seeds", "behind by", "p"]
    heads += ["validation, search", *(["validation, finals"] if on_test else [])]
    heads += [_head(split, second)] if second else []
    families, rows = verdict.families, []
    means = _ranged([(row.mean, row.low, row.high) for row in families])
    behind = _ranged([(row.gap, row.gap_low, row.gap_high) for row in families])
    for at, row in enumerate(families):
        leads = at == 0 and not math.isnan(row.gap)
        cells: list[object] = [
            Cell(row.family, below="baseline" * (row.role == "baseline"), family=row.family),
            _place(verdict, row),
            means[at],
            row.seeds,
            "–" if leads else behind[at],
            "–" if leads else _sorted_by(row.p, "< 0.001" if row.p < 0.001 else number(row.p, 2)),
            aligned(row.searched),
        ]
        cells += [aligned(row.validation)] if on_test else []
        cells += [aligned(row.metrics.get(second.name, math.nan))] if second else []
        rows.append(cells)
    return Table(heads, rows, "sortable finals", 2)


def second_metric(run: RunSettings) -> Objective | None:
    """The metric to print beside the objective, if the task has another."""
    others = [m for name, m in run.metrics.items() if name != run.objective.name]
    return others[0] if others else None


def _head(split: str, metric: Objective) -> str:
    return f"{split} {words(metric.name)}{f' ({metric.unit})' if metric.unit else ''}"


def _place(verdict: Verdict, row: FamilyResult) -> Cell:
    tied = row.place in ("winner", "tied")
    place = "still in" if tied and verdict.answer.place == "unfinished" else row.place
    lost = f"{row.lost} of {plural(row.seeds, 'seed', 'seeds')}" if row.lost else ""
    return Cell(place, below=lost)


def _ranged(rows: Sequence[tuple[float, float, float]]) -> list[Cell]:
    """A column of values above their intervals, as exact as most of these allow."""
    widths = [high - low for _, low, high in rows if high > low]
    middle = float(np.median(widths)) / 2 if widths else 0.0
    digits = max(0, 1 - math.floor(math.log10(middle))) if middle else None

    def fixed(value: float) -> str:
        if digits is None or math.isnan(value):
            return aligned(value)
        return f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero

    return [
        _sorted_by(value, fixed(value), f"{fixed(low)} to {fixed(high)}" if high > low else "")
        for value, low, high in rows
    ]


def families(trials: pd.DataFrame, run: RunSettings) -> dict[str, Any]:
    """How each family did in the search: a table and a figure."""
    objective = run.objective
    first, summary = best(trials, objective.direction), nothing(trials)
    if first is not None:
        tried = plural(trials["family"].nunique(), "family", "families")
        value = measured(first["value"], objective, 3)
        summary = f"Best of {tried}: {first['family']}, validation {words(objective.name)} {value}"
    return {
        "summary": summary,
        "table": searched_families(trials, objective),
        "partial": bool(trials["state"].isin(PARTIAL).any()),
        "figure": figures.wins(trials, objective),
    }


def searched_families(trials: pd.DataFrame, objective: Objective) -> Table:
    """The table of a search, one row per family, wherever one is shown."""
    heads = ["family", "best", "median", "peak rate", "tried", "finished", *PARTIAL]
    rows = [
        [
            Cell(row["family"], family=row["family"]),
            Cell(measured(row["best"], objective), row["best"], style="strong"),
            aligned(row["median"]),
            number(row["peak_lr"], 3),
            row["trials"],
            *(row[name] for name in ("complete", *PARTIAL)),
            int(row["diverged"] + row["failed"]),
            count(row["updates"]),
        ]
        for row in by_family(trials, objective.direction).to_dict("records")
    ]
    return Table([*heads, "lost", "updates"], rows, "sortable")


def families_or_finalists(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> Table:
    """What a notebook and the dashboard show: the finalists once something is decided."""
    if verdict is not None and verdict.decided:
        return finalists(verdict)
    return searched_families(trials, run.objective)


def against_peak(trials: pd.DataFrame, run: RunSettings, verdict: Verdict | None) -> dict[str, Any]:
    """Value against peak rate, and how far each finalist's peak may be off."""
    test = run.range_test
    bracket = (test.base_lr, test.max_lr) if test else None
    low, high = (number(rate, 3) for rate in run.peak_lr)
    known = verdict is not None and not math.isnan(verdict.minimum_effect)
    return {
        "summary": f"Final scores of peak learning rates from {low} to {high}",
        "figure": figures.against_peak(trials, run.objective, bracket),
        "sensitivity": _sensitivity(verdict) if verdict is not None and known else None,
    }


def _sensitivity(verdict: Verdict) -> dict[str, Any]:
    rows, unknown = [], dict[str, list[str]]()
    for row in verdict.lr_sensitivity:
        if row.why:
            unknown.setdefault(row.why, []).append(row.family)
            continue
        most = "or more" if math.isnan(row.factor_high) else f"to {number(row.factor_high, 2)}"
        cells = (
            Cell(row.family, family=row.family),
            Cell(number(row.peak_lr, 3), below=f"{number(row.low, 3)} to {number(row.high, 3)}"),
            Cell(number(row.factor, 2), below=f"{number(row.factor_low, 2)} {most}"),
            number(row.diverged_from, 3),
            row.trials,
        )
        rows.append(cells)
    return {
        "effect": measured(verdict.minimum_effect, verdict.objective, 2),
        "table": Table(["family", "best peak rate", "off by", "diverged from", "trials"], rows),
        "unknown": [f"{', '.join(names)}: {why}." for why, names in unknown.items()],
    }


def parameters(trials: pd.DataFrame, run: RunSettings) -> list[dict[str, Any]]:
    """One family at a time, the best one first: scores against each parameter, importances."""
    objective = run.objective
    shown = []
    for name in by_family(trials, objective.direction)["family"].astype(str):
        rows = scored(trials, name)
        found, why = importances(rows, name, objective)
        shares = [
            (label, Cell(f"{100 * share:.0f}", share, share=share))
            for label, share in found.items()
        ]
        family = {
            "name": limited(name, 60),
            "figure": slices(trials, name, objective),
            "without": "none of its trials has a score"
            if rows.empty
            else "no parameter differs between them",
            "shares": Table(["parameter", "explains by itself (%)"], shares),
            "why": why,
        }
        shown.append(family)
    return shown


def stopping(trials: pd.DataFrame, run: RunSettings) -> dict[str, Any]:
    """Where the budget went, what early stopping saved of it, and how often that was wrong."""
    ends = by_end(trials)
    total = ends["updates"].sum()
    rows = [
        (
            row["end"],
            row["trials"],
            count(row["updates"]),
            f"{100 * row['updates'] / max(total, 1):.0f} %",
            duration(row["seconds"]),
        )
        for row in ends[ends["trials"] > 0].to_dict("records")
    ]
    why = reasons(trials)
    lost = [(row["end"], row["trials"], row["reason"] or "–") for row in why.to_dict("records")]
    spent = f"{count(total)} updates in {duration(ends['seconds'].sum())} of trial time"
    return {
        "summary": spared(trials, run.horizon) or spent,
        "spent": spent,
        "saved": early_stopping(trials, run.objective.direction, run.horizon),
        "table": Table(["ended", "trials", "updates", "share", "time"], rows),
        "lost": Table(["ended", "trials", "why"], lost[:REASONS], "terms", 9),
        "more": len(lost[REASONS:]),
    }


def early_stopping(trials: pd.DataFrame, direction: str, horizon: int) -> str:
    """What early stopping saved, and how often it was wrong as far as the checked trials tell."""
    saved = spared(trials, horizon) or "No trial was ended early."
    checks = wrongly_pruned(trials, direction)
    pruned = int((trials["state"] == "pruned").sum() + _is_audited(trials).sum())
    if pruned == 0:
        return saved
    those = plural(pruned, "trial", "trials") + " to be pruned"
    if checks.empty:
        unknown = "none was trained to the end: how often that was wrong is not known"
        return f"{saved} Of {those}, {unknown}."
    wrong, checked = int(checks.sum()), len(checks)
    bound = f"{number(100 * at_most(wrong, checked), 2)}{NARROW}%"
    return (
        f"{saved} As a check, {checked} of {those} {'was' if checked == 1 else 'were'} trained to "
        f"the end: {wrong} would have been the best so far. So at most {bound} of the prunings "
        f"were wrong (95{NARROW}% confidence)."
    )


def spared(trials: pd.DataFrame, horizon: int) -> str:
    """What early stopping saved, as a sentence or two; empty where it ended no trial.

    A trial that failed would have cost what it did.

    Example:
        >>> rows = {"state": ["complete", "diverged"], "updates": [100, 40]}
        >>> spared(pd.DataFrame(rows), 100)
        '1 of 2 trials ended early: 1 diverged. That saved 60 of 200 updates (30 %).'
    """
    early = trials[trials["state"].isin(RULES)]
    if early.empty:
        return ""
    counts = early["state"].value_counts()
    rules = ", ".join(f"{counts[end]} {why}" for end, why in RULES.items() if end in counts)
    saved = int((horizon - early["updates"]).clip(lower=0).sum())
    whole = saved + int(trials["updates"].sum())
    return (
        f"{len(early)} of {plural(len(trials), 'trial', 'trials')} ended early: {rules}. "
        f"That saved {saved:,} of {whole:,} updates ({100 * saved / max(whole, 1):.0f} %)."
    )


def _is_audited(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Which trials were to be pruned and were trained to the end as a check."""
    if "audit" not in trials:
        return pd.Series(False, index=trials.index)
    return trials["audit"].map(lambda cell: bool(figures_in(cell))).astype(bool)


def wrongly_pruned(trials: pd.DataFrame, direction: str) -> "pd.Series[bool]":
    """Of each audited trial, whether it ended better than the best when it was to be pruned.

    A trial that diverged would have been pruned rightly; one that failed is left out.
    """
    wrong: dict[Any, bool] = {}
    counted = _is_audited(trials) & (trials["state"] != "failed")
    for at, trial in trials[counted].iterrows():
        top = figures_in(trial["audit"]).get("best")
        if top is None:  # the pruner does not say: of the trials before it
            before = ranked(trials[trials["number"] < trial["number"]], direction)["value"]
            top = before.min() if direction == "minimize" else before.max()
        ahead = top - trial["value"] if direction == "minimize" else trial["value"] - top
        ended = trial["state"] == "complete" and np.isfinite(trial["value"])
        wrong[at] = bool(ended and not ahead <= 0)  # NaN: it was the first
    return pd.Series(wrong, dtype=bool)


def at_most(wrong: int, checked: int) -> float:
    """The upper bound of a share that was `wrong` of `checked`: Clopper and Pearson's, 95 %.

    Example:
        >>> round(at_most(0, 10), 2)
        0.26
    """
    if wrong >= checked:
        return 1.0
    return float(beta.ppf(SURE, wrong + 1, checked - wrong))


def all_trials(trials: pd.DataFrame, run: RunSettings) -> dict[str, Any]:
    """The best trials as a table that sorts, and how many there are besides."""
    objective, second = run.objective, second_metric(run)
    best_first = ranked(trials, objective.direction)
    others = trials[~trials["number"].isin(best_first["number"])].sort_values("number")
    shown = pd.concat([best_first, others]).head(ROWS)
    heads = ["trial", "family", "ended", words(objective.name)]
    heads += [words(second.name)] if second else []
    rows = [_trial(trial, second) for _, trial in shown.iterrows()]
    return {
        "summary": f"{plural(len(trials), 'trial', 'trials')}, best first",
        "table": Table([*heads, "peak rate", "warmup", "updates", "time"], rows, "sortable", 3),
        "total": len(trials),
    }


def _trial(trial: "pd.Series[Any]", second: Objective | None) -> list[object]:
    values = [float(trial["value"])] + ([beside(trial, second.name)] if second else [])
    rates = float(trial["peak_lr"]), float(trial["warmup"])
    updates, seconds = trial["updates"], float(trial["seconds"])
    return [
        trial["number"],
        Cell(trial["family"], family=trial["family"]),
        trial["state"],
        *map(_sorted_by, values),
        *(_sorted_by(rate, number(rate, 3)) for rate in rates),
        _sorted_by(updates, count(updates)),
        _sorted_by(seconds, duration(seconds)),
    ]


def record(run: RunSettings) -> Table:
    """Everything needed to run this search again."""
    task, objective, engine = run.task, run.objective, run.engine
    splits = " · ".join(f"{count(getattr(task, part))} {part}" for part in ("train", "val", "test"))
    low, high = (number(rate, 3) for rate in run.peak_lr)
    engines = [engine.name, f"{engine.slots} at once"]
    engines += ["compiled"] if engine.compiled else []
    engines += [f"{engine.threads} CPU threads"] if engine.threads else []
    rows: list[tuple[str, object]] = [
        ("study", run.study),
        ("task", task.name),
        ("data", task.data),
        ("samples", splits),
        ("classes", task.classes),
        ("fingerprint", task.fingerprint),
        ("done to the data", "; ".join(task.notes) or None),
        ("where the data is", " · ".join(f"{k}: {v}" for k, v in run.placement.items())),
        ("model", f"{task.model}, {count(task.parameters)} parameters"),
        ("loss", words(task.loss)),
        ("objective", f"{objective.direction} {words(objective.name)} on validation"),
        ("judged", WEIGHTS[run.judge]),
        ("optimizer", f"{run.optimizer.name} ({_pairs(run.optimizer.settings)})"),
        ("batch size", task.batch_size),
        ("augmentation", ", ".join(task.augment) or None),
        ("clipped at", task.clip_norm and f"norm {number(task.clip_norm, 3)}"),
        ("averaged weights", task.ema and f"over {task.ema:.0%} of the run"),
        ("precision", task.precision),
        ("parameter groups", task.groups and words(task.groups)),
        ("horizon", f"{count(run.horizon)} updates, {number(run.epochs, 3)} epochs"),
        ("peak rates", f"{low} to {high}"),
        ("families", ", ".join(run.families)),
        ("device", run.device),
        ("engine", f"{', '.join(engines)}: {engine.why}"),
        ("early stopping", None if run.stopping is None else _pairs(run.stopping.to_json())),
        ("seed", run.seed),
        ("versions", _pairs(run.versions)),
        ("command", Cell(run.command, style="code")),
    ]
    return Table(["", ""], [row for row in rows if row[1] is not None], "record", 9)


def _pairs(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {setting(value)}" for name, value in settings.items())
