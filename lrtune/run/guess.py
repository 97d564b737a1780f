"""guess: the schedule to use before any search, from a range test and what other tasks teach."""

import json
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lrtune.engine.devices import Engine
from lrtune.engine.place import Place
from lrtune.errors import InputError
from lrtune.files import shown
from lrtune.model.decide import recommend
from lrtune.model.surrogate import Observations, Surrogate
from lrtune.model.transfer import published
from lrtune.run.folder import locked
from lrtune.run.run_json import settings_for
from lrtune.run.study_file import StudyFile, folder_of
from lrtune.run.tune import peak_settings
from lrtune.schedule import FAMILIES
from lrtune.search import Space
from lrtune.search.sampler import Candidates, guess_in
from lrtune.search.space import SPLINE
from lrtune.tasks import Task
from lrtune.verdict.best import BestSchedule, Guess
from lrtune.verdict.settings import RangeTestFacts, Training


def guess(task: Task, study: StudyFile, tell: Callable[[str], None] = lambda line: None) -> Path:
    """Guess the schedule that is best on a task; ``tune`` in the same folder tries it first.

    Closed loops and the spline are left out.

    Returns:
        The ``best.json`` that was written.

    Raises:
        InputError: no family to guess of; a search in the folder.
    """
    place = Place(Engine(device=study.device), tell)  # here, where a cluster is to search too
    settings = settings_for(task, study, place.engine.devices[0])
    # The free form has shapes that hardly a recorded task has tried.
    names = settings.families
    named = tuple(name for name in names if not FAMILIES[name].closed_loop and name != SPLINE)
    if not named:
        raise InputError(
            f"families={','.join(names)}: the rates of a closed loop depend on the training, and "
            "a spline may have any shape: name another family too, cosine say"
        )
    folder = folder_of(study, settings.study)
    with locked(folder, tell):
        if (folder / "run.json").exists():
            raise InputError(
                f"{shown(folder)}: holds a search, which knows more than a guess: "
                f"lrtune show {shown(folder)}, or give another --out"
            )
        task, _ = place.with_features(task)
        peak_lr, test = peak_settings(task, study.peak_lr, tell, math.inf, place)
        params = _best_expected(Space(named, peak_lr, study.warmup), test, study)
        schedule = Space(named).schedule(params)
        BestSchedule(
            **{name: getattr(settings, name) for name in Training.model_fields},
            schedule=schedule,
            resolved=schedule.resolve(task.horizon),
            guess=Guess(params=params, transfer=published().fingerprint, cost=cost()),
        ).write(folder / "best.json")
    return folder / "best.json"


def _best_expected(space: Space, test: RangeTestFacts | None, study: StudyFile) -> dict[str, Any]:
    """The parameters of the schedule with the best expected final value."""
    params, x = Candidates(space, study.seed).draw(0, [], None)
    nothing = Observations(x[:0], np.empty(0), np.empty(0))
    guess = guess_in(space) if test is None else guess_in(space, test.peak_lr, test.doubt)
    return params[recommend(Surrogate(published(), guess).posterior(nothing), x)]


def cost() -> dict[str, float]:
    """What such guesses cost on recorded tasks left out; ``scripts/bench/replay.py --guess``.

    Percent by which the final loss is above that of the best recorded schedule: at most ``half`` on
    half of the ``tasks``, ``nine_of_ten`` on nine of ten.
    """
    text = resources.files("lrtune.model").joinpath("guess.json").read_text(encoding="utf-8")
    costs: dict[str, float] = json.loads(text)
    return costs
