"""Schedule: a frozen, horizon-free learning-rate schedule; and how it is written and read."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lrtune.errors import InputError
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.family import Array, Family, Params, integer, number, unknown
from lrtune.schedule.reactive import Controller, Mode

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

FORMAT = 1
DEFAULT_PEAK = 0.1  # of a text that gives none
TORCH = "lrtune.scheduler"  # by name: this package knows no torch, and nothing that is above it
BELOW_ONE = float(np.nextafter(1, 0))
MOST = 10**7  # updates of a schedule: its table must fit in memory
# Low enough for anyone, high enough that the deepest schedule does not underflow to zero.
TINY = 1e-100


class Knobs(Mapping[str, Any]):
    """The settings of a schedule: a read-only mapping that can be hashed."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A family, its knobs, a peak and a warmup: the learning rate of every update of any horizon.

    Attributes:
        family: a name in `FAMILIES`.
        peak_lr: the highest rate; the only absolute number.
        warmup: linear rise before the body, as a fraction of the horizon in [0, 1).
        warmup_start: where the rise starts, as a ratio of the peak in (0, 1].
        knobs: the family's settings; those not given take their defaults.
        settings: numbers of the training that were tuned with it, in place of the task's own
            (``{"weight_decay": 0.03}``); it says nothing of the rates.

    Raises:
        InputError: a name or a value is not admissible.

    Example:
        >>> schedule = Schedule("cosine", peak_lr=0.1, warmup=0.25, warmup_start=0.5)
        >>> schedule.rates(8).round(4).tolist()
        [0.05, 0.075, 0.1, 0.0933, 0.075, 0.05, 0.025, 0.0067]
        >>> schedule.resolve(8)
        {'peak_lr': 0.1, 'warmup_steps': 2, 'T_max': 6, 'eta_min': 0.0}
        >>> Schedule.from_json(schedule.to_json()) == schedule
        True
    """

    family: str
    peak_lr: float
    warmup: float = 0.0
    warmup_start: float = 0.01
    knobs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.family, str) or self.family not in FAMILIES:
            raise unknown("family", self.family, FAMILIES)
        for name in ("knobs", "settings"):
            if not isinstance(getattr(self, name), Mapping):
                value = getattr(self, name)
                raise InputError(f"{name}={value!r}: expected a mapping of names to values")
        row = FAMILIES[self.family]
        peak = number("peak_lr", self.peak_lr, TINY, 1 / TINY, "a finite number above 0")
        warmup = number("warmup", self.warmup, 0, BELOW_ONE, "a fraction of the horizon in [0, 1)")
        start = number("warmup_start", self.warmup_start, TINY, 1, "a ratio of the peak in (0, 1]")
        if warmup and not row.takes_warmup:
            raise InputError(f"{row.name}: warmup={warmup}: expected 0, it has a rise of its own")
        knobs = Knobs(row.normalise(self.knobs, peak))
        values = {"peak_lr": peak, "warmup": warmup, "warmup_start": start, "knobs": knobs}
        values["settings"] = Knobs(
            {
                name: number(f"settings: {name}", value, -1 / TINY, 1 / TINY, "a finite number")
                for name, value in sorted(self.settings.items())
            }
        )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def _row(self) -> Family:
        return FAMILIES[self.family]

    @property
    def closed_loop(self) -> bool:
        """Whether the next rate depends on the validation metric."""
        return self._row.closed_loop

    @property
    def schedule_free(self) -> bool:
        """Whether its rates are for the schedule-free form of an optimizer."""
        return self._row.schedule_free

    @property
    def cycles_momentum(self) -> bool:
        """Whether it says what the optimizer's momentum, or Adam's beta1, is at each update."""
        return self._row.momentum is not None and "max_momentum" in self.knobs

    def rates(self, total: int) -> Array:
        """The learning rate of each of `total` updates: float64[total], above 0, at most the peak.

        Raises:
            InputError: `total` is not a positive int or too short, or the loop is closed.
        """
        if self._row.body is None:
            raise InputError(
                f"{self.family}: its rates follow a metric; use .controller({total!r})"
            )
        warmup, n, params = self._resolved(total)
        body = self._row.body(np.arange(n, dtype=np.float64), n, self.peak_lr, **params)
        return np.concatenate([self._rise(warmup), body])

    def momenta(self, total: int) -> Array | None:
        """Momentum, or Adam's beta1, at each update: float64[total]; None: the optimizer's own.

        Raises:
            InputError: `total` as in `rates`.

        Example:
            >>> knobs = {"base_momentum": 0.85, "max_momentum": 0.95, "pct_start": 0.5}
            >>> Schedule("one_cycle", peak_lr=0.1, knobs=knobs).momenta(6).round(3).tolist()
            [0.95, 0.9, 0.85, 0.875, 0.925, 0.95]
        """
        if self._row.momentum is None or not self.cycles_momentum:
            return None
        warmup, n, params = self._resolved(total)
        body = self._row.momentum(np.arange(n, dtype=np.float64), **params)
        return np.concatenate([np.full(warmup, params["max_momentum"]), body])

    def controller(self, total: int, mode: Mode = "min") -> Controller:
        """The rates of a closed loop, for a metric that is best at its `min` or `max`.

        Raises:
            InputError: `total` as in `rates`, `mode` is another word, or the loop is open.
        """
        if self._row.machine is None:
            raise InputError(f"{self.family}: its rates follow no metric; use .rates({total!r})")
        warmup, n, params = self._resolved(total)
        table = np.concatenate([self._rise(warmup), np.full(n, self.peak_lr)])
        return Controller(self._row.machine, params, table, warmup, mode)

    @property
    def complexity(self) -> tuple[int, int]:
        """Numbers to set beside the peak, those at their defaults left out; and those there are."""
        there = [
            knob for knob in (*self._row.knobs, *self._row.optional) if knob.name in self.knobs
        ]
        own = [knob for knob in there if self.knobs[knob.name] != knob.default]
        numbers, all_numbers = (sum(knob.length for knob in knobs) for knobs in (own, there))
        return numbers + bool(self.warmup) + len(self.settings), all_numbers + len(self.settings)

    def resolve(self, total: int) -> dict[str, Any]:
        """The parameters in the field's own terms (torch's, where it has the family); JSON-able."""
        warmup, _, params = self._resolved(total)
        return {"peak_lr": self.peak_lr, "warmup_steps": warmup, **params}

    def torch(self, optimizer: "Optimizer", total: int, **options: Any) -> "LRScheduler":
        """A torch scheduler with these rates: `lrtune.scheduler.scheduler`, its options too."""
        made: LRScheduler = import_module(TORCH).scheduler(self, optimizer, total, **options)
        return made

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; `from_dict` reads it."""
        data = {
            "format": FORMAT,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "knobs": {name: _plain(value) for name, value in self.knobs.items()},
            "settings": dict(self.settings),
        }
        if not self.settings:  # as most have none, and none had before there were any
            del data["settings"]
        return data

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """The schedule that `to_dict` wrote.

        Raises:
            InputError: a key is unknown or missing, a value is not admissible, or the format is
                newer than this lrtune.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"schedule: expected an object, got {type(data).__name__}")
        _check_format(data)
        names = [f.name for f in fields(cls) if f.name != "settings" or f.name in data]
        _same_keys("schedule", data, ["format", *names])
        schedule = cls(**{name: data[name] for name in names})
        _same_keys(f"{schedule.family}: knobs", data["knobs"], schedule.knobs)
        return schedule

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The schedule that `to_json` wrote; InputError as `from_dict`, and for broken JSON."""
        return cls.from_dict(_parse_json(text))

    def _resolved(self, total: int) -> tuple[int, int, Params]:
        """Updates of the warmup, updates of the body, and the body's parameters."""
        expected = f"the number of updates, a whole number from 1 to {MOST:,}"
        total = integer("total", total, 1, MOST, expected)
        warmup = round(self.warmup * total)
        if warmup >= total:
            raise InputError(
                f"total={total}: warmup={self.warmup:g} leaves no update after it; "
                "give a larger total or a shorter warmup"
            )
        n = total - warmup
        return warmup, n, self._row.resolve(self.knobs, n, self.peak_lr)

    def _rise(self, warmup: int) -> Array:
        u = np.arange(warmup) / max(1, warmup)
        return self.peak_lr * (self.warmup_start + (1 - self.warmup_start) * u)


