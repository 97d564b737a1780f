"""How good is the best schedule found for so many trainings? Recorded tasks, replayed.

    python scripts/bench/replay.py
    python scripts/bench/replay.py --guess

Replays the trainings under ``studies/results/curves`` (``curves.py`` records them), one trial after
the other. What lrtune proposes, it chooses among those recorded; all others try them in random
orders. The task, and all that have its data, are left out of what transfer learns. ``--guess`` asks
how good the schedule is that ``lrtune guess`` says, and writes that to ``lrtune/model/guess.json``.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
import torch
from optuna.pruners import HyperbandPruner, MedianPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState
from recorded import CURVES, Recorded, rates_ahead, read
from replay_table import averaged, show

sys.path.insert(0, str(Path(__file__).parents[1]))
from transfer import learn

from lrtune.engine.range_test import suggest_range
from lrtune.model.decide import propose, recommend, stop
from lrtune.model.forecast import Forecast, learn_gain, shorter_training
from lrtune.model.surrogate import Observations, PeakGuess, Surrogate
from lrtune.model.transfer import Transfer, nothing

RESULTS = Path(__file__).parents[2] / "studies" / "results" / "bench"
GUESS = Path(__file__).parents[2] / "lrtune" / "model" / "guess.json"
ORDERS, BUDGETS = 24, (3, 4, 6, 10, 20, 60)
COVERED = (5, 10, 20, 60)  # whole trainings after which intervals are looked at
ALONE = 64  # trials of one study


class Policy(NamedTuple):
    """What proposes, and what stops."""

    proposes: str  # random, model, or model without transfer
    stops: str  # nothing, forecast, today, or one of Optuna's


POLICIES = {
    "random, no stopping": Policy("random", "nothing"),
    "random, today's forecast": Policy("random", "today"),
    "random, Optuna median": Policy("random", "median"),
    "random, Optuna halving": Policy("random", "halving"),
    "random, Optuna Hyperband": Policy("random", "hyperband"),
    "random, new forecast": Policy("random", "forecast"),
    "model, no stopping": Policy("model", "nothing"),
    "model without transfer": Policy("alone", "alone"),
    "model": Policy("model", "forecast"),
}


@dataclass
class State:
    """What a search knows."""

    task: Recorded
    transfer: Transfer
    rows: list[int]  # tried, in their order
    y: list[float]
    variance: list[float]
    whole: list[int]  # of these, trained to their end
    averaged: bool = True
    spent: float = 0.0

    @property
    def observations(self) -> Observations:
        task = self.task
        found = Observations(task.x[self.rows], np.array(self.y), np.array(self.variance))
        told = [
            shorter_training(
                task.x[row],
                rates_ahead(task.schedules[row], task.horizon),
                task.steps,
                task.raw[row],
                task.final[row],
            )
            for row in self.whole
        ]
        return found.with_others([one for one in told if one is not None])

    def forecast_at(self, row: int, validation: int) -> Forecast:
        """Of a trial that has just reported its n-th validation."""
        at, task, known = validation - 1, self.task, self.whole
        designs, shown = task.designs(self.averaged), task.shown(self.averaged)
        progress = task.steps[at] / task.horizon
        gain = learn_gain(
            self.transfer,
            self.averaged,
            progress,
            designs[known, at],
            shown[known, at],
            task.final[known],
        )
        return gain.forecast(float(shown[row, at]), designs[row, at])


def guess_of(task: Recorded) -> PeakGuess:
    """What the task's own range test says of a good peak rate."""
    found = suggest_range(*task.sweep).suggestion
    return PeakGuess(float(np.log(found.peak_lr)), found.doubt)


def transfers(tasks: list[Recorded]) -> dict[str, Transfer]:
    """By group of tasks, what all others teach."""
    return {
        group: learn([task for task in tasks if task.group != group])
        for group in sorted({task.group for task in tasks})
    }


