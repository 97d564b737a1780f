"""Texts: what the windows hold, where the splits end, and what is refused."""

import math
import re
from pathlib import Path

import pytest
import torch

from lrtune.tasks import METRICS
from lrtune.tasks.options import TaskOptions
from lrtune.tasks.splits import Data
from lrtune.tasks.text import text_file
from tests.tasks.conftest import refused

LETTERS = "abcdefghij"  # 1000 of them: 900, 50 and 50
CHINESE = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))


def load(path: Path, content: str | bytes, **options: object) -> Data:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return text_file(path, TaskOptions(**options))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a text.txt"


def all_tokens(data: Data) -> list[list[int]]:
    """Of each split, the tokens that its windows cover: inputs, and the last target."""
    covered = []
    for split in (data.train, data.val, data.test):
        assert split.inputs.shape == split.targets.shape
        torch.testing.assert_close(split.inputs[:, 1:], split.targets[:, :-1])
        torch.testing.assert_close(split.inputs[1:, 0], split.targets[:-1, -1])
        covered.append([*split.inputs.flatten().tolist(), int(split.targets[-1, -1])])
    return covered


def test_shapes_name_and_defaults(path: Path) -> None:
    data = load(path, LETTERS * 100, context=7)
    assert data.train.inputs.shape == ((900 - 1) // 7, 7)
    assert data.val.inputs.shape == data.test.inputs.shape == ((50 - 1) // 7, 7)
    assert (data.name, data.source) == ("a-text", f"text {path}, characters")
    assert (data.kind, data.outputs, data.notes) == ("text", 10, ())
    assert data.defaults["model"] == "transformer"
    assert load(path, LETTERS * 1000).train.inputs.shape[1] == 128


@pytest.mark.parametrize("text", ["étaons—日本 \r\n🙂x" * 200, "ab\r\n" * 300])
@pytest.mark.parametrize("tokens", ["char", "byte"])
def test_the_windows_are_the_text(path: Path, tokens: str, text: str) -> None:
    data = load(path, text, tokens=tokens, context=5)
    whole = sorted(set(text)) if tokens == "char" else range(256)
    train, val = round(0.9 * len(text)), round(0.95 * len(text))
    parts = [text[:train], text[train:val], text[val:]]  # contiguous, disjoint, everything
    if tokens == "byte":
        parts = [part.encode() for part in parts]
    assert data.outputs == len(whole)
    for tokens_, part in zip(all_tokens(data), parts, strict=True):
        assert [whole[token] for token in tokens_] == list(part[: len(tokens_)])
        assert 0 <= len(part) - len(tokens_) < 5  # the rest at the end


@pytest.mark.parametrize(("distinct", "dtype"), [(300, torch.int32), (256, torch.uint8)])
def test_a_large_vocabulary_takes_wider_tokens(path: Path, distinct: int, dtype) -> None:
    data = load(path, CHINESE[:distinct] * 5, context=10)
    assert (data.outputs, data.train.inputs.dtype) == (distinct, dtype)
    assert all_tokens(data)[0][:distinct] == list(range(distinct))


@pytest.mark.parametrize(("end", "are"), [("xyz", "3 characters of"), ("z", "1 character of")])
def test_unknown_characters_share_a_token(path: Path, end: str, are: str) -> None:
    data = load(path, (LETTERS * 100)[: -2 * len(end)] + 2 * end, context=49)
    (note,) = data.notes
    assert re.match(are, note)
    assert data.outputs == 11
    assert max(all_tokens(data)[0]) == 9
    assert data.test.targets.flatten()[-2 * len(end) :].tolist() == [10] * 2 * len(end)


def test_bits_of_a_byte_model_are_bits_per_character(path: Path) -> None:
    """Even odds on 256 bytes: 8 bits per byte, and 16 per character of two bytes."""

    def bits(text: str, tokens: str) -> float:
        data = load(path, text, tokens=tokens, context=9)
        metric = next(m for m in data.metrics or METRICS["text"] if m.name == "bits_per_character")
        targets = data.val.targets
        return float(metric.function(torch.zeros(*targets.shape, data.outputs), targets))

    assert bits("éü" * 1000, "byte") == pytest.approx(16)
    assert bits("ab" * 1000, "byte") == pytest.approx(8)
    assert bits("éüab" * 1000, "char") == pytest.approx(math.log2(4))


def test_a_byte_order_mark_is_no_character_and_bytes_are_taken_as_they_are(path: Path) -> None:
    assert load(path, b"\xef\xbb\xbf" + b"ab" * 500, context=9).outputs == 2
    content = bytes(range(256)) * 10
    data = load(path, content, tokens="byte", context=9)
    assert bytes(all_tokens(data)[0]) == content[: 9 * (2303 // 9) + 1]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"", {}, "empty: expected a text"),
        (b"\xef\xbb\xbf", {}, "empty: expected a text"),
        ("a" * 900, {}, r"one character \('a'\) throughout: nothing to learn"),
        ("ab" * 500, {}, "1000 characters, 50 in .* split: .* = 129: give --context 49, or a "),
        ("éü" * 250, {"tokens": "byte"}, "1000 bytes, 50 in the shortest .*: give --context 49"),
        ("abc", {"context": 2}, "3 characters, 0 in .*: give a longer text"),
        (b"caf\xe9 " * 100, {}, "byte 0xe9 at position 3: convert .*, or give --tokens byte"),
        (b"PK\x03\x04\xff\0" * 100, {}, "a zip archive .*xlsx.*, no text: expected UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0" * 100, {}, "a PNG image, no text"),
        (b"\x1f\x8b\x08\0" * 100, {}, "gzip-compressed, no text"),
        ("text".encode("utf-16") * 100, {}, "UTF-16 .iconv -f utf-16 -t utf-8"),
        (b"text\0text" * 100, {}, "no text: NUL byte at position 4"),
    ],
)
def test_texts_with_a_mistake(path: Path, content: object, options: dict, message: str) -> None:
    with refused(message) as error:
        load(path, content, **options)
    if hint := re.search(r"give --context (\d+)", str(error.value)):
        assert load(path, content, **options, context=int(hint[1])).val.samples == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with refused("Is a directory: expected a text file"):
        text_file(tmp_path, TaskOptions())
    with refused(r"none\.txt: No such file"):
        text_file(tmp_path / "none.txt", TaskOptions())
