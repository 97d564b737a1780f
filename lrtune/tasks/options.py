"""What a user may say of a task: the same words in Python, in a study file, on the command line."""

from collections.abc import Collection
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.fields import FieldInfo

from lrtune.errors import InputError, nearest

# Of a list: its option is given once per value, which may have commas.
REPEATED: dict[str, JsonValue] = {"repeated": True}


class TaskOptions(BaseModel):
    """The options of ``load_task``; each is a study file's key and an option of ``search``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    model: str | None = Field(
        None,
        description="mlp, cnn, ..., of torchvision, timm:NAME, a transformers folder [by data]",
    )
    weights: str | None = Field(
        None, description="of images: fine-tune from default (torchvision's) or from a file"
    )
    metric: str | None = Field(
        None, description="what to improve: accuracy, macro_f1, ... [the loss]"
    )
    optimizer: str | None = Field(
        None,
        description="adamw, sgd, muon, ...; adamw:weight_decay=0.1; or file.py:function of yours",
    )
    groups: list[str] | None = Field(
        None,
        description="rates as multiples of the schedule's, by parameters' names: "
        "head=10x,backbone=0.1x; several times",
        json_schema_extra=REPEATED,
    )
    layer_decay: float | None = Field(
        None, gt=0, lt=1, description="each layer's rate is this share of the next one's: 0.75"
    )
    freeze: list[str] | None = Field(
        None,
        description="parameters that do not train, by name: backbone; several times",
        json_schema_extra=REPEATED,
    )
    batch_size: int | None = Field(None, gt=0, description="samples per update")
    epochs: float | None = Field(
        None, gt=0, description="passes over the training data in one trial"
    )
    target: str | None = Field(None, description="of a table: the column to predict")
    kind: Literal["classification", "regression"] | None = Field(
        None, description="of a table: classification or regression"
    )
    text: str | None = Field(
        None, description="of a table: the column of texts to train on, as tokens"
    )
    data_root: str = Field("data", description="where torchvision's data sets lie")
    download: bool = Field(
        False, description="fetch what torchvision has and is not there: data, weights"
    )
    image_size: int | None = Field(
        None, ge=1, le=4096, description="bring images to this many pixels per side"
    )
    skip_bad: bool = Field(False, description="leave out images that cannot be read")
    tokens: str | None = Field(
        None,
        description="of a text: char, byte or a tokenizer's folder [char, or --model's folder]",
    )
    context: int | None = Field(
        None, ge=2, description="of a text: tokens per sample [128; up to 256 of one with a target]"
    )
    memory: str | None = Field(
        None, description="data kept in memory: 500MB, 2GB [half of what is free]"
    )
    augment: list[str] | None = Field(
        None, description="of images: flip, crop, cutout, mixup, with commas"
    )
    label_smoothing: float | None = Field(
        None, ge=0, lt=1, description="of class targets, 0 to below 1"
    )
    class_weights: Literal["balanced"] | None = Field(
        None, description="balanced: rare classes weigh more"
    )
    clip_norm: float | None = Field(None, gt=0, description="longest gradient, by its norm")
    ema: float | None = Field(
        None,
        gt=0,
        le=1,
        description="validate averaged weights; the average's length, a share of the run",
    )
    precision: Literal["float32", "bfloat16"] | None = Field(
        None, description="float32 or bfloat16 [bfloat16 on CUDA]"
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of the splits, the trials, the sampler")


Model = TypeVar("Model", bound=BaseModel)

# What a value must be, by its type,
EXPECTED: dict[object, str] = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list[str]: "a list of names",
    tuple[float, float]: "two numbers: [low, high]",
}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}  # and by its range


def validate(
    model: type[Model], keys: dict[str, Any], source: str, typed: Collection[str] = ()
) -> Model:
    """Check every key and value that a user gave; ``typed`` are options of the command line."""
    # TOML has arrays, and no tuples; strict validation tells them apart.
    fields = model.model_fields
    pairs = {name for name in fields if get_origin(plain(fields[name].annotation)) is tuple}
    keys = {k: tuple(v) if isinstance(v, list) and k in pairs else v for k, v in keys.items()}
    try:
        return model(**keys)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            hint = nearest(name, fields)
            raise InputError(f"{source}: unknown key {name!r}{hint}") from error
        if name not in keys:
            raise InputError(f"{source}: {name} is missing") from error
        field = fields[name]
        given = list(keys[name]) if isinstance(keys[name], tuple) else keys[name]
        where = flag(name) if name in typed else f"{source}: {name}"
        expected = _expected(field, first["type"])
        hint = nearest(given, _words(field)) if isinstance(given, str) else ""
        raise InputError(f"{where} must be {expected} (got {given!r}){hint}") from error


def _expected(field: FieldInfo, problem: str) -> str:
    """What a value of this field is, in words."""
    if words := _words(field):
        *most, last = words
        return f"{', '.join(most)} or {last}" if most else repr(last)
    if problem == "finite_number":
        return "a finite number"
    bounds = {of: getattr(m, of) for m in field.metadata for of in BOUNDS if hasattr(m, of)}
    if problem.endswith("_type") or not bounds:
        return EXPECTED[plain(field.annotation)]
    if bounds == {"gt": 0}:
        return "positive"
    return " and ".join(f"{BOUNDS[of]} {value}" for of, value in bounds.items())


def _words(field: FieldInfo) -> tuple[str, ...]:
    kind = plain(field.annotation)
    return get_args(kind) if get_origin(kind) is Literal else ()


def flag(name: str) -> str:
    """The option of a field: ``--batch-size`` of ``batch_size``."""
    return f"--{name.replace('_', '-')}"


def plain(annotation: Any) -> Any:
    """The type without ``| None``."""
    kinds = get_args(annotation)
    return next(kind for kind in kinds if kind is not NoneType) if NoneType in kinds else annotation


def names_function(optimizer: str) -> bool:
    """Whether it is ``module:function``, not a name with settings.

    >>> names_function("mine.py:lion"), names_function("adamw:eps=1e-6"), names_function("sgd")
    (True, False, False)
    """
    return ":" in optimizer and optimizer.rpartition(":")[2].isidentifier()


def parse_optimizer(text: str) -> tuple[str, dict[str, object]]:
    """Name and settings from ``adamw:weight_decay=0.1,betas=0.9/0.95``.

    >>> parse_optimizer("adamw:weight_decay=0.1,betas=0.9/0.95")
    ('adamw', {'weight_decay': 0.1, 'betas': (0.9, 0.95)})
    """
    name, _, rest = text.partition(":")
    settings: dict[str, object] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"optimizer {text!r}: {part!r}: expected setting=value")
        if key.strip() in settings:
            raise InputError(f"optimizer {text!r}: {key.strip()} twice")
        settings[key.strip()] = _value(value.strip(), part)
    return name.strip(), settings


def _value(text: str, where: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if text.isidentifier() and text not in ("nan", "inf", "infinity"):
        return text
    try:
        numbers = tuple(float(part) for part in text.split("/"))
    except ValueError as error:
        raise InputError(
            f"{where!r}: a number, a word, true, false or numbers with / between"
        ) from error
    return numbers if len(numbers) > 1 else numbers[0]
