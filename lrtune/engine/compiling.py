"""torch.compile, as the pools use it."""

import logging
from collections.abc import Callable
from typing import Any

import torch


def compiled(function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
    """``torch.compile`` for fixed sizes, which says nothing of a CUDA compiler without a GPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return torch.compile(function, mode=mode, dynamic=False)


def compiled_apart(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same with a count of its own.

    PyTorch counts by the code how often it compiles, and after eight times runs it uncompiled:
    all pools of a process together would soon be there. So the code becomes a copy.
    """
    function.__code__ = function.__code__.replace()
    return compiled(function)