def load(path: str | Path) -> Schedule:
    """The schedule in a JSON file: one that `to_json` wrote, or the best.json of a search.

    Raises:
        InputError: the file cannot be read or is not one of the two; names the file.
    """
    try:
        data = _parse_json(Path(path).read_text(encoding="utf-8"))
        if isinstance(data, Mapping) and "schedule" in data:
            _check_format(data)
            data = data["schedule"]
        return Schedule.from_dict(data)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def parse(text: str) -> Schedule:
    """The schedule that `family:name=value,name=value` says; lists are written with slashes.

    Raises:
        InputError: the text is not of that form, or the schedule is not admissible.

    Example:
        >>> parse("multistep:peak_lr=0.2,milestones=0.5/0.75").rates(4).round(3).tolist()
        [0.2, 0.2, 0.02, 0.002]
    """
    name, colon, rest = text.partition(":")
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    lists = {knob.name for knob in FAMILIES[name].knobs if knob.length > 1}
    given: dict[str, object] = {}
    for item in rest.split(",") if colon else ():
        key, equals, value = item.partition("=")
        if not (key and equals and value) or key in given:
            raise InputError(f"{text!r}: {item!r}: expected name=value, each name once")
        items = [_value(part) for part in value.split("/")]
        given[key] = items if key in lists else _value(value)
    head = {key: given.pop(key) for key in ("peak_lr", "warmup", "warmup_start") if key in given}
    return Schedule(name, **{"peak_lr": DEFAULT_PEAK, **head}, knobs=given)  # type: ignore[arg-type]


def _value(text: str) -> object:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON (cut short?): {error}") from error


def _check_format(data: Mapping[str, Any]) -> None:
    expected = "the version of the file, a whole number"
    version = integer("format", data.get("format"), 1, 2**53, expected)
    if version > FORMAT:
        raise InputError(
            f"format {version} is newer than this lrtune reads ({FORMAT}): upgrade lrtune"
        )


def _same_keys(where: str, data: Mapping[str, Any], expected: Any) -> None:
    keys = dict.fromkeys(expected)
    for name in data:
        if name not in keys:
            raise unknown(f"{where}: key", name, keys)
    missing = [name for name in keys if name not in data]
    if missing:
        raise InputError(f"{where}: key {missing[0]!r} is missing")


def _plain(value: Any) -> Any:
    if isinstance(value, Schedule):
        return value.to_dict()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
