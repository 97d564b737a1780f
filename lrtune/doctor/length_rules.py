"""Rules about lengths: the schedule's against the run's, and the unit that both are in."""

import numpy as np

from lrtune.doctor.case import ANNEALED, Case
from lrtune.doctor.finding import Finding, share, times_of
from lrtune.doctor.log import distinct

MANY = 10  # times too fast: an epoch's length rather than a number of processes
REST = 1 / 3  # of a run at a floor that is no choice any more
SHORT = 0.10  # the same, at a rate above zero that is too low to be a floor
FLOOR = 0.01  # of the peak: the lowest rate that is a floor


def counted_twice(case: Case) -> Finding | None:
    """Two counts of one checkpoint that do not agree."""
    steps, updates = case.log.steps, case.log.updates
    if not steps or not updates or steps <= updates:
        return None
    times = times_of(steps / updates)
    if times is None:
        return None
    return Finding(
        "stepped-too-often",
        f"the scheduler made {steps:,} steps in {updates:,} updates: {times} for each",
        f"a scheduler that Accelerate prepared steps once a process ({times} processes?), or "
        "step() is called by hand and by the framework",
        f"make the schedule for {times} times the updates, or step it once an update",
    )


def epochs_for_updates(case: Case) -> Finding | None:
    """A horizon in epochs that was stepped per batch."""
    horizon, end = case.horizon, case.log.end
    steps = float(case.log.steps) if case.log.steps else end
    if horizon is None or horizon * 2 > steps:
        return None
    epochs = case.log.epochs
    sure = epochs is not None and abs(horizon - epochs) <= 1 and steps >= 4 * epochs
    if not sure and steps < MANY * horizon:
        return None
    number = f", the run's number of epochs ({epochs:.0f})" if sure else ""
    after = "goes up and down again and again after it" if _oscillates(case) else "is over then"
    return Finding(
        "wrong-unit",
        f"the schedule is for {horizon:,.0f} steps{number}, but {steps:,.0f} were made: it has "
        f"run its course after {share(horizon, steps)} of them and {after}",
        "a schedule made for epochs is stepped after every batch",
        f"step it once an epoch, or make it for {steps:,.0f} steps",
    )


def _oscillates(case: Case) -> bool:
    return int(np.count_nonzero(np.diff(np.sign(np.diff(case.log.rates))) != 0)) > 3


def updates_for_epochs(case: Case) -> Finding | None:
    """A horizon in updates that was stepped per epoch."""
    levels = len(distinct(case.log.rates))
    if case.per < 3 or levels < 2:
        return None
    last, first = case.log.rates[-1], case.log.rates[0]
    horizon, made = case.horizon, case.log.end / case.per
    stretched = horizon is not None and case.by_step and horizon >= 0.5 * case.per * case.log.end
    if not (stretched or case.rising_at_end):
        return None
    steps = f"{horizon / case.per:,.0f}" if horizon and stretched else "far more"
    return Finding(
        "wrong-unit",
        f"the rate changes once in {case.per} updates, {made:,.0f} times in all, and goes only "
        f"from {first:.3g} to {last:.3g}: the schedule is for {steps} steps",
        "a schedule made for updates is stepped once an epoch (in Lightning that is the default)",
        'step it after every update; in Lightning: {"scheduler": ..., "interval": "step"}',
    )


def overshoot(case: Case) -> Finding | None:
    """The schedule was over before the run."""
    horizon, end = case.horizon, case.log.end
    if case.log.steps and not case.log.total:
        end = float(case.log.steps)
    if horizon is None or horizon >= end - max(1.5, 0.01 * end, case.log.gap):
        return _tail(case)
    before = case.log.rates[case.log.at <= max(horizon, case.log.at[0])]
    # The lowest of the decay: a warmup may begin below the floor.
    low, last = float(before[np.argmax(before) :].min()), float(case.log.rates[-1])
    low = min(low, float(case.log.rates[np.argmin(np.abs(case.log.at - horizon))]))
    rose = last - low > 0.005 * case.top
    rest = REST if low >= FLOOR * case.top else SHORT
    stays = end - horizon < rest * end and low > 0
    if not rose and stays:
        return None
    times = times_of(end / horizon)
    ahead = (
        f"rises again to {last:.3g}"
        if rose
        else f"stays at {last:.3g} for the {end - horizon:,.0f} updates that are left"
    )
    return Finding(
        "overshoot",
        f"the schedule ends at update {horizon:,.0f} of {end:,.0f}: the rate is down to {low:.3g} "
        f"there and {ahead}",
        "the schedule was made for fewer updates than the run makes"
        + (
            f", {times} times fewer: {times} processes, each of which steps it (Accelerate), or "
            f"updates counted after accumulation over {times} batches"
            if times
            else ""
        ),
        f"make it for {end:,.0f} updates",
    )


