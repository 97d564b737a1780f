"""A search over schedules for a LightningModule, with early stopping.

    python studies/examples/lightning_module.py

Any module will do whose ``configure_optimizers`` returns an optimizer alone: ``TrialCallback`` sets
the schedule, reports ``val_loss`` and ends what will not win. Lightning's own moving average of the
weights is what is validated: it shows early what a schedule will be worth.
"""

import logging

import lightning.pytorch as pl
import optuna
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from plain_optuna import digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import lrtune
from lrtune.callbacks.lightning import TrialCallback

EPOCHS, BATCH = 10, 60
UPDATES = EPOCHS * 1200 // BATCH


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("val_loss", cross_entropy(self.model(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def train(trial: optuna.Trial) -> float:
    inputs, labels, *held_out = digits()
    pl.seed_everything(0, verbose=False)
    lrtune.suggest(trial, families=["constant", "cosine", "one_cycle", "wsd"], peak_lr=(1e-3, 1.0))
    average = EMAWeightAveraging(decay=1 - 1 / (0.05 * UPDATES))  # over 5 % of the updates
    quiet = dict(logger=False, enable_checkpointing=False, enable_model_summary=False)
    callbacks = [average, TrialCallback(trial, "val_loss")]
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        callbacks=callbacks,
        enable_progress_bar=False,
        accelerator="cpu",
        **quiet,
    )
    data = DataLoader(TensorDataset(inputs, labels), BATCH, shuffle=True)
    trainer.fit(Classifier(), data, DataLoader(TensorDataset(*held_out), 600))
    return trainer.callback_metrics["val_loss"].item()


def main(trials: int = 20) -> optuna.Study:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=0), pruner=lrtune.SchedulePruner(total=UPDATES)
    )
    study.optimize(train, n_trials=trials)
    print(f"best {study.best_value:.4f} with {study.best_params}")
    return study


if __name__ == "__main__":
    main()
