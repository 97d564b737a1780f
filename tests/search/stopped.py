"""Searches with a referee and an idle trainer whose trials end in all ways."""

import math
from dataclasses import replace
from pathlib import Path

import optuna
from idle import SpoiltPool
from optuna.pruners import BasePruner

from lrtune import SchedulePruner
from lrtune.engine import Progress
from lrtune.search import (
    Limits,
    Loop,
    Record,
    Search,
    SearchState,
    Space,
    Stopping,
    SurrogateSampler,
    open_study,
    records,
)
from lrtune.search.early_stopping import NEVER
from lrtune.tasks.metrics import ACCURACY, CROSS_ENTROPY

optuna.logging.set_verbosity(optuna.logging.WARNING)
TOTAL, TRIALS = 400, 30
# Half of them hold their rate, so that some reach a plateau.
SPACE = Space(("constant", "cosine", "inverse_sqrt", "linear"), peak_lr=(0.01, 0.2))
CONSTANTS = Space(("constant",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))
LOOPS = Space(("plateau",), peak_lr=(0.01, 0.02), warmup=(0.0, 0.0))


def stopping(**own: float) -> Stopping:
    return replace(NEVER, **own)


STOPPING = stopping(patience=2, audit=0.3)


class NoisyPool(SpoiltPool):
    """Averaged weights that are a little ahead; a few trials diverge, others reach a plateau."""

    def __init__(self, slots: int = 1) -> None:
        super().__init__(self.spoilt, slots)

    def spoilt(self, progress: Progress) -> Progress:
        rates = self._rates[progress.slot]
        kind = int(1e7 * rates[20]) % 7
        if kind == 0 and progress.update > 0:
            return replace(progress, loss=math.nan)
        loss = progress.loss * (1 + 0.02 * math.sin(1e4 * rates[20] + progress.update))
        if kind < 3:
            loss = 0.5 + 0.01 * kind
        accuracy = math.exp(-loss)
        metrics = {"cross_entropy": loss, "accuracy": accuracy}
        return replace(progress, loss=loss, metrics=metrics, averaged=0.97 * loss)


def search_with(
    folder: Path,
    pool: SpoiltPool,
    rules: Stopping = NEVER,
    *,
    pruner: BasePruner | None = None,
    trials: int = TRIALS,
    space: Space = SPACE,
    seed: int = 5,
    checkpoint: Path | None = None,
    **kept: object,
) -> list[Record]:
    """Search, or go on with one: every trial that is over."""
    objective = pool.task.objective
    study = open_study(
        folder / "journal.log",
        "s",
        objective.direction,
        sampler=SurrogateSampler(space, TOTAL, seed=5),
        pruner=pruner or SchedulePruner(TOTAL),
    )
    budget = Limits(trials=trials)
    search = Search(
        study, space, pool, SearchState(budget), stopping=rules, seed=seed, owner="me", **kept
    )
    Loop(pool, [search], checkpoint=checkpoint).run()
    return records(study)


def study_of(folder: Path) -> optuna.Study:
    return open_study(folder / "journal.log", "s", "minimize")


def scoring(pool: SpoiltPool) -> SpoiltPool:
    """The same pool, judged by its accuracy."""
    pool.task = replace(pool.task, metrics=(ACCURACY, CROSS_ENTROPY))
    return pool


def in_state(found: list[Record], state: str) -> list[Record]:
    return [record for record in found if record.state == state]


def learns_nothing(progress: Progress) -> Progress:
    return replace(progress, loss=1.0, metrics={"cross_entropy": 1.0, "accuracy": 0.5})
