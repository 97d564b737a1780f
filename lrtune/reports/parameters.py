"""The parameters of a family: which of them matter, by Optuna's fANOVA, and scores against each."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import optuna
import pandas as pd
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from sklearn.ensemble import RandomForestRegressor

from lrtune.reports.plot_style import TEMPLATE, axis_title, blank, look, rounded, safe, value_axis
from lrtune.schedule import FAMILIES
from lrtune.verdict.settings import Objective
from lrtune.verdict.summary import forecasts, ranked

FEWEST = 15  # finished trials, below which a forest of trees finds what is not there
TREES, DEPTH = 32, 6  # deeper ones take seconds per hundred trials
READ = {"number", "family", "state", "value", "expected", "peak_lr", "warmup", "evidence"}
SHARED = {"peak_lr": "log", "warmup": "linear"}  # by every family, and their scales
COLUMNS, PANEL, ROOM = 2, 215, 0.05  # panels side by side, pixels of a line, share between them

Direction: TypeAlias = Literal["minimize", "maximize"]
Space = Mapping[str, BaseDistribution]  # by column of the search's table


def scored(trials: pd.DataFrame, family: str) -> pd.DataFrame:
    """A family's trials that have a score: final, or of those that were stopped as forecast.

    Returns:
        Its rows, `value` filled in, with `finished`: whether the value is one that was reached.
        Numbers have the digits that a figure shows.
    """
    columns = [name for name in trials if name in READ or str(name).startswith(f"{family}.")]
    rows = trials.loc[trials["family"] == family, columns]
    finished = rows["state"] == "complete"
    value = rows["value"].astype(float).where(finished, forecasts(rows))
    rows = rows.assign(value=value, finished=finished)
    floats = rows.select_dtypes("float")
    rows = rows.assign(**{str(name): rounded(floats[name]) for name in floats})
    known: pd.DataFrame = rows[np.isfinite(value)].sort_values("number")
    return known


def space_of(rows: pd.DataFrame, family: str) -> dict[str, BaseDistribution]:
    """The parameters of a family that differ between its trials, on the scale of its search."""
    row = FAMILIES.get(family)
    knobs = {knob.name: knob for knob in (*row.knobs, *row.optional)} if row else {}
    own = [str(name) for name in rows if str(name).startswith(f"{family}.")]
    columns = [*SHARED, *(name for name in own if label_of(name) not in SHARED)]
    space: dict[str, BaseDistribution] = {}
    for column in columns:
        values = rows.get(column)
        if values is None or values.isna().any() or values.nunique() < 2:
            continue
        name = column.removeprefix(f"{family}.")
        knob = knobs.get(re.sub(r"_\d+$", "", name)) or knobs.get(name)  # an entry of a list
        scale = SHARED.get(name) or (knob.scale if knob else "linear")
        if scale == "choice" or not pd.api.types.is_numeric_dtype(values):
            space[column] = CategoricalDistribution(sorted({safe(word) for word in values}))
        else:
            log = scale == "log" and bool((values > 0).all())
            space[column] = FloatDistribution(float(values.min()), float(values.max()), log=log)
    return space


def label_of(column: str) -> str:
    """A parameter's name without that of its family."""
    return safe(column.rpartition(".")[2])


