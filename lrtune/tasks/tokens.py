"""Tokenizer: a text as the numbers that a model reads, of characters or of bytes."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.format import plural

Ids = NDArray[Any]  # integers (tokens,)


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """What makes tokens of texts.

    Attributes:
        name: of its tokens, in the plural, as reports show it.
        encode: a text -> integers (tokens,), each in 0 ... size - 1.
        size: how many distinct tokens there are.
        padding: the token that fills a short sample up; ``size`` where none of its own does.
        notes: what was done to the texts, one line each.
    """

    name: str
    encode: Callable[[str], Ids]
    size: int
    padding: int
    notes: tuple[str, ...] = ()

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


def tokenizer_of(name: str | None, train: str, others: str) -> Tokenizer:
    """The Tokenizer that ``--tokens`` names, of characters where it names none."""
    return TOKENIZERS[name or "char"](train, others)
