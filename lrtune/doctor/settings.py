"""Scripts and configs: what is written there, read and never run."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path

from lrtune.doctor.columns import is_rate
from lrtune.doctor.config import parsed, parts_of
from lrtune.doctor.finding import Finding
from lrtune.doctor.script import Call, calls
from lrtune.doctor.written import in_call, in_config
from lrtune.errors import InputError

CONFIGS = (".yaml", ".yml", ".toml")
LARGEST = 4 * 2**20  # bytes of a script or config; what is larger was written by a program


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
    if path.suffix.lower() != ".json" or not path.is_file() or path.stat().st_size > LARGEST:
        return False
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False  # the reader of logs says what is wrong with it
    if not isinstance(data, dict) or "log_history" in data:
        return False
    rates = any(is_rate(key) and isinstance(value, list) for key, value in data.items())
    return not rates and any(parts_of(data))


def read_settings(path: Path) -> Settings:
    """Read a script or a config.

    Raises:
        InputError: it cannot be read, is not in its language, or says nothing of learning rates.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"{path}: {size:,} bytes: a script or config has at most {LARGEST:,}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not text: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return _script(path, text) if path.suffix.lower() == ".py" else _config(path, text)


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
    parts = list(parts_of(parsed(path, text)))
    if not parts:
        raise InputError(
            f"{path}: says nothing of learning rates (lr_scheduler_type, warmup_steps, "
            "learning_rate, ...)"
        )
    read = [in_config(part.given) for part in parts]
    found = dict.fromkeys(one for findings, _ in read for one in findings)
    if any(part.learns for part in parts):  # then one at zero is frozen
        found = {one: None for one in found if one.name != "zero-rate"}
    unknown = min((unread for _, unread in read), key=len)
    return Settings(tuple(part.shown for part in parts), tuple(found), tuple(unknown))
