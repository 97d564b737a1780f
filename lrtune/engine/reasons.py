"""Why several trials cannot run together, in words for a user."""

import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# What torch says, and what it means. The first that fits.
REASONS = {
    r"calling \.item\(\)": "a number is read off a tensor: by .item(), or by an if on its values",
    r"data-dependent control flow": "an if depends on a tensor's values",
    r"dynamic shape": "the shape of a tensor depends on its values, as with a boolean mask",
    r"(?:batching rule.* for|rule not implemented for) aten::(\w+)": (
        "torch's {} takes no weights of several models at once"
    ),
    r"inplace arithmetic": "what all trials share is changed in place",
    r"called random operation": "random numbers are drawn",
}
OURS = (Path(torch.__file__).parent, Path(__file__).parent)


@contextmanager
def no_slow_loops() -> Iterator[None]:
    """Where ``vmap`` has no rule for an operation it says so and loops over the trials."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batching rule.*")
        yield


def reason(error: Exception) -> str:
    """One line: the cause, and the user's own line that it comes from."""
    said = " ".join(str(error).split())
    for pattern, meaning in REASONS.items():
        found = re.search(pattern, said)
        if found:
            return meaning.format(*found.groups()) + _place(error)
    return f"{type(error).__name__}: {said[:150]}{_place(error)}"


def _place(error: Exception) -> str:
    """The innermost line that is neither torch's nor the engine's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not any(path.is_relative_to(folder) for folder in OURS):
            return f" (line {frame.lineno} of {path.name}: {frame.line})"
    return ""
