"""Texts: a file as a language model, of characters or of bytes."""

import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrtune.errors import InputError
from lrtune.format import plural
from lrtune.tasks.metrics import METRICS, bits_per_character
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data, Split

Tokens = NDArray[np.uint8] | NDArray[np.int32]

CONTEXT = 128
TOKENS = {"char": "characters", "byte": "bytes"}
ENDS = (0.9, 0.95)  # of train, of val; test is the rest
LONGEST_NAME = 80  # characters, as a Task wants it

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
    """A text as a language model: each token from those before it.

    The first 90 % of the tokens are train, the next 5 % val, the last 5 % test. Each is cut into
    windows of ``context`` tokens; the targets are the tokens one further on. Both are (windows,
    context): uint8 up to 256 distinct tokens, else int32.

    Raises:
        InputError: a file that cannot be read, that is no text, or that is too short.
    """
    tokens = "char" if options.tokens is None else options.tokens
    context = CONTEXT if options.context is None else options.context
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}: expected a text file to read") from error
    text = _decode(path, raw) if tokens == "char" else raw
    if not text:
        raise InputError(f"{path}: empty: expected a text")
    if text.count(text[:1]) == len(text):  # type: ignore[arg-type]
        token = "character" if tokens == "char" else "byte"
        raise InputError(f"{path}: one {token} ({text[:1]!r}) throughout: nothing to learn")
    metrics, notes = METRICS["text"], list[str]()
    if isinstance(text, str):
        numbers, outputs, notes = _characters(text)
    else:
        numbers, outputs = np.frombuffer(raw, np.uint8).copy(), 256  # torch wants it writable
        bits = bits_per_character(_bytes_per_character(raw))
        metrics = tuple(bits if metric.name == bits.name else metric for metric in metrics)
    return Data(
        *_windows(numbers, context, f"{path}: {len(numbers)} {TOKENS[tokens]}"),
        name=slug(path.stem),
        source=f"text {path}, {TOKENS[tokens]}",
        kind="text",
        outputs=outputs,
        defaults={
            "model": "transformer",
            "optimizer": "adamw",
            "settings": {"betas": (0.9, 0.95), "weight_decay": 0.1},
            "batch_size": 64,
            "epochs": 10.0,
            "clip_norm": 1.0,
        },
        notes=tuple(notes),
        metrics=metrics,
    )


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


def _characters(text: str) -> tuple[Tokens, int, list[str]]:
    """Tokens, how many distinct ones there are, and notes."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    in_train, anywhere = (np.zeros(sys.maxunicode + 1, np.bool_) for _ in range(2))
    in_train[points[: _bounds(len(text))[1]]] = True
    anywhere[points] = True
    known = int(in_train.sum())
    unknown = int((anywhere & ~in_train).sum())
    outputs = known + (unknown > 0)
    number = np.full(len(in_train), outputs - 1, np.uint8 if outputs <= 256 else np.int32)
    number[in_train] = np.arange(known)
    tokens: Any = number[points]
    characters = plural(unknown, "character", "characters")
    note = f"{characters} of val and test not in train: one token for all of them"
    return tokens, outputs, [note] if unknown else []


def _bytes_per_character(raw: bytes) -> float:
    """Of the validation part: the bits of a byte model become bits per character with it."""
    _, start, end, _ = _bounds(len(raw))
    return (end - start) / max(1, len(raw[start:end].decode(errors="replace")))


def _bounds(tokens: int) -> tuple[int, int, int, int]:
    """Where train, val and test start, and the end."""
    train, val = (round(share * tokens) for share in ENDS)
    return 0, train, val, tokens


def _windows(numbers: Tokens, context: int, source: str) -> tuple[Split, Split, Split]:
    """Train, val and test as views of the tokens, each token one time an input."""
    spans = list(pairwise(_bounds(len(numbers))))
    shortest = min(end - start for start, end in spans)
    if shortest <= context:
        fits = f"--context {shortest - 1}, or " if shortest > 2 else ""
        raise InputError(
            f"{source}, {shortest} in the shortest split: a sample takes context + 1 = "
            f"{context + 1}: give {fits}a longer text"
        )
    parts = (torch.from_numpy(numbers[start:end]) for start, end in spans)
    windows = (part.unfold(0, context + 1, context) for part in parts)  # (windows, context + 1)
    train, val, test = (Split(each[:, :-1], each[:, 1:]) for each in windows)
    return train, val, test
