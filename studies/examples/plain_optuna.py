"""SurrogateSampler and SchedulePruner in a study of your own, with a training loop of your own.

    python studies/examples/plain_optuna.py

Four things of lrtune's: ``SurrogateSampler`` chooses what to try, ``suggest`` draws it in a trial,
``report`` tells Optuna how far the current and the averaged weights have come, ``SchedulePruner``
ends what will not win. The momentum, a parameter beside the schedule, is searched with it.
Everything else is plain torch and plain Optuna: scikit-learn's digits and a small network.
"""

from functools import cache

import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lrtune

SPACE = lrtune.Space(("constant", "cosine", "one_cycle", "wsd"), peak_lr=(1e-3, 1.0))
UPDATES, EVERY, BATCH = 240, 12, 64  # of a full trial, between validations, samples an update


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and labels to learn from, and those to judge by."""
    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    inputs, labels = torch.tensor(raw.data).float()[order] / 16, torch.tensor(raw.target)[order]
    return inputs[:1200], labels[:1200], inputs[1200:], labels[1200:]


@torch.no_grad()
def judge(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    return cross_entropy(model(inputs), labels).item()


def train(trial: optuna.Trial) -> float:
    """The objective: one training, with its schedule drawn by Optuna."""
    inputs, labels, *held_out = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    schedule = lrtune.suggest(trial, families=SPACE.families, peak_lr=SPACE.peak_lr)
    momentum = trial.suggest_float("momentum", 0.5, 0.95)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    scheduler = schedule.torch(optimizer, total=UPDATES)
    # About as good as the weights would be if their rate came down now: over 5 % of the updates.
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(1 - 1 / (0.05 * UPDATES)))

    for update in range(1, UPDATES + 1):
        batch = torch.randint(len(labels), (BATCH,))
        optimizer.zero_grad()
        cross_entropy(model(inputs[batch]), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
        averaged.update_parameters(model)
        if update % EVERY == 0:
            loss = judge(model, *held_out)
            lrtune.report(trial, loss, update, averaged=judge(averaged, *held_out))
            if trial.should_prune():
                raise optuna.TrialPruned
    return loss


def main(trials: int = 40) -> optuna.Study:
    """Search; any storage and any number of workers will do."""
    study = optuna.create_study(
        direction="minimize",
        sampler=lrtune.SurrogateSampler(SPACE, UPDATES),
        pruner=lrtune.SchedulePruner(total=UPDATES),
    )
    study.optimize(train, n_trials=trials)
    spent = sum(trial.last_step for trial in study.trials) / (trials * UPDATES)
    print(f"best {study.best_value:.4f} with {study.best_params}, for {spent:.0%} of the updates")
    return study


if __name__ == "__main__":
    main()