def study_of(
    rows: pd.DataFrame, space: Space, values: Iterable[float], direction: Direction
) -> optuna.Study:
    """A study in memory of finished trials, in the order of the rows.

    Args:
        rows: one per trial, with the columns of the space.
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
    names = {column: label_of(column) for column in space}
    params = {
        names[column]: [
            safe(cell) if isinstance(distribution, CategoricalDistribution) else float(cell)
            for cell in rows[column]
        ]
        for column, distribution in space.items()
    }
    distributions = {names[column]: distribution for column, distribution in space.items()}
    for at, value in enumerate(values):
        tried = {name: column[at] for name, column in params.items()}
        study.add_trial(
            optuna.create_trial(value=float(value), params=tried, distributions=distributions)
        )
    return study


def importances(
    rows: pd.DataFrame, family: str, objective: Objective
) -> tuple[dict[str, float], str]:
    """Which parameters matter among a family's finished trials, by Optuna's fANOVA.

    Args:
        rows: see ``scored``.
        family: whose.
        objective: name and direction of the value.

    Returns:
        By parameter, the most important one first, its share of the variance of the scores; and
        where there are none, why.
    """
    done = rows[rows["finished"]]
    if len(done) < FEWEST:
        return {}, f"{len(done)} finished, and at least {FEWEST} are needed"
    space = space_of(done, family)
    if len(space) < 2:
        return {}, "fewer than two parameters differ between the trials"
    values = done["value"].to_numpy(float)
    if objective.direction == "minimize" and (values > 0).all():
        values = np.log(values)  # a loss far off must not outweigh those near the best
    numbers = {}
    for column, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            numbers[column] = pd.factorize(done[column], sort=True)[0]
            continue
        # Optuna's evaluator measures the space as it stands, without its log scales.
        if isinstance(distribution, FloatDistribution) and distribution.log:
            done = done.assign(**{column: np.log10(done[column])})
            space[column] = FloatDistribution(done[column].min(), done[column].max())
        numbers[column] = done[column].to_numpy()
    forest = RandomForestRegressor(2 * TREES, oob_score=True, random_state=0)
    if forest.fit(pd.DataFrame(numbers), values).oob_score_ <= 0:
        return {}, "its parameters do not tell good trials from bad ones"
    study = study_of(done, space, values, objective.direction)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=0)
    return evaluator.evaluate(study), ""


def slices(trials: pd.DataFrame, family: str, objective: Objective) -> go.Figure:
    """Scores of a family against each of its parameters, one panel each.

    Marks are filled for finished trials and open for those that were stopped, at their forecast.
    Without traces where no parameter differs.
    """
    rows = scored(trials, family)
    space = space_of(rows, family)
    if not space:
        return blank()
    style, finished = look(family), rows["finished"].to_numpy(bool)
    first = rows.index.isin(ranked(rows, objective.direction).index[:1])
    marker = {
        "color": style.colour,
        "symbol": np.where(finished, style.symbol, f"{style.symbol}-open").tolist(),
        "size": np.where(first, 12, np.where(finished, 7, 6)).tolist(),
        "opacity": 0.8,
    }
    lines = -(-len(space) // COLUMNS)
    height = PANEL * lines + 40
    room = 70 / height  # between two lines, for titles
    tall, wide = (1 + room) / lines - room, (1 + ROOM) / COLUMNS - ROOM
    title = {"text": axis_title(objective).removeprefix("validation ")}
    # As dictionaries: updates of a plotly figure take a hundred times as long.
    layout: dict[str, Any] = {"template": TEMPLATE, "showlegend": False, "height": height}
    data = []
    for place, (column, distribution) in enumerate(space.items()):
        line, side = divmod(place, COLUMNS)
        number, name = place + 1 if place else "", label_of(column)
        left, top = side * (wide + ROOM), 1 - line * (tall + room)
        words = isinstance(distribution, CategoricalDistribution)
        x = rows[column].map(safe) if words else rows[column]
        axis = {"type": "category"} if words else _scale(distribution)
        layout[f"xaxis{number}"] = axis | {
            "domain": [left, min(1.0, left + wide)],
            "anchor": f"y{number}",
            "title": {"text": name},
            "nticks": 5,
        }
        layout[f"yaxis{number}"] = value_axis(rows["value"]) | {
            "domain": [max(0.0, top - tall), top],
            "anchor": f"x{number}",
            "matches": "y" if place else None,
            "showticklabels": side == 0,
            "title": title if side == 0 else None,
        }
        trace = {
            "type": "scatter",
            "mode": "markers",
            "x": x.tolist(),
            "y": rows["value"].tolist(),
            "xaxis": f"x{number}",
            "yaxis": f"y{number}",
            "marker": marker,
            "customdata": rows["number"].tolist(),
            "name": name,
            "hovertemplate": f"trial %{{customdata}}<br>{name} %{{x}}: %{{y:.4g}}<extra></extra>",
        }
        data.append(trace)
    return go.Figure({"data": data, "layout": layout})


def _scale(distribution: BaseDistribution) -> dict[str, Any]:
    """The axis of a number, with few labels: panels are small."""
    assert isinstance(distribution, FloatDistribution)
    if not distribution.log:
        return {"type": "linear"}
    ratio = distribution.high / distribution.low
    return {"type": "log", "dtick": 1 if ratio > 20 else "D2" if ratio > 2 else None}
