"""``lrtune preview`` and ``lrtune range-test`` in the terminal."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lrtune.cli.console import console_of, say
from lrtune.cli.plot import Curve, plot
from lrtune.reports.plot_style import look
from lrtune.schedule import Schedule
from lrtune.verdict.recommendation import described

if TYPE_CHECKING:  # brings torch
    from lrtune.engine import RangeTest


def print_schedules(schedules: Sequence[Schedule], total: int) -> None:
    """Draw them side by side, and say what they are."""
    console = console_of()
    several, curves = len(schedules) > 1, []
    for number, schedule in enumerate(schedules, 1):
        closed = schedule.closed_loop
        table = schedule.controller(total).rates if closed else schedule.rates(total)
        title = f"{number}: {schedule.family}" if several else schedule.family
        curves.append(Curve(title, table.tolist(), look(schedule.family).colour))
    plot(console, curves, "learning rate over updates", 0, total)
    for number, schedule in enumerate(schedules, 1):
        said = described(schedule, total)
        say(console, f"{number}: {said}" if several else said)
    if any(schedule.closed_loop for schedule in schedules):
        names = ", ".join(dict.fromkeys(s.family for s in schedules if s.closed_loop))
        say(console, f"{names}: drawn as if the validation metric never let it change the rate")


def print_range_test(test: "RangeTest") -> None:
    """The suggestions, and why they are unsure, under the curve of the first seed."""
    console = console_of()
    shown = test.smoothed[0][np.isfinite(test.smoothed[0])]
    if len(shown):
        ends = float(test.rates[0]), float(test.rates[len(shown) - 1])
        plot(console, [Curve("first seed", shown.tolist())], "loss over rate, log scale", *ends)
    found = test.suggestion
    say(console, f"base_lr   {found.base_lr:.3g}   the loss begins to fall")
    say(console, f"valley    {found.valley:.3g}   half-way down the longest fall")
    say(console, f"steepest  {found.steepest:.3g}   the loss falls fastest")
    say(console, f"max_lr    {found.max_lr:.3g}   the loss begins to rise for good")
    factor = f"within a factor of {math.exp(found.doubt):.2g} two times of three"
    say(console, f"peak_lr   {found.peak_lr:.3g}   a good peak for whole trainings, {factor}")
    if test.message:
        say(console, f"unsure: {test.message}")
