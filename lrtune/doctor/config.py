"""A config: its language, and the parts of it that speak of a schedule."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lrtune.doctor.written import EPOCHS, NAMES, RATES, WARMUPS
from lrtune.errors import InputError

KEYS = frozenset({*RATES, *NAMES, *EPOCHS, *WARMUPS, "max_steps", "warmup_ratio", "warmup_epochs"})
DEEPEST = 3  # mappings within mappings
NOTHING: Mapping[str, Any] = MappingProxyType({})


def parsed(path: Path, text: str) -> Any:
    """What YAML, TOML or JSON says.

    Raises:
        InputError: it is in none of these, or not in the one that the name says.
    """
    import yaml

    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: is not {path.suffix[1:].upper()}: {said}") from error


class Part(NamedTuple):
    """A mapping with keys that we know.

    Attributes:
        where: the keys that lead to it.
        own: its keys.
        given: these, and those of the mappings around it.
    """

    where: tuple[str, ...]
    own: Mapping[str, Any]
    given: Mapping[str, Any]

    @property
    def shown(self) -> str:
        """Its keys in a line."""
        own = ", ".join(f"{name}: {value}" for name, value in self.own.items())
        return f"{'.'.join(self.where)}: {own}" if self.where else own

    @property
    def learns(self) -> bool:
        """Whether it gives a rate above zero."""
        rates = [self.own.get(name) for name in RATES]
        return any(isinstance(rate, int | float) and rate > 0 for rate in rates)


def parts_of(
    data: object, where: tuple[str, ...] = (), around: Mapping[str, Any] = NOTHING
) -> Iterator[Part]:
    """The parts of a config that speak of a schedule, the outermost first.

    What is beside a part, such as another stage of the training, tells nothing of it; nor does what
    is around it where it gives one of those keys anew, as an evaluation with a max_steps does.
    """
    if not isinstance(data, Mapping) or len(where) > DEEPEST:
        return
    own = {
        str(key): value
        for key, value in data.items()
        if str(key) in KEYS and isinstance(value, str | int | float)
    }
    given = own if own.keys() & around.keys() else {**around, **own}
    if own:
        yield Part(where, own, given)
    for key, value in data.items():
        yield from parts_of(value, (*where, str(key)), given)
