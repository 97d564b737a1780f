"""Documents (run.json, verdict.json) for tests: made up, and with other values."""

from typing import Any

from pydantic import BaseModel

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
    "precision": "by device",
    "notes": [],
}


def changed(document: BaseModel, **values: Any) -> Any:
    """A copy with other values; of a part, a dictionary names the values that are other."""
    for name, value in values.items():
        part = getattr(document, name)
        if isinstance(part, BaseModel) and isinstance(value, dict):
            values[name] = changed(part, **value)
    return document.model_copy(update=values)
