"""What a result looks like in a terminal: of a run, a verdict, several runs, a log."""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from rich.console import Console

from lrtune.cli.console import console_of, copyable, named, print_table, say, sparkline
from lrtune.errors import InputError
from lrtune.files import shown
from lrtune.format import Table, aligned, count, listed, number, plural, words
from lrtune.run.folder import Run
from lrtune.verdict.best import BestSchedule
from lrtune.verdict.recommendation import Recommendation, of_verdict, recommendation, since
from lrtune.verdict.summary import by_end, hosts_in_words
from lrtune.verdict.tables import finalists, searched_families
from lrtune.verdict.verdict import Verdict

if TYPE_CHECKING:
    from lrtune.doctor import Diagnosis
    from lrtune.engine import RangeTest

TOP = 8  # families in the ranking
ARROWS = {"minimize": "↓", "maximize": "↑"}
NAMED = 2  # families of a tie that are named
SAMPLES = 400  # of a log's rates


def show(folder: Path) -> None:
    """Print the result of a run again, as ``lrtune search`` did, and whether it was cut short."""
    run, console = Run(folder), console_of()
    print_result(run, console)
    if cut_short := run.cut_short():
        what = plural(cut_short, "training was", "trainings were")
        copyable(console, f"{what} cut short; to go on: {run.settings.command}")


def show_json(folder: Path) -> None:
    """Print the result of a run as JSON."""
    run = Run(folder)
    trials, verdict = run.trials(), run.verdict()
    newer = "" if verdict is None else since(verdict, len(trials))
    answer = recommendation(trials, run.public_settings, verdict)
    best = BestSchedule.of(trials, run.settings, verdict)
    content = {
        "run": str(folder),
        "answer": answer and answer.to_json(),
        "best": best and best.to_json(),
        "verdict": verdict and verdict.to_json(),
        "since": newer or None,
    }
    print(json.dumps(content, indent=2))


def print_result(run: Run, console: Console) -> None:
    """Print what to use, what it gains and how sure that is; then what it rests on."""
    trials, verdict = run.trials(), run.verdict()
    answer = recommendation(trials, run.public_settings, verdict)
    if answer is None:
        say(console, "no trial reached the end: there is no winner; the report says why")
    else:
        _print_answer(answer, console)
    if verdict is not None:
        _print_finalists(verdict, console, len(trials))
    elif answer is not None:
        metric = words(run.settings.objective.name)
        say(console, f"validation {metric} by family; best: as expected on another seed")
        print_table(console, searched_families(trials, run.settings), TOP)
    ends = [f"{row['trials']} {row['end']}" for row in by_end(trials).to_dict("records")]
    say(console, f"trials: {', '.join(ends)}")
    if hosts := hosts_in_words(run.settings):
        say(console, f"trained on {hosts}")
    copyable(console, f"report: {shown(run.folder / 'report.html')}")


def _print_answer(answer: Recommendation, console: Console) -> None:
    (_, use), *others, (label, command) = answer.lines
    say(console, use, hanging=8)
    for name, text in others:
        say(console, f"{name:<7} {text}", hanging=8)
    copyable(console, f"{label:<7} {command}")
    for warning in answer.warnings:
        say(console, f"Warning: {warning}", hanging=8)


def print_verdict(verdict: Verdict, console: Console, trials: int) -> None:
    """Print a verdict alone, and whether the search has gone on since; it has ``trials`` by now."""
    for line in of_verdict(verdict):
        say(console, line)
    _print_finalists(verdict, console, trials)


def _print_finalists(verdict: Verdict, console: Console, trials: int) -> None:
    say(console, f"finals: {verdict.horizon:,} updates; below each figure its 95 % interval")
    print_table(console, finalists(verdict))
    if newer := since(verdict, trials):
        say(console, newer)


def show_verdict(folder: Path, total: int | None, margin: float | None = None) -> None:
    """Print the verdict on a horizon, judged anew if asked for.

    Raises:
        InputError: there is no verdict on it.
    """
    run = Run(folder)
    horizon = run.settings.horizon if total is None else total
    verdict = run.verdict(horizon)
    if verdict is None:
        there = f" (there is one on {listed([*map(count, run.horizons)])})" if run.horizons else ""
        where = f"{shlex.quote(str(folder))}{'' if total is None else f' --total {total}'}"
        raise InputError(
            f"{folder}: has no verdict on {count(horizon)} updates yet{there}: "
            f"lrtune confirm {where}"
        )
    if margin is not None and margin != verdict.plan.margin:
        plan = replace(verdict.plan, margin=margin)
        verdict = run.judged(plan, horizon, verdict.finalists, over=True)
    print_verdict(verdict, console_of(), len(run.trials()))


def print_comparison(table: pd.DataFrame, console: Console) -> None:
    """Print two tables that fit the terminal: one row per verdict, one row per family."""
    from lrtune.reports.compare import wins

    several_seeds = table.groupby(["task", "horizon"])["seed"].transform("nunique") > 1
    tasks = []
    for _, rows in table.groupby("source", sort=False):
        best = rows.iloc[0]
        seed = f", seed {best['seed']}" if several_seeds[rows.index[0]] else ""
        what = f"{words(best['metric'])} {ARROWS[best['direction']]}"
        task = f"{best['task']}, {count(best['horizon'])} updates{seed}: {what}"
        tasks.append((task, *_winner(rows)))
    print_table(console, Table(["task", "winner", "score", "next behind"], tasks, numeric=2))
    say(console, "↓: lower is better, ↑: higher is better; of a tie, the score of the best mean")
    amounts = ["tasks", "wins", "ties", "losses", "mean_rank"]
    families = [
        # A task that several verdicts judge counts once, shared among them.
        (row["family"], *(number(row[name], 3) for name in amounts))
        for row in wins(table).to_dict("records")
    ]
    print_table(console, Table(["family", *map(words, amounts)], families))


