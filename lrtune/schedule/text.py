"""Schedules as people keep them: a file, or a few words on the command line."""

import re
from collections.abc import Mapping
from pathlib import Path

from lrtune.errors import InputError
from lrtune.schedule.checks import unknown
from lrtune.schedule.families import FAMILIES
from lrtune.schedule.schedule import Schedule, check_format, parse_json

HEAD = ("peak_lr", "warmup", "warmup_start")
DEFAULT_PEAK = 0.1


def load(path: str | Path) -> Schedule:
    """The schedule in a JSON file: one that `to_json` wrote, or the best.json of a search.

    Raises:
        InputError: the file cannot be read or is not one of the two; names the file.
    """
    try:
        data = parse_json(Path(path).read_text(encoding="utf-8"))
        if isinstance(data, Mapping) and "schedule" in data:
            check_format(data)
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
    head = {key: given.pop(key) for key in HEAD if key in given}
    return Schedule(name, **{"peak_lr": DEFAULT_PEAK, **head}, knobs=given)  # type: ignore[arg-type]


def _value(text: str) -> object:
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text
