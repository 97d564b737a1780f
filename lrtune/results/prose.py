"""The sentences of the report: who won, by how much, and how far to trust it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lrtune.results.answer import Verdict, answer, sentences
from lrtune.results.canvas import words
from lrtune.results.markup import (
    NARROW,
    Markup,
    count,
    join,
    measured,
    number,
    plural,
    setting,
    tag,
    text,
)
from lrtune.results.summary import (
    PARTIAL,
    beside,
    best_of_each,
    by_end,
    by_family,
    figures_in,
    recommended,
)
from lrtune.results.wording import forecast_range, since
from lrtune.schedule import Schedule

BASELINES = ("constant", "cosine")

Run = Mapping[str, Any]
Metric = Mapping[str, Any]
Row = Mapping[str, Any]  # of a verdict's families


def headline(trials: pd.DataFrame, run: Run, verdict: Verdict | None = None) -> Markup:
    """The answer and what it rests on, as paragraphs: the verdict's, or the search's ranking."""
    if verdict is not None and decided(verdict):
        return _confirmed(trials, verdict)
    said = Markup("") if verdict is None else tag("p", answer(verdict), css="answer")
    winner = recommended(trials, run["objective"]["direction"])
    if winner is None:
        return join(
            [
                said or tag("p", "No winner. ", nothing(trials), css="answer"),
                tag("p", _way_out(trials, run)),
            ]
        )
    if winner["state"] != "complete":
        return join([said, tag("p", _by_forecast(winner, run), css="" if said else "answer")])
    ranking = tag("p", join(_comparison(trials, run), " "))
    if verdict is not None:
        lead = f"In the search, where each trial ran once, {_on_one_seed(trials)}: "
        return join([said, tag("p", lead, _answer(winner, run)), ranking])
    return join(
        [
            tag("p", _answer(winner, run), css="answer"),
            ranking,
            tag("p", caveat(trials, run), css="caveat"),
        ]
    )


def decided(verdict: Verdict) -> bool:
    """Whether it names a winner, or several that cannot be told apart."""
    return verdict["answer"]["place"] in ("winner", "tie")


def _confirmed(trials: pd.DataFrame, verdict: Verdict) -> Markup:
    """What the finals say."""
    first, *others = sentences(verdict)
    best_row = verdict["families"][0]
    schedule = Schedule.from_dict(best_row["schedule"])
    settings = f"The settings of {best_row['family']}: {_settings(schedule)}."
    newer = since(verdict, len(trials))
    return join(
        [
            tag(
                "p",
                first,
                Markup("<span class='quiet'>"),
                settings,
                Markup("</span>"),
                css="answer",
            ),
            tag("ul", *(tag("li", sentence) for sentence in others)),
            tag("p", newer, css="caveat") if newer else Markup(""),
        ]
    )


def nothing(trials: pd.DataFrame) -> Markup:
    """Why there is no winner and nothing to draw."""
    if trials.empty:
        return Markup("No trial has ended yet.")
    ends = by_end(trials)
    how = ", ".join(f"{n} {end}" for end, n in zip(ends["end"], ends["trials"], strict=True) if n)
    return Markup(f"None of the {plural(len(trials), 'trial', 'trials')} ran to a value: {how}.")


def _way_out(trials: pd.DataFrame, run: Run) -> Markup:
    """What to try when nothing finished."""
    if trials.empty:
        return Markup("")
    ends = trials["state"].value_counts()
    if ends.get("diverged", 0) >= len(trials) / 2:
        low, high = (number(rate, 3) for rate in run["peak_lr"])
        return join(
            [Markup("Most trials diverged: search lower peak rates than "), f"{low} to {high}."]
        )
    where = "<a href='#budget'>where the budget went</a>"
    if ends.index.isin(PARTIAL).any():
        where += " and <a href='#stopping'>early stopping</a>"
    return Markup(f"The reasons are listed under {where}.")


def _answer(winner: "pd.Series[Any]", run: Run) -> Markup:
    """Which family and settings, and what they reached."""
    schedule = Schedule.from_json(winner["schedule"])
    objective = run["objective"]
    parts = [f"{words(objective['name'])} {measured(winner['value'], objective)}"]
    if second := second_metric(run):
        value = beside(winner, second["name"])
        if np.isfinite(value):
            parts.append(f"{words(second['name'])} {measured(value, second)}")
    return join(
        [
            tag("strong", winner["family"]),
            " won on validation with ",
            ", ".join(parts),
            Markup(". <span class='quiet'>Its settings: "),
            _settings(schedule),
            Markup(".</span>"),
        ]
    )


def _by_forecast(winner: "pd.Series[Any]", run: Run) -> Markup:
    """Which trial leads where none has a value, and what it was forecast to reach."""
    objective = run["objective"]
    figures = figures_in(winner["evidence"])
    ending = f"{measured(winner['value'], objective)}{forecast_range(figures)}"
    return join(
        [
            "No trial was trained to its end, so none has a value. By its forecast, ",
            tag("strong", winner["family"]),
            f" leads: trial {winner['number']}, which was trained for "
            f"{count(winner['updates'])} of {count(run['horizon'])} updates, would end with a "
            f"validation {words(objective['name'])} of {ending}. Its settings: ",
            _settings(Schedule.from_json(winner["schedule"])),
            Markup("."),
        ]
    )


def _settings(schedule: Schedule) -> str:
    """A schedule's settings on a line."""
    knobs = [f"{name} {setting(value, 3)}" for name, value in schedule.to_dict()["knobs"].items()]
    shown = [f"peak rate {number(schedule.peak_lr, 3)}"]
    if schedule.warmup:
        shown.append(f"warmup {number(100 * schedule.warmup, 3)}{NARROW}% of the horizon")
    return ", ".join([*shown, *knobs])


