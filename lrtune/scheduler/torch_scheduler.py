"""Torch schedulers with the rates of a Schedule: torch's own class wherever torch has the family.

What is saved is what was asked for and how far it has come; loading makes the scheduler anew and
steps it there. So a resumed scheduler is the one that never stopped, whatever the torch version
that saved it, and whether or not the optimizer's state was restored.

From the total on the rate is held at that of the last update: torch's own classes would rise again
(cosine), restart, fall below zero (a linear one_cycle) or raise in the middle of a run.

It moves once per update, however often it is stepped. A GradScaler skips updates whose gradients
are not finite, and neither it nor Lightning says so (pytorch/pytorch#67590,
Lightning-AI/pytorch-lightning#5558); gradients are accumulated over batches; Accelerate steps once
per process. Updates are counted by torch's public hooks; a fused optimizer, which skips by itself,
has the scaler's `found_inf`. Where no update was ever seen (a wrapper without hooks, a CUDA graph)
every step moves the schedule; at the first update that is seen, the steps since the first gradient
are taken back.

A loop that steps it otherwise than it was made for is warned once, and goes on.
"""

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args
from weakref import ref

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, SequentialLR

from lrtune.errors import InputError, ScheduleWarning
from lrtune.schedule.families import FAMILIES, PER_GROUP
from lrtune.schedule.family import unknown
from lrtune.schedule.reactive import Mode
from lrtune.schedule.schedule import Schedule
from lrtune.schedule.setting import numbers_of

OnChangedTotal: TypeAlias = Literal["raise", "retarget"]
Unit: TypeAlias = Literal["update", "epoch"]

# So many updates per step are an epoch; fewer may be those of a class whose step calls its
# parent's, which torch's hooks count twice.
EPOCH = 4
ENOUGH = 50  # updates from which that is judged
PAST: dict[Unit, str] = {
    "update": "give as total the updates of the whole run, its calls of optimizer.step()",
    "epoch": "call step() once an epoch, or give total in updates and unit='update'",
}


