"""The search space: from an Optuna trial to a Schedule."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from numbers import Real
from typing import Any

import numpy as np
from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial, FrozenTrial

from lrtune.errors import InputError, expect
from lrtune.schedule import FAMILIES, Knob, Schedule, Setting
from lrtune.schedule.family import unknown

FAMILY = "family"
SCHEDULE = "lrtune.schedule"  # trial attribute: the schedule as JSON
SPLINE = "spline"  # the family that may have any shape
LOWEST_PEAK, HIGHEST_PEAK = 1e-12, 1e6
SEARCHABLE = tuple(
    name for name, family in FAMILIES.items() if family.searchable and not family.schedule_free
)


@dataclass(frozen=True)
class Space:
    """Families, and the ranges that they share.

    The name of a parameter begins with its family's (``cosine.peak_lr``), so that a joint sampler
    sees the trials of one family as one space.

    Attributes:
        families: names of FAMILIES.
        peak_lr: lowest and highest peak rate, searched on a log scale.
        warmup: shortest and longest warmup, fractions of the horizon.
        cycle_momentum: whether one_cycle and cyclic also cycle the momentum, as torch's do, between
            bounds that are searched; else momentum is the optimizer's own.
        tune: what is tuned with the schedule: parameters of every family, without its prefix.

    Raises:
        InputError: an unknown family, an empty range, an argument of another kind.
    """

    families: tuple[str, ...] = SEARCHABLE
    peak_lr: tuple[float, float] = (1e-4, 1.0)
    warmup: tuple[float, float] = (0.0, 0.2)
    cycle_momentum: bool = False
    tune: tuple[Setting, ...] = ()

    def __post_init__(self) -> None:
        """Check families and ranges."""
        expect("cycle_momentum", self.cycle_momentum, bool, "True or False")
        if not names_of(self.families):
            raise InputError("families is empty: name at least one")
        for name in self.families:
            if name not in FAMILIES:
                raise unknown("family", name, FAMILIES)
            if not FAMILIES[name].searchable:
                raise InputError(f"family {name!r} has no ranges to search: it is made by hand")
        if len(set(self.families)) < len(self.families):
            raise InputError(f"families {', '.join(self.families)}: one of them twice")
        if self.cycle_momentum and not any(FAMILIES[name].optional for name in self.families):
            able = ", ".join(name for name, family in FAMILIES.items() if family.optional)
            raise InputError(f"cycle_momentum: only {able} can: name one of them, or leave it out")
        rates = f"two rates from {LOWEST_PEAK} to {HIGHEST_PEAK:g}"
        _check_ends("peak_lr", self.peak_lr, LOWEST_PEAK, HIGHEST_PEAK, rates)
        longest = float(np.nextafter(1, 0))
        _check_ends("warmup", self.warmup, 0, longest, "two fractions in [0, 1)")

    def distributions(self, family: str) -> dict[str, BaseDistribution]:
        """The Optuna parameters of one family, ``family`` itself left out."""
        own: dict[str, BaseDistribution] = {"peak_lr": FloatDistribution(*self.peak_lr, log=True)}
        if FAMILIES[family].takes_warmup:
            own["warmup"] = FloatDistribution(*self.warmup)
        optional = FAMILIES[family].optional if self.cycle_momentum else ()
        for knob in (*FAMILIES[family].knobs, *optional):
            own |= _distributions(knob)
        named = {f"{family}.{name}": distribution for name, distribution in own.items()}
        return named | self.beside

    @cached_property
    def beside(self) -> dict[str, BaseDistribution]:
        """The parameters of what is tuned with every schedule."""
        return {one.param: FloatDistribution(*one.ends, log=one.log) for one in self.tune}

    @cached_property
    def start(self) -> dict[str, float]:
        """The same at the task's own values, or as near to them as the ranges reach."""
        return {one.param: one.start for one in self.tune}

    def places(self, schedule: Schedule) -> list[float]:
        """Where a schedule lies in the ranges of ``beside``, 0 ... 1."""
        settings = schedule.settings
        return [unit(self.beside[one.param], one.param_of(settings)) for one in self.tune]

    def defaults(self, family: str) -> dict[str, Any]:
        """The parameters with which a family's own knobs, as far as searched, are at defaults."""
        values: dict[str, Any] = {}
        for knob in FAMILIES[family].knobs:
            entries = (knob.default,) if knob.length == 1 else knob.default
            names = _distributions(knob)
            values |= dict(zip(names, _shares(entries) if knob.ordered else entries, strict=True))
        own = self.distributions(family)
        named = {f"{family}.{name}": value for name, value in values.items()}
        return {name: value for name, value in named.items() if _contains(own[name], value)}

    def contains(self, params: Mapping[str, Any]) -> bool:
        """Whether a trial's parameters lie in the space, as those of one queued by hand may not."""
        if params.get(FAMILY) not in self.families:
            return False
        own = self.distributions(params[FAMILY])
        return all(name in params and _contains(d, params[name]) for name, d in own.items())

    def define(self, trial: Trial) -> None:
        """Draw a schedule's parameters: for Ray Tune's ``OptunaSearch(space.define)``."""
        trial.set_user_attr(SCHEDULE, suggest_from(self, trial).to_json())

    def schedule(self, params: Mapping[str, Any]) -> Schedule:
        """The schedule that these parameters (``family`` and its own; others are ignored) say.

        They may be the ``params`` of an Optuna trial or the config of a Ray Tune trial. A parameter
        without the family's prefix (your own ``warmup``, say) is not part of the schedule, but for
        what is in ``tune``: that is a setting of the schedule where it is not the task's own value.
        """
        name = params[FAMILY]
        own = own_params(params)
        row = FAMILIES[name]
        knobs = [*row.knobs, *(knob for knob in row.optional if knob.name in own)]
        tuned = {one: one.value(params[one.param]) for one in self.tune if one.param in params}
        return Schedule(
            name,
            peak_lr=own["peak_lr"],
            warmup=own.get("warmup", 0.0),
            knobs={knob.name: _value(knob, own) for knob in knobs if knob.counts(own)},
            settings={one.name: value for one, value in tuned.items() if not one.is_own(value)},
        )


