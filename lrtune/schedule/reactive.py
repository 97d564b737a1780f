"""Closed loops: pure state machines fed by the validation metric.

A machine is a frozen state and a function from it and a metric to the next state; `Controller`
keeps the table of rates that results.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import InputError

Mode: TypeAlias = Literal["min", "max"]
WORST: dict[str, float] = {"min": math.inf, "max": -math.inf}

# Changes smaller than this are not made: the default of torch and of transformers.
EPS = 1e-8
# The default of transformers' GreedyLR, absolute.
GREEDY_THRESHOLD = 1e-6


class Machine(NamedTuple):
    """A rule: the type of its state, (rate, best) first, and its step."""

    state: Callable[[float, float], Any]
    step: Callable[[Any, float, dict[str, Any], Mode], Any]


@dataclass(frozen=True, slots=True)
class PlateauState:
    """State of `plateau`, named as in torch's ReduceLROnPlateau."""

    rate: float
    best: float
    num_bad_epochs: int = 0
    cooldown_counter: int = 0


def plateau(state: PlateauState, metric: float, params: dict[str, Any], mode: Mode) -> PlateauState:
    """One validation of torch.optim.lr_scheduler.ReduceLROnPlateau, threshold_mode="rel"."""
    threshold = params["threshold"]
    better = (
        metric < state.best * (1.0 - threshold)
        if mode == "min"
        else metric > state.best * (threshold + 1.0)
    )
    bad = 0 if better or state.cooldown_counter > 0 else state.num_bad_epochs + 1
    reduce = bad > params["patience"]
    return PlateauState(
        rate=_lowered(state.rate, params) if reduce else state.rate,
        best=metric if better else state.best,
        num_bad_epochs=0 if reduce else bad,
        cooldown_counter=params["cooldown"] if reduce else max(0, state.cooldown_counter - 1),
    )


@dataclass(frozen=True, slots=True)
class GreedyState:
    """State of `greedy`: at most one of the two counts is above zero."""

    rate: float
    best: float
    num_bad_epochs: int = 0
    num_good_epochs: int = 0
    window: tuple[float, ...] = ()


def greedy(state: GreedyState, metric: float, params: dict[str, Any], mode: Mode) -> GreedyState:
    """One validation of GreedyLR (Subramanian et al. 2025, arXiv 2512.14527).

    As `GreedyLR` in transformers/optimization.py, without its reset, cooldown and warmup
    counters, which are off or out of reach by default there.
    """
    window = (*state.window, metric)[-params["smooth"] :]
    average = sum(window) / len(window)
    better = (
        average < state.best - GREEDY_THRESHOLD
        if mode == "min"
        else average > state.best + GREEDY_THRESHOLD
    )
    good = state.num_good_epochs + 1 if better else 0
    bad = 0 if better else state.num_bad_epochs + 1
    raise_, lower = good > params["patience"], bad > params["patience"]
    rate = state.rate
    if raise_ and (new := min(rate / params["factor"], params["max_lr"])) - rate > EPS:
        rate = float(new)
    elif lower:
        rate = _lowered(rate, params)
    return GreedyState(
        rate=rate,
        best=average if better else state.best,
        num_bad_epochs=0 if lower else bad,
        num_good_epochs=0 if raise_ else good,
        window=window,
    )


def _lowered(rate: float, params: dict[str, Any]) -> float:
    new = max(rate * params["factor"], params["min_lr"])
    return float(new) if rate - new > EPS else rate


PLATEAU = Machine(PlateauState, plateau)
GREEDY = Machine(GreedyState, greedy)


class Controller:
    """The rates of a closed loop as the metric comes in.

    Attributes:
        rates: float64[total], the rates used so far and then the one now held.
        observed: the (update, metric) pairs seen, in order: replayed, they give this state again.
        state: the state of the machine.
    """

    def __init__(
        self,
        machine: Machine,
        params: dict[str, Any],
        rates: NDArray[np.float64],  # [total]: the warmup, then the peak
        warmup: int,  # updates
        mode: Mode,
    ) -> None:
        if mode not in WORST:
            raise InputError(f"mode={mode!r}: expected 'min' (a loss) or 'max' (an accuracy)")
        self.rates = rates
        self.observed: list[tuple[int, float]] = []
        self.state = machine.state(float(rates[-1]), WORST[mode])
        self._step, self._params, self._warmup, self._mode = machine.step, params, warmup, mode

    def observe(self, update: int, metric: float) -> None:
        """Take in a validation made after `update` updates; it sets the rates from there on.

        A validation during the warmup is kept in `observed` but not fed to the machine: the
        rate is not yet the machine's to change.

        Raises:
            InputError: `update` is not a count in [0, total], or lies before the last one.
        """
        last, total = self.observed[-1][0] if self.observed else 0, len(self.rates)
        whole = isinstance(update, int | np.integer) and not isinstance(update, bool)
        if not whole or not last <= update <= total:
            raise InputError(
                f"update={update!r}: expected the number of updates made so far, at least {last} "
                f"(the last validation) and at most {total} (the total)"
            )
        metric = float(metric)
        self.observed.append((int(update), metric))
        if update >= self._warmup:
            self.state = self._step(self.state, metric, self._params, self._mode)
            self.rates[update:] = self.state.rate