def _comparison(trials: pd.DataFrame, run: Run) -> list[Markup]:
    """The winner beside the runner-up family and the baselines."""
    objective = run["objective"]
    top = best_of_each(trials, objective["direction"]).set_index("family")["score"]
    if len(top) == 1:
        others = trials["family"].nunique() - 1
        why = "no other family has a finished trial" if others else "only one family was searched"
        return [Markup(f"There is no family to compare it with: {why}.")]
    sentences = [_behind("The runner-up family is ", " with ", top.index[1], top, objective)]
    for name in BASELINES:
        if name in top.index[2:]:
            sentences.append(_behind("The baseline ", " reached ", name, top, objective))
        elif name in set(trials["family"]) - set(top.index):
            sentences.append(Markup(f"The baseline {name} has no finished trial."))
    return sentences


def _behind(lead: str, verb: str, family: str, top: "pd.Series[Any]", objective: Metric) -> Markup:
    """One family's best beside the winner's."""
    gap = abs(float(top[family]) - float(top.iloc[0]))
    behind = f"{measured(gap, objective, 2)} behind" if gap else "a tie"
    reached = measured(top[family], objective)
    return join([lead, tag("strong", family), f"{verb}{reached}, {behind}."])


def caveat(trials: pd.DataFrame, run: Run) -> Markup:
    """How far the ranking goes, in plain words."""
    tries = by_family(trials, run["objective"]["direction"])["trials"]
    low, high = tries.min(), tries.max()
    of = plural(low, "trial", "trials") if low == high else f"between {low} and {high} trials"
    test = run["task"]["test"]
    untouched = (
        f"The test split ({count(test)} samples) has not been touched."
        if test
        else "This task has no test split."
    )
    return join(
        [
            Markup("<strong>A ranking, not yet a verdict.</strong> "),
            f"Every trial ran once, {_on_one_seed(trials)}, and each family shows the best of "
            f"{of}. How much a result moves from seed to seed was not measured, so a small "
            "difference between two families may be noise; the best of many also flatters itself "
            f"on the validation split that chose it. {untouched}",
        ]
    )


def _on_one_seed(trials: pd.DataFrame) -> str:
    """Of which seed a trial is."""
    seeds = trials["seed"].unique()
    return f"on one seed ({seeds[0]})" if len(seeds) == 1 else f"on one of {len(seeds)} seeds"


def second_metric(run: Run) -> dict[str, Any] | None:
    """The metric to print beside the objective, if the task has another."""
    others = [m for name, m in run["metrics"].items() if name != run["objective"]["name"]]
    return others[0] if others else None


def subtitle(trials: pd.DataFrame, run: Run) -> Markup:
    """What was searched, on one line."""
    task = run["task"]
    tried = plural(len(trials), "trial", "trials")
    kinds = plural(trials["family"].nunique(), "family", "families")
    horizon = f"{count(run['horizon'])} updates ({number(run['epochs'], 3)} epochs)"
    return join([text(task["data"]), text(task["model"]), horizon, f"{tried} of {kinds}"], " · ")
