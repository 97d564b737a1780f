"""Sentences and foreign names on a terminal and elsewhere."""

import io
import unicodedata

import pytest
from rich.cells import cell_len
from rich.console import Console

from lrtune.cli.console import console_of, copyable, harmless, named, print_table, say
from lrtune.format import Cell, Table

NAMES = [
    "[red]markup[/red] :smile:",
    "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "two\nlines\r\tand\x0btabs\x85\u2028",
    "\u202eabc\u2066\u200f مرحبا",
    "🎉👩‍👩‍👧",
    "lone \ud800",
    "W" * 10_000,
]


def printed(width: int, terminal: bool = True) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        height=24,
        force_terminal=terminal,
        color_system=None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    return console, out


def test_sentences_are_folded_between_words_on_a_terminal() -> None:
    console, out = printed(30)
    path = "/a/path/that/is/longer/than/the/terminal.html"
    say(console, f"  A tie: cosine and linear cannot be told apart, see {path} for more")
    lines = out.getvalue().splitlines()
    assert all(line.startswith("  ") for line in lines)
    assert " ".join(line.strip() for line in lines).endswith(f"apart, see {path} for more")
    assert all(cell_len(line) <= 30 or line.strip() == path for line in lines)
    assert len(lines) > 3


def test_what_follows_a_label_hangs_under_its_text() -> None:
    console, out = printed(30)
    say(console, "Gain    accuracy 1.9 points better than a tuned constant", hanging=8)
    first, *others = out.getvalue().splitlines()
    assert first.startswith("Gain    accuracy")
    assert others and all(line[:8].isspace() and not line[8].isspace() for line in others)


def test_elsewhere_a_sentence_is_a_line() -> None:
    console, out = printed(30, terminal=False)
    said = "A tie: cosine and linear cannot be told apart, see the report for more"
    say(console, said)
    copyable(console, said)
    assert out.getvalue().splitlines() == [said, said]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_are_text_and_control_nothing(name: str) -> None:
    console, out = printed(80)
    say(console, f"{name}: 3 samples")
    copyable(console, f"lrtune export {name}")
    table = Table(["family", name], [[Cell(name, below=name, family=name), name]], numeric=2)
    print_table(console, table)
    shown = out.getvalue()
    shown.encode()
    kinds = {unicodedata.category(c) for c in shown.replace("\n", "")}
    assert "Cc" not in kinds and not set("\u202e\u2066\u200f\u2028") & set(shown)
    if "[red]" in name:
        assert name in shown


def test_what_is_spelled_out_is_what_was_there() -> None:
    assert harmless("a\x1b[31mb\n\u202e") == r"a\x1b[31mb\n\u202e"
    assert harmless("ordinary – ärger 🎉") == "ordinary – ärger 🎉"
    assert len(named("x" * 10_000)) <= 60 and named("short") == "short"


def test_what_is_no_terminal_is_wide() -> None:
    assert not console_of().is_interactive  # pytest holds stdout
    assert console_of().width >= 160
