"""How the finals stand while they are trained, for whoever watches."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lrtune.results.plan import Finalist
from lrtune.schedule import Schedule
from lrtune.search.final import Final, append_final


@dataclass(frozen=True, slots=True)
class Contender:
    """A configuration that takes part.

    Attributes:
        schedule: what is trained.
        scores: of its trainings so far, by seed; NaN where one was lost.
        wanted: whether it is still in: trained in this round, or waiting for those who are.
    """

    schedule: Schedule
    scores: dict[int, float]
    wanted: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """A round of trainings as it stands.

    Attributes:
        done: trainings of this round that are over, those under way in part.
        jobs: trainings in this round.
        contenders: all of them.
        over: trainings that ended since the last time.
    """

    done: float
    jobs: int
    contenders: Sequence[Contender] = ()
    over: Sequence[Final] = ()


class Round:
    """Writes each training of a round to its log, and tells how they stand."""

    def __init__(
        self,
        log: Path,
        jobs: int,
        who: Iterable[Finalist],
        still: Iterable[Finalist],
        known: pd.DataFrame,
        objective: str,
        watch: Callable[[Tally], None],
    ) -> None:
        """Nothing is trained yet.

        Args:
            log: of the trainings.
            jobs: trainings of this round.
            who: takes part, in this round or in one before.
            still: of these, who is still in.
            known: trainings that are over, see ``lrtune.search.final.read_finals``.
            objective: what is compared.
            watch: called with each Tally.
        """
        self._log = log
        self._jobs = jobs
        self._objective = objective
        self._watch = watch
        self._done: list[Final] = []
        self._told = 0
        wanted = {one.schedule for one in still}
        self._contenders = {
            one.schedule.to_json(): Contender(one.schedule, {}, one.schedule in wanted)
            for one in who
        }
        for row in known.to_dict("records"):
            if row["schedule"] in self._contenders:
                score = row.get(f"final_{objective}", math.nan)
                self._contenders[row["schedule"]].scores[row["seed"]] = score

    def ended(self, final: Final) -> None:
        """Take in a training that is over."""
        append_final(self._log, final)
        self._done.append(final)
        score = final.metrics.get(self._objective, math.nan)
        self._contenders[final.schedule.to_json()].scores[final.seed] = score

    def watch(self, under_way: float) -> None:
        """Tell how they stand, with so many trainings under way."""
        over, self._told = self._done[self._told :], len(self._done)
        done = len(self._done) + under_way
        contenders = list(self._contenders.values())
        self._watch(Tally(done, self._jobs, contenders, over))
