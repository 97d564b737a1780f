"""lrtune's SchedulePruner, and what a study needs beside it."""

from lrtune import SchedulePruner, report, suggest

__all__ = ["SchedulePruner", "report", "suggest"]