def _check_ends(name: str, ends: object, low: float, high: float, expected: str) -> None:
    pair: Any = ends if isinstance(ends, tuple | list) and len(ends) == 2 else ("", "")
    numbers = all(isinstance(end, Real) for end in pair)
    if not numbers or not low <= pair[0] <= pair[1] <= high:
        raise InputError(f"{name}={ends!r}: expected {expected}, the lower first")


def suggest(
    trial: Trial,
    *,
    families: Iterable[str] = SEARCHABLE,
    peak_lr: tuple[float, float] = (1e-4, 1.0),
    warmup: tuple[float, float] = (0.0, 0.2),
    cycle_momentum: bool = False,
) -> Schedule:
    """Suggest a schedule in anyone's Optuna objective.

    Args:
        trial: of any study, with any sampler.
        families: which families may be suggested.
        peak_lr: lowest and highest peak rate.
        warmup: shortest and longest warmup, fractions of the horizon.
        cycle_momentum: whether one_cycle and cyclic also cycle the momentum.

    Returns:
        The schedule; ``schedule.torch(optimizer, total=steps)`` puts it in a training loop. The
        trial carries it too, which is what ``SchedulePruner`` reads.

    Raises:
        InputError: an argument of another kind, an unknown family, an empty range.

    Example:
        >>> import optuna
        >>> study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        >>> suggest(study.ask(), families=["cosine", "linear"]).family in ("cosine", "linear")
        True
    """
    expect("trial", trial, BaseTrial, "an Optuna trial")
    space = Space(names_of(families), peak_lr, warmup, cycle_momentum)
    schedule = suggest_from(space, trial)
    trial.set_user_attr(SCHEDULE, schedule.to_json())
    return schedule


def names_of(families: object) -> tuple[str, ...]:
    """Families as a caller gave them; an InputError where they are no list of names."""
    if isinstance(families, str) or not isinstance(families, Iterable):
        raise InputError(f"families must be a list of names (got {families!r})")
    names = tuple(families)
    for name in names:
        expect("each of families", name, str, "a name")
    return names


