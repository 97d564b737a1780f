"""A verdict in words: what the terminal, the report, best.json and the dashboard all say."""

from collections.abc import Mapping, Sequence
from typing import Any

from lrtune.results.canvas import words
from lrtune.results.markup import aligned, count, number, plural

Verdict = Mapping[str, Any]
WHY_OPEN = {
    "samples": "they would hardly help: the doubt that is left lies in the {samples} samples that "
    "{split} has",
    "settled": "whatever is between them is smaller than {delta}, which does not matter",
    "open": "{seeds} were allowed, and they are used up",
}


def short(verdict: Verdict) -> dict[str, Any]:
    """What best.json carries of a verdict: how sure the winner is."""
    best = verdict["families"][0]
    kept = ("mean", "low", "high", "seeds", "best")
    return {
        "sentence": answer(verdict),
        **{name: verdict["answer"][name] for name in ("place", "families", "why")},
        "split": verdict["split"],
        **{name: best[name] for name in kept},
    }


def answer(verdict: Verdict) -> str:
    """Who won, by how much, in a sentence."""
    place, families = verdict["answer"]["place"], verdict["answer"]["families"]
    if place == "unfinished":
        return "The finals are not finished: lrtune confirm goes on with them."
    if place == "none":
        return f"No winner: {_lost(verdict)}."
    best = verdict["families"][0]
    score = f"{_metric(verdict)} {_value(verdict, best['mean'])}{_interval(verdict, best)}"
    on = f"on {_split(verdict)}, {plural(best['seeds'], 'fresh seed', 'fresh seeds')}"
    if place == "winner":
        return f"{best['family']} wins: {score} {on}{_lead(verdict)}."
    return f"A tie: {listed(families)} cannot be told apart: {best['family']} {score} {on}."


def _lead(verdict: Verdict) -> str:
    if verdict["answer"]["why"] == "alone":
        others = [row for row in verdict["families"] if row["place"] == "lost"]
        return ", and nothing to compare it with" + (f": {_lost(verdict)}" if others else "")
    second = next((row for row in verdict["families"] if row["place"] == "behind"), None)
    if second is None:
        return ""
    reach = _range(verdict, second["gap_low"], second["gap_high"])
    gap = _value(verdict, second["gap"])
    return f"; {second['family']} is {gap} behind (95 % interval {reach})"


def _lost(verdict: Verdict) -> str:
    lost = [row for row in verdict["families"] if row["place"] == "lost"]
    if not lost:
        return "no family came to the finals"
    said = [f"{row['family']} on {row['lost']} of {row['seeds']} seeds" for row in lost]
    return f"lost to divergence or errors: {listed(said)}"


def why(verdict: Verdict) -> str:
    """Why no more seeds were added, and how many more would tell."""
    found = verdict["answer"]
    if found["place"] != "tie":
        return ""
    delta = f"{_value(verdict, found['indifference'])} of {_metric(verdict)}"
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
            "would be needed."
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


def bias(verdict: Verdict) -> str:
    """How much the search flattered its best trial."""
    found = verdict.get("bias")
    if found is None:
        return ""
    shift = _sign(verdict) * (found["again"] - found["searched"])
    return (
        f"The search's best trial, of {found['family']}, had {_value(verdict, found['searched'])} "
        f"on validation; trained again on {plural(found['seeds'], 'fresh seed', 'fresh seeds')} it "
        f"has {_value(verdict, found['again'])} there, {_value(verdict, abs(shift))} "
        f"{'worse' if shift > 0 else 'better'}."
    )


def quickest(verdict: Verdict) -> str:
    """Who needs the fewest updates to the target."""
    found = verdict["quickest"]
    if found is None:
        return (
            "Fewest updates to a target: constant was not trained to the end on every seed to set "
            "one; name it: --goal."
        )
    name, value = words(found["metric"]["name"]), aligned(found["value"])
    unit = found["metric"].get("unit")
    target = f"{name} {value}{' ' + unit if unit else ''}"
    whose = f", where {found['from']} ends" if found["from"] else ""
    first = found["families"][0]
    if not found["tied"]:
        some = max(found["families"], key=lambda row: row["reached"])
        return (
            f"Fewest updates to {target} on validation{whose}: no family reached it on every "
            f"seed; {some['family']} did on {some['reached']} of {some['seeds']}."
        )
    who = listed(found["tied"])
    tie = " (a tie)" if len(found["tied"]) > 1 else ""
    return (
        f"Fewest updates to {target} on validation{whose}: {who}{tie}, "
        f"{count(first['updates'])} of {count(verdict['horizon'])} on average."
    )


