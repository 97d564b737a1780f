"""Notes on a verdict: why no more seeds were added, and what to keep in mind of its tests."""

from collections.abc import Mapping
from typing import Any

from lrtune.format import count, plural
from lrtune.results.plan import decided
from lrtune.results.wording import amount_of, listed, metric_of

Verdict = Mapping[str, Any]
WHY_OPEN = {
    "samples": "they would hardly help: the doubt that is left lies in the {samples} samples that "
    "{split} has",
    "settled": "whatever is between them is smaller than {delta}, which does not matter",
    "open": "{seeds} were allowed, and they are used up",
}


def notes(verdict: Verdict) -> list[str]:
    """All that there are."""
    if not decided(verdict):
        return []
    return [said for part in (why, again, early) if (said := part(verdict))]


def why(verdict: Verdict) -> str:
    """Why no more seeds were added, and how many more would tell."""
    found = verdict["answer"]
    if found["place"] != "tie":
        return ""
    delta = f"{amount_of(verdict, found['indifference'])} of {metric_of(verdict)}"
    seeds = plural(found["seeds"], "seed", "seeds")
    test = verdict["task"]["test"]
    samples, split = (test, "the test split") if test else (verdict["task"]["val"], "validation")
    said = WHY_OPEN[found["why"]].format(
        delta=delta, seeds=seeds, samples=count(samples), split=split
    )
    sentences = [f"No more seeds were added, because {said}."]
    if found["why"] == "open" and found["needed"] is not None:
        sentences.append(
            f"To separate the first two at the gap seen, about {count(found['needed'])} seeds "
            "would be needed (--max-seeds: a second test, with 5 % of its own to err)."
        )
    elif found["why"] == "open" and _apart(verdict):
        sentences.append(
            f"At the gap seen, no number of seeds would separate the first two: {split} has only "
            f"{count(samples)} samples."
        )
    if found["why"] == "open" and found["settling"] is not None:
        sentences.append(
            f"To call them equal within {delta}, about {count(found['settling'])} would be."
        )
    return " ".join(sentences)


def _apart(verdict: Verdict) -> bool:
    """Whether there is a gap between the first two, and an interval around it."""
    second = verdict["families"][1]
    return bool(second["gap"]) and second["gap_low"] is not None


def again(verdict: Verdict) -> str:
    """That it was tested before, with other numbers of seeds, and what that costs."""
    before = verdict.get("earlier", [])
    if not before:
        return ""
    tests = len(before) + 1
    return (
        f"It was judged before with at most {listed([count(seeds) for seeds in before])} seeds: of "
        f"equals, each of these {tests} tests may name a winner in up to 5 %, together in up to "
        f"{5 * tests} %."
    )


def early(verdict: Verdict) -> str:
    """Who was left behind by another than the best of the end, which may still be within reach."""
    best = verdict["families"][0]["family"]
    rows = [row for row in verdict["families"] if row["place"] == "behind"]
    said = [
        f"{row['family']} was left behind after {plural(row['seeds'], 'seed', 'seeds')} by "
        f"{row['rival']}, the best at that time"
        for row in rows
        if row.get("rival", best) != best and row["gap_low"] is not None and row["gap_low"] <= 0
    ]
    return f"{listed(said)}; {best} alone would not have shown it then." if said else ""
