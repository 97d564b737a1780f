"""Inside each family: its parameters, and which of them matter, by Optuna's importances and plots.

The trials of one family make a study in memory: what Optuna computes and draws of it is Optuna's.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.visualization import plot_rank, plot_slice
from sklearn.ensemble import RandomForestRegressor

from lrtune.format import limited
from lrtune.reports.answer import Run, nothing
from lrtune.reports.blocks import Block, Cell, Choice, Heading, Section, Table, Text, drawn
from lrtune.reports.palette import look
from lrtune.reports.plot_style import (
    TEMPLATE,
    axes_of,
    axis_title,
    blank,
    panels,
    rounded,
    safe,
    value_axis,
)
from lrtune.schedule import FAMILIES
from lrtune.verdict.settings import Objective
from lrtune.verdict.summary import by_family, forecasts, ranked

FEWEST = 15  # finished trials, below which a forest of trees finds what is not there
TREES, DEPTH = 32, 6  # deeper ones take seconds per hundred trials
READ = {"number", "family", "state", "value", "expected", "peak_lr", "warmup", "evidence"}
SHARED = {"peak_lr": "log", "warmup": "linear"}  # by every family, and their scales
CAVEAT = (
    "Functional analysis of variance (Optuna's fANOVA) over the finished trials: the share of the "
    "differences between scores that a parameter explains by itself; the rest lies in "
    "combinations. These trials are few, pruning kept the good ones, and the sampler tried related "
    "settings together, so that one parameter may stand in for another."
)

Direction: TypeAlias = Literal["minimize", "maximize"]
Space = Mapping[str, BaseDistribution]  # by column of the search's table


@dataclass(frozen=True, slots=True)
class Importances:
    """Which parameters matter."""

    # of the variance of the scores, by parameter, the most important one first
    shares: Mapping[str, float] = field(default_factory=dict)
    why: str = ""  # why there are none; empty where there are


def inside(trials: pd.DataFrame, run: Run) -> Section:
    """The section of the report: one family at a time, the best one first."""
    title = "Inside each family"
    order = by_family(trials, run.objective.direction)["family"].astype(str).tolist()
    if not order:
        return Section("inside", title, nothing(trials), [Text(nothing(trials))])
    options = [
        (limited(name, 60), _family(trials, run.objective, name, f"inside-{place}"))
        for place, name in enumerate(order)
    ]
    summary = "Scores against each parameter, one family at a time, and which parameters matter"
    return Section("inside", title, summary, [Choice("inside", "family", options)])


def _family(trials: pd.DataFrame, objective: Objective, family: str, key: str) -> list[Block]:
    own = scored(trials, family)
    found = importances(own, family, objective)
    why = "none of its trials has a score" if own.empty else "no parameter differs between them"
    return [
        drawn(
            f"{key}-slices",
            slices(trials, family, objective),
            "Validation scores, one panel per parameter. Filled: finished, the best is large. "
            "Open: stopped early, at the value that was forecast then.",
            f"No figure of its parameters: {why}.",
        ),
        drawn(
            f"{key}-rank",
            rank(trials, family, objective, found),
            "The trials by rank, over the two parameters that matter most. Small: stopped early, "
            "ranked by forecast.",
            "No figure over two parameters: fewer than three trials have a score, or two numbers.",
        ),
        Heading("Which parameters matter"),
        *_mattered(found),
    ]


def _mattered(found: Importances) -> list[Block]:
    if found.why:
        return [Text(f"Not known for this family: {found.why}.")]
    rows = [
        (name, Cell(f"{100 * share:.0f}", share, share=share))
        for name, share in found.shares.items()
    ]
    return [Text(CAVEAT, "note"), Table(["parameter", "explains by itself (%)"], rows)]


def scored(trials: pd.DataFrame, family: str) -> pd.DataFrame:
    """A family's trials that have a score: final, or of those that were stopped as forecast.

    Returns:
        Its rows, `value` filled in, with `finished`: whether the value is one that was reached.
        Numbers have the digits that a figure shows.
    """
    kept = [name for name in trials if name in READ or str(name).startswith(f"{family}.")]
    own = trials.loc[trials["family"] == family, kept]
    finished = own["state"] == "complete"
    value = own["value"].astype(float).where(finished, forecasts(own))
    own = own.assign(value=value, finished=finished)
    floats = own.select_dtypes("float")
    own = own.assign(**{str(name): rounded(floats[name]) for name in floats})
    known: pd.DataFrame = own[np.isfinite(value)].sort_values("number")
    return known


def space_of(own: pd.DataFrame, family: str) -> dict[str, BaseDistribution]:
    """The parameters of a family that differ between its trials, on the scale of its search."""
    row = FAMILIES.get(family)
    docs = {knob.name: knob for knob in (*row.knobs, *row.optional)} if row else {}
    columns = [*SHARED, *(str(name) for name in own if str(name).startswith(f"{family}."))]
    space: dict[str, BaseDistribution] = {}
    for column in columns:
        values = own.get(column)
        if values is None or values.isna().any() or values.nunique() < 2:
            continue
        name = column.removeprefix(f"{family}.")
        knob = docs.get(re.sub(r"_\d+$", "", name)) or docs.get(name)  # an entry of a list
        scale = SHARED.get(name) or (knob.scale if knob else "linear")
        if scale == "choice" or not pd.api.types.is_numeric_dtype(values):
            space[column] = CategoricalDistribution(sorted({safe(word) for word in values}))
        else:
            log = scale == "log" and bool((values > 0).all())
            space[column] = FloatDistribution(float(values.min()), float(values.max()), log=log)
    return space


def study_of(
    own: pd.DataFrame, space: Space, values: Iterable[float], direction: Direction
) -> optuna.Study:
    """A study in memory of finished trials, in the order of the rows.

    Args:
        own: one row per trial, with the columns of the space.
        space: the parameters; a family's prefix is left out of their names.
        values: one per trial.
        direction: ``minimize`` or ``maximize``.
    """
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))  # "A new study created"
    try:
        study = optuna.create_study(direction=direction)
    finally:
        optuna.logging.set_verbosity(before)
    distributions = {_label(column): one for column, one in space.items()}
    params = {
        _label(column): [
            safe(cell) if isinstance(one, CategoricalDistribution) else float(cell)
            for cell in own[column]
        ]
        for column, one in space.items()
    }
    for at, value in enumerate(values):
        tried = {name: column[at] for name, column in params.items()}
        study.add_trial(
            optuna.create_trial(value=float(value), params=tried, distributions=distributions)
        )
    return study


def _label(column: str) -> str:
    return safe(column.rpartition(".")[2])


def importances(own: pd.DataFrame, family: str, objective: Objective) -> Importances:
    """Which parameters matter among a family's finished trials, by Optuna's fANOVA.

    Args:
        own: see ``scored``.
        family: whose.
        objective: name and direction of the value.
    """
    done = own[own["finished"]]
    if len(done) < FEWEST:
        return Importances(why=f"{len(done)} finished, and at least {FEWEST} are needed")
    space = space_of(done, family)
    if len(space) < 2:
        return Importances(why="fewer than two parameters differ between the trials")
    values = done["value"].to_numpy(float)
    if objective.direction == "minimize" and (values > 0).all():
        values = np.log(values)  # a loss far off must not outweigh those near the best
    # Optuna's evaluator measures the space as it stands, without its log scales.
    for column, one in space.items():
        if isinstance(one, FloatDistribution) and one.log:
            done = done.assign(**{column: np.log10(done[column])})
            space[column] = FloatDistribution(done[column].min(), done[column].max())
    numbers = {
        column: pd.factorize(done[column], sort=True)[0]
        if isinstance(one, CategoricalDistribution)
        else done[column]
        for column, one in space.items()
    }
    forest = RandomForestRegressor(2 * TREES, oob_score=True, random_state=0)
    if forest.fit(pd.DataFrame(numbers), values).oob_score_ <= 0:
        return Importances(why="its parameters do not tell good trials from bad ones")
    study = study_of(done, space, values, objective.direction)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=0)
    return Importances(evaluator.evaluate(study))


def slices(trials: pd.DataFrame, family: str, objective: Objective) -> go.Figure:
    """Optuna's slice plot of a family; without traces where no parameter differs."""
    own = scored(trials, family)
    space = space_of(own, family)
    if not space:
        return blank()
    values, colour = own["value"].tolist(), look(family)
    title = axis_title(objective).removeprefix("validation ")  # a panel is not high
    study = study_of(own, space, values, objective.direction)
    figure = plot_slice(study, target_name=title)
    best_one = ranked(own, objective.direction).index[:1]
    finished, first = own["finished"].to_numpy(bool), own.index.isin(best_one)
    open_symbol = f"{colour.symbol}-open"
    symbols = np.where(finished, colour.symbol, open_symbol)
    sizes = np.where(first, 12, np.where(finished, 7, 6))
    for place, trace in enumerate(figure.data):
        at = list(trace.marker.color)  # Optuna's own numbers of the trials
        x = axes_of(place)[0]
        trace.marker = {
            "color": colour.colour,
            "symbol": symbols[at].tolist(),
            "size": sizes[at].tolist(),
            "opacity": 0.8,
        }
        trace.customdata = own["number"].to_numpy()[at].tolist()
        axis, shown = figure.layout[x], "%{x:.3g}"
        if axis.type == "category":
            trace.x = [word[1:-1] for word in trace.x]  # Optuna quotes words
            axis.categoryarray, shown = [word[1:-1] for word in axis.categoryarray], "%{x}"
        elif axis.type == "log" and max(trace.x) > 10 * min(trace.x):
            axis.dtick = 1  # of panels so small, decades are enough
        name = axis.title.text
        said = f"trial %{{customdata}}<br>{name} {shown}: %{{y:.4g}}<extra></extra>"
        trace.update(name=name, hovertemplate=said)
    figure.update_xaxes(nticks=5).update_yaxes(**value_axis(own["value"].to_numpy(float)))
    return figure.update_layout(template=TEMPLATE, title=None, width=None, **panels(len(space)))


