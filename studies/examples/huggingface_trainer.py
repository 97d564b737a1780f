"""A search over schedules for the Hugging Face Trainer, with early stopping.

    python studies/examples/huggingface_trainer.py

``TrialCallback`` takes the place of the Trainer's own scheduler, reports ``eval_loss`` of the
current and of averaged weights, and ends what will not win. The model is a tiny GPT-2 with random
weights that learns the source of Python's ``argparse`` byte by byte; nothing is downloaded.
"""

import argparse
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

import lrtune
from lrtune.callbacks.huggingface import TrialCallback

UPDATES, LENGTH, TEXT = 60, 32, Path(argparse.__file__)


@cache
def windows() -> list[dict[str, torch.Tensor]]:
    """Every 32 bytes, as input and as what to predict."""
    data = torch.tensor(list(TEXT.read_bytes())).split(LENGTH)[:-1]
    return [{"input_ids": window, "labels": window} for window in data]


def train(trial: optuna.Trial) -> float:
    data = windows()
    lrtune.suggest(trial, families=["constant", "cosine", "linear", "wsd"], peak_lr=(1e-3, 1e-1))
    set_seed(0)
    size = dict(vocab_size=256, n_embd=32, n_layer=1, n_head=2, n_positions=LENGTH)
    model = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            max_steps=UPDATES,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=128,
            eval_strategy="steps",
            eval_steps=6,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        trainer = Trainer(model, args, train_dataset=data[128:], eval_dataset=data[:128])
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(TrialCallback(trainer, trial))
        trainer.train()
        return trainer.evaluate()["eval_loss"]


def main(trials: int = 12) -> optuna.Study:
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=0), pruner=lrtune.SchedulePruner(total=UPDATES)
    )
    study.optimize(train, n_trials=trials)
    print(f"best {study.best_value:.4f} with {study.best_params}")
    return study


if __name__ == "__main__":
    main()
