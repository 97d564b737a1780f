"""lrtune's FamilySampler, and what a study needs beside it."""

from lrtune import FamilySampler, Space, suggest

__all__ = ["FamilySampler", "Space", "suggest"]
