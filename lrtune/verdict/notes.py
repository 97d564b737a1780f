"""Notes on a verdict: why no more seeds were trained, and what to keep in mind of its tests."""

from lrtune.format import count
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import amount_of, listed, metric_of

WHY = {
    "samples": "the doubt that is left lies in the {samples} samples that {split} has, which no "
    "number of seeds removes",
    "equivalent": "the difference is smaller than {margin}, which does not matter",
    "futile": "the trainings left would hardly have told them apart",
    "budget": "the trainings are used up: lrtune confirm adds more",
}


def notes(verdict: Verdict) -> list[str]:
    """All that there are."""
    if not verdict.decided:
        return []
    return [said for part in (why, again) if (said := part(verdict))]


def why(verdict: Verdict) -> str:
    """Why what is tied got no more seeds."""
    if verdict.answer.place != "tie":
        return ""
    test = verdict.task.test
    samples, split = (test, "the test split") if test else (verdict.task.val, "validation")
    margin = f"{amount_of(verdict, verdict.answer.margin)} of {metric_of(verdict)}"
    said = WHY[verdict.answer.why].format(margin=margin, samples=count(samples), split=split)
    return f"Why no more seeds: {said}."


def again(verdict: Verdict) -> str:
    """That it was judged before, with fewer trainings, and what that costs."""
    before = verdict.earlier
    if not before:
        return ""
    tests = len(before) + 1
    return (
        f"It was judged before with {listed([count(number) for number in before])} trainings: each "
        f"of these {tests} tests errs in up to 5 %, together in up to {5 * tests} %."
    )
