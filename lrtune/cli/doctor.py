"""``lrtune doctor`` in the terminal."""

from pathlib import Path

import numpy as np

from lrtune.cli.console import console_of, copyable, named, say
from lrtune.cli.plot import Curve, plot
from lrtune.doctor import Diagnosis, examine, findings
from lrtune.reports.plot_style import look

SAMPLES = 400  # of a curve, which no terminal is wide enough for


def diagnose(what: Path, total: int | None) -> int:
    """Draw the rates, and say what they are and what is wrong; how many findings there were."""
    diagnoses = examine(what, total=total)
    console, count = console_of(), 0
    for diagnosis in diagnoses:
        log, fit = diagnosis.log, diagnosis.known
        if len(log.at) > 1 and diagnosis.top > 0:
            curve = Curve(log.name, _even(diagnosis), look(fit.family).colour if fit else "")
            first, last = float(log.at[0]), float(log.at[-1]) + 1
            plot(console, [curve], "learning rate over updates", first, last)
        elif len(diagnoses) > 1:
            say(console, named(log.name))
        for fact in _facts(diagnosis):
            say(console, fact)
        found = findings(diagnosis)
        for finding in found:
            console.print(f"\n{finding.name}", style="bold red")
            say(console, f"  {finding.evidence}")
            say(console, f"  usual cause: {finding.cause}")
            say(console, f"  fix: {finding.fix}")
        say(console, "" if found else "nothing wrong was found")
        count += len(found)
        say(console, _fitted(diagnosis))
        if fit and fit.schedule:
            copyable(console, f"  {fit.schedule}")
    return count


def _even(diagnosis: Diagnosis) -> list[float]:
    """Rates at even distances, each until the next; none below zero."""
    at, rates = diagnosis.log.at, diagnosis.log.rates
    wanted = np.linspace(at[0], at[-1], SAMPLES)
    held = rates[np.maximum(np.searchsorted(at, wanted, side="right") - 1, 0)]
    return [float(rate) for rate in np.maximum(held, 0.0)]


def _facts(diagnosis: Diagnosis) -> list[str]:
    """First, highest and last rate, warmup, and how the log was read."""
    log, fit, facts = diagnosis.log, diagnosis.known, []
    if len(log.at) > 1:
        facts.append(
            f"{len(log.at):,} rates, updates {log.at[0]:,.0f} to {log.at[-1]:,.0f}"
            + (f" of {log.total:,}" if log.total else "")
            + f": first {log.rates[0]:.4g}, highest {diagnosis.top:.4g} at update "
            + f"{diagnosis.peak_at:,.0f}, last {log.rates[-1]:.4g}"
        )
        warmup = fit.warmup * (diagnosis.per if diagnosis.by_step else 1) if fit else 0.0
        if warmup >= 1 and not diagnosis.rising_at_end:
            facts.append(f"warmup: {warmup:,.0f} updates")
        if diagnosis.per > 1:
            facts.append(f"the rate changes once in {diagnosis.per:,} updates: an epoch, probably")
        if diagnosis.top > 0 and np.ptp(log.rates) == 0:
            facts.append("the rate never changes: if a schedule was meant, step() is not called")
    if log.steps is not None and log.horizon and not log.total and log.steps < log.horizon:
        facts.append(
            f"{log.steps:,} of {log.horizon:,} steps are made; a checkpoint does not say how long "
            "the run is: --total does"
        )
    return [*facts, *log.notes]


def _fitted(diagnosis: Diagnosis) -> str:
    """The family that comes nearest, and by how much it misses."""
    fit = diagnosis.fit
    if fit is None:
        return "no family was fitted: too few rates, or some that no schedule has"
    off = "to the last digit" if fit.worst < 1e-6 else f"off by at most {fit.worst:.1%} of the peak"
    if not fit.tight:
        return f"no family gives these rates; the nearest is {fit.family}, {off}"
    other = "; plateau may give the same" if fit.family in ("step", "multistep") else ""
    unit = f" (a step is {diagnosis.per} updates)" if diagnosis.by_step else ""
    return f"best fit: {fit.family}, {off}{other}; total {fit.total:,} steps{unit}"
