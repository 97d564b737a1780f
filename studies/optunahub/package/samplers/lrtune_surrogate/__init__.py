"""lrtune's SurrogateSampler, and what a study needs beside it."""

from lrtune import Space, SurrogateSampler, suggest

__all__ = ["Space", "SurrogateSampler", "suggest"]
