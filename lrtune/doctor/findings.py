"""RULES: what can be wrong with the rates of a run, one row each.

A rule says where and by how much, or None. It must not cry wolf: where the rates alone cannot
tell a mistake from a choice, it is silent, or says so.
"""

from collections.abc import Callable

import numpy as np

from lrtune.doctor import length_rules as length
from lrtune.doctor import shape_rules as shape
from lrtune.doctor.case import Case
from lrtune.doctor.finding import Finding

# Names of which only one is said: they are one mistake seen in several ways.
SAME = {"wrong-unit", "overshoot", "never-annealed", "warmup-unfinished", "eta-min-above-peak"}

# The surest first.
RULES: tuple[Callable[[Case], Finding | None], ...] = (
    shape.zero,
    shape.inverted,
    length.counted_twice,
    shape.jump,
    length.epochs_for_updates,
    length.updates_for_epochs,
    shape.vanished,
    shape.negative,
    length.overshoot,
    length.never_annealed,
    length.still_warming,
    length.warmup_scaled,
)


def findings(case: Case) -> list[Finding]:
    """Everything that is wrong, the surest first; at most one of each name."""
    found: dict[str, Finding] = {}
    finite = np.isfinite(case.log.rates)
    if not finite.all():
        found["not-finite"] = shape.not_finite(case)
        if not finite.any():
            return list(found.values())
        case = Case.of(case.log.finite, case.warmup)
    for rule in RULES:
        one = rule(case)
        if one is None or one.name in found or (one.name in SAME and SAME & {*found}):
            continue
        found[one.name] = one
    return list(found.values())
