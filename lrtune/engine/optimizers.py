"""Torch's optimizers by name, and the same update rules on the stacked weights of many trials."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrtune.engine.pool import NO_SETTINGS, SMOOTHING
from lrtune.errors import InputError, nearest
from lrtune.tasks import Task
from lrtune.tasks.splits import leaves, tree_map

# What the schedule, the task and the engine decide.
OURS = {"params", "lr", "maximize", "foreach", "fused", "capturable", "differentiable"}

ALIGNED = 16  # numbers: kernels take weights that begin anywhere, but more slowly

Tensors = dict[str, Tensor]
Columns = list[Tensor]  # (K, 1) each
Settings = Mapping[str, Any]  # a parameter group of torch's


class Unfit(Exception):
    """Why a task is not for the fused pool."""


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """One row: torch's class, and what it is given unless told otherwise.

    ``cycled`` is the setting that a momentum cycle moves, None where there is none; ``captured``
    what a CUDA graph of it needs on CUDA, None where there can be none.
    """

    make: Callable[..., torch.optim.Optimizer]
    settings: Mapping[str, object] = field(default_factory=dict)
    cycled: str | None = "momentum"
    captured: Mapping[str, bool] | None = field(default_factory=lambda: {"capturable": True})


# The learning rate is the schedule's and never set here.
OPTIMIZERS: dict[str, OptimizerSpec] = {
    "sgd": OptimizerSpec(torch.optim.SGD, {"momentum": 0.9}, captured={}),
    "nesterov": OptimizerSpec(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, captured={}),
    "adam": OptimizerSpec(torch.optim.Adam, cycled="betas"),
    "adamw": OptimizerSpec(torch.optim.AdamW, cycled="betas"),
    "rmsprop": OptimizerSpec(torch.optim.RMSprop),
    "adagrad": OptimizerSpec(torch.optim.Adagrad, cycled=None, captured=None),
}


def settings_of(name: str, given: Mapping[str, object]) -> dict[str, Any]:
    """Every setting, torch's own defaults too, for torch's constructor and for the record.

    Raises:
        InputError: unknown optimizer or setting, or a value that torch refuses.
    """
    if name not in OPTIMIZERS:
        raise InputError(
            f"optimizer {name!r}: one of {', '.join(OPTIMIZERS)}{nearest(name, OPTIMIZERS)}"
        )
    spec = OPTIMIZERS[name]
    if "lr" in given:
        raise InputError(f"optimizer {name}: lr is the schedule's: see peak_lr")
    known = {
        setting: parameter.default
        for setting, parameter in inspect.signature(spec.make).parameters.items()
        if setting not in OURS
    }
    for setting, value in given.items():
        if setting not in known:
            raise InputError(f"optimizer {name} has no {setting!r}{nearest(str(setting), known)}")
        if not _is_like(value, known[setting]):
            raise InputError(
                f"optimizer {name}: {setting}={value!r}: expected the like of {known[setting]!r}"
            )
    settings = {**known, **spec.settings, **given}
    try:
        spec.make([nn.Parameter(torch.zeros(1))], lr=0.1, **settings)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"optimizer {name}: {error}") from error
    return settings


@cache
def fast_form(make: Callable[..., torch.optim.Optimizer], device: torch.device) -> Settings:
    """How it is made to update quickly: fused, where this torch has that for the device."""
    weight = nn.Parameter(torch.zeros(1, device=device))
    weight.grad = torch.zeros_like(weight)
    try:
        make([weight], lr=0.0, fused=True).step()
    except (TypeError, RuntimeError):  # RMSprop has no such setting, Adagrad no such kernel on CUDA
        return {"foreach": True}
    return {"fused": True}


def _is_like(value: object, default: object) -> bool:
    """Whether a setting has the type and the length of torch's own default, and is finite."""
    if isinstance(default, tuple):
        if not isinstance(value, tuple) or len(value) != len(default):
            return False
        return all(_is_like(v, d) for v, d in zip(value, default, strict=True))
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 1e6


def check_momentum(name: str) -> None:
    """Refuse an optimizer that has no momentum to cycle."""
    if OPTIMIZERS[name].cycled is None:
        others = ", ".join(other for other, spec in OPTIMIZERS.items() if spec.cycled)
        raise InputError(
            f"optimizer {name} has no momentum to cycle: take one of {others}, or do without "
            "cycle_momentum (of a schedule: without base_momentum and max_momentum)"
        )


