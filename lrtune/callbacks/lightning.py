"""TrialCallback for Lightning, as ``lightning`` or as ``pytorch_lightning``."""

import sys
from importlib import import_module
from typing import Any

import optuna

from lrtune.callbacks import schedule_and_mode, unknown_metric
from lrtune.errors import InputError, package
from lrtune.search import report

# The one that is loaded first: a Trainer of either takes callbacks of its own alone.
NAMES = sorted(("lightning.pytorch", "pytorch_lightning"), key=lambda name: name not in sys.modules)
pl = package(*NAMES, install="lightning")
Callback: Any = pl.Callback
LRSchedulerConfig: Any = import_module(f"{pl.__name__}.utilities.types").LRSchedulerConfig


class TrialCallback(Callback):  # type: ignore[misc]
    """Follows a trial's schedule, reports its validations to Optuna, and ends it if Optuna says so.

    ``configure_optimizers`` returns the optimizer alone: this sets its rate, update by update, for
    the number of updates that the trainer will make. Steps reported are updates. A trial that is
    pruned leaves ``trainer.fit`` as ``optuna.TrialPruned``.

    With several processes started by Lightning or torchrun (spawned ones cannot raise it), rank 0
    reports and decides for all.

    Example::

        schedule = lrtune.suggest(trial)
        average = EMAWeightAveraging(decay=0.99)  # Lightning's own: what is validated
        Trainer(callbacks=[average, TrialCallback(trial, "val_loss")]).fit(module)
    """

    def __init__(
        self, trial: optuna.Trial | None, monitor: str, *, averaged: str | None = None
    ) -> None:
        """Make it for one call of ``fit``.

        Args:
            trial: that ``lrtune.suggest`` drew a schedule for; None on all ranks but 0.
            monitor: the objective, as the module logs it in validation. Lightning's
                ``WeightAveraging`` makes it that of the averaged weights, and it counts as such.
            averaged: the objective of averaged weights, where the module logs both.

        Raises:
            InputError: the trial has no schedule; later, from ``fit``: the module or the trainer
                cannot follow one.
        """
        self._trial = trial
        self._suggested = None if trial is None else schedule_and_mode(trial)
        self._monitor = monitor
        self._averaged = averaged

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Set the schedule: optimizers are there, the state of a checkpoint is not yet."""
        _check(trainer, pl_module)
        self._suggested = trainer.strategy.broadcast(self._suggested)
        assert self._suggested is not None, "rank 0 has the trial"
        schedule, mode = self._suggested
        total = trainer.estimated_stepping_batches
        if not 0 < total < float("inf"):
            raise InputError(
                f"Trainer: max_epochs={trainer.max_epochs}, max_steps={trainer.max_steps} do not "
                "say how many updates there will be: give max_steps, or max_epochs and a data "
                "loader that has a length"
            )
        follow = schedule.torch(trainer.optimizers[0], total=int(total), mode=mode)
        # Also of a closed loop, whose metric comes from here: Lightning would give it once an epoch
        # and never let its warmup move.
        trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(follow, interval="step")]

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the validation to Optuna, and end a trial that is pruned."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for name in filter(None, (self._monitor, self._averaged)):
            if name not in metrics:
                unknown_metric(name, list(metrics))
        value, prune = metrics[self._monitor], False
        if trainer.is_global_zero:
            assert self._trial is not None, "rank 0 has the trial"
            averaged = metrics[self._averaged] if self._averaged else None
            if averaged is None and _averages(trainer):
                averaged = value
            report(self._trial, value, trainer.global_step, averaged=averaged)
            prune = self._trial.should_prune()
        prune, value = trainer.strategy.broadcast((prune, value))
        if prune:
            raise optuna.TrialPruned
        assert self._suggested is not None
        if self._suggested[0].closed_loop:
            trainer.lr_scheduler_configs[0].scheduler.step(value)


def _check(trainer: Any, module: Any) -> None:
    name = type(module).__name__
    if not module.automatic_optimization or len(trainer.optimizers) != 1:
        raise InputError(
            f"{name}: manual optimization or {len(trainer.optimizers)} optimizers: one schedule "
            "needs one optimizer and automatic optimization"
        )
    if trainer.lr_scheduler_configs:
        raise InputError(
            f"{name}.configure_optimizers returns a scheduler: return the optimizer alone, the "
            "callback sets the trial's schedule"
        )
    if not trainer.enable_validation:
        raise InputError(
            f"{name}: never validated, but a trial is judged by its validations: give fit a "
            "validation loader, the module a validation_step, and no limit_val_batches=0"
        )


def _averages(trainer: Any) -> bool:
    """Whether what is validated are averaged weights."""
    # Older Lightning has none; isinstance of () is False.
    kind = getattr(pl.callbacks, "WeightAveraging", ())
    return any(isinstance(callback, kind) for callback in trainer.callbacks)