def search(
    task: Recorded, transfer: Transfer, guess: PeakGuess, policy: Policy, order: int, budget: float
) -> Iterator[tuple[float, int]]:
    """Yields what is spent, in trainings, and the row that would be recommended, trial by trial."""
    rng = np.random.default_rng([order, 17])
    learnt = nothing() if "alone" in policy else transfer
    state = State(task, learnt, [], [], [], [])
    surrogate = Surrogate(learnt, guess)
    shuffled = np.random.default_rng(order).permutation(len(task.final)).tolist()
    stopper = Stopper(policy.stops, state)
    posterior = surrogate.posterior(state.observations)
    while state.spent < budget and len(state.rows) < len(shuffled):
        left = [row for row in shuffled if row not in set(state.rows)]
        row = left[0]
        if policy.proposes != "random":
            row = left[propose(posterior, task.x[left], 1, rng)[0]]
        train(state, row, stopper)
        if policy.proposes != "random":
            posterior = surrogate.posterior(state.observations)
        if state.whole and policy.proposes == "random":
            yield state.spent, min(state.whole, key=lambda row: task.final[row])
        elif state.whole:
            yield state.spent, state.whole[recommend(posterior, task.x[state.whole])]


def train(state: State, row: int, stopper: "Stopper") -> None:
    """One trial, until it ends or is stopped."""
    task = state.task
    count = len(task.steps)
    for validation in range(1, count + 1):
        if not np.isfinite(task.raw[row, validation - 1]):
            return note(state, row, lost(state), 0.25, validation)
        if validation < count and stopper.stops(row, validation):
            ends = state.forecast_at(row, validation)
            return note(state, row, ends.mean, ends.variance, validation)
    if not np.isfinite(task.final[row]):
        return note(state, row, lost(state), 0.25, count)
    state.whole.append(row)
    stopper.ended(row)
    return note(state, row, float(task.final[row]), 0.0, count)


def lost(state: State) -> float:
    """What a diverged trial counts as: no better than the worst of all."""
    return max([*state.y, float(np.nanmin(state.task.raw[:, 0]))])


def note(state: State, row: int, y: float, variance: float, validations: int) -> None:
    state.rows.append(row)
    state.y.append(y)
    state.variance.append(variance)
    state.spent += state.task.steps[validations - 1] / state.task.horizon


class Stopper:
    """Whether a trial ends at a validation: by our rules, or by Optuna's own pruners."""

    def __init__(self, name: str, state: State) -> None:
        self._name, self._state = name, state
        task = state.task
        every = task.horizon // 30
        made = {
            "median": lambda: MedianPruner(n_warmup_steps=round(0.3 * task.horizon)),
            "halving": lambda: SuccessiveHalvingPruner(min_resource=4 * every, reduction_factor=3),
            "hyperband": lambda: HyperbandPruner(
                min_resource=every, max_resource=task.horizon, reduction_factor=3
            ),
        }
        self._study = None
        if name in made:
            self._study = optuna.create_study(study_name="replay", pruner=made[name]())
        self._trial: Any = None
        self._row = -1

    def stops(self, row: int, validation: int) -> bool:
        task, state = self._state.task, self._state
        if self._study is not None:
            return self._asked(row, validation)
        progress = task.steps[validation - 1] / task.horizon
        if self._name == "nothing" or not state.whole:
            return False
        best = float(task.final[state.whole].min())
        if self._name == "today":
            return today(task, state.whole, row, validation, best)
        return stop(state.forecast_at(row, validation), best, progress)[0]

    def _asked(self, row: int, validation: int) -> bool:
        assert self._study is not None
        if row != self._row:
            self._trial, self._row = self._study.ask(), row
        task = self._state.task
        self._trial.report(task.raw[row, validation - 1], int(task.steps[validation - 1]))
        if self._trial.should_prune():
            self._study.tell(self._trial, state=TrialState.PRUNED)
            return True
        return False

    def ended(self, row: int) -> None:
        if self._study is not None and row == self._row:
            self._study.tell(self._trial, self._state.task.final[row])


STRENGTHS = np.geomspace(0.1, 1e3, 13)


