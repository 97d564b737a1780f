"""Diagnosis: a log and the family that gives its rates; RULES: what can be wrong with them.

A rule gives its evidence, where and by how much, or None. It must not cry wolf: where the rates
alone cannot tell a mistake from a choice, it is silent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lrtune.doctor.fit import FamilyFit, fit
from lrtune.doctor.log import Log, by_stair, distinct, stairs

PROCESSES = range(2, 65)
MANY = 10  # times too fast: an epoch's length rather than a number of processes
REST = 1 / 3  # of a run at a floor: no choice any more
SHORT = 0.10  # the same, at a rate above zero that is too low to be a floor
FLOOR = 0.01  # of the peak: the lowest rate that is a floor
ANNEALED = 1 / 3  # of the peak: our own search draws cosines that end there, on purpose


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A run's rates and the family that gives them, for the rules to look at."""

    log: Log  # the rates, by update
    per: int  # updates per step of the scheduler, as it seems from the rates
    fit: FamilyFit | None  # the family nearest to the rates, by step of the scheduler

    @classmethod
    def of(cls, log: Log) -> "Diagnosis":
        """Look at a log."""
        if not np.isfinite(log.rates).all():
            return cls(log, 1, None)
        if (per := stairs(log)) == 1:
            return cls(log, 1, fit(log))
        nearest = fit(log, ("constant", "step"))  # their rates are stairs themselves
        if nearest is None or not nearest.tight:
            nearest = fit(by_stair(log, per))
        return cls(log, per, nearest)

    @property
    def known(self) -> FamilyFit | None:
        """The fit, if it explains the rates."""
        return self.fit if self.fit and self.fit.tight else None

    @property
    def by_step(self) -> bool:
        """Whether the fit is by stairs rather than by updates."""
        return self.fit is not None and len(self.fit.rates) != len(self.log.rates)

    @property
    def top(self) -> float:
        """The highest rate that is a number."""
        finite = self.log.rates[np.isfinite(self.log.rates)]
        return float(finite.max()) if finite.size else 0.0

    @property
    def peak_at(self) -> float:
        """The update at which the highest rate that is a number is first."""
        rates = self.log.rates
        highest = np.isfinite(rates) & (rates >= self.top * (1 - 1e-7))
        return float(self.log.at[np.argmax(highest)])

    @property
    def horizon(self) -> float | None:
        """Updates that the schedule is for: as it says itself, else as its rates tell."""
        if self.log.horizon:
            return float(self.log.horizon)
        if self.known is None or self.known.horizon is None:
            return None
        return self.known.horizon * (self.per if self.by_step else 1)

    @property
    def rising_at_end(self) -> bool:
        """Whether the highest rate is the last, and nothing says that the rise is over."""
        rates = self.log.rates
        starts = distinct(rates)
        levels = rates[starts]
        if len(levels) < 3 or rates[-1] < self.top * (1 - 1e-9) or rates[0] >= 0.999 * self.top:
            return False
        if len(levels) > 3 and levels.min() > 0:
            factors = np.abs(np.diff(np.log(levels)))
            usual = np.median(factors)
            if np.mean(np.abs(factors - usual) < 0.01 * usual) > 0.6:
                return False  # a closed loop such as greedy, or a range test: up by one factor
        rose = rates[-1] > 1.02 * rates[: starts[-1]].max() or bool(np.all(np.diff(rates) >= 0))
        return bool(len(rates) - starts[-1] <= 1.5 * np.diff(starts).max() and rose)


def _not_finite(diagnosis: Diagnosis) -> str | None:
    log, bad = diagnosis.log, ~np.isfinite(diagnosis.log.rates)
    if not bad.any():
        return None
    first = int(np.argmax(bad))
    return (
        f"the rate is {log.rates[first]} at update {log.at[first]:,.0f}, and not a finite number "
        f"at {np.count_nonzero(bad):,} of {len(bad):,} updates"
    )


def _zero(diagnosis: Diagnosis) -> str | None:
    updates = f"{len(diagnosis.log.rates):,} updates"
    return f"the rate is zero at all {updates}: nothing was learned" if diagnosis.log.zero else None


def _inverted(diagnosis: Diagnosis) -> str | None:
    base, floor = diagnosis.log.base, diagnosis.log.floor
    if base is None or floor is None or floor <= base:
        return None
    return f"the rate rises: eta_min is {floor:.3g}, and the rate starts at {base:.3g}"


def _counted_twice(diagnosis: Diagnosis) -> str | None:
    steps, updates = diagnosis.log.steps, diagnosis.log.updates
    times = _times(steps / updates) if steps and updates else None
    if times is None:
        return None
    return f"the scheduler made {steps:,} steps in {updates:,} updates: {times} per update"