def robust(verdict: Verdict) -> str:
    """Whose peak rate may be off furthest."""
    rows = [row for row in verdict["response"] if row.get("factor")]
    amount = verdict["amount"]
    if amount is None:
        return "How far the peak rate may be off: not known, as how much a score varies is not."
    if not rows:
        return "How far the peak rate may be off: no optimum is seen in the trials of any family."
    rows.sort(key=lambda row: -row["factor"])
    said = [
        f"{row['family']} by a factor {number(row['factor'], 2)} "
        f"({number(row['factor_low'], 2)} {_up_to(row['factor_high'])})"
        for row in rows[:3]
    ]
    return (
        f"The peak rate may be off, before the score is {_value(verdict, amount)} worse: "
        f"{listed(said)} (from the search's trials, 90 % intervals)."
    )


def _up_to(high: float | None) -> str:
    """The upper end of an interval that may have none."""
    return "or more" if high is None else f"to {number(high, 2)}"


def ceiling(verdict: Verdict) -> str:
    """What any shape could still win."""
    found = verdict["ceiling"]
    if found is None:
        return (
            "What any other shape could win is not known: the free-form spline has no finals, or "
            "lost some."
        )
    if found["best"] == found["family"] and found["place"] == "winner":
        return (
            "The free-form spline is itself the best: no named family has the shape that it found."
        )
    more = "It has more to tune, so with few trials that is no proof."
    if found["place"] == "tied":
        return (
            "The free-form spline, which may take any shape, cannot be told apart from the best: "
            f"no better shape was found. {more}"
        )
    gap, reach = _value(verdict, found["gap"]), _reach(verdict, found)
    return (
        f"The free-form spline, which may take any shape, is {gap} behind {found['best']}{reach}: "
        f"no better shape was found. {more}"
    )


def anchor(verdict: Verdict) -> str:
    """What a shape is worth at all, beside tuning the peak."""
    found = verdict["anchor"]
    if found is None or found["best"] == found["family"]:
        return ""
    gap, reach = _value(verdict, found["gap"]), _reach(verdict, found)
    lead = "Shape alone, each family at its own best peak:"
    if found["place"] == "tied":
        return (
            f"{lead} {found['best']} cannot be told apart from tuned constant; taken alone, the "
            f"gap is {gap}{reach}."
        )
    return f"{lead} {found['best']} is {gap} better than tuned constant{reach}."


def sentences(verdict: Verdict) -> list[str]:
    """All of it, the answer first."""
    found = [answer(verdict)]
    if verdict["answer"]["place"] in ("winner", "tie"):
        parts = (why, bias, quickest, robust, anchor, ceiling)
        found += [part(verdict) for part in parts]
    return [sentence for sentence in found if sentence]


def _split(verdict: Verdict) -> str:
    return "the test split" if verdict["split"] == "test" else "validation (there is no test split)"


def _metric(verdict: Verdict) -> str:
    return words(verdict["objective"]["name"])


def _sign(verdict: Verdict) -> int:
    return 1 if verdict["objective"]["direction"] == "minimize" else -1


def _value(verdict: Verdict, value: float | None) -> str:
    unit = verdict["objective"].get("unit")
    if value is None:
        return "–"
    return f"{number(value, 3)}{' ' + unit if unit else ''}"


def _interval(verdict: Verdict, row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return ""
    return f" (95 % interval {_range(verdict, row['low'], row['high'])})"


def _reach(verdict: Verdict, found: Mapping[str, Any]) -> str:
    """The interval of a gap in parentheses, if there is one."""
    if found["gap_low"] is None:
        return ""
    return f" ({_range(verdict, found['gap_low'], found['gap_high'])})"


def _range(verdict: Verdict, low: float | None, high: float | None) -> str:
    """Two values, their unit once."""
    unit = verdict["objective"].get("unit")
    ends = ("–" if end is None else number(end, 3) for end in (low, high))
    return f"{' to '.join(ends)}{' ' + unit if unit else ''}"


def listed(names: Sequence[str]) -> str:
    """Names with commas and an "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
