"""Candidates: the schedules among which the next one is chosen, as Optuna parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrtune.model.features import features_table
from lrtune.schedule import Schedule
from lrtune.search.space import FAMILY, SPLINE, Space, as_spline
from lrtune.search.study_model import from_unit, unit

Array = NDArray[np.float64]
Params = dict[str, Any]

POOL = 600  # schedules drawn at random, in equal shares over the families that have a form
REDRAWN = 32  # trials for which they are the same
NEAR = 60  # schedules near to the best ones
ELSEWHERE = 2  # one trial in so many has none of these: the best may be the wrong place
WIDTH = 0.1  # of the steps from there, a share of a knob's range
KEPT = 0.5  # probability that a knob stays as it is


class Candidates:
    """Draws schedules from a space; the same ones for the same seed and index.

    The free form is drawn near to the best ones alone: other tasks say little of most of its
    shapes, and there are so many that it would take up the search.
    """

    def __init__(self, space: Space, seed: int) -> None:
        """Draw nothing yet."""
        self._space = space
        self._knobs = {name: space.distributions(name) for name in space.families}
        self._seed = seed
        self._block = -1
        self._pool: tuple[list[Params], Array] = ([], np.empty((0, 0)))

    def draw(
        self, index: int, best: Sequence[Mapping[str, Any]], family: str | None
    ) -> tuple[list[Params], Array]:
        """All that may be tried as trial ``index``.

        Args:
            index: of the trial.
            best: parameters of the best trials so far, near to which some are drawn for every
                second trial.
            family: the only one that is wanted; any where None.

        Returns:
            Optuna's parameters of each, ``family`` among them; their features, (n, features).
        """
        if index // REDRAWN != self._block:
            self._block = index // REDRAWN
            self._pool = self._made(self._random(np.random.default_rng([self._seed, self._block])))
        best = best if index % ELSEWHERE else ()
        rng = np.random.default_rng([self._seed, index, 1])
        near = self._made(self._near(best, rng))
        params = self._pool[0] + near[0]
        x = np.vstack([self._pool[1], near[1]])
        if family is None:
            return params, x
        rows = [row for row, one in enumerate(params) if one[FAMILY] == family]
        if not rows:
            return self._made([self._anywhere(family, rng) for _ in range(NEAR)])
        return [params[row] for row in rows], x[rows]

    def _made(self, drawn: list[Params]) -> tuple[list[Params], Array]:
        return drawn, features_table([self._space.schedule(params) for params in drawn])

    def _random(self, rng: np.random.Generator) -> list[Params]:
        families = [name for name in self._space.families if name != SPLINE] or [SPLINE]
        return [self._anywhere(families[i % len(families)], rng) for i in range(POOL)]

    def _anywhere(self, family: str, rng: np.random.Generator) -> Params:
        knobs = self._knobs[family]
        places = rng.random(len(knobs))
        found = {name: from_unit(d, p) for (name, d), p in zip(knobs.items(), places, strict=True)}
        return {FAMILY: family, **found}

    def _near(self, best: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> list[Params]:
        own = [dict(params) for params in best if params.get(FAMILY) in self._space.families]
        if not own:
            return []
        found = [self._moved(own[i % len(own)], rng) for i in range(NEAR)]
        if SPLINE in self._space.families:
            found += [self._as_spline(params) for params in own if params[FAMILY] != SPLINE]
        return [params for params in found if params]

    def _moved(self, params: Params, rng: np.random.Generator) -> Params:
        """Some of its knobs a step away."""
        knobs = self._knobs[params[FAMILY]]
        found: Params = {FAMILY: params[FAMILY]}
        for name, distribution in knobs.items():
            found[name] = params[name]
            if rng.random() >= KEPT:
                step = WIDTH * rng.standard_normal()
                place = unit(distribution, params[name]) + step
                found[name] = from_unit(distribution, float(np.clip(place, 0, 1)))
        return found

    def _as_spline(self, params: Params) -> Params:
        """The spline of the same shape: from there the free form may go on."""
        schedule: Schedule = self._space.schedule(params)
        if schedule.closed_loop:
            return {}
        return {FAMILY: SPLINE, **as_spline(schedule, self._knobs[SPLINE])}
