"""A noisy quadratic, minimised by gradient descent; lrtune's sampler draws the schedules."""

from pathlib import Path

import numpy as np
import optuna
import optunahub

ROOT = Path(__file__).parents[2]  # in the registry: optunahub.load_module(PACKAGE)
PACKAGE = "samplers/lrtune_surrogate"
lrtune = optunahub.load_local_module(PACKAGE, registry_root=str(ROOT))
FAMILIES, PEAKS, UPDATES = ("constant", "cosine", "wsd"), (1e-3, 1.0), 200


def objective(trial: optuna.Trial) -> float:
    schedule = lrtune.suggest(trial, families=FAMILIES, peak_lr=PEAKS)
    random = np.random.default_rng(trial.number)
    curvature, weights = np.geomspace(0.01, 1, 20), np.ones(20)
    for rate in schedule.rates(UPDATES):
        weights = weights - rate * (curvature * weights + random.normal(size=20))
    return float(curvature @ weights**2 / 2)


def main(trials: int = 30) -> optuna.Study:
    sampler = lrtune.SurrogateSampler(lrtune.Space(FAMILIES, PEAKS), UPDATES)
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=trials)
    print(f"best {study.best_value:.4f} with {study.best_params}")
    return study


if __name__ == "__main__":
    main()