def as_spline(schedule: Schedule, knobs: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """The parameters of the spline that is most like an open-loop schedule, within the ranges."""
    total = 1000
    warmup = round(schedule.warmup * total)
    body = schedule.rates(total)[warmup:] / schedule.peak_lr
    count = sum(name.startswith(f"{SPLINE}.ordinates") for name in knobs)
    places = np.linspace(0, len(body) - 1, count).round().astype(int)
    values = {f"{SPLINE}.ordinates_{i}": float(body[p]) for i, p in enumerate(places, 1)}
    values |= {f"{SPLINE}.peak_lr": schedule.peak_lr, f"{SPLINE}.warmup": schedule.warmup}
    return {
        name: min(max(values[name], d.low), d.high)  # type: ignore[attr-defined]
        for name, d in knobs.items()
        if name in values  # what is tuned with it is none of its shape
    }


def suggest_from(space: Space, trial: Trial) -> Schedule:
    """Suggest a schedule of ``space``."""
    family = trial.suggest_categorical(FAMILY, space.families)
    params = {name: _suggest(trial, name, d) for name, d in space.distributions(family).items()}
    return space.schedule({FAMILY: family, **params})


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, log=log):
            return trial.suggest_float(name, low, high, log=log)
        case IntDistribution(low=low, high=high):
            return trial.suggest_int(name, low, high)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"{name}: no way to suggest from {distribution}")


def own_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of the schedule, without the family's prefix."""
    prefix = f"{params[FAMILY]}."
    return {key.removeprefix(prefix): v for key, v in params.items() if key.startswith(prefix)}


def is_schedule_param(name: str) -> bool:
    """Whether a parameter belongs to a schedule, by its name."""
    family, dot, _ = name.partition(".")
    return name == FAMILY or (bool(dot) and family in FAMILIES)


def schedule_of(trial: Trial | FrozenTrial) -> Schedule | None:
    """The schedule that a trial carries."""
    text = trial.user_attrs.get(SCHEDULE)
    return None if text is None else _read(text)


@lru_cache(maxsize=4096)
def _read(text: str) -> Schedule:
    return Schedule.from_json(text)


def unit(distribution: BaseDistribution, value: Any) -> float:
    """Where a value lies in its range, 0 ... 1."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices.index(value) / max(1, count - 1)
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    if distribution.log:  # type: ignore[attr-defined]
        low, high, value = np.log([low, high, value])
    return float((value - low) / (high - low)) if high > low else 0.5


def from_unit(distribution: BaseDistribution, place: float) -> Any:
    """The value at a place in the range, 0 ... 1."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        return distribution.choices[min(count - 1, int(place * count))]
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    log = distribution.log  # type: ignore[attr-defined]
    ends = np.log([low, high]) if log else np.array([low, high], dtype=np.float64)
    value = float(ends[0] + place * (ends[1] - ends[0]))
    value = float(np.exp(value)) if log else value
    step = distribution.step  # type: ignore[attr-defined]
    if step is not None:
        value = low + round((value - low) / step) * step
    value = min(max(value, low), high)
    return int(value) if isinstance(low, int) else float(value)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    return bool(low <= value <= high)


def _distributions(knob: Knob) -> dict[str, BaseDistribution]:
    """One Optuna parameter per knob; for a knob that is a tuple, one per entry."""
    match knob.scale:
        case "choice":
            entry: BaseDistribution = CategoricalDistribution(knob.choices)
        case "int":
            entry = IntDistribution(int(knob.low), int(knob.high))
        case scale:
            entry = FloatDistribution(knob.low, knob.high, log=scale == "log")
    if knob.length == 1:
        return {knob.name: entry}
    return {f"{knob.name}_{i}": entry for i in range(1, knob.length + 1)}


def _shares(ordered: Iterable[float]) -> list[float]:
    """What ``_value`` makes these entries of."""
    place, shares = 0.0, []
    for entry in ordered:
        shares.append((entry - place) / (1 - place))
        place = entry
    return shares


def _value(knob: Knob, own: Mapping[str, Any]) -> Any:
    if knob.length == 1:
        return own[knob.name]
    entries = [own[f"{knob.name}_{i}"] for i in range(1, knob.length + 1)]
    if not knob.ordered:
        return tuple(entries)
    # Each entry is a share of what the ones before it left, so that every point of the space is
    # an ordered tuple and no two points are the same one.
    place, ordered = 0.0, []
    for share in entries:
        place += (1 - place) * share
        ordered.append(place)
    return tuple(ordered)
