"""All attacks by name, and how many cases of one are tried."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import damage
import inputs
import kills
import outages
import passwords
import sessions

# How a case ended, or its parts did, and what was wrong with it: nothing where that is empty.
ATTACKS: dict[str, Callable[[random.Random], tuple[str | list[str], str]]] = {
    **kills.ATTACKS,
    **outages.ATTACKS,
    **sessions.ATTACKS,
    **damage.ATTACKS,
    **passwords.ATTACKS,
    **inputs.ATTACKS,
}


@dataclass
class Outcome:
    """Of one kind of attack: how its cases ended, and those that showed a defect."""

    cases: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)


def attacked(name: str, seed: int, goes_on: Callable[[int], bool]) -> Outcome:
    """Cases of one kind, as long as it ``goes_on`` (cases so far)."""
    outcome = Outcome()
    while goes_on(outcome.cases):
        case = f"{name} {seed} {outcome.cases}"
        end, defect = ATTACKS[name](random.Random(case))
        outcome.cases += 1
        outcome.ends.update([end] if isinstance(end, str) else end)
        if defect:
            outcome.defects.append(f"{case}: {defect}")
            print(f"DEFECT {outcome.defects[-1]}", flush=True)
    return outcome
