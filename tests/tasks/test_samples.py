"""Data and models as their owners write them: dictionaries, DataLoaders, Hugging Face's models."""

from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorForLanguageModeling,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from lrtune import Metric, Task
from lrtune.engine import SerialPool
from lrtune.tasks import check_model
from lrtune.tasks.metrics import model_loss
from tests.tasks.conftest import refused

GENERATOR = torch.Generator().manual_seed(0)
IDS, LABELS = torch.randint(1, 20, (60, 6), generator=GENERATOR), torch.arange(60) % 3
IDS[:, 4:] *= torch.arange(60)[:, None] % 2  # half of them are padded
MASK = (IDS > 0).long()
ROWS = [
    {"input_ids": i[m > 0].tolist(), "attention_mask": m[m > 0].tolist(), "label": int(y)}
    for i, m, y in zip(IDS, MASK, LABELS, strict=True)
]
SMALL = dict(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
BERT = BertConfig(**SMALL, intermediate_size=8, num_labels=3)
GPT2 = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=6)


def bert():
    return BertForSequenceClassification(BERT)


def gpt2():
    return GPT2LMHeadModel(GPT2)


def columns(start=0, stop=60):
    part = slice(start, stop)
    return {"input_ids": IDS[part], "attention_mask": MASK[part], "labels": LABELS[part]}


