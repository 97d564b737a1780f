"""Starter: a trial into a slot, from the checkpoint, from the trunk or from scratch."""

from functools import partial

import optuna

from lrtune.engine import Pool
from lrtune.engine.pool import branch
from lrtune.schedule import Schedule
from lrtune.search.keeper import Keeper
from lrtune.search.running import Running, fork_of, rates_of, taken_up
from lrtune.search.store import START
from lrtune.search.trunk import Trunk, mark_in


class Starter:
    """What has been trained of a trial is not trained again."""

    def __init__(self, pool: Pool, keeper: Keeper, trunk: Trunk, seed: int) -> None:
        """Know where trials may come from.

        Args:
            pool: that trains them.
            keeper: of the checkpoint.
            trunk: from which trials fork.
            seed: of those that start from scratch.
        """
        self._pool = pool
        self._keeper = keeper
        self._trunk = trunk
        self._seed = seed

    def start(self, slot: int, trial: optuna.Trial, schedule: Schedule) -> Running:
        """Put a trial in a free slot, as far trained as can be."""
        return (
            self._from_checkpoint(slot, trial, schedule)
            or self._from_trunk(slot, trial, schedule)
            or self._from_scratch(slot, trial, schedule)
        )

    def _from_checkpoint(
        self, slot: int, trial: optuna.Trial, schedule: Schedule
    ) -> Running | None:
        index = trial.user_attrs[START]["index"]
        as_it_was = partial(taken_up, trial, schedule)
        return self._keeper.take(index, f"trial {index}", self._pool, slot, as_it_was)

    def _from_trunk(self, slot: int, trial: optuna.Trial, schedule: Schedule) -> Running | None:
        start = trial.user_attrs[START]
        kept = self._trunk.at(mark_in(start), start.get("forked", 0))
        if kept is None:
            return None
        running = fork_of(kept, trial, schedule)
        self._pool.restore(slot, branch(kept.snapshot, running.rates))
        return running

    def _from_scratch(self, slot: int, trial: optuna.Trial, schedule: Schedule) -> Running:
        horizon = self._pool.task.horizon
        rates, controller = rates_of(schedule, horizon)
        untrained = self._pool.admit(slot, rates, self._seed, schedule.momenta(horizon))
        return Running(trial, schedule, rates, controller, untrained, untrained.seconds)