def momentum_of(settings: Settings) -> Any:
    """What a momentum cycle would move in a group that has it: momentum, or Adam's beta1."""
    return settings["betas"][0] if "betas" in settings else settings["momentum"]


def set_momentum(group: dict[str, Any], value: float) -> None:
    """As torch's OneCycleLR and CyclicLR set it."""
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    else:
        group["momentum"] = value


def capture_settings(task: Task, device: torch.device) -> dict[str, Any] | None:
    """What an optimizer is made with to be captured in a CUDA graph, and zeroed as a fresh one.

    None where it cannot be: SGD with dampening makes its first update by another rule.
    """
    captured = OPTIMIZERS[task.optimizer].captured
    if captured is None or task.settings.get("dampening"):
        return None
    kind = torch.float64 if device.type == "cpu" else torch.float32  # all that CUDA's kernels read
    rate = {"lr": torch.zeros((), dtype=kind, device=device)}
    return rate | (dict(captured) if device.type == "cuda" else {})


def make_optimizer(
    task: Task,
    model: nn.Module,
    captured: Mapping[str, Any] | None = None,
    tuned: Settings = NO_SETTINGS,
) -> torch.optim.Optimizer:
    """The optimizer of one model, the rate of each group to be set before each update.

    Every group has its ``lr_ratio``: what the schedule's rate is multiplied by there.

    Args:
        task: with the optimizer and its groups.
        model: one of the task's.
        captured: see ``capture_settings``; the rate of each group is then a tensor of its own.
        tuned: settings in place of the task's own, see ``Pool.start``.

    Raises:
        InputError: the task's groups are none.
    """
    spec = OPTIMIZERS[task.optimizer]
    own = {name: value for name, value in tuned.items() if name != SMOOTHING}
    settings = settings_of(task.optimizer, {**task.settings, **own})
    try:
        form = fast_form(spec.make, next(model.parameters()).device)
        given = {"lr": 0.0, **settings, **form, **(captured or {})}
        optimizer = spec.make(_groups(task, model), **given)
        for group in optimizer.param_groups:
            group["lr"] = deepcopy(group["lr"])
        return optimizer
    except InputError:
        raise
    except Exception as error:  # whatever the user's function may raise, or torch of its groups
        reason = " ".join(str(error).split())
        raise InputError(f"{task.name}: groups: {type(error).__name__}: {reason}") from error