def pad(rows):
    width = max(len(row["input_ids"]) for row in rows)
    ids, mask = (
        torch.tensor([row[name] + [0] * (width - len(row[name])) for row in rows])
        for name in ("input_ids", "attention_mask")
    )
    labels = torch.tensor([row["label"] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def task(train=None, **fields):
    given = {"name": "toy", "val": columns(0, 20), "model": bert, "epochs": 1.0}
    return Task(train=columns() if train is None else train, **given | fields)


def tensors(row):
    return {"input_ids": IDS[row], "attention_mask": MASK[row].tolist(), "label": int(LABELS[row])}


@pytest.mark.parametrize(
    ("train", "batch_size"),
    [
        (columns(), 60),
        ({name: tensor.tolist() for name, tensor in columns().items()}, 60),  # as of a tokenizer
        ([tensors(row) | {"text": "to be", "idx": row} for row in range(60)], 60),
        (DataLoader([tensors(row) for row in range(60)], batch_size=5, shuffle=True), 5),
        (DataLoader(ROWS, batch_size=7, collate_fn=pad), 7),
    ],
    ids=["tensors", "lists", "rows", "loader", "padding loader"],
)
def test_every_form_is_the_same_task(train, batch_size):
    plain = task(batch_size=60)
    made = task(train, batch_size=60 if batch_size == 60 else None)
    assert made.fingerprint == plain.fingerprint
    assert (made.batch_size, made.classes, made.keywords) == (batch_size, 3, True)
    assert made.loss is model_loss
    assert [m.name for m in made.metrics] == ["loss", "accuracy"]
    left = ["the model takes no text, idx: left out"] if isinstance(train, list) else []
    assert list(made.notes) == left
    assert check_model(made) > 1000


def test_a_data_set_on_the_disk(tmp_path):
    """Its rows are lists of numbers, in memory or streamed."""
    datasets.disable_progress_bars()
    rows = [tensors(row) | {"text": "to be"} for row in range(60)]
    own = datasets.Dataset.from_list([{**r, "input_ids": r["input_ids"].tolist()} for r in rows])
    datasets.DatasetDict(train=own, val=own.select(range(20))).save_to_disk(tmp_path)
    parts = datasets.load_from_disk(tmp_path)
    for memory, kind in (None, "Split"), (1000, "Stream"):
        made = task(parts["train"], val=parts["val"], memory=memory)
        assert (made.classes, type(made.train).__name__) == (3, kind)
        assert made.notes == ("the model takes no text: left out",)
        pool = SerialPool(made)
        pool.start(0, np.full(made.horizon, 0.01), 0)
        assert np.isfinite(pool.advance()[0].loss)
    with refused(r"train: DatasetDict of train, val: give one of them: data\['train'\]"):
        task(parts)


def test_pairs_of_a_loader():
    pairs = TensorDataset(IDS.float(), LABELS)
    loader = DataLoader(pairs, 12, sampler=WeightedRandomSampler([1.0], 9))
    made = task(loader, val=pairs, model=lambda: nn.Linear(6, 3))
    assert (made.batch_size, made.keywords, made.loss) == (12, False, F.cross_entropy)
    (note,) = made.notes
    assert note.startswith("the DataLoader's WeightedRandomSampler is not used")
    assert torch.equal(made.train.inputs, IDS.float())


def test_a_model_output_stays_one():
    """For losses and metrics of the user's, wherever they are called."""
    seen = set()

    def loss(outputs, targets):
        seen.add(type(outputs).__name__)
        return F.cross_entropy(outputs.logits, targets) + 0 * outputs.loss.mean()

    def hits(outputs, targets):
        seen.add(type(outputs).__name__)
        return (outputs.logits.argmax(-1) == targets).double().mean()

    check_model(task(loss=loss, metrics=(Metric("hits", hits, "maximize"),), classes=3))
    assert seen == {"SequenceClassifierOutput"}


def test_masks_that_a_collator_draws_are_drawn_anew():
    from tokenizers import Tokenizer, models

    own = Tokenizer(models.WordLevel({str(n): n for n in range(20)}, "0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, pad_token="0", mask_token="19")
    loader = DataLoader(
        [{"input_ids": ids} for ids in IDS],
        4,
        collate_fn=DataCollatorForLanguageModeling(tokenizer),
    )
    made = task(loader, val=loader, model=lambda: gpt2())
    assert made.train.draws and made.classes is None
    assert check_model(made) > 100


class Endless(IterableDataset):
    def __iter__(self):
        return iter(ROWS)


class Blind(nn.Module):
    """Takes no labels and gives a tensor."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.embed(input_ids).mean(1))


def test_a_model_that_takes_no_labels_has_the_tasks_loss():
    made = task(model=Blind, classes=3)
    assert made.loss is F.cross_entropy and made.keywords
    assert set(made.train.inputs) == {"input_ids", "attention_mask"}
    check_model(made)


NO_LABELS = {"input_ids": IDS, "attention_mask": MASK}
PAIRS = TensorDataset(IDS, LABELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": NO_LABELS, "val": NO_LABELS}, "no loss: .* where samples hold labels"),
        ({"train": PAIRS, "val": PAIRS}, "gives SequenceClassifierOutput, no tensor: make sample"),
        ({"train": PAIRS, "val": PAIRS, "classes": 3}, "make samples dictionaries with labels"),
        ({"model": lambda: BertForSequenceClassification(BertConfig(**SMALL))}, "num_labels=3"),
        ({"model": bert()}, r"model=Bert.* expected a function that makes one, as lambda: Net\(\)"),
        ({"model": BERT}, "model=BertConfig.* expected a function that makes one"),
        ({"model": BertForSequenceClassification}, "model fails: TypeError: .*'config'"),
        ({"train": {"train": PAIRS, "test": PAIRS}}, r"dict of train, test: give .*data\['train"),
        ({"train": PreTrainedTokenizerFast}, "train=.*: expected a Split of tensors"),
        ({"train": "imdb"}, "train='imdb': expected a Split"),
        ({"train": ["to be", "or not"]}, r"sample 0: TypeError: str, expected a pair \(input"),
        ({"train": Endless()}, r"list\(\.\.\.\) makes one of"),
        ({"train": DataLoader(Endless())}, r"list\(\.\.\.\) makes one of"),
        ({"train": iter(ROWS)}, r"list\(\.\.\.\) makes one of"),
        ({"train": ROWS}, r"one length, by the tokenizer's padding='max_length'"),
        ({"train": {"input_ids": [[1, 2], [3]], "labels": [0, 1]}}, "input_ids: .*padding='max_le"),
        ({"train": [{"text": "to be", "label": 1}]}, "samples hold text, label; .* tokenise texts"),
        (
            {"train": {"input_ids": IDS, "atention_mask": MASK, "labels": LABELS}},
            "atention_mask: Bert.* takes attention_mask",
        ),
        ({"train": columns() | {"token_types": MASK}}, "token_types: .* takes token_type_ids: ren"),
        ({"train": columns() | {"labels": LABELS[:9]}}, "60 inputs for 9 targets"),
        ({"train": columns() | {"input_ids": IDS + 5}}, "a token or label beyond the model's voc"),
        ({"train": columns() | {"labels": LABELS.float()}}, "train: targets are no class numbers"),
        ({"model": nn.Identity}, "samples hold input_ids, .*, labels; Identity takes input: "),
    ],
)
def test_a_wrong_try_names_the_remedy(change, message):
    with refused(message):
        check_model(task(**change))


def test_what_a_loader_says_yields_to_what_the_task_says():
    loader = DataLoader(ROWS, batch_size=7, collate_fn=pad)
    assert replace(task(loader), batch_size=9).batch_size == 9
    assert task(loader, batch_size=9).batch_size == 9
