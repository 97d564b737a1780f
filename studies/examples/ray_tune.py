"""lrtune's search space in Ray Tune, and back: from a trial's config to its schedule.

    python studies/examples/ray_tune.py

The space is conditional (a cosine has no drops), which Ray's own dictionaries cannot say and an
Optuna search can; Optuna's or lrtune's samplers do. Ray switches Optuna's pruners off. With ASHA in
their place a schedule that holds its rate is judged before it comes down: give it a long
``grace_period`` and report the better of the current and the averaged weights, as ``report`` does.
"""

import ray
import torch
from plain_optuna import BATCH, EVERY, UPDATES, digits, judge
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from torch import nn
from torch.nn.functional import cross_entropy

import lrtune

SPACE = lrtune.Space(("constant", "cosine", "one_cycle", "wsd"), peak_lr=(1e-3, 1.0))


def train(config: dict) -> None:
    """One training in a process of Ray's."""
    inputs, labels, *held_out = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = SPACE.schedule(config).torch(optimizer, total=UPDATES)
    for update in range(1, UPDATES + 1):
        batch = torch.randint(len(labels), (BATCH,))
        optimizer.zero_grad()
        cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
        if update % EVERY == 0:
            tune.report({"loss": judge(model, *held_out)})


def main(trials: int = 12) -> lrtune.Schedule:
    """Search on one CPU; a cluster takes no more than another ``ray.init``."""
    ray.init(num_cpus=1, include_dashboard=False)
    sampler = lrtune.SurrogateSampler(SPACE, UPDATES)
    search = OptunaSearch(SPACE.define, "loss", "min", sampler=sampler)
    setup = tune.TuneConfig(search_alg=search, num_samples=trials, reuse_actors=True)
    tuner = tune.Tuner(train, tune_config=setup, run_config=tune.RunConfig(verbose=0))
    best = tuner.fit().get_best_result("loss", "min")
    schedule = SPACE.schedule(best.config)
    print(f"best {best.metrics['loss']:.4f} with {schedule}")
    ray.shutdown()
    return schedule


if __name__ == "__main__":
    main()