def _winner(rows: pd.DataFrame) -> tuple[str, str, str]:
    """The winner or the tie, its score, and who is behind by how much."""
    names = rows.loc[rows["place"].isin(("winner", "tied")), "family"].tolist()
    if not names:
        return "none: all lost seeds", "–", "–"
    more = len(names) - NAMED
    who = listed([*names[:NAMED], f"{more} more"] if more > 1 else names)
    winner = who if len(names) == 1 else f"tie: {who}"
    behind, follows = rows[rows["place"] == "behind"].sort_values("rank", kind="stable"), "–"
    if not behind.empty:
        first = behind.iloc[0]
        follows = f"{named(first['family'], 20)} by {aligned(first['gap'], 3)}"
    return winner, aligned(rows.iloc[0]["mean"], 3), follows


def print_range_test(test: "RangeTest", console: Console) -> None:
    """Print the rates that a range test suggests, and why they are unsure."""
    if losses := [loss for loss in test.smoothed[0].tolist() if math.isfinite(loss)]:
        ends = f"{test.rates[0]:.4g} to {test.rates[len(losses) - 1]:.4g}"
        say(console, f"loss of the first seed over rate ({ends}): {sparkline(losses)}")
    doubt = math.exp(test.suggestion.doubt)
    for name, meaning in (
        ("base_lr", "the loss begins to fall"),
        ("valley", "half-way down the longest fall"),
        ("steepest", "the loss falls fastest"),
        ("max_lr", "the loss begins to rise for good"),
        (
            "peak_lr",
            f"a good peak for whole trainings, within a factor of {doubt:.2g} two times of three",
        ),
    ):
        say(console, f"{name:<9} {getattr(test.suggestion, name):.3g}   {meaning}")
    if test.message:
        say(console, f"unsure: {test.message}")


def print_diagnoses(diagnoses: "Sequence[Diagnosis]", console: Console) -> int:
    """Print the rates of logs and what is wrong with them.

    Returns:
        How many things are wrong.
    """
    from lrtune.doctor import findings

    wrong = 0
    for diagnosis in diagnoses:
        log, fit = diagnosis.log, diagnosis.known
        if len(diagnoses) > 1:
            say(console, named(log.name))
        for fact in _facts(diagnosis):
            say(console, fact)
        found = findings(diagnosis)
        for finding in found:
            console.print(f"\n{finding.name}", style="bold red")
            say(console, f"  {finding.evidence}")
            say(console, f"  usual cause: {finding.cause}")
            say(console, f"  fix: {finding.fix}")
        say(console, "" if found else "nothing wrong was found")
        wrong += len(found)
        say(console, _fitted(diagnosis))
        if fit and fit.schedule:
            copyable(console, f"  {fit.schedule}")
    return wrong


def _facts(diagnosis: "Diagnosis") -> list[str]:
    """The curve; first, highest and last rate; warmup; how the log was read."""
    log, fit, facts = diagnosis.log, diagnosis.known, []
    if len(log.at) > 1:
        if diagnosis.top > 0:
            at = np.linspace(log.at[0], log.at[-1], SAMPLES)  # each rate holds until the next
            held = log.rates[np.maximum(np.searchsorted(log.at, at, side="right") - 1, 0)]
            facts.append(f"rates: {sparkline(np.maximum(held, 0.0).tolist())}")
        facts.append(
            f"{len(log.at):,} rates, updates {log.at[0]:,.0f} to {log.at[-1]:,.0f}"
            + (f" of {log.total:,}" if log.total else "")
            + f": first {log.rates[0]:.4g}, highest {diagnosis.top:.4g} at update "
            + f"{diagnosis.peak_at:,.0f}, last {log.rates[-1]:.4g}"
        )
        warmup = fit.warmup * (diagnosis.per if diagnosis.by_step else 1) if fit else 0.0
        if warmup >= 1 and not diagnosis.rising_at_end:
            facts.append(f"warmup: {warmup:,.0f} updates")
        if diagnosis.per > 1:
            facts.append(f"the rate changes every {diagnosis.per:,} updates: an epoch, probably")
        if diagnosis.top > 0 and np.ptp(log.rates) == 0:
            facts.append("the rate never changes: if a schedule was meant, step() is not called")
    if log.steps is not None and log.horizon and not log.total and log.steps < log.horizon:
        facts.append(
            f"{log.steps:,} of {log.horizon:,} steps are made; a checkpoint does not say how long "
            "the run is: --total does"
        )
    return [*facts, *log.notes]


def _fitted(diagnosis: "Diagnosis") -> str:
    """The family that comes nearest, and by how much it misses."""
    fit = diagnosis.fit
    if fit is None:
        return "no family was fitted: too few rates, or some that no schedule has"
    off = "to the last digit" if fit.worst < 1e-6 else f"off by at most {fit.worst:.1%} of the peak"
    if not fit.tight:
        return f"no family gives these rates; the nearest is {fit.family}, {off}"
    other = "; plateau may give the same" if fit.family in ("step", "multistep") else ""
    unit = f" (a step is {diagnosis.per} updates)" if diagnosis.by_step else ""
    return f"best fit: {fit.family}, {off}{other}; total {fit.total:,} steps{unit}"
