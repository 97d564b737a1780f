"""The sections of the report below its first screen, as the values that its template shows."""

import math
from typing import Any

import numpy as np
import pandas as pd

from lrtune.format import (
    Cell,
    Table,
    aligned,
    count,
    duration,
    listed,
    measured,
    number,
    plural,
    setting,
    words,
)
from lrtune.reports.first_screen import nothing
from lrtune.schedule import FAMILIES
from lrtune.verdict import summary
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.recommendation import notes
from lrtune.verdict.settings import RunSettings
from lrtune.verdict.summary import (
    PARTIAL,
    beside,
    by_end,
    by_host,
    figures_in,
    hosts_in_words,
    ranked,
    reasons,
)
from lrtune.verdict.tables import finalists, searched_families, second_metric
from lrtune.verdict.verdict import Verdict

ROWS = 50  # trials printed; the table of all of them is trials.parquet
REASONS = 20
# The rules that end a trial before its horizon: a trial's state, and what to say of it.
RULES = {"pruned": "pruned as unlikely to win", "plateaued": "plateaued", "diverged": "diverged"}
# What run.json holds that the report shows elsewhere, or that is lrtune's alone.
ELSEWHERE: dict[str, Any] = {
    "asked": True,
    "baselines": True,
    "cut": True,
    "dummy_scores": True,
    "elapsed": True,
    "engine": {"figures"},
    "format": True,
    "hosts": True,
    "losses": True,
    "metrics": True,
    "owner": True,
    "range_test": True,
}
ABSENT = {
    "close": "as good, as far as the search tells",
    "behind": "behind, as the search tells",
    "open": "the search does not tell",
    "diverged": "no trial that did not diverge or fail",
}


def settings(best: BestSchedule, verdict: Verdict | None) -> dict[str, Any]:
    """The recommended schedule in the field's terms and as code."""
    schedule, horizon, found = best.schedule, best.horizon, best.found
    where = [schedule.family] + ([f"trial {found.trial}"] if found else [])
    if found and found.forecast:
        where.append("by its forecast, for none was trained to its end")
    if verdict is not None and verdict.answer.place == "tie":
        where.append("recommended of those that cannot be told apart")
    load = (
        f"{best.comments}import lrtune\n\n"
        'schedule = lrtune.load("best.json")  # written beside this report\n'
        f"scheduler = schedule.torch(optimizer, total={horizon})\n"
    )
    if schedule.closed_loop:  # the search fed it the validation loss, whatever the objective was
        load += "# scheduler.step() after each update, scheduler.step(loss) after each validation\n"
    if schedule.schedule_free:
        load = f"{best.comments}# no scheduler: the optimizer is in the code for PyTorch\n"
    return {
        "family": schedule.family,
        "where": f"{', '.join(where)}.",
        "updates": f"{count(horizon)} updates",
        "terms": _terms(best, horizon),
        "load": load,
        "json": schedule.to_json(),
    }


TUNED = "tuned with the schedule: set it beside the rate"


def _terms(best: BestSchedule, horizon: int) -> Table:
    """The settings side by side: in the field's terms, for any horizon, and what they mean."""
    schedule, resolved = best.schedule, best.resolved
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
    rows += [(name, setting(v), setting(v), TUNED) for name, v in schedule.settings.items()]
    rows += [(label, ratio, ratio, what) for label, ratio, what in best.task.rates]
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
        "table": finalists(verdict),
        "several": any(not math.isnan(row.low) for row in families),
        "notes": notes(verdict),
        "lost": [(row.family, "; ".join(row.reasons)) for row in families if row.lost],
        "baseline": any(row.role == "baseline" for row in families),
        "absent": [f"{', '.join(names)} ({why})" for why, names in absent.items() if names],
        "margin": measured(margin, verdict.objective, 2) if margin > 0 else "",
        "closed_loop": any(row.schedule.closed_loop for row in families),
    }


def families(trials: pd.DataFrame, run: RunSettings) -> dict[str, Any]:
    """How each family did in the search: a table and a figure."""
    objective = run.objective
    first, said = summary.best(trials, objective.direction), nothing(trials)
    if first is not None:
        tried = plural(trials["family"].nunique(), "family", "families")
        value = measured(first["value"], objective, 3)
        said = f"Best of {tried}: {first['family']}, validation {words(objective.name)} {value}"
    return {
        "summary": said,
        "table": searched_families(trials, run),
        "partial": bool(trials["state"].isin(PARTIAL).any()),
    }


def against_peak(run: RunSettings, verdict: Verdict | None) -> dict[str, Any]:
    """How far each finalist's peak may be off."""
    low, high = (number(rate, 3) for rate in run.peak_lr)
    known = verdict is not None and not math.isnan(verdict.minimum_effect)
    return {
        "summary": f"Final scores of peak learning rates from {low} to {high}",
        "sensitivity": _sensitivity(verdict) if verdict is not None and known else None,
    }


