"""Tokenizer: a text as the numbers that a model reads: characters, bytes, or a folder's tokens."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.errors import InputError, nearest
from lrtune.format import plural
from lrtune.tasks.huggingface import errors_of, is_folder, quiet

Ids = NDArray[Any]  # integers (tokens,)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What makes tokens of texts."""

    name: str  # of its tokens, in the plural, as reports show it
    encode: Callable[[str], Ids]  # a text -> integers (tokens,), each in 0 ... size - 1
    size: int  # how many distinct tokens there are
    padding: int  # the token that fills a short sample up; ``size`` where none of its own does
    notes: tuple[str, ...] = ()  # what was done to the texts, one line each

    @property
    def vocabulary(self) -> int:
        """Rows of a table of embeddings that has the padding too."""
        return max(self.size, self.padding + 1)


def characters(train: str, others: str) -> Tokenizer:
    """A token per character of the training texts, and one for all others, where there are some."""
    in_train, anywhere = (np.zeros(sys.maxunicode + 1, np.bool_) for _ in range(2))
    in_train[_points(train)] = True
    anywhere[_points(others)] = True
    known = int(in_train.sum())
    unknown = int((anywhere & ~in_train).sum())
    number = np.full(len(in_train), known, np.int32)
    number[in_train] = np.arange(known)
    count = plural(unknown, "character", "characters")
    note = f"{count} of val and test not in train: one token for all of them"
    size = known + (unknown > 0)
    notes = (note,) if unknown else ()
    return Tokenizer("characters", lambda text: number[_points(text)], size, size, notes)


def _points(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def utf8_bytes(train: str, others: str) -> Tokenizer:
    """A token per byte; those that are not UTF-8 stand in the text as by ``surrogateescape``."""
    return Tokenizer(
        "bytes",
        lambda text: np.frombuffer(text.encode(errors="surrogateescape"), np.uint8),
        256,
        256,
    )


# By the value of --tokens: from the training texts and the others, each joined to one.
TOKENIZERS: dict[str, Callable[[str, str], Tokenizer]] = {"char": characters, "byte": utf8_bytes}


# What a folder with a tokenizer has one of.
FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def of_folder(folder: str) -> Tokenizer:
    """The tokenizer of Hugging Face's that lies in a folder, with what it sets around a text."""
    if not any(any(Path(folder).glob(name)) for name in FILES):
        raise InputError(
            f"tokens {folder}: no tokenizer.json in it: tokenizer.save_pretrained writes one; or "
            "give --tokens char, byte or another folder"
        )
    with quiet() as transformers, errors_of(folder):
        own = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    size = len(own)

    def encode(text: str) -> Ids:
        return np.array(own(text, verbose=False)["input_ids"], np.int64)

    ends = own.pad_token_id, own.eos_token_id, size
    padding = next(token for token in ends if token is not None)
    return Tokenizer(f"tokens of {Path(folder).name}", encode, size, padding)


def tokenizer_of(tokens: str | None, model: str | None, train: str, others: str) -> Tokenizer:
    """The Tokenizer that ``--tokens`` names; else that of ``--model FOLDER``, or char."""
    own = model if model is not None and is_folder(model) else "char"
    name = own if tokens is None else tokens
    if name in TOKENIZERS:
        return TOKENIZERS[name](train, others)
    if name and Path(name).is_dir():
        return of_folder(name)
    hint = nearest(name, TOKENIZERS)
    raise InputError(f"tokens {name!r}: char, byte or a folder with a tokenizer{hint}")
