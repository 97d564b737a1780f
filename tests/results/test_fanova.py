"""What mattered, against Optuna's own evaluator and against functions whose answer is known."""

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import create_trial

from lrtune.results.fanova import explained, fanova, grow, predict
from lrtune.results.knobs import FEWEST, importance, knobs_of, scored
from tests.results.conftest import search

LOSS = {"name": "cross_entropy", "direction": "minimize", "unit": "nats"}


def draw(count, inputs=3, seed=0):
    return np.random.default_rng(seed).uniform(size=(count, inputs))


def test_shares_of_a_sum_are_those_of_its_parts():
    x = draw(600)
    shares = fanova(x, 3 * x[:, 0] + x[:, 1]).mean(0)  # variances 9 to 1 to 0
    assert shares == pytest.approx([0.9, 0.1, 0.0], abs=0.04)


def test_what_two_inputs_do_together_belongs_to_neither():
    x = draw(600)
    shares = fanova(x, np.sign(x[:, 0] - 0.5) * np.sign(x[:, 1] - 0.5)).mean(0)
    assert shares.sum() < 0.3


def test_noise_says_nothing():
    assert fanova(draw(60), np.random.default_rng(1).normal(size=60)) is None
    assert fanova(draw(30), np.ones(30)) is None


def test_leaves_share_out_the_box():
    x = draw(80)
    box = np.stack([x.min(0), x.max(0)], axis=-1)
    boxes, means = grow(x, x[:, 0] ** 2 - x[:, 2], box)
    assert np.prod(boxes[..., 1] - boxes[..., 0], axis=1).sum() == pytest.approx(
        np.prod(box[:, 1] - box[:, 0])
    )
    assert np.corrcoef(predict((boxes, means), x), x[:, 0] ** 2 - x[:, 2])[0, 1] > 0.9
    assert 0 < explained((boxes, means), box).sum() <= 1 + 1e-9


def test_agrees_with_optuna():
    x = draw(300, seed=4)
    values = np.sin(4 * x[:, 0]) + 0.6 * x[:, 1] + 0.3 * x[:, 0] * x[:, 2]
    space = {name: FloatDistribution(0, 1) for name in "abc"}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for row, value in zip(x, values, strict=True):
        params = dict(zip("abc", row.tolist(), strict=True))
        study.add_trial(create_trial(value=value, params=params, distributions=space))
    theirs = FanovaImportanceEvaluator(seed=0).evaluate(study)
    ours = fanova(x, values).mean(0)
    assert ours == pytest.approx([theirs[name] for name in "abc"], abs=0.06)


def test_the_knob_that_decides_is_found():
    trials = search(["cosine"], 80)
    found = importance(scored(trials, "cosine"), "cosine", LOSS)
    assert not found.why and found.names[0] == "peak_lr" and found.mean[0] > 0.5
    assert all(low <= high for low, high in zip(found.low, found.high, strict=True))
    assert set(found.names) == {"peak_lr", "warmup", "T_max", "eta_min"}


def test_few_trials_say_why_not():
    own = scored(search(["cosine"], 80), "cosine")
    few = own[own["finished"]].head(FEWEST - 1)
    assert importance(few, "cosine", LOSS).why == "14 finished, and at least 15 are needed"
    same = own.assign(**{name: 0.5 for name in own if name.startswith("cosine.")}, peak_lr=0.1)
    assert "fewer than two knobs differ" in importance(same, "cosine", LOSS).why


def test_knobs_lie_on_the_scale_on_which_they_were_searched():
    own = scored(search(["wsd"], 30), "wsd")
    knobs = {knob.name: knob for knob in knobs_of(own, "wsd")}
    assert knobs["peak_lr"].log and not knobs["warmup"].log
    assert np.allclose(10 ** knobs["peak_lr"].places, own["peak_lr"])
    shape = knobs["decay_shape"]
    assert [shape.choices[int(place)] for place in shape.places] == own["wsd.decay_shape"].tolist()
    assert knobs_of(own.assign(family="stranger"), "stranger")[0].name == "peak_lr"