def _tail(case: Case) -> Finding | None:
    """Updates at rate zero at the end, whatever the family."""
    rates, end = case.log.rates, case.log.end
    if rates[-1] != 0 or not rates.any():
        return None
    start = float(case.log.at[np.flatnonzero(rates)[-1] + 1])
    if end - start < max(2.5, 0.01 * end, 2 * case.log.gap):
        return None
    return Finding(
        "overshoot",
        f"the rate is zero from update {start:,.0f} on: the last {end - start:,.0f} updates of "
        f"{end:,.0f} change nothing",
        "the schedule was made for fewer updates than the run makes",
        f"make it for {end:,.0f} updates",
    )


def never_annealed(case: Case) -> Finding | None:
    """A decay that the run cuts short."""
    fit, horizon, end = case.known, case.horizon, case.log.end
    if horizon is None or case.rising_at_end or (not case.log.ended and not case.log.total):
        return None
    later = float(case.log.rates[-1]) if case.log.complete else fit.later if fit else None
    if later is None and case.log.horizon:
        return None
    top = fit.peak if fit else case.top
    if later is None or horizon <= 1.1 * end or later < ANNEALED * top:
        return None
    if fit and fit.rates.max() > 0 and later > 0.999 * fit.peak:
        return None
    times = times_of(horizon / end)
    reach = "ends at" if case.log.complete else "would end at"
    return Finding(
        "never-annealed",
        f"the run {reach} {later:.3g}, {later / top:.0%} of its peak: the schedule is for about "
        f"{horizon:,.0f} updates, the run makes {end:,.0f}",
        f"the schedule was made for {horizon / end:.1f} times the run"
        + (
            f": multiplied by a number of processes or of accumulated batches ({times})"
            if times
            else ", or the run was ended early"
        ),
        f"make it for {end:,.0f} updates",
    )


def still_warming(case: Case) -> Finding | None:
    """The highest rate is the last one."""
    if not case.rising_at_end or not (case.log.complete or case.log.total):
        return None
    if not case.log.complete and case.rise < case.log.end:
        return None
    first, last, end = case.log.rates[0], case.log.rates[-1], case.log.end
    return Finding(
        "warmup-unfinished",
        f"the rate rises throughout, from {first:.3g} to {last:.3g}, and is highest at the last "
        f"of {end:,.0f} updates",
        "a warmup that is longer than the run, or in another unit; an eta_min or final rate above "
        "the first one",
        "make the warmup a few percent of the run's updates",
    )


def warmup_scaled(case: Case) -> Finding | None:
    """A warmup that is not what was meant."""
    if case.warmup is None or case.rising_at_end:
        return None
    meant, took = case.warmup, case.rise
    if abs(took - meant) <= max(1.5, 0.05 * meant, case.log.gap):
        return None
    more = took > meant
    times = times_of(took / meant if more else meant / max(took, 1e-9)) if meant else None
    factor = f"{times} times {'as long' if more else 'shorter'}" if times else "not the same"
    causes = {
        True: "the warmup was multiplied by the number of processes, and the scheduler steps once "
        "an update",
        False: "each process steps the scheduler (Accelerate does for one that it prepared): the "
        "warmup is divided by their number",
    }
    return Finding(
        "warmup-scaled",
        f"the warmup takes {took:,.0f} updates and {meant:,} were meant: {factor}",
        causes[more] if times else "the warmup is counted in another unit than the updates",
        "count warmup and total in the steps that the scheduler makes, both in the same way",
    )
