"""SchedulerSpec: what a scheduler was asked for; StepMonitor: whether a loop steps it like that.

The monitor never stops a run: each thing that does not fit is said once, as a ScheduleWarning, by
the first process of a distributed run. What it goes by are two counts: calls of `step()` and, by
torch's public hook, updates of the optimizer; so gradient accumulation, which makes fewer updates
of more batches, is none of its business. Where it cannot count updates (a wrapper that has no
hooks, a copied optimizer, a CUDA graph), it says nothing of the pace.
"""

import atexit
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from torch import cuda, distributed
from torch.optim import Optimizer

from lrtune.errors import InputError, ScheduleWarning
from lrtune.schedule.family import unknown
from lrtune.schedule.reactive import Mode
from lrtune.schedule.schedule import Schedule

OnChangedTotal: TypeAlias = Literal["raise", "retarget"]
Unit: TypeAlias = Literal["update", "epoch"]
Pace: TypeAlias = Literal["never", "slow", "even", "fast"]

# Counts from which the pace is judged, and the ratio that is no accident: a loss scaler of torch
# skips 16 updates at most before its scale, 2**16 at first, has come down to 1. As it may begin
# with a larger scale, "fast" has to hold out until a later count.
EARLY, LATER, OFF = 50, 200, 1.75
# Less of the way than this is a wrong total rather than a last batch that was dropped.
NEARLY = 0.9

# An epoch may be one batch: that is told from a step by batch only by going past the total.
RIGHT: dict[Unit, tuple[Pace, ...]] = {"update": ("even",), "epoch": ("slow", "even")}
ONCE_AN_EPOCH = "call step() once an epoch, or give total in updates and unit='update'"
WAY_OUT: dict[tuple[Unit, Pace], str] = {
    ("update", "never"): "call step() after every update",
    ("update", "slow"): "call step() after every update, or give total in epochs and unit='epoch' "
    "(or unit='epoch' if total counts calls of step())",
    ("update", "even"): "give as total the updates of the whole run, its calls of optimizer.step()",
    ("update", "fast"): "call step() once after every update (a scheduler that Accelerate prepared "
    "is stepped once for each process: leave it out of prepare())",
    ("epoch", "never"): "call step() once an epoch",
    ("epoch", "slow"): "give as total the epochs of the whole run",
    ("epoch", "even"): ONCE_AN_EPOCH,
    ("epoch", "fast"): ONCE_AN_EPOCH,
}


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """What a scheduler was asked for."""

    schedule: Schedule
    total: int
    mode: Mode
    unit: Unit
    on_changed_total: OnChangedTotal

    def __post_init__(self) -> None:
        for name, words in (("unit", Unit), ("on_changed_total", OnChangedTotal)):
            if getattr(self, name) not in get_args(words):
                raise unknown(name, getattr(self, name), get_args(words))

    def state(self, update: int) -> dict[str, Any]:
        """What a checkpoint holds: plain values, for `torch.load(weights_only=True)`."""
        asked = {"total": self.total, "mode": self.mode, "unit": self.unit}
        return {"schedule": self.schedule.to_dict(), **asked, "update": update}

    def resume(self, state: Mapping[str, Any]) -> int:
        """The update that a saved state has come to; InputError if it is not this spec's."""
        missing = [name for name in self.state(0) if name not in state]
        if missing:
            raise InputError(f"state_dict: {missing[0]!r} is missing: not saved by this scheduler")
        total, update = state["total"], state["update"]
        saved = {**state, "schedule": Schedule.from_dict(state["schedule"])}
        for name in ("schedule", "mode", "unit"):
            there, here = saved[name], getattr(self, name)
            if there != here:
                raise InputError(
                    f"state_dict: saved with {name}={there!r}; this scheduler has {name}={here!r}: "
                    "make it with the one that was saved"
                )
        if total != self.total and self.on_changed_total == "raise":
            raise InputError(
                f"state_dict: saved with total={total}; this scheduler has total={self.total}: "
                f"make it with total={total}, or with on_changed_total='retarget' to go on at "
                f"update {update} of the rates for {self.total}"
            )
        if update > self.total:
            raise InputError(
                f"state_dict: saved at update {update}; this scheduler has total={self.total}: "
                "make it with a larger total"
            )
        return int(update)


