"""Documents (run.json, verdict.json) for tests: made up, and with other values."""

from typing import Any

from pydantic import BaseModel

from lrtune.verdict.settings import Objective, RunSettings

TASK = {
    "name": "digits",
    "data": "digits",
    "train": 100,
    "val": 20,
    "test": 10,
    "fingerprint": "4f1c09d2a7be",
    "classes": 10,
    "model": "mlp",
    "parameters": 78330,
    "prepare": "",
    "loss": "cross_entropy",
    "batch_size": 32,
    "groups": None,
    "augment": [],
    "clip_norm": None,
    "ema": None,
    "average": 0.05,
    "precision": "by device",
    "layout": "torch.contiguous_format",
    "notes": [],
}


LOSS = Objective(name="cross_entropy", direction="minimize", unit="nats")
ACCURACY = Objective(name="accuracy", direction="maximize")
RUN = RunSettings(
    study="digits-mlp-sgd-100",
    task=TASK,
    horizon=100,
    epochs=2.0,
    validations=10,
    objective=LOSS,
    metrics={"cross_entropy": LOSS, "accuracy": ACCURACY},
    optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
    families=["cosine", "constant"],
    warmup=(0.0, 0.2),
    cycle_momentum=False,
    seed=0,
    device="cpu",
    storage=None,
    versions={"lrtune": "0.1.0", "torch": "2.11.0", "optuna": "5.0.0"},
    peak_lr=(0.01, 1.0),
    range_test=None,
    command="lrtune search digits",
    owner="a1b2",
    placement={"train": "43.2 MB in memory", "val": "4.8 MB in memory"},
    engine={"name": "serial", "slots": 1},
)


def changed(document: BaseModel, **values: Any) -> Any:
    """A copy with other values; of a part, a dictionary names the values that are other."""
    for name, value in values.items():
        part = getattr(document, name)
        if isinstance(part, BaseModel) and isinstance(value, dict):
            values[name] = changed(part, **value)
    return document.model_copy(update=values)