def _jump(diagnosis: Diagnosis) -> str | None:
    starts = distinct(diagnosis.log.rates)
    if diagnosis.known is not None or diagnosis.log.rates.min() < 0 or len(starts) < 4:
        return None
    at, rates, top = diagnosis.log.at[starts], diagnosis.log.rates[starts], diagnosis.top
    step = np.diff(rates)
    previous, following = np.r_[step[0], step[:-1]], np.r_[step[1:], step[-1]]
    before = np.maximum.accumulate(rates)[:-1]
    after = np.maximum.accumulate(rates[::-1])[::-1][1:]
    # What had come down to nothing has begun anew as planned.
    up = step > np.maximum(0.05 * top, 4 * np.maximum(np.abs(previous), np.abs(following)))
    up &= (rates[:-1] > 0.12 * before) & (before > 1.2 * rates[:-1])
    # Down to where a warmup begins, and up with it: steep, so that only what was before counts.
    # A drop at the top of a rise is how a schedule may go on after its warmup.
    again = (-step > np.maximum(0.05 * top, 4 * np.abs(previous))) & (np.r_[0, step[:-1]] <= 0)
    again &= (rates[1:] < 0.5 * rates[:-1]) & (rates[1:] < 3 * rates[0] + 0.02 * top)
    again &= (after > 2 * rates[1:]) & (np.r_[step[1:], 0] > 0)
    places = np.flatnonzero(up | again)
    lengths = np.diff(at[places + 1])
    cycles = lengths.size > 1 and np.ptp(lengths[1:] / lengths[:-1]) < 0.1
    if not places.size or cycles:
        return None
    place = places[0]
    rewarms = again[place] or after[place] > 1.5 * rates[place + 1]
    return (
        f"the rate jumps from {rates[place]:.3g} to {rates[place + 1]:.3g} at update "
        f"{at[place + 1]:,.0f}" + (" and is warmed up a second time" if rewarms else "")
    )


def _epochs_for_updates(diagnosis: Diagnosis) -> str | None:
    horizon, steps = diagnosis.horizon, float(diagnosis.log.steps or diagnosis.log.end)
    if horizon is None or steps < MANY * horizon:
        return None
    return f"the schedule is for {horizon:,.0f} steps, but {steps:,.0f} were made"


def _updates_for_epochs(diagnosis: Diagnosis) -> str | None:
    horizon, end, rates = diagnosis.horizon, diagnosis.log.end, diagnosis.log.rates
    if diagnosis.per < 3 or len(distinct(rates)) < 2:
        return None
    stretched = horizon is not None and diagnosis.by_step and horizon >= 0.5 * diagnosis.per * end
    if not (stretched or diagnosis.rising_at_end):
        return None
    steps = f"{horizon / diagnosis.per:,.0f}" if horizon and stretched else "far more"
    return (
        f"the rate changes once in {diagnosis.per} updates, {end / diagnosis.per:,.0f} times in "
        f"all, from {rates[0]:.3g} to {rates[-1]:.3g}: the schedule is for {steps} steps"
    )


def _vanished(diagnosis: Diagnosis) -> str | None:
    gone = diagnosis.log.rates < 1e-7 * diagnosis.top
    first = int(np.argmax(gone))
    at, end = float(diagnosis.log.at[first]), diagnosis.log.end
    if diagnosis.log.rates[first] == 0 or at > 0.5 * end or not gone[first:].all():
        return None
    return f"the rate is below a ten-millionth of its peak from update {at:,.0f} of {end:,.0f} on"


def _negative(diagnosis: Diagnosis) -> str | None:
    below = diagnosis.log.rates < 0
    first, end = diagnosis.log.at[np.argmax(below)], diagnosis.log.end
    where = f"the rate is below zero from update {first:,.0f} of {end:,.0f} on"
    return f"{where}: those updates climb the loss" if below.any() else None


def _overshoot(diagnosis: Diagnosis) -> str | None:
    log, start, last = diagnosis.log, diagnosis.horizon, float(diagnosis.log.rates[-1])
    end = float(log.steps) if log.steps and not log.total else log.end
    if start is not None and start < end - max(1.5, 0.01 * end, log.gap):
        before = log.rates[log.at <= max(start, log.at[0])]
        # The lowest of the decay: a warmup may begin below the floor.
        low = float(before[np.argmax(before) :].min())
        low = min(low, float(log.rates[np.argmin(np.abs(log.at - start))]))
        rises = last - low > 0.005 * diagnosis.top
        rest = REST if low >= FLOOR * diagnosis.top else SHORT
        if not rises and end - start < rest * end and low > 0:
            return None  # a tail at a floor
    else:  # a tail at zero, whatever the family
        learning = np.flatnonzero(log.rates)
        if last != 0 or not learning.size:
            return None
        start, low, rises = float(log.at[learning[-1] + 1]), 0.0, False
        if end - start < max(2.5, 0.01 * end, 2 * log.gap):
            return None
    times = _times(end / max(start, 1.0))
    return (
        f"the schedule ends at update {start:,.0f} of {end:,.0f}, at a rate of {low:.3g}; then it "
        + (f"rises again to {last:.3g}" if rises else f"stays at {last:.3g}")
        + (f"; the run is {times} times as long" if times else "")
    )


