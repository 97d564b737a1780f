"""What is believed of the trials of a study, once more of them are known than while they ran."""

import numpy as np
import optuna

from lrtune.model.decide import DRAWS, JOINT, promising
from lrtune.model.surrogate import PeakGuess, Surrogate
from lrtune.model.transfer import Transfer
from lrtune.search.store import Belief
from lrtune.search.study_model import StudyModel

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
