"""A BERT of Hugging Face's transformers that tells from which of four modules a line comes.

    lrtune search studies/examples/bert.py:make --budget 20

DataLoaders are taken as they are, with the ``collate_fn`` that pads: their data set, batch size and
collation; the order is lrtune's. Nothing is downloaded: the tokens are bytes.
"""

import argparse
import inspect
import textwrap
import typing

import torch
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

from lrtune import Task

MODULES = (argparse, inspect, textwrap, typing)
CONFIG = BertConfig(
    vocab_size=256,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=128,
    num_labels=4,
)


def lines() -> list[tuple[bytes, int]]:
    """Every line with the number of its module, in a random order."""
    sources = [inspect.getsource(module).encode().splitlines() for module in MODULES]
    found = [(line.strip()[:48], label) for label, source in enumerate(sources) for line in source]
    found = [(line, label) for line, label in found if len(line) > 20]
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[number] for number in order]


def pad(batch: list[tuple[bytes, int]]) -> dict[str, torch.Tensor]:
    """As a tokenizer with ``padding=True`` does."""
    length = max(len(line) for line, _ in batch)
    ids = torch.tensor([list(line.ljust(length, b"\0")) for line, _ in batch])
    labels = torch.tensor([label for _, label in batch])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


def make() -> Task:
    rows = lines()
    return Task(
        name="bert",
        train=DataLoader(rows[1000:], batch_size=32, shuffle=True, collate_fn=pad),
        val=DataLoader(rows[:500], collate_fn=pad),
        test=DataLoader(rows[500:1000], collate_fn=pad),
        model=lambda: BertForSequenceClassification(CONFIG),
        optimizer="adamw",
        epochs=3,
    )
