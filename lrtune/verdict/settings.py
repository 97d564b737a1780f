"""Settings: what a run was asked to do and with what; and how such facts are kept as JSON."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from lrtune.errors import InputError, one_line
from lrtune.files import replace
from lrtune.schedule import Schedule

Direction = Literal["minimize", "maximize"]


def _finite(value: float) -> float:
    return float(value) if math.isfinite(value) else math.nan  # one NaN: it equals itself in a list


# A number that may not be known: NaN here, null in JSON.
Number = Annotated[
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    AfterValidator(_finite),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]
StoredSchedule = Annotated[
    Schedule,
    PlainValidator(lambda v: v if isinstance(v, Schedule) else Schedule.from_dict(v)),
    PlainSerializer(lambda schedule: schedule.to_dict(), when_used="json"),
]
Pair = Annotated[
    tuple[float, float], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
]


class Document(BaseModel):
    """Facts as JSON keeps them; keys that are not known are passed over."""

    model_config = ConfigDict(frozen=True)

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold."""
        return self.model_dump(mode="json")


class File(Document):
    """A document that is a file of its own, with the version of its format."""

    WHAT: ClassVar[str]
    FORMAT: ClassVar[int]
    format: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """The document in a file.

        Raises:
            InputError: it cannot be read, is something else, of another format, or damaged.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not {cls.WHAT}: {error}") from error
        version = found.get("format") if isinstance(found, dict) else None
        if type(version) is not int:
            raise InputError(f"{path}: not {cls.WHAT}: it has no format version")
        if version != cls.FORMAT:
            raise InputError(
                f"{path}: {cls.WHAT} of format {version}: this lrtune reads format {cls.FORMAT}: "
                "use the lrtune that wrote it, or run the command again"
            )
        try:
            return cls.model_validate(found, strict=True)
        except ValidationError as error:
            raise InputError(f"{path}: damaged: {in_words(error)}") from error

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps(self.to_json(), indent=2, allow_nan=False)
        replace(path, f"{text}\n".encode())


def in_words(error: ValidationError) -> str:
    """The first mistake as one sentence: the key, what it must be, its value."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{key} is missing"
    must = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{key}: expected {must} (got {one_line(first['input'])})"


class Objective(Document):
    """A metric: what the search is about, or what is measured beside it."""

    name: str
    direction: Direction
    unit: str | None = None

    @property
    def minimize(self) -> bool:
        """Whether the lower value is the better one."""
        return self.direction == "minimize"


class TaskFacts(Document):
    """What was trained: data, model, loss, and how batches are made of the data."""

    name: str
    data: str
    train: int  # samples
    val: int  # samples
    test: int  # samples; 0 where there is no test split
    fingerprint: str  # of the data
    classes: int | None
    model: str
    parameters: int
    prepare: str
    loss: str
    batch_size: int
    groups: str | None
    augment: list[str]
    clip_norm: float | None
    ema: float | None  # share of the run over which the judged weights are averaged
    average: float | None = None  # the same of the weights that early stopping looks at
    precision: str
    layout: str | None = None
    notes: list[str]  # what was done to the data


class OptimizerFacts(Document):
    """An optimizer's name and, by their names, all of its settings."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """Without the name."""
        return self.model_extra or {}
