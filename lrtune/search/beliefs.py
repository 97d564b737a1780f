"""What is believed of the trials of a study, once more of them are known than while they ran."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import optuna

from lrtune.model.decide import DRAWS, JOINT, promising
from lrtune.model.features import features_table
from lrtune.model.surrogate import PeakGuess, Surrogate
from lrtune.model.transfer import Transfer
from lrtune.schedule import Schedule
from lrtune.search.candidates import Candidates
from lrtune.search.space import Space
from lrtune.search.store import Belief, index_of
from lrtune.search.study_model import StudyModel

NEAR = 4.0  # factor from the best trial's peak rate within which a family is tuned untried
TAIL = 1.645  # standard deviations to the 5 % and 95 % quantiles


def beliefs(
    study: optuna.Study, total: int, guess: PeakGuess, transfer: Transfer
) -> dict[int, Belief]:
    """By number in the study, of every trial that is over and carries a schedule."""
    model = StudyModel(total, transfer)
    model.read(study)
    if not model.count:
        return {}
    posterior = Surrogate(transfer, guess).posterior(model.observations())
    x = model.x()
    mean, sd = posterior.mean_and_sd(x)
    rng = np.random.default_rng(0)
    rows = promising(posterior, x, JOINT, rng)
    winners = rows[posterior.draws(x[rows], DRAWS, rng).argmin(1)]
    shares = np.bincount(winners, minlength=len(x)) / DRAWS
    found = {}
    for row, number in enumerate(model.numbers):
        ends = (mean[row], mean[row] - TAIL * sd[row], mean[row] + TAIL * sd[row])
        value, *others = (model.scale.back(float(posterior.values(z))) for z in ends)
        found[number] = Belief(value, min(others), max(others), float(shares[row]))
    return found


def _apart(one: float, other: float) -> float:
    """The factor between two rates, at least 1."""
    return max(one / other, other / one)


class Tuned(NamedTuple):
    """The schedule of a family of which most is expected.

    Attributes:
        schedule: that one.
        params: Optuna's, without the family's prefix.
        trial: which of the search's trials had it; None of one that was not tried.
    """

    schedule: Schedule
    params: dict[str, Any]
    trial: int | None


def tuned(
    study: optuna.Study, space: Space, family: str, total: int, guess: PeakGuess, transfer: Transfer
) -> Tuned:
    """The best of a family as far as all trials tell, of whatever family; tried or not.

    Of what was not tried, only peaks near that of the best trial count: of others little is known.
    """
    model = StudyModel(total, transfer)
    model.read(study)
    posterior = Surrogate(transfer, guess).posterior(model.observations())
    index = {trial.number: index_of(trial) for trial in study.get_trials(deepcopy=False)}
    tried = [
        (row, schedule)
        for row, schedule in enumerate(model.schedules())
        if schedule.family == family
    ]
    params, _ = Candidates(replace(space, families=(family,)), seed=0).draw(0, [], family)
    if whole := model.whole_rows():
        means = posterior.mean_and_sd(model.x()[whole])[0]
        peak = model.schedules()[whole[int(means.argmin())]].peak_lr
        near = [one for one in params if _apart(space.schedule(one).peak_lr, peak) <= NEAR]
        params = near or params
    schedules = [*(schedule for _, schedule in tried), *map(space.schedule, params)]
    x = np.hstack([features_table(schedules), np.full((len(schedules), len(model.others)), 0.5)])
    best = int(posterior.mean_and_sd(x)[0].argmin())
    own = model.params[tried[best][0]] if best < len(tried) else params[best - len(tried)]
    trial = index[model.numbers[tried[best][0]]] if best < len(tried) else None
    prefix = f"{family}."
    short = {k.removeprefix(prefix): v for k, v in own.items() if k.startswith(prefix)}
    return Tuned(schedules[best], short, trial)
