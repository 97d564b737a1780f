"""What can be said of the rates of a run, wrong or not."""

from typing import NamedTuple

import numpy as np

from lrtune.doctor.case import Case


def facts(case: Case) -> list[str]:
    """Sentences with figures: first, highest and last rate, warmup, and how it was read."""
    log, said = case.log, []
    if len(log.at) > 1:
        peak, last = case.top, float(log.rates[-1])
        place = float(log.at[case.peak_at])
        said.append(
            f"{len(log.at):,} rates, updates {log.at[0]:,.0f} to {log.at[-1]:,.0f}"
            + (f" of {log.total:,}" if log.total else "")
            + f": first {log.rates[0]:.4g}, highest {peak:.4g} at update {place:,.0f}, "
            + f"last {last:.4g}"
            + (f" ({last / peak:.2%} of the highest)" if peak > 0 and np.isfinite(last) else "")
        )
        if case.known and case.rise >= 1 and not case.rising_at_end:
            said.append(f"warmup: {case.rise:,.0f} updates")
        if case.per > 1:
            said.append(f"the rate changes once in {case.per:,} updates: an epoch, probably")
        if peak > 0 and np.ptp(log.rates) == 0:
            said.append(
                "the rate never changes: if a schedule was meant, its step() was not called"
            )
    if log.steps is not None and log.horizon and not log.total and log.steps < log.horizon:
        said.append(
            f"{log.steps:,} of {log.horizon:,} steps are made; whether the run reaches the end is "
            "not in a checkpoint: --total says how many updates it has"
        )
    return said + list(log.notes)


class Best(NamedTuple):
    """The family that fits best, in words, and lines to copy."""

    sentence: str
    lines: tuple[str, ...] = ()


def fitted(case: Case) -> Best:
    """The family and the settings that give these rates."""
    fit = case.fit
    if fit is None:
        return Best("no family was fitted: too few rates, or some that no schedule has")
    off = f"off by at most {fit.worst:.1%} of the peak, {fit.error:.2g} in log rate"
    off = "to the last digit" if fit.worst < 1e-6 else off
    if not fit.tight:
        return Best(f"no family gives these rates; the nearest is {fit.family}, {off}")
    unit = f" (a step is {case.per} updates)" if case.by_step else ""
    if fit.schedule is None:
        return Best(f"best fit: {fit.family}, {off}{unit}")
    total = f"total {fit.total:,} steps"
    other = "; plateau may give the same" if fit.family in ("step", "multistep") else ""
    return Best(f"best fit: {fit.family}, {off}{other}; {total}{unit}:", (str(fit.schedule),))
