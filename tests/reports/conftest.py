"""Made-up searches in the form that the search stores."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from lrtune.schedule import FAMILIES, Schedule
from lrtune.verdict.settings import RangeTestFacts
from tests.documents import ACCURACY, LOSS, RUN, changed

HORIZON = 3600
STEPS = list(range(180, HORIZON + 1, 180))
SKILL = {"wsd": 0.0, "cosine": 0.004, "one_cycle": 0.01, "linear": 0.012, "constant": 0.07}


def draw(family, random):
    """A schedule with knobs from their search ranges."""
    knobs = {}
    for knob in FAMILIES[family].knobs:
        if not knob.counts(knobs):
            continue
        size = knob.length if knob.length > 1 else None
        if knob.scale == "choice":
            knobs[knob.name] = knob.choices[random.integers(len(knob.choices))]
        elif knob.scale == "int":
            knobs[knob.name] = int(random.integers(knob.low, knob.high + 1))
        elif knob.scale == "log":
            value = np.exp(random.uniform(math.log(knob.low), math.log(knob.high), size))
            knobs[knob.name] = value.tolist()
        else:
            value = random.uniform(knob.low, knob.high, size)
            knobs[knob.name] = np.sort(value).tolist() if knob.ordered else value
    warmup = random.uniform(0, 0.2) if FAMILIES[family].takes_warmup else 0.0
    return Schedule(family, peak_lr=10 ** random.uniform(-3, 0.2), warmup=warmup, knobs=knobs)


def trial(number, family, random, state=None):
    schedule = draw(family, random)
    decades = math.log10(schedule.peak_lr / 0.08)
    if state is None:
        state = "diverged" if decades > 0.8 + random.uniform(0, 0.4) else "complete"
        if state == "complete" and random.uniform() < 0.3:
            state = ("pruned", "pruned", "plateaued", "failed")[random.integers(4)]
    length = {"complete": 20, "plateaued": 15, "pruned": 6, "diverged": 2, "failed": 0}[state]
    final = 0.29 + SKILL.get(family, 0.03) + 0.06 * decades**2 + random.gamma(2, 0.004)
    u = np.arange(1, length + 1) / 20
    loss = final + 1.9 * np.exp(-6 * u) * (1 - u) + random.normal(0, 0.004, length) * (1 - u)
    if state == "diverged":
        loss = np.array([3.1, np.nan])
    table = np.full(HORIZON, schedule.peak_lr) if schedule.closed_loop else schedule.rates(HORIZON)
    updates = 180 * length
    reasons = {
        "diverged": "non-finite loss at update 190",
        "failed": "out of memory <b>&",
        "pruned": "forecast 0.52 cannot reach 0.31",
        "plateaued": "no improvement for 5 validations at a low rate",
    }
    forecast = {"final": final, "low": 0.9 * final, "high": 1.2 * final}
    forecast |= {"best": 0.3, "probability": 0.25, "threshold": 0.2}
    knobs = schedule.to_dict()["knobs"]
    return {
        "number": number,
        "family": family,
        "state": state,
        "reason": reasons.get(state, ""),
        "evidence": json.dumps(forecast if state == "plateaued" else {}),
        "value": float(loss[-1]) if state == "complete" else math.nan,
        "peak_lr": schedule.peak_lr,
        "warmup": schedule.warmup,
        "schedule": schedule.to_json(),
        "resolved": json.dumps(schedule.resolve(HORIZON)),
        **{f"{family}.{k}": v for k, v in knobs.items() if not isinstance(v, list)},
        "step": STEPS[:length],
        "val_cross_entropy": loss.tolist(),
        "val_accuracy": (100 * np.exp(-loss / 3.2)).tolist(),
        "train_loss": (0.9 * loss).tolist(),
        "rate": table[np.arange(1, length + 1) * 180 - 1].tolist(),
        "updates": updates,
        "judged_at": updates if state == "complete" else math.nan,
        "seconds": updates * 0.011,
        "seed": 0,
    }


def search(families, each, seed=0, state=None):
    random = np.random.default_rng(seed)
    order = [family for _ in range(each) for family in families]
    return pd.DataFrame([trial(n, f, random, state) for n, f in enumerate(order)])


def run_record(families):
    rates = np.geomspace(1e-5, 3, 120)
    fall = 2.3 - 1.6 / (1 + (0.02 / rates) ** 1.5)
    random = np.random.default_rng(1)
    losses = [
        (fall + random.normal(0, 0.02, 120) + np.where(rates > 0.6, (rates / 0.6) ** 4 - 1, 0))
        for _ in range(3)
    ]
    losses[0][-3:] = np.nan
    percent = changed(ACCURACY, unit="%")
    return changed(
        RUN,
        study="fashion-mnist-3600",
        task={
            "name": "fashion-mnist",
            "data": "fashion-mnist (torchvision)",
            "train": 54000,
            "val": 6000,
            "test": 10000,
            "fingerprint": "sha256:4f1c09d2a7be",
            "model": "resnet-8",
            "batch_size": 128,
            "groups": "decay_matrices",
            "augment": ["flip", "crop"],
            "clip_norm": 1.0,
            "ema": 0.05,
            "notes": ["2 of 70,000 images left out: cannot be read (first: a.png)"],
        },
        horizon=HORIZON,
        epochs=8.53,
        metrics={"cross_entropy": LOSS, "accuracy": percent},
        device="NVIDIA H200",
        families=list(families),
        peak_lr=(0.001, 1.6),
        range_test=RangeTestFacts(
            base_lr=0.004,
            max_lr=0.5,
            steepest=0.021,
            valley=0.11,
            peak_lr=0.06,
            doubt=0.9,
            rates=rates.tolist(),
            losses=[line.tolist() for line in losses],
            message="The loss falls between 0.004 and 0.5.",
        ),
        command="lrtune search fashion-mnist --epochs 8.53 --trials 170 --seed 0",
    )


SEARCHED = [name for name, family in FAMILIES.items() if family.searchable]
KINDS = {
    "many": (SEARCHED, 10, None),
    "one family": (["cosine"], 12, None),
    "none complete": (["cosine", "linear", "step"], 5, "diverged"),
    "no trials": (SEARCHED[:2], 0, None),
}


@pytest.fixture(scope="session", params=KINDS)
def kind(request):
    """(name, trials, run) of one kind of search."""
    return request.param, *make(request.param)


@pytest.fixture(scope="session")
def many():
    """(trials, run) of a search over every family."""
    return make("many")


FEW = ["wsd", "constant", "linear", "plateau", "cosine", "spline", "step"]


@pytest.fixture(scope="session")
def few():
    """(trials, run) of a search over some families: its report is made quickly."""
    return search(FEW, 8), run_record(FEW)


def make(name):
    families, each, state = KINDS[name]
    trials = search(families, each, state=state)
    if trials.empty:
        trials = search(families, 1).iloc[:0]
    return trials, run_record(families)
