"""The first screen of the report: what to use, what it gains, how sure that is, and its code."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lrtune.format import count, number
from lrtune.reports.answer import Answer, Run, answer
from lrtune.reports.exports import Export, chosen, exports
from lrtune.reports.palette import look
from lrtune.reports.plot_style import Array, thin
from lrtune.reports.rates import rates_of
from lrtune.schedule import Schedule
from lrtune.verdict.sequential import ALPHA
from lrtune.verdict.verdict import Gain as GainOf
from lrtune.verdict.verdict import Verdict
from lrtune.verdict.wording import amount_of, metric_of, range_of

WIDTH, HEIGHT = 400, 150  # of the sketch's own coordinates
POINTS = 200  # of a curve
FAR = 8.0  # between peaks: from here on a linear axis shows the lower curve as a line at zero
DECADES = 2.0  # below the lowest peak, on a log axis
ROOM = 0.06  # of the gains' axis, on either side


@dataclass(frozen=True, slots=True)
class Curve:
    """A line of the sketch: its SVG path, and its colour; what it is compared with has none."""

    label: str
    path: str
    colour: str = ""


@dataclass(frozen=True, slots=True)
class Sketch:
    """The rates over the run: the curves, the ends of both axes, in words."""

    curves: Sequence[Curve]
    top: str
    bottom: str
    end: str
    scale: str
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Gain:
    """A row of the gains; places are in percent of the axis."""

    over: str  # the baseline, for a person
    amount: str  # signed, with its unit
    reach: str  # the 95 % interval; empty for one seed
    sure: str  # ``better``, ``worse`` or ``may be chance``
    at: float  # where the gain is
    low: float  # where the interval begins
    high: float  # where it ends


@dataclass(frozen=True, slots=True)
class Gains:
    """What is gained over each baseline; `zero` is where none is."""

    metric: str
    zero: float
    rows: Sequence[Gain]


@dataclass(frozen=True, slots=True)
class FirstScreen:
    """All that it holds."""

    answer: Answer
    sketch: Sketch | None
    gains: Gains | None
    exports: Sequence[Export]

    @property
    def use(self) -> str:
        """The schedule alone, or that there is no winner."""
        return self.answer.use.partition(": ")[0]

    @property
    def settings(self) -> str:
        """Its settings."""
        return self.answer.use.partition(": ")[2]


def first_screen(
    trials: pd.DataFrame, run: Run, verdict: Verdict | None, finals: pd.DataFrame | None
) -> FirstScreen:
    """What the report shows unfolded.

    Args:
        trials: the search's table.
        run: what was searched (run.json).
        verdict: what the finals said, if there were any.
        finals: those that it is of.
    """
    said, found = answer(trials, run, verdict), chosen(trials, run, verdict)
    if found is None:
        return FirstScreen(said, None, None, [])
    told = verdict if verdict is not None and verdict.decided else None
    return FirstScreen(
        said,
        _sketch(_curves(found.schedule, run, told), run["horizon"], (trials, finals)),
        None if told is None else _gains(told),
        exports(found.schedule, run),
    )


def _curves(schedule: Schedule, run: Run, verdict: Verdict | None) -> list[tuple[str, Schedule]]:
    """What to draw: the recommended schedule, and beside it yours, or the tuned baselines."""
    if verdict is None:
        yours = map(Schedule.from_dict, run.get("baselines", []))
        return [(schedule.family, schedule), *((f"your {one.family}", one) for one in yours)]
    rows = {row.family: row for row in verdict.families}
    label = f"your {schedule.family}" if verdict.recommended.role == "yours" else schedule.family
    compared = [(gain.what, rows[gain.over]) for gain in verdict.answer.gains]
    others = [one for one in compared if one[1].role == "yours"] or compared
    beside = [(what, row.schedule) for what, row in others]
    return [(label, schedule), *beside]


def _sketch(
    several: Sequence[tuple[str, Schedule]],
    horizon: int,
    tables: Sequence[pd.DataFrame | None],
) -> Sketch | None:
    """The rates over the run, of the first schedule in colour; None where its are not known."""
    lines = [(label, one, _rates(one, horizon, tables)) for label, one in several]
    known = [(label, one, line) for label, one, line in lines if line is not None]
    if lines[0][2] is None:
        return None
    peaks = [float(rates.max()) for _, _, (_, rates, _) in known]
    top, bottom = max(peaks), 0.0
    if top > FAR * min(peaks):
        lowest = min(float(rates[rates > 0].min()) for _, _, (_, rates, _) in known)
        bottom = max(lowest, min(peaks) / 10**DECADES)
    curves = [
        Curve(
            label,
            _path(line, horizon, bottom, top),
            "" if place else look(one.family).colour,
        )
        for place, (label, one, line) in enumerate(known)
    ]
    return Sketch(
        curves,
        number(top, 3),
        number(bottom, 2),
        f"{count(horizon)} updates",
        ", log scale" if bottom else "",
    )


def _rates(
    schedule: Schedule, horizon: int, tables: Sequence[pd.DataFrame | None]
) -> tuple[Array, Array, str] | None:
    """Updates, the rates there and how to join them, as ``rates_of``."""
    if not schedule.closed_loop:
        rates = schedule.rates(horizon)
        at = thin(rates, POINTS)
        return at.astype(float), rates[at], "linear"
    for table in tables:
        if table is not None and len(table) and "rate" in table:
            own = table[table["schedule"] == schedule.to_json()]
            for _, training in own.sort_values("updates").tail(1).iterrows():
                return rates_of(training, horizon)
    return None


def _path(line: tuple[Array, Array, str], horizon: int, bottom: float, top: float) -> str:
    """An SVG path in the sketch's coordinates."""
    updates, rates, join = line
    across = WIDTH * updates / horizon
    if bottom:
        up = np.log(np.maximum(rates, bottom) / bottom) / np.log(top / bottom)
    else:
        up = rates / top
    down = HEIGHT * (1 - up)
    step = "V{1:.1f}H{0:.1f}" if join == "vh" else "L{0:.1f} {1:.1f}"
    first, *rest = zip(across, down, strict=True)
    return "M{:.1f} {:.1f}".format(*first) + "".join(step.format(x, y) for x, y in rest)


def _gains(verdict: Verdict) -> Gains | None:
    """The gain over each baseline with its interval; None where there is no baseline."""
    rows = verdict.answer.gains
    if not rows:
        return None
    ends = [0.0, *(end for row in rows for end in (row.low, row.high) if _known(row))]
    ends += [row.gain for row in rows]
    low, high = min(ends), max(ends)
    room = ROOM * ((high - low) or 1.0)
    low, high = low - room, high + room

    def place(value: float) -> float:
        return round(100 * float((value - low) / (high - low)), 2)

    return Gains(metric_of(verdict), place(0.0), [_gain(verdict, row, place) for row in rows])


def _gain(verdict: Verdict, row: GainOf, place: Callable[[float], float]) -> Gain:
    sign = "+" if row.gain > 0 else ""
    ends = (row.low, row.high) if _known(row) else (row.gain, row.gain)
    worse = row.gain < 0 and row.p < ALPHA
    sure = "better" if row.sure else "worse" if worse else "may be chance"
    return Gain(
        over=row.what,
        amount=f"{sign}{amount_of(verdict, row.gain)}",
        reach=range_of(verdict, *ends) if _known(row) else "",
        sure=sure,
        at=place(row.gain),
        low=place(ends[0]),
        high=place(ends[1]),
    )


def _known(row: GainOf) -> bool:
    """Whether there is an interval: of one seed there is none."""
    return not math.isnan(row.low + row.high)
