"""Scripts and configs: what is written there, read and never run."""

import ast
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrtune.doctor.columns import is_rate
from lrtune.doctor.finding import Finding
from lrtune.doctor.script import Call, calls
from lrtune.doctor.written import EPOCHS, NAMES, RATES, WARMUPS, in_call, in_config
from lrtune.errors import InputError

CONFIGS = (".yaml", ".yml", ".toml")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a script or a config says of learning rates.

    Attributes:
        facts: sentences about what is written there.
        findings: what is wrong with it.
        unknown: sentences about what only a run can tell.
    """

    facts: tuple[str, ...]
    findings: tuple[Finding, ...]
    unknown: tuple[str, ...]


def is_settings(path: Path) -> bool:
    """Whether it is a script or a config rather than a log."""
    if path.suffix.lower() in (".py", *CONFIGS):
        return True
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # the reader of logs says what is wrong with it
    if not isinstance(data, dict) or "log_history" in data:
        return False
    rates = any(is_rate(key) and isinstance(value, list) for key, value in data.items())
    return not rates and any(_scheduler_keys(data))


def read_settings(path: Path) -> Settings:
    """Read a script or a config.

    Raises:
        InputError: it cannot be read, is not in its language, or says nothing of learning rates.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _script(path, text) if path.suffix == ".py" else _config(path, text)


def _script(path: Path, text: str) -> Settings:
    try:
        made = calls(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not Python: {error}") from error
    if not made:
        raise InputError(
            f"{path}: makes no scheduler that doctor knows (torch's, transformers' "
            "TrainingArguments): give the log or the checkpoint of a run"
        )
    found, unknown = [], []
    for call in made:
        findings, unread = in_call(call)
        found += findings
        if unread:
            unknown.append(
                f"line {call.line}: {', '.join(unread)} of {call.name}: known only when it runs"
            )
    return Settings(tuple(_said(call) for call in made), tuple(found), tuple(unknown))


def _said(call: Call) -> str:
    given = ", ".join(f"{name}={shown}" for name, shown in call.shown.items())
    return f"line {call.line}: {call.name}({given})"


def _config(path: Path, text: str) -> Settings:
    data = _parsed(path, text)
    given = dict(_scheduler_keys(data))
    if not given:
        raise InputError(
            f"{path}: says nothing of learning rates (lr_scheduler_type, warmup_steps, "
            "learning_rate, ...)"
        )
    shown = ", ".join(f"{name}: {value}" for name, value in given.items())
    findings, unknown = in_config(given)
    return Settings((shown,), tuple(findings), tuple(unknown))


def _parsed(path: Path, text: str) -> Any:
    import yaml

    try:
        if path.suffix.lower() == ".toml":
            return tomllib.loads(text)
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: is not {path.suffix[1:].upper()}: {said}") from error


KEYS = frozenset({*RATES, *NAMES, *EPOCHS, *WARMUPS, "max_steps", "warmup_ratio", "warmup_epochs"})


def _scheduler_keys(data: object, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The keys that we know, wherever they are nested; the outermost comes last and counts."""
    if not isinstance(data, Mapping) or depth > 3:
        return
    for value in data.values():
        yield from _scheduler_keys(value, depth + 1)
    for key, value in data.items():
        if str(key) in KEYS and isinstance(value, str | int | float) and value is not None:
            yield str(key), value