def _never_annealed(diagnosis: Diagnosis) -> str | None:
    fit, horizon, log = diagnosis.known, diagnosis.horizon, diagnosis.log
    end, top = log.end, diagnosis.top
    if horizon is None or diagnosis.rising_at_end or not (log.ended or log.total):
        return None
    later = float(log.rates[-1]) if log.complete else fit.later if fit and not log.horizon else None
    if later is None or not ANNEALED * top <= later <= 0.999 * top or horizon <= 1.1 * end:
        return None
    times = _times(horizon / end)
    return (
        f"the run ends at {later:.3g}, {later / top:.0%} of its peak: the schedule is for about "
        f"{horizon:,.0f} updates, the run makes {end:,.0f}" + (f" ({times} times)" if times else "")
    )


def _still_warming(diagnosis: Diagnosis) -> str | None:
    rates, end = diagnosis.log.rates, diagnosis.log.end
    if not diagnosis.rising_at_end or not diagnosis.log.complete:
        return None
    return f"the rate rises throughout {end:,.0f} updates, from {rates[0]:.3g} to {rates[-1]:.3g}"


def _times(ratio: float) -> int | None:
    """The whole number that a ratio is, if it is one."""
    near = round(ratio)
    return near if near in PROCESSES and abs(ratio / near - 1) < 0.03 else None


# Name, what finds the evidence, usual cause, fix; the surest first.
RULES: tuple[tuple[str, Callable[[Diagnosis], str | None], str, str], ...] = (
    ("not-finite", _not_finite,
     "a lambda that divides by zero or takes a root of a negative number",
     "print scheduler.get_last_lr() around that update, and correct the function"),
    ("zero-rate", _zero, "lr=0 in the optimizer, or a factor of zero in the schedule",
     "set the optimizer's lr; schedulers multiply it"),
    ("eta-min-above-peak", _inverted,
     "eta_min is an absolute rate in torch, not a fraction of the optimizer's lr",
     "give an eta_min below that"),
    ("stepped-too-often", _counted_twice,
     "each process steps a scheduler that Accelerate prepared, or step() is called by hand and "
     "by the framework", "make the schedule for all steps, or step it once per update"),
    ("jump", _jump,
     "the run was resumed there without the scheduler's state, so that its schedule began anew",
     "save scheduler.state_dict(), and load it (after the optimizer's) on resume"),
    ("wrong-unit", _epochs_for_updates, "a schedule made for epochs is stepped after each batch",
     "step it once per epoch, or make it for as many steps as are made"),
    ("wrong-unit", _updates_for_epochs,
     "a schedule made for updates is stepped once per epoch (Lightning's default)",
     'step it after each update; in Lightning: {"scheduler": ..., "interval": "step"}'),
    ("wrong-unit", _vanished,
     "a factor that is meant for epochs (gamma, step_size) is applied after each batch",
     "step the scheduler once per epoch, or give step_size in updates"),
    ("negative", _negative, "a formula such as 1 - step/total, with fewer updates than the run",
     "make it for the updates of the run, or bound it: max(0, 1 - step/total)"),
    ("overshoot", _overshoot,
     "the schedule was made for fewer updates than the run makes; a whole factor is a number "
     "of processes that each step it (Accelerate), or of accumulated batches",
     "make the schedule for the updates of the run"),
    ("never-annealed", _never_annealed,
     "the run was ended early, or the schedule was made for too many updates; a whole factor "
     "is a number of processes or of accumulated batches",
     "make the schedule for the updates of the run"),
    ("warmup-unfinished", _still_warming,
     "a warmup that is longer than the run, or in another unit; a final rate above the first",
     "make the warmup a few percent of the run's updates"),
)  # fmt: skip
# Names of which only one is said: they are one mistake seen in several ways.
SAME = {"wrong-unit", "overshoot", "never-annealed", "warmup-unfinished", "eta-min-above-peak"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a run."""

    name: str
    evidence: str
    cause: str  # usually
    fix: str


def findings(diagnosis: Diagnosis) -> list[Finding]:
    """Everything that is wrong, the surest first; at most one of each name."""
    by_name: dict[str, Finding] = {}
    for name, rule, cause, fix in RULES:
        if name in by_name or "not-finite" in by_name or (name in SAME and SAME & {*by_name}):
            continue
        if evidence := rule(diagnosis):
            by_name[name] = Finding(name, evidence, cause, fix)
    return [*by_name.values()]
