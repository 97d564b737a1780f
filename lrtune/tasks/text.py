"""Texts: a language model of a file or of a column, and texts with a label as padded tokens."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrtune.errors import InputError
from lrtune.tasks.metrics import METRICS, bits_per_character
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data, Rows, Split
from lrtune.tasks.tokens import Ids, Tokenizer, tokenizer_of

CONTEXT = 128  # tokens of a sample: of a language model,
LONGEST = 256  # and of a text with a label
ENDS = (0.9, 0.95)  # of train, of val; test is the rest
LONGEST_NAME = 80  # characters, as a Task wants it
DEFAULTS: dict[str, Any] = {
    "model": "transformer",
    "optimizer": "adamw",
    "settings": {"betas": (0.9, 0.95), "weight_decay": 0.1},
    "batch_size": 64,
    "epochs": 10.0,
    "clip_norm": 1.0,
}

# First bytes of files that are taken for text by mistake, as their formats give them.
BINARIES = {
    b"PK\x03\x04": "a zip archive (as xlsx and docx are)",
    b"\x1f\x8b": "gzip-compressed",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF-": "a PDF document",
    b"PAR1\x15": "a Parquet table",
    b"SQLite format 3": "an SQLite database",
    b"\xff\xfe": "UTF-16 (iconv -f utf-16 -t utf-8 converts it)",
    b"\xfe\xff": "UTF-16 (iconv -f utf-16 -t utf-8 converts it)",
}


def text_file(path: Path, options: TaskOptions) -> Data:
    """A text as a language model: the first 90 % are train, the next 5 % val, the last 5 % test."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: expected a text file to read") from error
    any_bytes = options.tokens == "byte"
    text = raw.decode(errors="surrogateescape") if any_bytes else _decode(path, raw)
    ends = [0, *(round(share * len(text)) for share in ENDS), len(text)]
    parts = [text[start:end] for start, end in pairwise(ends)]
    return language_model(parts, options, slug(path.stem), f"text {path}")


def language_model(parts: Sequence[str], options: TaskOptions, name: str, source: str) -> Data:
    """The texts of train, val and test as a language model: each token from those before it.

    Each is cut into windows of ``context`` tokens; the targets are the tokens one further on. Both
    are (windows, context): uint8 up to 256 distinct tokens, else int32.
    """
    train, val, test = parts
    text = train + val + test
    if not text:
        raise InputError(f"{source}: empty: expected a text")
    if text.count(text[0]) == len(text):
        raise InputError(f"{source}: one character ({text[0]!r}) throughout: nothing to learn")
    tokenizer = tokenizer_of(options.tokens, options.model, train, val + test)
    ids = [stored(tokenizer.encode(part), tokenizer.size) for part in parts]
    bits = bits_per_character(len(ids[1]) / max(1, len(val)))
    return Data(
        *_windows(ids, options.context or CONTEXT, f"{source}: {{}} {tokenizer.name}"),
        name=name,
        source=f"{source}, {tokenizer.name}",
        kind="text",
        outputs=tokenizer.size,
        tokenizer=tokenizer,
        defaults=DEFAULTS,
        notes=tokenizer.notes,
        metrics=tuple(bits if metric.name == bits.name else metric for metric in METRICS["text"]),
    )


def padded(texts: Sequence[str], train: Rows, options: TaskOptions) -> tuple[Ids, Tokenizer]:
    """Texts as rows of tokens (n, width), short ones filled up with padding at their ends.

    The width is ``--context``, or that of the longest text of training where all are shorter.
    """
    others = set(range(len(texts))) - set(train.tolist())
    parts = ("".join(texts[i] for i in rows) for rows in (train, others))
    tokenizer = tokenizer_of(options.tokens, options.model, *parts)
    most = options.context or LONGEST
    ids = [tokenizer.encode(text)[: most + 1] for text in texts]
    width = min(most, max(len(ids[i]) for i in train))
    rows = stored(np.full((len(ids), width), tokenizer.padding), tokenizer.vocabulary)
    for row, own in zip(rows, ids, strict=True):
        row[: len(own)] = own[:width]
    cut = sum(len(own) > width for own in ids)
    notes = [*tokenizer.notes]
    if cut:
        notes.append(
            f"{cut:,} of {len(ids):,} texts are longer than {width} {tokenizer.name}: their ends "
            f"are left out{': --context takes more' if width == most else ''}"
        )
    return rows, replace(tokenizer, notes=tuple(notes))


def stored(ids: Ids, distinct: int) -> Ids:
    """Token numbers in the smaller type that holds them; torch wants them writable."""
    return ids.astype(np.uint8 if distinct <= 256 else np.int32)


def slug(name: str) -> str:
    """The name of a task from that of its file or folder."""
    return re.sub(r"[^\w-]+", "-", name)[:LONGEST_NAME]


def refuse_binaries(path: Path, raw: bytes) -> None:
    """Refuse bytes that are another format's, or hold a NUL: the first few tell."""
    for start, what in BINARIES.items():
        if raw.startswith(start):
            raise InputError(f"{path}: {what}, no text: expected UTF-8")
    if b"\0" in raw:
        position = raw.index(b"\0")
        raise InputError(f"{path}: no text: NUL byte at position {position}: expected UTF-8")


def _decode(path: Path, raw: bytes) -> str:
    """Line ends as they are, without the byte order mark."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        refuse_binaries(path, raw)
        raise InputError(
            f"{path}: not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}: convert "
            "it (iconv -f latin1 -t utf-8, if that is what it is), or give --tokens byte"
        ) from error
    if "\0" in text:
        refuse_binaries(path, raw)
    return text.removeprefix("\ufeff")


def _windows(ids: Sequence[Ids], context: int, source: str) -> tuple[Split, Split, Split]:
    """Train, val and test as views of the tokens, each token one time an input."""
    shortest = min(map(len, ids))
    if shortest <= context:
        fits = f"--context {shortest - 1}, or " if shortest > 2 else ""
        raise InputError(
            f"{source.format(sum(map(len, ids)))}, {shortest} in the shortest split: a sample "
            f"takes context + 1 = {context + 1}: give {fits}a longer text"
        )
    parts = map(torch.from_numpy, ids)
    windows = (part.unfold(0, context + 1, context) for part in parts)  # (windows, context + 1)
    train, val, test = (Split(each[:, :-1], each[:, 1:]) for each in windows)
    return train, val, test
