"""A noisy quadratic, minimised by gradient descent; lrtune's pruner knows the rates to come."""

from pathlib import Path

import numpy as np
import optuna
import optunahub

ROOT = Path(__file__).parents[2]  # in the registry: optunahub.load_module(PACKAGE)
PACKAGE = "pruners/lrtune_schedule"
lrtune = optunahub.load_local_module(PACKAGE, registry_root=str(ROOT))
UPDATES, EVERY = 200, 10


def objective(trial: optuna.Trial) -> float:
    schedule = lrtune.suggest(trial, families=["constant", "cosine", "wsd"], peak_lr=(1e-3, 1.0))
    random = np.random.default_rng(trial.number)
    curvature, weights = np.geomspace(0.01, 1, 20), np.ones(20)
    averaged = weights
    for update, rate in enumerate(schedule.rates(UPDATES), start=1):
        weights = weights - rate * (curvature * weights + random.normal(size=20))
        averaged = averaged + (weights - averaged) / (0.05 * UPDATES)  # over 5 % of the updates
        if update % EVERY == 0:
            loss, smoothed = (float(curvature @ w**2 / 2) for w in (weights, averaged))
            lrtune.report(trial, loss, update, averaged=smoothed)
            if trial.should_prune():
                raise optuna.TrialPruned
    return loss


def main(trials: int = 40) -> optuna.Study:
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(sampler=sampler, pruner=lrtune.SchedulePruner(total=UPDATES))
    study.optimize(objective, n_trials=trials)
    print(f"best {study.best_value:.4f} with {study.best_params}")
    return study


if __name__ == "__main__":
    main()