def scheduler(
    schedule: Schedule,
    optimizer: Optimizer,
    total: int,
    *,
    mode: Mode = "min",
    unit: Unit = "update",
    on_changed_total: OnChangedTotal = "raise",
) -> LRScheduler:
    """A scheduler that gives update t of `optimizer` the rate `schedule.rates(total)[t]`.

    Call `step()` after every update: with gradient accumulation, after every `optimizer.step()`. An
    update that a GradScaler skips does not move the schedule. A closed loop also takes
    `step(metric)` after every validation. The peak replaces the optimizer's own lr; a parameter
    group with another lr than the optimizer's default keeps its ratio to it, as
    `group["lr_ratio"]`.

    A loop that steps it otherwise is not stopped: past the total the rate stays at its last value,
    and an `lrtune.ScheduleWarning` says once what does not fit (`warnings.simplefilter("error",
    lrtune.ScheduleWarning)` makes it an error).

    Args:
        schedule: what to follow.
        optimizer: whose rates are set, now and at every step.
        total: the number of updates of the whole run.
        mode: for a closed loop: whether the metric is best at its `min` or its `max`.
        unit: `epoch` if `step()` is called once an epoch; `total` then counts epochs.
        on_changed_total: what `load_state_dict` does with a state saved for another total:
            `raise` an InputError, or `retarget`: go on at the same update of the new rates.

    Raises:
        InputError: an argument is not admissible.

    Example:
        >>> from torch import nn
        >>> from torch.optim import SGD
        >>> optimizer = SGD(nn.Linear(1, 1).parameters(), lr=1.0)
        >>> follow = scheduler(Schedule("linear", peak_lr=0.4), optimizer, total=4)
        >>> for update in range(4):
        ...     print(round(optimizer.param_groups[0]["lr"], 3))
        ...     optimizer.step()
        ...     follow.step()
        0.4
        0.3
        0.2
        0.1
    """
    if not isinstance(optimizer, Optimizer):
        raise InputError(f"optimizer={optimizer!r}: expected a torch.optim.Optimizer")
    if schedule.schedule_free and not hasattr(optimizer, "eval"):
        raise InputError(
            f"optimizer: {type(optimizer).__name__} is not schedule-free: take the one that "
            "lrtune export --to torch writes, and call its train() and eval()"
        )
    if schedule.cycles_momentum and not {"momentum", "betas"} & optimizer.defaults.keys():
        raise InputError(
            f"optimizer: {type(optimizer).__name__} has no momentum to cycle: take SGD, Adam, "
            "AdamW or RMSprop, or the schedule without base_momentum and max_momentum"
        )
    made_with = [numbers_of(group) for group in optimizer.param_groups]
    cools = any(group.get("cooldown") for group in optimizer.param_groups)
    if cools and schedule.cycles_momentum:
        raise InputError(
            "optimizer: a parameter group has a cooldown: take the schedule without base_momentum "
            "and max_momentum"
        )
    for name, value in schedule.settings.items():
        if name.endswith(".cooldown") and not cools:
            warnings.warn(
                f"the schedule was found with {name}={value:.6g}, and no parameter group has a "
                "cooldown: make them as lrtune export writes them",
                ScheduleWarning,
                stacklevel=2,
            )
        others = [numbers[name] for numbers in made_with if name in numbers]
        if others and not any(math.isclose(other, value, rel_tol=1e-3) for other in others):
            warnings.warn(
                f"the schedule was found with {name}={value:.6g}, and the optimizer is made with "
                f"{name}={others[0]:.6g}: make it with the former",
                ScheduleWarning,
                stacklevel=2,
            )
    watch = _Watch(SchedulerSpec(schedule, total, mode, unit, on_changed_total))
    made: LRScheduler = _made(_ClosedLoop if schedule.closed_loop else _OpenLoop, watch, optimizer)
    watch.attach(made)
    return made


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """What a scheduler was asked for."""

    schedule: Schedule
    total: int
    mode: Mode
    unit: Unit
    on_changed_total: OnChangedTotal

    def __post_init__(self) -> None:
        for name, words in (("unit", Unit), ("on_changed_total", OnChangedTotal)):
            if getattr(self, name) not in get_args(words):
                raise unknown(name, getattr(self, name), get_args(words))

    def state(self, update: int) -> dict[str, Any]:
        """What a checkpoint holds: plain values, for `torch.load(weights_only=True)`."""
        asked = {"total": self.total, "mode": self.mode, "unit": self.unit}
        return {"schedule": self.schedule.to_dict(), **asked, "update": update}

    def resume(self, state: Mapping[str, Any]) -> int:
        """The update that a saved state has come to; InputError if it is not this spec's."""
        for name, here in self.state(0).items():
            if name not in state:
                raise InputError(f"state_dict: {name!r} is missing: not saved by this scheduler")
            free = name == "update" or (name == "total" and self.on_changed_total == "retarget")
            if state[name] != here and not free:
                way_out = ", or with on_changed_total='retarget'" if name == "total" else ""
                raise InputError(
                    f"state_dict: saved with {name}={state[name]!r}; this scheduler has "
                    f"{name}={here!r}: make it with the one that was saved{way_out}"
                )
        if state["update"] > self.total:
            raise InputError(
                f"state_dict: saved at update {state['update']}; this scheduler has "
                f"total={self.total}: make it with a larger total"
            )
        return int(state["update"])


