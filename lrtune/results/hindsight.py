"""What the finals say of early stopping: they were trained to their end, so one can look back."""

import numpy as np
import pandas as pd

from lrtune.results.canvas import Array
from lrtune.results.markup import NARROW, count, measured, plural
from lrtune.results.notes import Verdict
from lrtune.results.summary import curve_of, figures_in, finals_of

FEWEST = 3  # finalists, of whom half can be the worse one
WARMUP = 0.1  # of the run, in which nobody prunes
Means = dict[str, tuple[Array, Array]]  # by family: updates and the mean validation curve
ON_TOP = ("winner", "tied")


def hindsight(trials: pd.DataFrame, verdict: Verdict, finals: pd.DataFrame) -> list[str]:
    """Sentences: whom a plain rule would have ended wrongly, and how close the prunings were."""
    return [said for said in (_crossed(verdict, finals), _close(trials, verdict)) if said]


def behind_until(verdict: Verdict, means: Means) -> dict[str, float]:
    """Who came out on top and yet lay in the worse half of the finalists, and until when.

    Returns:
        The last such share of the run, above WARMUP, of each that ever did.
    """
    top = {row["family"] for row in verdict["families"] if row["place"] in ON_TOP}
    if len(means) < FEWEST or not 0 < 2 * len(top) <= len(means):
        return {}  # of more, some must lie in the worse half
    length = min(len(step) for step, _ in means.values())
    sign = 1 if verdict["objective"]["direction"] == "minimize" else -1
    curves = sign * np.stack([metric[:length] for _, metric in means.values()])
    progress = next(iter(means.values()))[0][:length] / verdict["horizon"]
    worse = (curves > np.median(curves, axis=0)) & (progress > WARMUP) & (progress < 1)
    return {
        family: float(progress[row].max())
        for family, row in zip(means, worse, strict=True)
        if family in top and row.any()
    }


def mean_curves(verdict: Verdict, finals: pd.DataFrame) -> Means:
    """Updates and the mean validation curve of each finalist that lost no seed."""
    found = {}
    for row in verdict["families"]:
        own = finals_of(finals, row, verdict["horizon"])
        own = own[own["state"] == "complete"]
        curves = [curve_of(one, f"val_{verdict['objective']['name']}") for _, one in own.iterrows()]
        if curves and curves[0].size and len({curve.size for curve in curves}) == 1:
            found[row["family"]] = curve_of(own.iloc[0], "step"), np.mean(curves, axis=0)
    return found


def _crossed(verdict: Verdict, finals: pd.DataFrame) -> str:
    on_top = [row["family"] for row in verdict["families"] if row["place"] in ON_TOP]
    means = mean_curves(verdict, finals)
    if len(means) < FEWEST or not 0 < 2 * len(on_top) <= len(means):
        return ""
    found = behind_until(verdict, means)
    lead = "Nothing ends the finals early, so they show what a look at the curves alone would do: "
    if not found:
        return (
            f"{lead}after the first {100 * WARMUP:.0f}{NARROW}% of the run, none that came out on "
            "top was ever in the worse half of the finalists."
        )
    late = sorted(found, key=found.__getitem__, reverse=True)
    said = ", ".join(f"{name} as late as {100 * found[name]:.0f}{NARROW}%" for name in late)
    return (
        f"{lead}of the {count(len(on_top))} that came out on top, {len(found)} lay in the worse "
        f"half of the finalists on the way ({said} of the run), where a rule that compares values "
        "at equal updates could have ended them."
        if len(on_top) > 1
        else f"{lead}{said} of the run, the winner lay in the worse half of the finalists, where a "
        "rule that compares values at equal updates could have ended it."
    )


def _close(trials: pd.DataFrame, verdict: Verdict) -> str:
    """How many prunings were a close call, by the spread between the finals' seeds."""
    amount = verdict["amount"]
    pruned = trials[trials["state"] == "pruned"]
    if amount is None or pruned.empty or "evidence" not in pruned:
        return ""
    sign = 1 if verdict["objective"]["direction"] == "minimize" else -1
    seen = [figures_in(cell) for cell in pruned["evidence"]]
    gaps = [
        sign * (found["final"] - found["best"])
        for found in seen
        if found.get("final") is not None and found.get("best") is not None
    ]
    if not gaps:
        return ""
    close = sum(gap < amount for gap in gaps)
    return (
        f"The finals train only what was kept, so whether a pruning was wrong they cannot say; but "
        f"{close} of {plural(len(gaps), 'pruned trial', 'pruned trials')} with a forecast "
        f"{'was' if close == 1 else 'were'} to end less than "
        f"{measured(amount, verdict['objective'], 2)} behind the best of that time, twice the "
        "standard deviation between the seeds of the finals: close calls."
    )