def _groups(task: Task, model: nn.Module) -> list[dict[str, Any]]:
    if task.groups is None:
        free = [p for p in model.parameters() if p.requires_grad]
        return [{"params": free, "lr_ratio": 1.0}]
    groups = [{"lr_ratio": 1.0, **group} for group in task.groups(model)]
    for group in groups:
        if "lr" in group:
            raise InputError(f"{task.name}: groups: lr is the schedule's: give lr_ratio")
        ratio = group["lr_ratio"]
        if not isinstance(ratio, int | float) or not 0 <= ratio < math.inf:
            raise InputError(f"{task.name}: groups: lr_ratio={ratio!r}: a finite number from 0")
        settings = {name: v for name, v in group.items() if name not in ("params", "lr_ratio")}
        settings_of(task.optimizer, settings)
    return groups


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters with the same settings: one matrix (K, N) holds all their numbers, row by row.

    Attributes:
        settings: of torch's parameter group.
        initial: what each tensor of the optimizer's state begins with, by torch's names.
        shapes: of each parameter by name, in the order in which they lie in a row.
        place: of a parameter group of torch's that is so.
        differ: names of the settings in which rows differ.
    """

    settings: Settings
    initial: dict[str, float]
    shapes: dict[str, torch.Size]
    place: int = 0
    differ: tuple[str, ...] = ()

    @property
    def apart(self) -> list["Group"]:
        """Each parameter as a group of its own."""
        return [replace(self, shapes={name: shape}) for name, shape in self.shapes.items()]

    @property
    def own_leaves(self) -> list[float]:
        """The numbers in which rows differ, as the settings have them."""
        return list(leaves([self.settings[name] for name in self.differ]))

    def with_own(self, numbers: Sequence[Tensor]) -> Settings:
        """The settings with those numbers in their place."""
        left = iter(numbers)
        own = [tree_map(lambda _: next(left), self.settings[name]) for name in self.differ]
        return {**self.settings, **dict(zip(self.differ, own, strict=True))}

    def width(self, kind: str) -> int:
        """N of a kind of state, by torch's name."""
        return sum(self._widths(kind))

    def columns(self, matrix: Tensor, kind: str = "") -> list[Tensor]:
        """The parts (K, n) of a matrix (K, N), each parameter's, without a copy."""
        return list(matrix.split(self._widths(kind), dim=1))[: len(self.shapes)]

    def views(self, matrix: Tensor, kind: str = "") -> Tensors:
        """The same by name as parameters (K, ...)."""
        named = zip(self.shapes.items(), self.columns(matrix, kind), strict=True)
        return {
            name: part.view(len(part), *([] if kind == "step" else shape))
            for (name, shape), part in named
        }

    def matrix(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Parameters (K, ...) by name as a matrix (K, N)."""
        parts = [tensors[name].flatten(1) for name in self.shapes]
        if len(parts) == 1:
            return parts[0]
        parts += [
            parts[0].new_zeros(len(parts[0]), rest) for rest in self._widths("")[len(parts) :]
        ]
        return torch.cat(parts, dim=1)

    def _widths(self, kind: str) -> list[int]:
        """Of each parameter; and of what several have at the end, for each row to be aligned."""
        if kind == "step":  # which torch counts in one number
            return [1] * len(self.shapes)
        widths = [shape.numel() for shape in self.shapes.values()]
        rest = -sum(widths) % ALIGNED
        return [*widths, rest] if rest and len(widths) > 1 else widths


class StackedOptimizer:
    """One of OPTIMIZERS on stacked weights, in which each row is a trial with its own rate.

    The rules are those of ``torch.optim``, with a column (K, 1) where torch has a number, so that
    one step of a group is a few operations however many rows and parameters there are.

    Attributes:
        groups: the parameters that are trained.
        dtype: of all that is trained.
    """

    def __init__(
        self, task: Task, model: nn.Module, reached: set[str], differ: Collection[str] = ()
    ) -> None:
        """Look at the parameters of a model.

        Args:
            task: with the optimizer and its groups.
            model: one of the task's.
            reached: names of the parameters that the loss depends on; the others stay as they are,
                as torch's optimizers leave what has no gradient.
            differ: names of settings in which rows differ, but where a group has one of its own.

        Raises:
            Unfit: the model or the optimizer is not for many trials at once.
        """
        make = OPTIMIZERS[task.optimizer].make
        self._rule = RULES[make]
        self._has_momentum = OPTIMIZERS[task.optimizer].cycled is not None
        self.groups: list[Group] = []
        names = {parameter: name for name, parameter in model.named_parameters()}
        trained: dict[str, nn.Parameter] = {}
        self._make = partial(make_optimizer, task, model)
        others = self._make(tuned=_other_values(task, differ)).param_groups
        for number, group in enumerate(self._make().param_groups):
            settings = {name: value for name, value in group.items() if name != "params"}
            moved = tuple(name for name, v in settings.items() if others[number][name] != v)
            if settings.get("dampening"):
                raise Unfit("with dampening, SGD's first update is of another kind than the rest")
            if any(parameter not in names for parameter in group["params"]):
                raise Unfit(f"group {number} of groups holds what is no parameter of the model")
            own = {names[p]: p for p in group["params"] if names[p] in reached}
            alike = (g for g in self.groups if (g.settings, g.differ) == (settings, moved))
            like = next(alike, None)
            if like is None and own:
                like = Group(settings, _initial_state(make, settings), {}, number, moved)
                self.groups.append(like)
            if like is not None:
                like.shapes.update({name: parameter.shape for name, parameter in own.items()})
            trained |= own
        for alike in self.groups:  # small ones last, lest they put the others out of line
            shapes = sorted(alike.shapes.items(), key=lambda item: item[1].numel() % ALIGNED != 0)
            alike.shapes.clear()
            alike.shapes.update(shapes)
        others = sorted(reached - trained.keys())
        if others and task.clip_norm is not None:
            raise Unfit(
                f"the clipped norm is of all gradients, but {others[0]} is in none of the groups"
            )
        kinds = {parameter.dtype for parameter in trained.values()}
        types = sorted(str(kind).removeprefix("torch.") for kind in kinds)
        if len(types) != 1:
            raise Unfit(f"its parameters are of several types: {', '.join(types)}")
        if types[0] not in ("float32", "float64"):
            raise Unfit(f"its parameters are {types[0]}: only float32 and float64 can be")
        self.dtype = kinds.pop()

    def add_momentum(self, weights: list[Tensor], states: list[Tensors]) -> bool:
        """Make room for momenta that are cycled where the optimizer has none; whether it was."""
        added = False
        for group, matrix, state in zip(self.groups, weights, states, strict=True):
            if "momentum" in group.settings and "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
                group.initial["momentum_buffer"] = 0.0
                added = True
        return added

    def numbers(self, settings: Settings) -> list[float]:
        """What a row is given that is trained with these settings, see ``columns``."""
        made = self._make(tuned=settings).param_groups
        return list(leaves([[made[g.place][name] for name in g.differ] for g in self.groups]))

    @property
    def count(self) -> int:
        """Of such numbers."""
        return sum(len(group.own_leaves) for group in self.groups)

    def columns(
        self,
        states: list[Tensors],
        rates: Tensor,
        momenta: Tensor,
        numbers: Sequence[Tensor] = (),
    ) -> list[Columns]:
        """Count a step, and compute for each group what its rule takes of numbers per row.

        These are operations on K numbers. They come before the step, since a compiler would do
        them again for every weight.

        Args:
            states: of each group by torch's names (K, N), and step (K, parameters).
            rates: float64 (K,).
            momenta: float64 (K,), NaN where it is the settings' own.
            numbers: float64 (K,) of the settings in which rows differ; those behind them are left.
        """
        found: list[Columns] = []
        left = iter(numbers)
        for group, state in zip(self.groups, states, strict=True):
            own = [next(left) for _ in group.own_leaves]
            s, steps = group.with_own(own), rates
            if "step" in state:
                steps = state["step"].add_(1)[:, 0].double()
            scaled = rates * s["lr_ratio"]
            moved = momenta
            if self._has_momentum:
                moved = torch.where(momenta.isnan(), momentum_of(s), momenta)
            columns = [*self._rule.columns(s, steps, scaled, moved), *own]
            found.append([n.to(self.dtype)[:, None] for n in columns])
        return found

    def step(
        self,
        groups: list[Group],
        weights: list[Tensor],
        gradients: list[Tensor],
        states: list[Tensors],
        columns: list[Columns],
    ) -> None:
        """One update of every row, in place.

        Args:
            groups: of the parameters, or each apart.
            weights: (K, N) of each group.
            gradients: (K, N) of each group.
            states: of each group by torch's names (K, N).
            columns: of each group, see there.
        """
        each = zip(groups, weights, gradients, states, columns, strict=True)
        for group, ours, slopes, state, numbers in each:
            first = len(numbers) - len(group.own_leaves)
            s = group.with_own(numbers[first:])
            self._rule.step(ours, slopes, state, s, *numbers[:first])


def _other_values(task: Task, names: Collection[str]) -> dict[str, Any]:
    """Of some settings, values that torch takes too."""
    own = settings_of(task.optimizer, task.settings) if names else {}
    return {n: tree_map(lambda v: v / 2 if v else 0.5, own[n]) for n in names if n in own}


def _initial_state(make: Callable[..., Any], settings: Settings) -> dict[str, float]:
    """What each tensor of the optimizer's state holds before the first update."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    names = _settings_of(make)
    optimizer = make([weight], lr=1.0, **{n: v for n, v in settings.items() if n in names})
    weight.grad = torch.zeros_like(weight)
    optimizer.step()  # with no gradient and no weight to decay, it leaves what it began with
    state = {name: v for name, v in optimizer.state[weight].items() if isinstance(v, Tensor)}
    return {name: 0.0 if name == "step" else float(value) for name, value in state.items()}


def column(numbers: Tensor, like: Tensor) -> Tensor:
    """A number per row (K,), to go with (K, ...)."""
    return numbers.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)