def today(task: Recorded, whole: list[int], row: int, validation: int, best: float) -> bool:
    """The rule before this one: ridge regression of the gain on this task's trials alone, ε 0.2."""
    from scipy.special import stdtr

    n, at = len(whole), validation - 1
    if n < 5 or task.steps[at] < 0.1 * task.horizon:
        return False
    designs = task.designs(True)
    known, ahead = designs[whole, at, 1:4], designs[row, at, 1:4]
    gains = task.final[whole] - task.signal[whole, at]
    center, width = known.mean(0), known.std(0)
    used = width > 1e-9
    x = (known[:, used] - center[used]) / width[used]
    reach = np.abs(x).max(0, initial=0.0)
    own = np.clip((ahead[used] - center[used]) / width[used], -reach, reach)
    y = gains - gains.mean()
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    turned, projected = vt @ own, u.T @ y
    found = (np.inf, 0.0, 0.0, 0.0)
    for strength in n * STRENGTHS:
        shrink = s**2 / (s**2 + strength)
        leverage = 1 / n + (u**2) @ shrink
        errors = (y - u @ (shrink * projected)) / (1 - np.minimum(leverage, 0.99))
        score = float(errors @ errors)
        if score < found[0]:
            mean = float(turned @ (s / (s**2 + strength) * projected))
            doubt = 1 / n + float((turned**2 / (s**2 + strength)).sum())
            found = (score, mean, doubt, float(shrink.sum()))
    score, mean, doubt, degrees = found
    freedom = max(1.0, n - 1 - degrees)
    spread = np.sqrt(score / n * (1 + doubt)) + 1e-12
    median = task.signal[row, at] + gains.mean() + mean
    family = task.schedules[row].family
    first = not any(task.schedules[other].family == family for other in whole)
    epsilon = 0.2 * (0.25 if first else 1.0) * n / (n + 5)
    return bool(stdtr(freedom, (best - median) / spread) < epsilon)