class _Watch:
    """What a scheduler was asked for, and the counts of this process."""

    def __init__(self, spec: SchedulerSpec) -> None:
        self.spec = spec
        self.steps = self.updates = 0  # from the first step on: what was before is another's
        self.idle = 0  # steps that did not move the schedule
        self.gradient = self.update = False  # since the last step
        self.seen = False  # whether an update ever was
        self.ahead = 0  # steps after gradients, before an update was seen
        self.captured = False  # by a CUDA graph, whose replays no hook sees
        self.warned: set[str] = set()

    def attach(self, follow: LRScheduler) -> None:
        """Count the updates of its optimizer; no copy of an optimizer has its hooks."""
        self.optimizer, self.seen, self.ahead, maybe = id(follow.optimizer), False, 0, ref(follow)

        def before(optimizer: Optimizer, *_: object) -> None:
            if self.ahead and (follow := maybe()) and _updates(optimizer):
                state = follow.state_dict()
                follow.load_state_dict(state | {"update": max(0, state["update"] - self.ahead)})
                self.ahead = 0

        def after(optimizer: Optimizer, *_: object) -> None:
            if _capturing():
                self.captured = True
            elif _updates(optimizer):
                self.updates += 1
                self.update = self.seen = True

        def accumulated(_: Tensor) -> None:
            self.gradient = True

        # Accelerate's wrapper is an Optimizer without its __init__.
        optimizer = getattr(follow.optimizer, "optimizer", follow.optimizer)
        with suppress(AttributeError):
            optimizer.register_step_pre_hook(before)
            optimizer.register_step_post_hook(after)
            trained = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
            for last in trained[-1:]:
                last.register_post_accumulate_grad_hook(accumulated)

    def moves(self, follow: LRScheduler) -> bool:
        """Count a call of `step()`: whether it moves the schedule."""
        if not self.steps:
            self.updates = 0
        self.steps += 1
        if self.optimizer != id(follow.optimizer):
            self.attach(follow)
            return True
        gradient, update = self.gradient, self.update
        self.gradient = self.update = False
        self.ahead += gradient and not self.seen
        moves = update or self.captured or not self.seen
        self.idle += not moves
        return moves

    def warn(self, past: bool) -> None:
        """Say of a call of `step()` that it is `past` the end, or that they are too many or few."""
        unit, every = self.spec.unit, self.updates / max(1, self.steps - 1)
        if past:
            self._warn("more often: the rate stays at its last value", PAST[unit])
        elif unit == "update" and self.updates >= ENOUGH and every >= EPOCH:
            self._warn(
                f"once for every {every:,.0f} updates of the optimizer",
                "call step() after every update, or give total in epochs and unit='epoch' (or "
                "unit='epoch' if total counts calls of step())",
            )
        elif unit == "update" and self.idle >= max(ENOUGH, self.updates / 2):
            self._warn(
                f"{self.steps / max(1, self.updates):,.0f} times for every update of the optimizer",
                "a schedule moves once per update, so total counts calls of optimizer.step(), not "
                "batches",
            )

    def _warn(self, how: str, way_out: str) -> None:
        if way_out in self.warned:
            return
        self.warned.add(way_out)
        made = f"made for total={self.spec.total:,} {self.spec.unit}s"
        # From _warn, warn, the scheduler's step: its caller.
        warnings.warn(f"{made}, but step() is called {how}; {way_out}", ScheduleWarning, 4)


class _OpenLoop(LRScheduler):
    """Before torch's class in the order of inheritance: guards its step, saves the spec."""

    def __init__(self, watch: _Watch, optimizer: Optimizer, **arguments: Any) -> None:
        self.watch, self.spec = watch, watch.spec
        super().__init__(optimizer, **arguments)

    def step(self) -> None:  # type: ignore[override]
        if self.last_epoch < 0:  # torch's own, in the constructor
            super().step()
            return
        past, moves = self.last_epoch == self.spec.total, self.watch.moves(self)
        if moves:
            with _quiet() if self.watch.ahead == 1 else nullcontext():
                self._advance()
        self.watch.warn(past and moves)

    def state_dict(self) -> dict[str, Any]:
        return self.spec.state(self.last_epoch)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        update = self.spec.resume(state_dict)
        fresh = _made(_OpenLoop, self.watch, self.optimizer)
        with _quiet():
            for _ in range(update):
                fresh._advance()
        self.__dict__.update(fresh.__dict__)

    def _advance(self) -> None:
        if self.last_epoch < self.spec.total - 1:
            super().step()
        else:
            self.last_epoch = self.spec.total


