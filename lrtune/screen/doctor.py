"""``lrtune doctor`` in the terminal."""

from pathlib import Path

import numpy as np
from rich.console import Console

from lrtune.doctor import Case, Finding, Settings, examine, findings
from lrtune.doctor.facts import facts, fitted
from lrtune.errors import InputError
from lrtune.results.palette import look
from lrtune.screen.console import console_of, copyable, harmless, named, say
from lrtune.screen.plot import Curve, plot

SAMPLES = 400  # of a curve, which no terminal is wide enough for


def diagnose(what: Path, total: int | None, warmup: int | None, out: Path | None) -> int:
    """Look, draw and say what is wrong; how many findings there were."""
    if out is not None:
        from lrtune.results import save

        save.check(out)
    found = examine(what, total=total, warmup=warmup)
    if isinstance(found, Settings):
        if out is not None:
            raise InputError(f"out={str(out)!r}: a script or a config has no rates to draw")
        return print_settings(found)
    count = print_cases(found)
    if out is not None:
        from lrtune.doctor.figure import figure

        print(harmless(f"wrote {save.save(figure(found), out)}"))
    return count


def print_cases(cases: list[Case]) -> int:
    """Draw the rates, and say what they are and what is wrong; how many findings there were."""
    console, count = console_of(), 0
    for case in cases:
        if len(case.log.at) > 1 and case.top > 0:
            family = case.fit.family if case.fit and case.fit.tight else ""
            curve = Curve(case.log.name, _even(case), look(family).colour if family else "")
            first, last = float(case.log.at[0]), float(case.log.at[-1]) + 1
            plot(console, [curve], "learning rate over updates", first, last)
        elif len(cases) > 1:
            say(console, named(case.log.name))
        for fact in facts(case):
            say(console, fact)
        found = findings(case)
        _print(console, found)
        count += len(found)
        best = fitted(case)
        say(console, best.sentence)
        for line in best.lines:
            copyable(console, f"  {line}")
    return count


def print_settings(settings: Settings) -> int:
    """Say what is written in a script or config; how many findings there were."""
    console = console_of()
    say(console, "read, not run:")
    for fact in settings.facts:
        say(console, f"  {fact}")
    _print(console, settings.findings)
    for sentence in settings.unknown:
        say(console, f"not known here: {sentence}")
    say(console, "what a run really used is in its log or checkpoint: lrtune doctor LOG")
    return len(settings.findings)


def _print(console: Console, found: "list[Finding] | tuple[Finding, ...]") -> None:
    if not found:
        say(console, "nothing wrong was found")
    for one in found:
        console.print()
        console.print(one.name, style="bold red")
        say(console, f"  {one.seen}")
        say(console, f"  usual cause: {one.cause}")
        say(console, f"  to do: {one.cure}")
    if found:
        console.print()


def _even(case: Case) -> list[float]:
    """Rates at even distances, each until the next; none below zero."""
    at, rates = case.log.at, case.log.rates
    wanted = np.linspace(at[0], at[-1], SAMPLES)
    held = rates[np.maximum(np.searchsorted(at, wanted, side="right") - 1, 0)]
    return [float(v) for v in np.maximum(held, 0.0)]
