"""Early stopping in numbers: what ended early, what that saved, how often it was wrong.

Columns of `trials` that this reads beside the usual ones: `evidence` (JSON: of a trial that was
pruned or has plateaued, the figures of its forecast) and `audit` (JSON or None: the same of a trial
that was to be pruned and was trained to the end as a check, with `update` and `reason`).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import beta

from lrtune.format import plural
from lrtune.results.summary import figures_in, ranked

# The rules that end a trial before its horizon: a trial's state, and what to say of it.
RULES = {
    "pruned": "pruned as unlikely to win",
    "plateaued": "plateaued",
    "diverged": "diverged",
}
SURE = 0.95
AUDITS = ("number", "cost", "best", "value", "gain", "wrong")


def ended_early(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials that a rule ended."""
    return trials[trials["state"].isin(RULES)]


def is_audited(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Which trials were to be pruned and were trained to the end as a check."""
    if "audit" not in trials:
        return pd.Series(False, index=trials.index)
    return trials["audit"].map(lambda cell: bool(figures_in(cell))).astype(bool)


def spared(trials: pd.DataFrame, horizon: int) -> str:
    """What early stopping saved, as a sentence or two; empty where it ended no trial.

    A trial that failed would have cost what it did.

    Example:
        >>> rows = {"state": ["complete", "diverged"], "updates": [100, 40]}
        >>> spared(pd.DataFrame(rows), 100)
        '1 of 2 trials ended early: 1 diverged. That saved 60 of 200 updates (30 %).'
    """
    early = ended_early(trials)
    if early.empty:
        return ""
    counts = early["state"].value_counts()
    rules = ", ".join(f"{counts[end]} {said}" for end, said in RULES.items() if end in counts)
    saved = int((horizon - early["updates"]).clip(lower=0).sum())
    whole = saved + int(trials["updates"].sum())
    return (
        f"{len(early)} of {plural(len(trials), 'trial', 'trials')} ended early: {rules}. "
        f"That saved {saved:,} of {whole:,} updates ({100 * saved / max(whole, 1):.0f} %)."
    )


def audits(trials: pd.DataFrame, direction: str) -> pd.DataFrame:
    """One row for each audited trial that has ended with an answer, in the order of `number`.

    Returns:
        Columns AUDITS: `cost`, the updates after it was to be pruned, `best` final value at that
        time, its own final `value`, `gain` (how far that is better, as a share of `best`, else
        negative; NaN where `best` is 0 or there was none), and whether pruning it would have
        been `wrong`. A trial that diverged would have been pruned rightly; one that failed says
        nothing and is left out.
    """
    rows = []
    counted = is_audited(trials) & (trials["state"] != "failed")
    for _, trial in trials[counted].sort_values("number").iterrows():
        found = figures_in(trial["audit"])
        best, value = _best_then(found, trial, trials, direction), _value(trial)
        ahead = best - value if direction == "minimize" else value - best
        gain = ahead / abs(best) if best else float("nan")
        wrong = ahead > 0 or (np.isnan(best) and np.isfinite(value))
        cost = trial["updates"] - (found.get("update") or 0)
        rows.append((trial["number"], cost, best, value, gain, bool(wrong)))
    return pd.DataFrame(rows, columns=list(AUDITS))


def _value(trial: "pd.Series[Any]") -> float:
    counts = trial["state"] == "complete" and np.isfinite(trial["value"])
    return float(trial["value"]) if counts else float("nan")


def _best_then(
    found: Mapping[str, Any], trial: "pd.Series[Any]", trials: pd.DataFrame, direction: str
) -> float:
    """The best final value as the pruner saw it; of one that does not say, of earlier trials."""
    if found.get("best") is not None:
        return float(found["best"])
    before = ranked(trials[trials["number"] < trial["number"]], direction)["value"]
    return float(before.min() if direction == "minimize" else before.max())


def at_most(wrong: int, checked: int) -> float:
    """The upper bound of a share that was `wrong` of `checked`: Clopper and Pearson's, 95 %.

    Example:
        >>> round(at_most(0, 10), 2)
        0.26
    """
    if wrong >= checked:
        return 1.0
    return float(beta.ppf(SURE, wrong + 1, checked - wrong))