class _ClosedLoop(LRScheduler):
    """Before torch's class in the order of inheritance: the rates of a Controller.

    torch's ReduceLROnPlateau steps only on a metric, and its SequentialLR refuses it; here the
    warmup moves with the updates. Attributes of the machine carry torch's names.
    """

    def __init__(self, watch: _Watch, optimizer: Optimizer, **arguments: Any) -> None:
        self.watch, self.spec = watch, watch.spec
        self.controller = self.spec.schedule.controller(self.spec.total, self.spec.mode)
        super().__init__(optimizer, **arguments)
        self.last_epoch = 0
        self._apply()

    def step(self, metrics: float | Tensor | None = None) -> None:
        if metrics is not None:
            self.controller.observe(self.last_epoch, float(metrics))
            self._apply()
        elif self.last_epoch >= 0:  # else torch's own, in the constructor
            past, moves = self.last_epoch == self.spec.total, self.watch.moves(self)
            self.last_epoch += moves and not past
            self._apply()
            self.watch.warn(past and moves)

    def get_last_lr(self) -> list[float | Tensor]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return self.spec.state(self.last_epoch) | {"observed": self.controller.observed.copy()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.last_epoch = self.spec.resume(state_dict)
        self.controller = self.spec.schedule.controller(self.spec.total, self.spec.mode)
        for update, metric in state_dict["observed"]:
            self.controller.observe(update, metric)
        self._apply()

    def _apply(self) -> None:
        rate = float(self.controller.rates[min(self.last_epoch, self.spec.total - 1)])
        for group in self.optimizer.param_groups:
            left = 1 - min(self.last_epoch, self.spec.total - 1) / self.spec.total
            _set_lr(group, rate * _cooled(group.get("cooldown", 0.0), left) * group["lr_ratio"])
        self.__dict__.update(asdict(self.controller.state))


def _cooled(cooldown: float, left: float) -> float:
    """What the rate of a group is multiplied by in its cooldown, where this share is left."""
    return min(1.0, left / cooldown) if cooldown else 1.0


def _made(mixin: type[_OpenLoop] | type[_ClosedLoop], watch: _Watch, optimizer: Optimizer) -> Any:
    spec = watch.spec
    ratios = _take_groups(optimizer, spec.schedule.peak_lr)
    if mixin is _OpenLoop:
        table = (spec.schedule.rates(spec.total) / spec.schedule.peak_lr).tolist()
        cooldowns = [group.get("cooldown", 0.0) for group in optimizer.param_groups]
        own = [
            lambda update, c=c: table[update] * _cooled(c, 1 - update / spec.total)
            for c in cooldowns
        ]
        native = None if any(cooldowns) else _native(spec, optimizer, ratios)
        base, arguments = native or (LambdaLR, {"lr_lambda": own})
    else:
        base = getattr(lr_scheduler, FAMILIES[spec.schedule.family].torch)
        params = _per_group(spec.schedule.resolve(spec.total), ratios) | {"mode": spec.mode}
        taken = inspect.signature(base).parameters
        arguments = {name: value for name, value in params.items() if name in taken}
    return type(f"Lrtune{base.__name__}", (mixin, base), {})(watch, optimizer, **arguments)


def _native(
    spec: SchedulerSpec, optimizer: Optimizer, ratios: list[float]
) -> tuple[type[LRScheduler], dict[str, Any]] | None:
    """Torch's class and its arguments; None where it lacks the family or cannot take them."""
    row = FAMILIES[spec.schedule.family]
    params = spec.schedule.resolve(spec.total)
    warmup = params.pop("warmup_steps")
    del params["peak_lr"]
    # eta_min is one absolute rate for all groups: it would bend the ratios between them.
    one_floor = params.get("eta_min", 0) > 0 and set(ratios) != {1.0}
    if row.torch == "LambdaLR" or not row.native(params) or one_floor:
        return None
    base = getattr(lr_scheduler, row.torch)
    arguments = _per_group(params, ratios)
    if not warmup:
        return base, arguments
    start = spec.schedule.warmup_start
    rise = LinearLR(optimizer, start_factor=start, total_iters=warmup)
    parts = [rise, base(optimizer, **arguments)]
    return SequentialLR, {"schedulers": parts, "milestones": [warmup]}


def _per_group(params: dict[str, Any], ratios: list[float]) -> dict[str, Any]:
    return {
        name: [value * ratio for ratio in ratios] if name in PER_GROUP else value
        for name, value in params.items()
    }


def _take_groups(optimizer: Optimizer, peak: float) -> list[float]:
    """Set every group to its share of the peak; the shares."""
    default = float(optimizer.defaults["lr"])
    if default <= 0:
        raise InputError(
            f"optimizer: lr={default}: expected a number above 0, to which the lr of each "
            "parameter group is a ratio (the schedule's peak_lr replaces it)"
        )
    for group in optimizer.param_groups:
        # An earlier scheduler has moved lr and left what it was in initial_lr.
        own = float(group.pop("initial_lr", group["lr"]))
        _set_lr(group, peak * group.setdefault("lr_ratio", own / default))
    return [group["lr_ratio"] for group in optimizer.param_groups]


def _set_lr(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):  # captured graphs hold the tensor itself
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _updates(optimizer: Optimizer) -> bool:
    """Whether its step changes the weights: a fused one is stepped, and skips by itself."""
    # The scaler's tensor, on the device: to look at it waits for the step, and cannot be captured.
    return not (_capturing() or getattr(optimizer, "found_inf", False))


def _capturing() -> bool:
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning of a step before the first optimizer.step(), where that is known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
