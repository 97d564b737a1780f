"""Settings: what a run was asked to do and with what; and how such facts are kept as JSON."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from lrtune.errors import InputError, one_line
from lrtune.files import replace
from lrtune.format import plural, words
from lrtune.schedule import Schedule
from lrtune.schedule.setting import changed

Direction = Literal["minimize", "maximize"]
Judge = Literal["last", "best"]  # weights of a training that count: at its end, or the best


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
                "use the lrtune that wrote it, or search again in another folder (--out)"
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

    @property
    def title(self) -> str:
        """What it is called as a validation metric, with its unit."""
        return f"validation {words(self.name)}{f' ({self.unit})' if self.unit else ''}"


class GroupFacts(Document):
    """Parameters with a rate of their own."""

    pattern: str  # the user's; empty where the rate has another reason
    ratio: Number  # of the schedule's rate; 0 of what does not train
    cooldown: Number = 0.0  # the last share of the run in which the rate goes linearly to zero
    parameters: int  # how many numbers
    names: list[str]  # the beginnings of the parameters' names, in whole parts


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
    groups: str | None  # name of the function that makes them
    layer_decay: float | None = None
    lr_ratios: list[GroupFacts] = Field(default_factory=list)
    augment: list[str]
    clip_norm: float | None
    ema: float | None  # share of the run over which the judged weights are averaged
    average: float | None  # the same of the weights that early stopping looks at
    precision: str
    layout: str
    notes: list[str]  # what was done to the data

    @property
    def rates(self) -> list[tuple[str, str, str]]:
        """What has a rate of its own: what it is called, its ratio, and what it holds."""
        several: dict[str, list[GroupFacts]] = {}
        by_layer = f"layer decay {self.layer_decay:g}" if self.layer_decay else ""
        still = [group for group in self.lr_ratios if not group.ratio]
        frozen = _few([group.pattern or _few(group.names) for group in still])
        for group in self.lr_ratios:
            label = group.pattern or by_layer or _few(group.names)
            several.setdefault(label if group.ratio else frozen, []).append(group)
        rows = []
        for label, groups in several.items():
            low, high = (pick(group.ratio for group in groups) for pick in (min, max))
            ratio = f"{low:.3g}x" if low == high else f"{low:.3g}x to {high:.3g}x"
            amount = plural(sum(group.parameters for group in groups), "parameter", "parameters")
            names = _few([name for group in groups for name in group.names])
            own = amount if names == label else f"{names}: {amount}"
            if cooldown := groups[0].cooldown:
                ratio = f"{ratio}, over the last {cooldown:.0%} to zero,"
            rows.append((label, f"at {ratio} the rate" if high else "frozen", own))
        return rows

    def tuned(self, schedule: Schedule, tune: "Mapping[str, TuneFacts]") -> "TaskFacts":
        """With the ratios and cooldowns that were tuned with a schedule."""
        groups = []
        for group in self.lr_ratios:
            ratio, cooldown = (f"{group.pattern}.{what}" for what in ("lr_ratio", "cooldown"))
            change = {"cooldown": schedule.settings.get(cooldown, group.cooldown)}
            if ratio in schedule.settings:  # but for what layers add to it
                own = tune[ratio].own if ratio in tune else group.ratio
                change["ratio"] = group.ratio * schedule.settings[ratio] / own
            groups.append(group.model_copy(update=change))
        return self.model_copy(update={"lr_ratios": groups})


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


class OptimizerFacts(Document):
    """An optimizer's name and, by their names, all of its settings."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """Without the name."""
        return self.model_extra or {}

    def tuned(self, schedule: Schedule) -> "OptimizerFacts":
        """With what was tuned with a schedule."""
        return self.model_copy(update=changed(self.settings, schedule.settings))


class EngineFacts(Document):
    """The pool that trains, see ``lrtune.engine.Choice``."""

    name: Literal["serial", "fused"]
    slots: Annotated[int, Field(ge=1)]
    compiled: bool = False
    threads: int | None = None
    devices: list[str] = Field(default_factory=list)
    why: str = ""
    figures: dict[str, Number] = Field(default_factory=dict)  # seconds per update of a trial
    deterministic: bool = False


class LossFacts(Document):
    """A host that was lost while it trained."""

    host: str  # its name
    at: str  # when, by the clock of whoever searched: ISO 8601 with the distance to UTC
    why: str  # as Ray said it, or the process's exit code
    trials: int  # that it had; they went on elsewhere

    def __str__(self) -> str:
        went = f", {plural(self.trials, 'trial', 'trials')} went on elsewhere"
        return f"host {self.host} lost at {self.at[11:16]}{went if self.trials else ''}"


class RangeTestFacts(Document):
    """A range test: what it suggests, see ``engine.range_test.Suggestion``, and its curves."""

    base_lr: float
    steepest: float
    valley: float
    max_lr: float
    peak_lr: float
    doubt: float
    rates: list[Number]  # one per update
    losses: list[list[Number]]  # smoothed, one list per seed; NaN where a loss was not finite
    message: str  # why the suggestion is unsure; empty where it is not

    @property
    def updates(self) -> int:
        """What it cost."""
        return len(self.rates) * len(self.losses)


class StoppingFacts(Document):
    """How trials are ended early; ``epsilon`` is the schedule pruner's alone."""

    pruner: str
    epsilon: Number
    patience: int
    min_delta: float
    audit: float


class TuneFacts(Document):
    """A setting that is tuned with the schedule: its range, and the task's own value."""

    low: float
    high: float
    own: float


class Training(Document):
    """What a schedule was found with, and is good for."""

    study: str
    task: TaskFacts
    horizon: int  # updates
    epochs: float
    objective: Objective
    optimizer: OptimizerFacts
    versions: dict[str, str]


class SearchSettings(Training):
    """What makes a search this one and no other: it must be the same when the search goes on."""

    validations: int
    metrics: dict[str, Objective]
    families: list[str]
    warmup: Pair
    cycle_momentum: bool
    tune: dict[str, TuneFacts] = Field(default_factory=dict)
    seed: int
    device: str
    storage: str | None
    judge: Judge = "last"
    stopping: StoppingFacts | None = None
    transfer: str | None = None  # fingerprint of what other tasks teach


class RunSettings(SearchSettings, File):
    """``run.json``: what a run was asked to do and with what, and how far it came."""

    WHAT: ClassVar[str] = "a run's settings"
    FORMAT: ClassVar[int] = 3

    format: int = FORMAT
    peak_lr: Pair  # lowest and highest peak rate of the search
    range_test: RangeTestFacts | None  # where these come from; None where the user named them
    command: str  # what the user typed
    owner: str  # a random name of the study, by which it is known again in a shared storage
    # The keys of a study file; None of a run made from Python with a task of its own.
    asked: dict[str, Any] | None = None
    # By split and metric, what a predictor scores that ignores its inputs.
    dummy_scores: dict[str, dict[str, Number]] = Field(default_factory=dict)
    placement: dict[str, str]  # where the data is, by split
    features: str = ""  # what was done about those of a frozen backbone; empty where none is
    engine: EngineFacts  # what trains
    baselines: list[StoredSchedule] = Field(default_factory=list)  # the user's own schedules
    # That served in any session; none where one process of one machine trained.
    hosts: list[str] = Field(default_factory=list)
    # Hosts that were lost, in the order in which they were.
    losses: list[LossFacts] = Field(default_factory=list)
    elapsed: float = 0.0  # seconds of all sessions
    cut: bool = False  # whether the budget ended before all was done
    folder: str = Field("RUN", exclude=True)  # of the run; not in the file