def _settings_of(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters) - OURS


def _with_decay(gradients: Tensor, weights: Tensor, s: Settings) -> Tensor:
    decay = s["weight_decay"]
    if isinstance(decay, Tensor):
        return gradients.addcmul(weights, decay)
    return gradients.add(weights, alpha=decay) if decay else gradients


def _averaged(square: Tensor, values: Tensor, kept: Tensor | float) -> Tensor:
    """A mean square after another one; of ``kept``, what it keeps, a number or a column."""
    if isinstance(kept, Tensor):
        return square.mul_(kept).addcmul_(values, values * (1 - kept))
    return square.mul_(kept).addcmul_(values, values, value=1 - kept)


def _plain(s: Settings, steps: Tensor, rates: Tensor, momenta: Tensor) -> list[Tensor]:
    return [rates, momenta]


def _sgd(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, rates: Tensor, momenta: Tensor
) -> None:
    gradients = _with_decay(gradients, weights, s)
    if "momentum_buffer" in state:
        buffer = state["momentum_buffer"].mul_(momenta).add_(gradients)
        gradients = gradients.addcmul(buffer, momenta) if s["nesterov"] else buffer
    weights.addcmul_(gradients, rates, value=-1)


def _adam_columns(s: Settings, steps: Tensor, rates: Tensor, momenta: Tensor) -> list[Tensor]:
    # Torch divides the root of the squares by this before it adds eps: one pass more.
    root = (1 - s["betas"][1] ** steps).sqrt()
    sizes = rates * root / (1 - momenta**steps)
    return [sizes, 1 - momenta, s["eps"] * root, 1 - rates * s["weight_decay"]]