def measure(
    task: Recorded,
    transfer: Transfer,
    guess: PeakGuess,
    budgets: tuple[int, ...],
    name: str,
    order: int,
) -> list[dict[str, Any]]:
    """One order of one task under one policy: the regret at each budget."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    truth, began = smoothed(task), time.process_time()
    best, best_true = (
        np.nanmin(task.final),
        np.nanmin(np.where(np.isfinite(task.final), truth, np.nan)),
    )
    spent, rows = [0.0], [-1]
    for at, row in search(task, transfer, guess, POLICIES[name], order, max(budgets)):
        spent.append(at)
        rows.append(row)
    found = []
    for budget in budgets:
        # A trial that the budget cuts short is nobody's.
        row = rows[int(np.searchsorted(spent, budget + 1e-9)) - 1]
        if row < 0:  # nothing was finished: the one that is under way is
            row = rows[1]
        found.append(
            {
                "task": task.name,
                "policy": name,
                "order": order,
                "budget": budget,
                "regret": 100 * np.expm1(task.final[row] - best),
                "true": 100 * np.expm1(truth[row] - best_true),
                "seconds": time.process_time() - began,
            }
        )
    return found


def pruned_alone(task: Recorded, transfer: Transfer, order: int) -> dict[str, Any]:
    """``SchedulePruner`` alone on 64 trials in a random order, of current weights only."""
    torch.set_num_threads(1)
    state = State(task, transfer, [], [], [], [], averaged=False)
    stopper = Stopper("forecast", state)
    rows = np.random.default_rng(order).permutation(len(task.final))[:ALONE].tolist()
    for row in rows:
        train(state, row, stopper)
    best = int(rows[np.nanargmin(task.final[rows])])
    found = min(state.whole, key=lambda row: task.final[row])
    return {
        "task": task.name,
        "order": order,
        "spent": state.spent / len(rows),
        "regret": 100 * np.expm1(task.final[found] - task.final[best]),
        "kept": float(best in state.whole),
    }


def coverage(task: Recorded, transfer: Transfer, known: int, order: int) -> dict[str, Any]:
    """How many of the other trainings' values lie in the posterior's 90 % intervals."""
    torch.set_num_threads(1)
    sound = np.flatnonzero(np.isfinite(task.final))
    rows = np.random.default_rng(order).permutation(sound)
    seen, rest = rows[:known], rows[known:]
    observed = Observations(task.x[seen], task.final[seen], np.zeros(known))
    posterior = Surrogate(transfer, guess_of(task)).posterior(observed)
    mean, sd = posterior.mean_and_sd(task.x[rest])
    width = 1.645 * np.hypot(sd, posterior.noise)
    low, high = posterior.values(mean - width), posterior.values(mean + width)
    inside = (task.final[rest] >= low) & (task.final[rest] <= high)
    return {"task": task.name, "known": known, "inside": float(inside.mean())}


def guessed(tasks: list[Recorded], learnt: dict[str, Transfer]) -> pd.Series:
    """By task, what the guess before any training costs: regret in percent of the best of all."""
    found = {}
    for task in tasks:
        nothing_known = Observations(task.x[:0], np.empty(0), np.empty(0))
        posterior = Surrogate(learnt[task.group], guess_of(task)).posterior(nothing_known)
        rows = [
            row
            for row, one in enumerate(task.schedules)
            if not one.closed_loop and one.family != "spline"
        ]
        final = task.final[rows[recommend(posterior, task.x[rows])]]
        if not np.isfinite(final):  # diverged
            final = np.nanmax(task.final)
        found[task.name] = 100 * np.expm1(final - np.nanmin(task.final))
    return pd.Series(found)


def write_guess(costs: pd.Series) -> None:
    """The two figures that ``lrtune guess`` says."""
    quantiles = {"half": costs.quantile(0.5), "nine_of_ten": costs.quantile(0.9)}
    kept = {name: round(float(value), 1) for name, value in quantiles.items()}
    GUESS.write_text(json.dumps(kept | {"tasks": len(costs)}) + "\n")


def smoothed(task: Recorded) -> np.ndarray:
    """What each schedule comes to on any seed: the noise of single trainings smoothed away."""
    sound = np.isfinite(task.final)
    if task.name not in SMOOTHED:
        known = Observations(task.x[sound], task.final[sound], np.zeros(sound.sum()))
        posterior = Surrogate(nothing(), PeakGuess(0.0, 1.0)).posterior(known)
        SMOOTHED[task.name] = posterior.values(posterior.mean_and_sd(task.x)[0])
    return SMOOTHED[task.name]


SMOOTHED: dict[str, np.ndarray] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=Path, default=CURVES)
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--only", help=f"with ; between, of {'; '.join(POLICIES)}")
    parser.add_argument(
        "--budgets",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        default=BUDGETS,
        help="whole trainings",
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--coverage", action="store_true", help="of the intervals, a table")
    parser.add_argument("--guess", action="store_true", help="what lrtune guess says, a table")
    parser.add_argument("--alone", action="store_true", help="SchedulePruner alone, a table")
    parser.add_argument("--out", type=Path, default=RESULTS / "replay.json")
    args = parser.parse_args()
    tasks = read(args.curves)
    learnt = transfers(tasks)
    if args.coverage:
        cases = product(tasks, COVERED, range(4))
        rows = [coverage(task, learnt[task.group], known, order) for task, known, order in cases]
        found = pd.DataFrame(rows).pivot_table("inside", "task", "known")
        found.loc["mean"] = found.mean()
        print(found.round(2).to_string())
        return
    if args.guess:
        costs = guessed(tasks, learnt)
        write_guess(costs)
        print(costs.sort_values().round(1).to_string())
        return
    if args.alone:
        pairs = product(tasks, range(args.orders))
        rows = [pruned_alone(task, learnt[task.group], order) for task, order in pairs]
        found = pd.DataFrame(rows).groupby("task")[["spent", "regret", "kept"]].mean()
        found.loc["mean"] = found.mean()
        print(found.round(2).to_string())
        return
    guesses = {task.name: guess_of(task) for task in tasks}
    names = args.only.split(";") if args.only else list(POLICIES)
    work = list(product(tasks, names, range(args.orders)))
    rows = [
        (task, learnt[task.group], guesses[task.name], args.budgets, name, order)
        for task, name, order in work
    ]
    with ProcessPoolExecutor(args.jobs) as pool:
        done = pool.map(measure, *zip(*rows, strict=True), chunksize=4)
        found = pd.DataFrame([row for part in done for row in part])
    means = averaged(found)
    if args.out.exists():  # what is there and was not run stays
        before = pd.read_json(args.out)
        means = pd.concat([before[~before["policy"].isin(names)], means])
    means = pd.concat([means[means["policy"] == name] for name in POLICIES])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    means.to_json(args.out, orient="records", indent=0, double_precision=3)
    show(means, args.out)


if __name__ == "__main__":
    main()
