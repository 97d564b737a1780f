"""Transfer: what recorded tasks teach about a new one; ``scripts/transfer.py`` learns it.

The mean function is a small network from a curve's features, its peak relative to a good one of the
task, to how good the schedule is, on the scale of ``surrogate``. Beside it: over what lengths two
curves are alike, what a task's settings usually are, and how a partial curve ends.
"""

import hashlib
from dataclasses import dataclass, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save_file

from lrtune.model.features import NAMES, PEAK
from lrtune.schedule.family import Array

OTHER_LENGTH = 0.5  # of a parameter beside the schedule, whose range is 0 to 1


@dataclass(frozen=True, eq=False)
class Transfer:
    """What other tasks teach; all float64."""

    center: Array  # (features,) of the features that the network sees
    width: Array  # (features,) they are divided by it
    weights_1: Array  # (features, hidden) of the network's layers, tanh between them
    bias_1: Array  # (hidden,)
    weights_2: Array  # (hidden, hidden)
    bias_2: Array  # (hidden,)
    weights_3: Array  # (hidden, 1)
    bias_3: Array  # (1,)
    lengths: Array  # (features,) over which curves are alike, in each feature
    usual: Array  # (4,) of Settings' log_scale, trust, log_own, log_noise, the mean of tasks
    spread: Array  # (4,) their standard deviation over tasks
    progress: Array  # (p,) shares of the run at which forecasts were learnt
    # Coefficients of the gain still to come in units of what the task falls by, the mean of tasks,
    # where the current weights alone are judged and where averaged ones are too; see ``forecast``.
    gain: Array  # (2, p, f)
    gain_spread: Array  # (2, p, f, f) their covariance over tasks, in units of the error's variance
    error: Array  # (2, p, 2) of that variance, an inverse gamma's shape and scale

    def means(
        self,
        x: Array,  # (n, features) and parameters beside the schedule, which are not looked at
        peaks: Array,  # (m,) log of the peak rate that may be a good one
    ) -> Array:
        """How good schedules are, if that is a good peak: float64 (m, n)."""
        known = x[:, : len(NAMES)].copy()
        known[:, -1] = known[:, -1].clip(0)  # no other task had a schedule-free form
        own = (known - self.center) / self.width
        hidden = own @ self.weights_1 + self.bias_1  # (n, hidden)
        moved = (peaks / self.width[PEAK])[:, None] * self.weights_1[PEAK]  # (m, hidden)
        first = np.tanh(hidden[None] - moved[:, None])
        second = np.tanh(first @ self.weights_2 + self.bias_2)
        return np.asarray((second @ self.weights_3)[..., 0] + self.bias_3[0])

    def scaled(self, x: Array) -> Array:
        """Features in units of the length over which curves are alike."""
        others = x.shape[1] - len(NAMES)
        return np.asarray(x / np.concatenate([self.lengths, np.full(others, OTHER_LENGTH)]))

    @property
    def fingerprint(self) -> str:
        """Of all that it says."""
        digest = hashlib.blake2b(digest_size=4)
        for name in fields(self):
            digest.update(getattr(self, name.name).astype(np.float32).tobytes())
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write it."""
        kept = {
            f.name: np.ascontiguousarray(getattr(self, f.name), np.float32) for f in fields(self)
        }
        save_file(kept, path)


def read(content: bytes) -> Transfer:
    """What ``Transfer.save`` wrote."""
    return Transfer(**{name: array.astype(np.float64) for name, array in load(content).items()})


@cache
def published() -> Transfer:
    """What comes with lrtune; learnt from ``studies/results/curves``."""
    return read(resources.files("lrtune.model").joinpath("transfer.safetensors").read_bytes())


def nothing() -> Transfer:
    """No other task: any schedule may be good, and only what is alike will do alike."""
    known = published()
    lengths = np.full(len(NAMES), 2.0)
    lengths[PEAK] = 1.5
    f = known.gain.shape[-1]
    return replace(
        known,
        weights_3=np.zeros_like(known.weights_3),
        bias_3=np.ones_like(known.bias_3),
        lengths=lengths,
        usual=np.array([-1.5, 1.0, 0.0, -1.5]),
        spread=np.array([1.5, 0.01, 0.7, 1.0]),
        gain=np.zeros_like(known.gain),
        gain_spread=np.broadcast_to(4 * np.eye(f), known.gain_spread.shape),
        error=np.broadcast_to(np.array([1.0, 0.05]), known.error.shape),
    )
