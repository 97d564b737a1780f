"""A Schedule as a torch LRScheduler, and the monitor of how a training loop steps it."""

from lrtune.scheduler.torch_scheduler import scheduler

__all__ = ["scheduler"]
