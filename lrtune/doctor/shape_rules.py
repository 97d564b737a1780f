"""Rules about the rates themselves: what no schedule has."""

import numpy as np

from lrtune.doctor.case import Case
from lrtune.doctor.finding import Finding, share
from lrtune.doctor.log import distinct


def not_finite(case: Case) -> Finding:
    """A rate that is no number."""
    bad = ~np.isfinite(case.log.rates)
    first = case.log.at[np.argmax(bad)]
    return Finding(
        "not-finite",
        f"the rate is {case.log.rates[np.argmax(bad)]} at update {first:,.0f}, and not a finite "
        f"number at {np.count_nonzero(bad):,} of {len(bad):,} updates",
        "a lambda that divides by zero or takes a root of a negative number",
        "print scheduler.get_last_lr() around that update, and mend the function",
    )


def negative(case: Case) -> Finding | None:
    """A rate below zero."""
    below = case.log.rates < 0
    if not below.any():
        return None
    first, low = case.log.at[np.argmax(below)], case.log.rates.min()
    return Finding(
        "negative",
        f"the rate is below zero from update {first:,.0f} on, down to {low:.3g}: those updates "
        "climb the loss",
        f"a formula such as 1 - step/total with a total of about {first:,.0f}, in a run of "
        f"{case.log.end:,.0f} updates",
        f"make it for {case.log.end:,.0f} updates, or bound it: max(0, 1 - step/total)",
    )


def zero(case: Case) -> Finding | None:
    """No rate at all."""
    if not case.log.zero:
        return None
    return Finding(
        "zero-rate",
        f"the rate is zero at all {len(case.log.rates):,} updates: nothing was learned",
        "lr=0 in the optimizer, or a factor of zero in the schedule",
        "set the optimizer's lr; schedulers multiply it",
    )


def inverted(case: Case) -> Finding | None:
    """A floor above the rate that falls to it."""
    base, floor = case.log.base, case.log.floor
    if base is None or floor is None or floor <= base:
        return None
    return Finding(
        "eta-min-above-peak",
        f"eta_min is {floor:.3g} and the rate that it is to fall from is {base:.3g}: it rises",
        "eta_min is an absolute rate in torch, not a fraction of the optimizer's lr",
        f"give eta_min below {base:.3g}",
    )


def vanished(case: Case) -> Finding | None:
    """A decay that leaves nothing long before the end."""
    gone = case.log.rates < 1e-7 * case.top
    if not gone.any() or case.log.rates[np.argmax(gone)] == 0:
        return None
    at = float(case.log.at[np.argmax(gone)])
    if at > 0.5 * case.log.end or not gone[np.argmax(gone) :].all():
        return None
    return Finding(
        "wrong-unit",
        f"the rate is below a ten-millionth of its peak from update {at:,.0f} on, "
        f"{share(at, case.log.end)} of the run, and {case.log.rates[-1]:.2g} at the end",
        "a factor that is meant for epochs (gamma, step_size) is applied after every batch",
        "step the scheduler once an epoch, or give step_size in updates",
    )


def jump(case: Case) -> Finding | None:
    """A rate that goes back to where it was, at once, and no restart of a schedule."""
    if case.known is not None or case.log.rates.min() < 0:
        return None
    at, rates, top = case.log.at, case.log.rates, case.top
    starts = distinct(rates)
    if len(starts) < 4:
        return None
    t, y = at[starts], rates[starts]
    step = np.diff(y)
    around = np.maximum(np.abs(np.r_[step[0], step[:-1]]), np.abs(np.r_[step[1:], step[-1]]))
    before = np.maximum.accumulate(y)[:-1]
    sudden = np.abs(step) > np.maximum(0.05 * top, 4 * around)
    cut = y[:-1] > 0.12 * before  # what had come down to nothing has begun anew as planned
    up = sudden & (step > 0) & cut & (before > 1.2 * y[:-1])
    after = np.maximum.accumulate(y[::-1])[::-1][1:]
    # Down to where a warmup begins, and up with it: steep, so that only what was before counts.
    fell = -step > np.maximum(0.05 * top, 4 * np.abs(np.r_[step[0], step[:-1]]))
    low = (y[1:] < 0.5 * y[:-1]) & (y[1:] < 3 * y[0] + 0.02 * top)
    # A drop at the top of a rise is how a schedule may go on after its warmup.
    falling = np.r_[0, step[:-1]] <= 0
    again = fell & falling & low & (after > 2 * y[1:]) & (np.r_[step[1:], 0] > 0)
    places = np.flatnonzero(up | again)
    if not places.size or _regular(t[places + 1]):
        return None
    place = places[0]
    start = float(t[place + 1])
    rewarms = bool(again[place] or (after[place] > 1.5 * y[place + 1]))
    return Finding(
        "jump",
        f"the rate jumps from {y[place]:.3g} to {y[place + 1]:.3g} at update {start:,.0f}"
        + (" and is warmed up a second time" if rewarms else "")
        + (f"; {places.size} such jumps" if places.size > 1 else ""),
        "the run was resumed there without the scheduler's state, so that its schedule began anew",
        "save scheduler.state_dict() with the model, and load it (after the optimizer's) on resume",
    )


def _regular(at: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> bool:
    """Whether jumps come in cycles of one length, or of lengths that grow by one factor."""
    lengths = np.diff(at)
    if lengths.size < 2:
        return False
    ratios = lengths[1:] / lengths[:-1]
    return bool(np.ptp(ratios) < 0.1)