def rank(
    trials: pd.DataFrame,
    family: str,
    objective: Objective,
    found: Importances | None = None,
) -> go.Figure:
    """Optuna's rank plot of the two numbers that matter most; of few trials, of the first two.

    Args:
        trials: the search's table.
        family: whose.
        objective: name, direction and unit of the value.
        found: which parameters matter, if that is known already.
    """
    own = scored(trials, family)
    space = space_of(own, family)
    numeric = {_label(c): c for c, one in space.items() if isinstance(one, FloatDistribution)}
    if len(numeric) < 2 or len(own) < 3:
        return blank()
    found = importances(own, family, objective) if found is None else found
    columns = [numeric.pop(name) for name in [*found.shares, *numeric] if name in numeric][:2]
    pair = {column: space[column] for column in columns}
    study = study_of(own, pair, own["value"], objective.direction)
    figure = plot_rank(study, target_name=axis_title(objective))
    points, scale = figure.data
    bar = scale.marker.colorbar
    bar.ticktext = [f"{float(said.split('(')[1][:-1]):.3g}" for said in bar.ticktext]
    points.marker.size = np.where(own["finished"], 11, 6).tolist()
    points.hovertext = [
        f"trial {number}<br>{said.partition('<br>')[2]}"  # by our number
        for number, said in zip(own["number"], points.hovertext, strict=True)
    ]
    return figure.update_layout(template=TEMPLATE, title=None, height=380, showlegend=False)
