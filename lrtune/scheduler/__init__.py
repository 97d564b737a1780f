"""A Schedule as a torch LRScheduler."""

from lrtune.scheduler.torch_scheduler import scheduler

__all__ = ["scheduler"]
