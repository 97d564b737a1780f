"""A GPT-2 of Hugging Face's transformers that learns the source of Python's ``argparse``.

    lrtune search studies/examples/gpt2.py:make --budget 20

A sample is a dictionary of the model's arguments; the model computes the loss from its labels.
Nothing is downloaded: the configuration makes the model, and the tokens are bytes.
"""

import argparse
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lrtune import Task

# Without dropout many trials train at once.
OFF = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
CONFIG = GPT2Config(vocab_size=256, n_positions=64, n_embd=128, n_layer=2, n_head=4, **OFF)


def make() -> Task:
    windows = torch.tensor(list(Path(argparse.__file__).read_bytes())).unfold(0, 64, 64)
    train, val, test = windows[:-300], windows[-300:-150], windows[-150:]
    return Task(
        name="gpt2",
        train={"input_ids": train, "labels": train},  # the model shifts the labels
        val={"input_ids": val, "labels": val},
        test={"input_ids": test, "labels": test},
        model=lambda: GPT2LMHeadModel(CONFIG),
        **{"optimizer": "adamw", "batch_size": 16, "epochs": 4},
    )
