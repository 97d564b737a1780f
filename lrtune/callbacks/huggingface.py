"""TrialCallback for the Trainer of Hugging Face transformers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lrtune.callbacks import schedule_and_mode, unknown_metric
from lrtune.errors import InputError, package
from lrtune.search import report

INSTALL = "transformers[torch]"
TrainerCallback: Any = package("transformers.trainer_callback", install=INSTALL).TrainerCallback
broadcast_object_list: Any = package("accelerate.utils", install=INSTALL).broadcast_object_list

AVERAGED = "averaged"  # what the metrics of averaged weights are called in the place of ``eval``


class TrialCallback(TrainerCallback):  # type: ignore[misc]
    """Follows a trial's schedule, reports its validations to Optuna, and ends it if Optuna says so.

    It takes the place of the Trainer's own scheduler, whatever class of Trainer it is. Steps
    reported are updates. Each validation is made twice, for the current weights and for an average
    of them, whose metrics are logged as ``averaged_loss`` and so on. The average is in no
    checkpoint: where training resumes, it begins anew. A trial that is pruned leaves
    ``trainer.train`` as ``optuna.TrialPruned``. With several processes rank 0 reports and decides
    for all.

    Example::

        schedule = lrtune.suggest(trial)
        trainer = Trainer(model, args, train_dataset=train, eval_dataset=held_out)
        trainer.add_callback(TrialCallback(trainer, trial))
        trainer.train()
    """

    def __init__(
        self,
        trainer: Any,
        trial: optuna.Trial | None,
        monitor: str = "eval_loss",
        *,
        averaging: float = 0.05,
    ) -> None:
        """Make it for a trainer that has not begun.

        Args:
            trainer: to which it will be added.
            trial: that ``lrtune.suggest`` drew a schedule for; None on all ranks but 0.
            monitor: the objective, among the metrics of the Trainer's evaluation.
            averaging: over which share of the run weights are averaged; 0: validate the current
                ones alone. Costs a copy of the weights.

        Raises:
            InputError: the trial has no schedule, or the trainer a scheduler or no validations.
        """
        if not 0 <= averaging < 1:
            raise InputError(f"averaging={averaging!r}: a share of the run in [0, 1)")
        if trainer.lr_scheduler is not None:
            raise InputError(
                "Trainer: optimizers=(optimizer, scheduler) has a scheduler: give None in its "
                "place, the callback makes the trial's"
            )
        if trainer.args.eval_strategy == "no":
            raise InputError("Trainer: eval_strategy='no': say 'steps' or 'epoch', and report it")
        self._trainer = trainer
        self._trial = trial
        self._suggested = None if trial is None else schedule_and_mode(trial)
        self._monitor = f"eval_{monitor.removeprefix('eval_')}"
        self._averaging = averaging
        self._averages: _Averages | None = None
        self._begun = 0  # at which update
        # On the object: else every class of Trainer would need a subclass. The Trainer asks it for
        # a scheduler once the number of updates is known and before it loads a checkpoint.
        trainer.create_scheduler = self._create_scheduler

    def _create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        trainer = self._trainer
        (self._suggested,) = broadcast_object_list([self._suggested])
        assert self._suggested is not None, "rank 0 has the trial"
        schedule, mode = self._suggested
        optimizer = trainer.optimizer if optimizer is None else optimizer
        follow = schedule.torch(optimizer, total=num_training_steps, mode=mode)
        trainer.lr_scheduler = _PerUpdate(follow) if schedule.closed_loop else follow
        return trainer.lr_scheduler

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prepare the averages."""
        self._begun = state.global_step
        if self._averaging:
            window = max(1.0, self._averaging * state.max_steps)
            self._averages = _Averages(kwargs["model"], decay=1 - 1 / window)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average the weights."""
        if self._averages is not None:
            self._averages.update()

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Report the validation to Optuna, and end a trial that is pruned."""
        trainer = self._trainer
        # eval_on_start: of weights not trained yet, or reported before the run was resumed.
        if not trainer.is_in_train or state.global_step == self._begun:
            return
        if self._monitor not in metrics:
            if not isinstance(trainer.eval_dataset, dict):  # else another one's turn is to come
                unknown_metric(self._monitor, list(metrics))
            return
        value, averaged, prune = metrics[self._monitor], self._of_averaged(), False
        if state.is_world_process_zero:
            assert self._trial is not None, "rank 0 has the trial"
            report(self._trial, value, state.global_step, averaged=averaged)
            prune = self._trial.should_prune()
        prune, value = broadcast_object_list([prune, value])
        if prune:
            trainer.callback_handler.on_train_end(args, state, control)  # as the Trainer itself
            raise optuna.TrialPruned
        if isinstance(trainer.lr_scheduler, _PerUpdate):
            trainer.lr_scheduler.step(value)

    def _of_averaged(self) -> float | None:
        """The objective of the averaged weights."""
        if self._averages is None:
            return None
        trainer = self._trainer
        logged = len(trainer.state.log_history)
        with self._averages.in_place(), _no_callbacks(trainer.callback_handler):
            metrics = trainer.evaluate(metric_key_prefix=AVERAGED)
        for logs in trainer.state.log_history[logged:]:
            as_logged = {name: value for name, value in logs.items() if name != "step"}
            trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, as_logged)
        return float(metrics[AVERAGED + self._monitor.removeprefix("eval")])


@contextmanager
def _no_callbacks(handler: Any) -> Iterator[None]:
    """For an evaluation that is ours alone: others look for an ``eval_loss`` in each."""
    callbacks, handler.callbacks = handler.callbacks, []
    try:
        yield
    finally:
        handler.callbacks = callbacks


class _PerUpdate:
    """Hides a ReduceLROnPlateau: the Trainer would step it at validations alone."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)


class _Averages:
    """An exponential moving average of a model's trained weights, and of no buffers."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._current: list[Any] = [p for p in model.parameters() if p.requires_grad]
        self._averages: list[Any] = []
        self._take_in = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take in the current weights."""
        if not self._averages:
            self._averages = [p.detach().clone() for p in self._current]
        self._take_in(self._averages, self._current, None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages in the place of the weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, current in zip(self._averages, self._current, strict=True):
            kept = current.clone()
            current.copy_(average)
            average.copy_(kept)
