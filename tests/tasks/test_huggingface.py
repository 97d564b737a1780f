"""--model FOLDER and --tokens FOLDER: transformers' models and tokenizers, small ones made here."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTConfig,
)

from lrtune.engine import SerialPool
from lrtune.engine.stacked import vmap_check
from lrtune.tasks import check_model, load_task
from tests.engine.trials import falling
from tests.tasks.conftest import refused

WORDS = ["to", "be", "or", "not", "the", "king", "lord", "my", "thou", "art", "love", "death"]
WORDS += ["[PAD]", "[UNK]"]
TEXT = " ".join(WORDS[i * i % 11] for i in range(3000))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folders")
    own = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, "[UNK]"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, pad_token="[PAD]")
    size = dict(vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    off = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    gpt2 = GPT2Config(vocab_size=14, n_positions=16, n_embd=8, n_layer=1, n_head=2, **off)
    bert = BertConfig(**size, intermediate_size=8)
    GPT2LMHeadModel(gpt2).save_pretrained(root / "gpt2")
    BertForMaskedLM(bert).save_pretrained(root / "bert")
    gpt2.save_pretrained(root / "shape")
    ViTConfig().save_pretrained(root / "vit")
    for name in ("gpt2", "bert", "vit", "tokens"):
        tokenizer.save_pretrained(root / name)
    for name, change in {
        "mixed": lambda at: shutil.copy(root / "bert/model.safetensors", at),
        "cut": lambda at: (at / "model.safetensors").write_bytes(b"123"),
        "broken": lambda at: (at / "config.json").write_text("{"),
    }.items():
        change(shutil.copytree(root / "gpt2", root / name))
    (root / "empty").mkdir()
    (root / "play.txt").write_text(TEXT)
    love = [n % 2 for n in range(300)]
    texts = [f"my {'love' if good else 'death'} {WORDS[n % 7]}" for n, good in enumerate(love)]
    pd.DataFrame({"line": texts, "love": love}).to_csv(root / "lines.csv", index=False)
    return root


def tasks(folders: Path, what: str, **options: object):
    paths = {n: str(folders / v) if n in ("model", "tokens") else v for n, v in options.items()}
    return load_task(str(folders / what), **paths)


LINES = {"text": "line", "target": "love"}


@pytest.mark.parametrize(
    ("what", "options", "shape", "fused"),
    [
        ("play.txt", {"model": "gpt2", "context": 8}, (1, 8, 14), True),
        ("play.txt", {"model": "shape", "tokens": "tokens", "context": 8}, (1, 8, 14), True),
        ("play.txt", {"tokens": "tokens", "context": 8}, (1, 8, 14), True),
        ("lines.csv", {"model": "bert", **LINES}, (1, 2), False),  # its dropout, and its mask
        ("lines.csv", {"model": "gpt2", **LINES}, (1, 2), False),
        ("lines.csv", {"tokens": "tokens", **LINES}, (1, 2), True),
    ],
)
def test_a_folder_is_trained(folders, what, options, shape, fused):
    task = tasks(folders, what, epochs=3.0, batch_size=30, optimizer="adamw", **options)
    assert task.model_name == options.get("model", "transformer")
    assert task.data.endswith(f"tokens of {options.get('tokens', options.get('model'))}")
    check_model(task)
    pool = SerialPool(task)
    before = pool.start(0, 4 * falling(task), 0).loss
    assert pool.task.model()(task.val.first.inputs).shape == shape
    for _ in task.checkpoints:
        (progress,) = pool.advance()
    assert progress.error is None and progress.loss < before
    if fused:
        vmap_check(pool.device_task)


def test_weights_are_those_of_the_folder(folders):
    """A head that the file has not is fresh, another one for each seed."""
    saved = BertForMaskedLM.from_pretrained(folders / "bert").bert.embeddings.word_embeddings.weight
    make = tasks(folders, "lines.csv", model="bert", **LINES).model
    first, second = (make().model for _ in range(2))
    assert torch.equal(first.bert.embeddings.word_embeddings.weight, saved)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("play.txt", {"model": "gpt2"}, "max_position_embeddings=16, .* 128: give --context 16"),
        ("play.txt", {"model": "shape"}, "tokens .*shape: no tokenizer.json in it: tokenizer.s"),
        ("play.txt", {"tokens": "empty"}, "empty: no tokenizer.json in it"),
        ("play.txt", {"tokens": "nothing"}, "tokens '.*nothing': char, byte or a folder"),
        ("play.txt", {"model": "tokens"}, "model .*tokens: no config.json in it"),
        ("play.txt", {"model": "bert"}, "model .*bert: an encoder, which sees the tokens"),
        ("play.txt", {"model": "vit"}, "vit: cannot be read by transformers: .*ViTConfig"),
        ("lines.csv", {"model": "vit", **LINES}, "vit: cannot be read by transformers: .*ViTCon"),
        ("play.txt", {"model": "mixed"}, "mixed: its file has no weights for .*: .* of another"),
        ("play.txt", {"model": "cut"}, "cut: cannot be read by transformers: SafetensorError"),
        ("play.txt", {"model": "broken"}, "broken: cannot be read by transformers: .*config.json"),
    ],
)
def test_refused(folders, what, options, message):
    context = {} if message.startswith("max_pos") else {"context": 8}
    with refused(message):
        tasks(folders, what, **context, **options)


def test_a_model_of_texts_takes_no_images(folders):
    with refused(r"a folder's model reads texts: give one of mlp, cnn"):
        load_task("digits", model=str(folders / "gpt2"))
