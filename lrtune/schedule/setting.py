"""Setting: a number of the training that is tuned with the schedule, weight decay say."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrtune.errors import InputError
from lrtune.schedule.family import REAL

# A factor counts, not a difference: of the number, or of how near it is to 1.
LOG = ("weight_decay", "eps", "lr_decay", "momentum_decay", "lr_ratio", "adamw_eps", "adamw_ratio")
NEAR_ONE = ("momentum", "beta1", "beta2", "beta3", "alpha", "rho")
BETA = re.compile(r"beta(\d)")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting's range, and the value that the task has without a search.

    The search moves ``param``: the number itself, or 1 minus it where it is near to 1.

    Example:
        >>> beta2 = Setting("beta2", 0.9, 0.999, own=0.99)
        >>> beta2.param, [round(end, 3) for end in beta2.ends], beta2.log
        ('1-beta2', [0.001, 0.1], True)
    """

    # Of the optimizer (``beta1`` of ``betas``), ``label_smoothing``, or of parameters by name
    # ``head.lr_ratio`` or ``head.cooldown``.
    name: str
    low: float  # lower end of the range
    high: float  # upper end of it
    own: float  # the task's own value, inside of the range or not

    def __post_init__(self) -> None:
        """Check the range."""
        text = f"tune {self.name}={self.low:g}:{self.high:g}"
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise InputError(f"{text}: expected two numbers, the lower first")
        if self.name in NEAR_ONE and not 0 <= self.low <= self.high < 1:
            raise InputError(f"{text}: expected a range in [0, 1): 0.8:0.99, say")
        if self.kind == "cooldown" and not 0 <= self.low <= self.high <= 1:
            raise InputError(f"{text}: expected shares of the run: 0.1:0.5, say")
        if self.kind in LOG and self.low <= 0:
            raise InputError(
                f"{text}: it is searched on a log scale: give a lower end above 0, 1e-6 say"
            )

    @property
    def kind(self) -> str:
        """The name without the pattern of a group."""
        return self.name.rpartition(".")[2]

    @property
    def log(self) -> bool:
        """Whether ``param`` is searched on a log scale."""
        return self.kind in (*LOG, *NEAR_ONE)

    @property
    def param(self) -> str:
        """The name of what is searched."""
        pattern = self.name.rpartition(".")[0]  # which may be a family's name
        own = f"{self.kind}({pattern})" if pattern else self.name
        return f"1-{own}" if self.name in NEAR_ONE else own

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest of ``param``."""
        low, high = sorted((self._moved(self.low), self._moved(self.high)))
        return low, high

    @property
    def start(self) -> float:
        """Of ``param`` what is next to the task's own value."""
        low, high = self.ends
        return min(max(self._moved(self.own), low), high)

    @property
    def reaches_own(self) -> bool:
        """Whether the task's own value lies in the range, so that trials tell of it."""
        return self.low <= self.own <= self.high

    def value(self, param: float) -> float:
        """The setting that a value of ``param`` says."""
        return self._moved(param)

    def is_own(self, value: float) -> bool:
        """Whether it is the task's own value, but for rounding."""
        return math.isclose(value, self.own, rel_tol=1e-9, abs_tol=1e-15)

    def param_of(self, settings: Mapping[str, float]) -> float:
        """Of ``param`` what a schedule with these settings has."""
        return self._moved(settings[self.name]) if self.name in settings else self.start

    def _moved(self, number: float) -> float:
        return 1 - number if self.name in NEAR_ONE else number


def numbers_of(settings: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among an optimizer's settings, ``betas`` as beta1 and beta2.

    Example:
        >>> numbers_of({"betas": (0.9, 0.99), "eps": 1e-8, "amsgrad": False})
        {'beta1': 0.9, 'beta2': 0.99, 'eps': 1e-08}
    """
    numbers: dict[str, float] = {}
    for name, value in settings.items():
        pair = value if name == "betas" and isinstance(value, list | tuple) else ()
        numbers |= {f"beta{place}": float(beta) for place, beta in enumerate(pair, 1)}
        if isinstance(value, REAL) and not isinstance(value, bool):
            numbers[name] = float(value)
    return numbers


def changed(settings: Mapping[str, Any], tuned: Mapping[str, float]) -> dict[str, Any]:
    """Those of an optimizer's settings that tuning has changed, in torch's terms.

    What is none of them is left out.

    Example:
        >>> changed({"betas": (0.9, 0.99), "eps": 1e-8}, {"beta2": 0.95, "label_smoothing": 0.1})
        {'betas': (0.9, 0.95)}
    """
    own: dict[str, Any] = {name: value for name, value in tuned.items() if name in settings}
    for name, value in tuned.items():
        if (beta := BETA.fullmatch(name)) and "betas" in settings:
            betas = list(own.get("betas", settings["betas"]))
            betas[int(beta[1]) - 1] = value
            own["betas"] = type(settings["betas"])(betas)
    return own
