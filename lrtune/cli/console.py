"""Where commands print, and how a sentence and a foreign name get there unharmed."""

import re

from rich.cells import cell_len
from rich.console import Console

LONGEST = 60  # characters of a name in a line of ours
PIPED = 160  # columns of what is no terminal: nobody folds it, and few tables need more

# Control characters, which a terminal obeys; those that turn the writing direction around; line
# ends that are not "\n"; halves of characters, which no encoding takes.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def console_of(*, stderr: bool = False) -> Console:
    """A console that takes names as they are: no markup, no emoji codes, no colouring of digits."""
    console = Console(
        highlight=False, markup=False, emoji=False, stderr=stderr, force_jupyter=False
    )
    if not console.is_terminal:
        console.width = max(PIPED, console.width)
    return console


def harmless(text: object) -> str:
    r"""Text with control characters spelled out, so that no terminal obeys them.

    >>> print(harmless("a\x1b[31mb\nc"))
    a\x1b[31mb\nc
    """
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], str(text))


def named(text: object, most: int = LONGEST) -> str:
    """A name as it fits a line: harmless, and without its middle where it is long.

    >>> named("a" * 30 + "z" * 30, most=9)
    'aaaa…zzzz'
    """
    shown = harmless(text)
    half = (most - 1) // 2
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[-half:]}"


def say(console: Console, sentence: object) -> None:
    """Print a sentence: folded between words on a terminal, a line of its own elsewhere.

    Lines after the first keep its indent. A word longer than the terminal is wide, such as a path,
    stays whole, so that it can be copied.
    """
    text = harmless(sentence)
    if not console.is_terminal:
        console.print(text, soft_wrap=True)
        return
    words = text.lstrip(" ")
    indent = " " * (len(text) - len(words))
    for line in _folded(words, max(20, console.width - len(indent))):
        console.print(indent + line, soft_wrap=True)


def _folded(text: str, width: int) -> list[str]:
    """Lines of whole words."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def copyable(console: Console, line: object) -> None:
    """Print what a person copies, such as a command: the terminal alone may fold it."""
    console.print(harmless(line), soft_wrap=True)