def _adam(
    weights: Tensor,
    gradients: Tensor,
    state: Tensors,
    s: Settings,
    sizes: Tensor,
    shares: Tensor,
    eps: Tensor,
    kept: Tensor,
) -> None:
    if not s["decoupled_weight_decay"]:
        gradients = _with_decay(gradients, weights, s)
    elif isinstance(s["weight_decay"], Tensor) or s["weight_decay"]:
        weights.mul_(kept)
    mean = state["exp_avg"].lerp_(gradients, shares)
    square = _averaged(state["exp_avg_sq"], gradients, s["betas"][1])
    if s["amsgrad"]:
        square = state["max_exp_avg_sq"].copy_(torch.maximum(state["max_exp_avg_sq"], square))
    weights.addcmul_(mean / square.sqrt().add_(eps), sizes, value=-1)


def _rmsprop(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, rates: Tensor, momenta: Tensor
) -> None:
    gradients = _with_decay(gradients, weights, s)
    alpha = s["alpha"]
    square = _averaged(state["square_avg"], gradients, alpha)
    if s["centered"]:
        mean = state["grad_avg"].lerp_(gradients, 1 - alpha)
        square = square.addcmul(mean, mean, value=-1)
    moved = gradients / square.sqrt().add_(s["eps"])
    if "momentum_buffer" in state:
        moved = state["momentum_buffer"].mul_(momenta).add_(moved)
    weights.addcmul_(moved, rates, value=-1)


def _adagrad_columns(s: Settings, steps: Tensor, rates: Tensor, momenta: Tensor) -> list[Tensor]:
    return [rates / (1 + (steps - 1) * s["lr_decay"])]


def _adagrad(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, rates: Tensor
) -> None:
    gradients = _with_decay(gradients, weights, s)
    square = state["sum"].addcmul_(gradients, gradients)
    weights.addcmul_(gradients / square.sqrt().add_(s["eps"]), rates, value=-1)


class Rule(NamedTuple):
    """Of one optimizer: what it takes of each row, of settings and float64 (K,), and a step."""

    columns: Callable[[Settings, Tensor, Tensor, Tensor], list[Tensor]]
    step: Callable[..., None]


_ADAM = Rule(_adam_columns, _adam)
RULES: dict[Any, Rule] = {
    torch.optim.SGD: Rule(_plain, _sgd),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.RMSprop: Rule(_plain, _rmsprop),
    torch.optim.Adagrad: Rule(_adagrad_columns, _adagrad),
}