class StepMonitor:
    """The counts of one scheduler in this process."""

    def __init__(self, spec: SchedulerSpec) -> None:
        self.spec = spec
        self.update = 0  # how far the schedule has come
        self.saved = -1  # how far it had come when its state was last asked for
        self.steps = self.updates = 0
        self.before = 0  # updates before the first step: of another scheduler, perhaps
        self.inside = self.blind = False
        self.warned: set[str] = set()
        self.speaks = True

    def __reduce__(self) -> tuple[Any, ...]:
        # The optimizer beside a copy is a copy without hooks: nothing would be counted any more.
        return StepMonitor, (self.spec,)

    def follow(self, optimizer: Optimizer) -> None:
        """Count the optimizer's updates."""
        with suppress(AttributeError):  # Accelerate's wrapper is an Optimizer without its __init__
            optimizer.register_step_pre_hook(self._enter)
            optimizer.register_step_post_hook(self._count)

    def step(self, update: int) -> None:
        """Take note of a call of `step()` after which the schedule is at `update`."""
        past = self.update == update  # it stays where it ends
        self.update = update
        self._begin()
        if not self.steps:
            self.before = self.updates
        self.steps += 1
        spec = self.spec
        made = f"made for total={spec.total:,} {spec.unit}s, but step() is called"
        way = WAY_OUT[spec.unit, self.pace]
        if past:
            stays = "the rate stays at its last value"
            self._warn("past", f"{made} more often{self._beside('')}: {stays}; {way}")
        elif "pace" not in self.warned:
            steps, updates = self._counts
            enough = LATER if self.pace == "fast" else EARLY
            if updates and max(steps, updates) >= enough:
                if self.pace not in RIGHT[spec.unit]:
                    self._warn("pace", f"{made} {self._rhythm}: {way}")
                self.warned.add("pace")  # judged once

    def end(self) -> None:
        """Say how far the schedule came, if the run is over before its end.

        Silent for closed loops, whose rates know no end; where the rate is that of the end; where
        a state was saved at the run's last update, from which it can go on; and after the few
        updates of a trial of the code.
        """
        spec = self.spec
        done = self.update >= NEARLY * spec.total or self.saved == self.update
        if done or spec.schedule.closed_loop or max(self.steps, self.updates) < EARLY:
            return
        rates = spec.schedule.rates(spec.total)
        rate, last = rates[self.update], rates[-1]
        if rate != last:
            self._warn(
                "end",
                f"the run ended at {spec.unit} {self.update:,} of total={spec.total:,}"
                f"{self._beside('step() was called ')}, at a rate of {rate:.3g}; the schedule ends "
                f"at {last:.3g}. Unless it was stopped on purpose (early stopping, an error), "
                f"{WAY_OUT[spec.unit, self.pace]}",
            )

    @property
    def pace(self) -> Pace:
        """Steps beside updates; where those are not counted, as it should be."""
        steps, updates = self._counts
        if not updates:
            return RIGHT[self.spec.unit][0]
        if not self.steps:
            return "never"
        ratio = steps / updates
        return "fast" if ratio >= OFF else "slow" if ratio <= 1 / OFF else "even"

    @property
    def _counts(self) -> tuple[int, int]:
        """Steps and updates since the first step; all updates where there was none."""
        return max(0, self.steps - 1), 0 if self.blind else self.updates - self.before

    @property
    def _rhythm(self) -> str:
        steps, updates = self._counts
        times = {
            "never": f"0 times in {updates:,} updates",
            "slow": f"once for every {updates / max(1, steps):,.0f} updates",
            "even": "once for every update",
            "fast": f"{steps / max(1, updates):.0f} times for every update",
        }
        return f"{times[self.pace]} of the optimizer"

    def _beside(self, words: str) -> str:
        return f" ({words}{self._rhythm})" if self._counts[1] else ""

    def _enter(self, *_: object) -> None:
        self.inside = True

    def _count(self, *_: object) -> None:
        if not self.inside:  # a class of the user's that calls its parent's step: one update
            return
        self.inside = False
        self._begin()
        self.updates += 1
        # What is replayed later calls no hook.
        self.blind |= cuda.is_initialized() and cuda.is_current_stream_capturing()

    def _begin(self) -> None:
        if not self.steps and not self.updates:
            running = distributed.is_available() and distributed.is_initialized()
            self.speaks = not running or distributed.get_rank() == 0
            if len(_trained) < 2:  # two say no more than a thousand would
                _trained.append(self)

    def _warn(self, what: str, sentence: str) -> None:
        if self.speaks and what not in self.warned:
            self.warned.add(what)
            # From _warn, step, the scheduler's step: its caller.
            warnings.warn(sentence, ScheduleWarning, stacklevel=4)


_trained: list[StepMonitor] = []


@atexit.register
def _at_exit() -> None:
    """Let the process's scheduler say that it never came to its end.

    False alarms are worse than silence: so only where one scheduler trained (many are a search),
    and neither after an uncaught exception nor at a prompt or in a notebook, where people try
    things. A `break` or a `sys.exit` looks like any other end; the sentence allows for them.
    """
    if len(_trained) == 1 and not hasattr(sys, "last_value") and not hasattr(sys, "ps1"):
        _trained[0].end()