def _sensitivity(verdict: Verdict) -> dict[str, Any]:
    rows, unknown = [], dict[str, list[str]]()
    for row in verdict.lr_sensitivity:
        if row.why:
            unknown.setdefault(row.why, []).append(row.family)
            continue
        off = Cell(number(row.factor, 2), below=f"at least {number(row.factor_low, 2)}")
        cells = Cell(row.family, family=row.family), number(row.peak_lr, 3), off, row.trials
        rows.append(cells)
    return {
        "effect": measured(verdict.minimum_effect, verdict.objective, 2),
        "table": Table(["family", "best peak_lr", "off by", "trials"], rows),
        "unknown": [f"{', '.join(names)}: {why}." for why, names in unknown.items()],
    }


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
    """What early stopping saved, and how often it was wrong as far as the checked trials tell.

    It was wrong of a trial that was trained to its end as a check, and ended better than the best
    when it was to be pruned.
    """
    saved = spared(trials, horizon) or "No trial was ended early."
    audits = trials.get("audit", pd.Series(None, trials.index, dtype=object)).map(figures_in)
    audited = audits.astype(bool)
    pruned = int((trials["state"] == "pruned").sum() + audited.sum())
    if pruned == 0:
        return saved
    those = plural(pruned, "trial", "trials") + " to be pruned"
    best = audits.map(lambda audit: audit.get("best")).astype(float)
    checked = audited & best.notna() & (trials["state"] != "failed")
    if not checked.any():
        return f"{saved} How often that was wrong for {those} is not known."
    sign = 1 if direction == "minimize" else -1
    value = trials["value"].where((trials["state"] == "complete") & np.isfinite(trials["value"]))
    wrong = int((checked & (sign * (best - value) > 0)).sum())
    were = "was" if checked.sum() == 1 else "were"
    return (
        f"{saved} As a check, {checked.sum()} of {those} {were} trained to the end: {wrong} would "
        "have been the best so far."
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


def hosts(
    trials: pd.DataFrame, finals: pd.DataFrame | None, run: RunSettings
) -> dict[str, Any] | None:
    """Which host trained what, and which were lost; None where one process trained all."""
    table = by_host(trials, finals, run)
    if table.empty:
        return None
    rows = [
        (
            row["host"],
            row["trials"],
            row["finals"],
            row["shared"],
            "–" if row["lost"] is None else row["lost"].at[:16].replace("T", " "),
        )
        for row in table.to_dict("records")
    ]
    return {
        "summary": hosts_in_words(run),
        "table": Table(["host", "trials", "finals", "shared", "lost"], rows[:ROWS]),
        "more": len(rows[ROWS:]),
        "losses": [(str(loss), loss.why) for loss in run.losses[-ROWS:]],
        "before": len(run.losses[:-ROWS]),
    }


def all_trials(trials: pd.DataFrame, run: RunSettings) -> dict[str, Any]:
    """The best trials as a table that sorts, and how many there are besides."""
    objective, second = run.objective, second_metric(run)
    best_first = ranked(trials, objective.direction)
    others = trials[~trials["number"].isin(best_first["number"])].sort_values("number")
    heads = ["trial", "family", "ended", words(objective.name)]
    heads += [words(second.name)] if second else []
    rows = [
        (
            trial["number"],
            Cell(trial["family"], family=trial["family"]),
            trial["state"],
            aligned(trial["value"]),
            *([aligned(beside(trial, second.name))] if second else []),
            number(trial["peak_lr"], 3),
            number(trial["warmup"], 3),
            count(trial["updates"]),
            Cell(duration(trial["seconds"]), trial["seconds"]),
        )
        for _, trial in pd.concat([best_first, others]).head(ROWS).iterrows()
    ]
    return {
        "summary": f"{plural(len(trials), 'trial', 'trials')}, best first",
        "table": Table([*heads, "peak_lr", "warmup", "updates", "time"], rows, "sortable", 3),
        "total": len(trials),
    }


def record(run: RunSettings) -> Table:
    """Everything needed to run this search again, as ``run.json`` has it."""
    kept = run.model_dump(mode="json", exclude=ELSEWHERE)
    facts = {"study": kept["study"], **kept.pop("task"), **kept}
    rows = [
        (name.replace("_", " "), Cell(_fact(value), style="code" * (name == "command")))
        for name, value in facts.items()
        if value not in (None, False, "", [], {})
    ]
    return Table(["", ""], rows, "record", 9)


def _fact(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items() if part)
    if isinstance(value, list):
        return ", ".join(str(_fact(part)) for part in value)
    return count(value) if type(value) is int else setting(value)
