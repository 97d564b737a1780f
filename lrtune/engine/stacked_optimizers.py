"""StackedOptimizer: torch's update rules on the stacked weights of many trials."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lrtune.engine.optimizers import (
    DECAY_BY,
    DECAYS,
    OURS,
    Settings,
    cooled,
    has_momentum,
    make_optimizer,
    momentum_of,
    named_settings,
)
from lrtune.tasks import Task
from lrtune.tasks.groups import COOLDOWN
from lrtune.tasks.splits import leaves, tree_map

ALIGNED = 16  # numbers: kernels take weights that begin anywhere, but more slowly
SINGLE = ("step", "mu_product")  # kinds of state that are one number of a parameter

Tensors = dict[str, Tensor]
Columns = list[Tensor]  # (K, 1) each


class Unfit(Exception):
    """Why a task is not for the fused pool."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One of torch's optimizers, for many rows at once."""

    # What it takes of each row: of settings, state, step, rates and momenta, all but the
    # settings tensors, float64 (K,) and state (K, n), to float64 (K,) each.
    columns: Callable[[Settings, Tensors, Tensor, Tensor, Tensor], list[Tensor]]
    # One update, in place, of weights, gradients, state, settings and columns.
    step: Callable[..., None]
    # What kinds of state begin with that do not keep it in an update without gradient.
    initial: Mapping[str, float] = field(default_factory=dict)
    by_shape: bool = False  # whether it treats a parameter as a matrix, not number by number


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters with the same settings: one matrix (K, N) holds all their numbers, row by row."""

    rule: Rule  # of their optimizer
    settings: Settings  # of torch's parameter group; ``shape`` too where the rule is by shape
    # What each tensor of the optimizer's state begins with, by torch's names.
    initial: dict[str, float]
    # Of each parameter by name, in the order in which they lie in a row.
    shapes: dict[str, torch.Size]
    place: int = 0  # of a parameter group of torch's that is so
    differ: tuple[str, ...] = ()  # names of the settings in which rows differ

    @property
    def apart(self) -> list["Group"]:
        """Each parameter as a group of its own."""
        return [replace(self, shapes={name: shape}) for name, shape in self.shapes.items()]

    @property
    def own(self) -> list[Any]:
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
            name: part.view(len(part), *([] if kind in SINGLE else shape))
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
        if kind in SINGLE:
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
        self.groups: list[Group] = []
        names = {parameter: name for name, parameter in model.named_parameters()}
        trained: dict[str, nn.Parameter] = {}
        if not isinstance(task.optimizer, str):
            raise Unfit("the optimizer is your own: one training at a time")
        self._make = partial(make_optimizer, task, model)
        optimizer = self._make()
        changed = enumerate(self._make(tuned=_other_values(task, differ)).param_groups)
        for part in getattr(optimizer, "parts", [optimizer]):
            rule = RULES.get(type(part))
            if rule is None:
                raise Unfit(f"optimizer {task.optimizer} takes one training at a time")
            for number, group in enumerate(part.param_groups):
                if any(parameter not in names for parameter in group["params"]):
                    raise Unfit(f"group {number} of groups holds what is no parameter of the model")
                own = {names[p]: p for p in group["params"] if names[p] in reached}
                settings = {name: value for name, value in group.items() if name != "params"}
                place, other = next(changed)
                moved = tuple(name for name, value in settings.items() if other[name] != value)
                for name, parameter in own.items():
                    self._add(type(part), settings, place, moved, name, parameter.shape)
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

    def _add(
        self,
        kind: Any,
        settings: Settings,
        place: int,
        differ: tuple[str, ...],
        name: str,
        shape: torch.Size,
    ) -> None:
        """Put a parameter in the group of those like it."""
        if settings.get("dampening"):
            raise Unfit("with dampening, SGD's first update is of another kind than the rest")
        rule = RULES[kind]
        if rule.by_shape:
            settings = {**settings, "shape": shape}
        for known in self.groups:
            apart = differ and known.place != place  # rows take their numbers from one place
            if not apart and (known.settings, known.differ) == (settings, differ):
                known.shapes[name] = shape
                return
        initial = _initial_state(kind, settings)
        self.groups.append(Group(rule, settings, initial, {name: shape}, place, differ))

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
        own: list[Any] = [made[g.place][name] for g in self.groups for name in g.differ]
        return [1.0] * self.cools + [float(number) for number in leaves(own)]

    @property
    def cools(self) -> bool:
        """Whether groups have cooldowns of their own: then the share of the run left is first."""
        groups = self.groups
        return any(g.settings.get(COOLDOWN) or COOLDOWN in g.differ for g in groups)

    @property
    def count(self) -> int:
        """Of such numbers."""
        return self.cools + sum(len(group.own) for group in self.groups)

    def columns(
        self,
        states: list[Tensors],
        rates: Tensor,
        momenta: Tensor,
        peaks: Tensor,
        numbers: Sequence[Tensor] = (),
    ) -> list[Columns]:
        """Count a step, and compute for each group what its rule takes of numbers per row.

        These are operations on K numbers. They come before the step, since a compiler would do
        them again for every weight.

        Args:
            states: of each group by torch's names (K, N), and step (K, parameters).
            rates: float64 (K,).
            momenta: float64 (K,), NaN where it is the settings' own.
            peaks: float64 (K,): the highest rate of each row.
            numbers: float64 (K,) of the settings in which rows differ; those behind them are left.
        """
        found: list[Columns] = []
        given = iter(numbers)
        left = next(given) if self.cools else None
        for group, state in zip(self.groups, states, strict=True):
            own = [next(given) for _ in group.own]
            s = group.with_own(own)
            mine = rates if left is None else rates * cooled(s.get(COOLDOWN, 0.0), left)
            steps = mine
            if (by := s.get(DECAY_BY)) is not None:
                factor = DECAYS[by](*(n.clamp(min=1e-300) for n in (mine, peaks)))  # 0: idle rows
                s = {**s, "weight_decay": s["weight_decay"] * factor}
            if "step" in state:
                steps = state["step"].add_(1)[:, 0].double()
            ratio, moved = s["lr_ratio"], momenta
            scaled = mine * ratio if isinstance(ratio, Tensor) or ratio != 1 else mine
            if has_momentum(s):
                kept = momentum_of(s)
                one = isinstance(kept, int | float)
                moved = momenta.nan_to_num(kept) if one else kept.where(momenta.isnan(), momenta)
            columns = [*group.rule.columns(s, state, steps, scaled, moved), *own]
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
            first = len(numbers) - len(group.own)
            s = group.with_own(numbers[first:])
            group.rule.step(ours, slopes, state, s, *numbers[:first])


def _other_values(task: Task, names: Collection[str]) -> dict[str, Any]:
    """Of some settings, values that torch takes too."""
    own = named_settings(task) if names else {}

    def other(value: Any) -> Any:
        return value / 2 if value else 0.5

    return {name: tree_map(other, own[name]) for name in names if name in own}


def _initial_state(kind: Any, settings: Settings) -> dict[str, float]:
    """What each tensor of the optimizer's state holds before the first update."""
    weight = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))
    names = set(inspect.signature(kind).parameters) - OURS
    optimizer = kind([weight], lr=1.0, **{n: v for n, v in settings.items() if n in names})
    weight.grad = torch.zeros_like(weight)
    optimizer.step()  # with no gradient and no weight to decay, it leaves what it began with
    state = {name: v for name, v in optimizer.state[weight].items() if isinstance(v, Tensor)}
    initial = {"step": 0.0, **RULES[kind].initial}
    return {name: initial.get(name, value.item()) for name, value in state.items()}


def column(numbers: Tensor, like: Tensor) -> Tensor:
    """A number per row (K,), to go with (K, ...)."""
    return numbers.view(-1, *[1] * (like.dim() - 1)).to(like.dtype)


def _plain(
    s: Settings, state: Tensors, steps: Tensor, rates: Tensor, momenta: Tensor
) -> list[Tensor]:
    return [rates, momenta]


def _sgd(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, rates: Tensor, momenta: Tensor
) -> None:
    gradients = _with_decay(gradients, weights, s)
    if "momentum_buffer" in state:
        buffer = state["momentum_buffer"].mul_(momenta).add_(gradients)
        gradients = gradients.addcmul(buffer, momenta) if s["nesterov"] else buffer
    weights.addcmul_(gradients, rates, value=-1)


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


def _adam_columns(
    s: Settings, state: Tensors, steps: Tensor, rates: Tensor, momenta: Tensor
) -> list[Tensor]:
    # Torch divides the root of the squares by this before it adds eps: one pass more.
    root = (1 - s["betas"][1] ** steps).sqrt()
    sizes = rates * root / (1 - momenta**steps)
    return [1 - momenta, 1 - rates * s["weight_decay"], sizes, s["eps"] * root]


def _moments(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, shares: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient with weight decay, or the weights decayed; its mean and its mean square."""
    if not s["decoupled_weight_decay"]:
        gradients = _with_decay(gradients, weights, s)
    elif isinstance(s["weight_decay"], Tensor) or s["weight_decay"]:
        weights.mul_(kept)
    mean = state["exp_avg"].lerp_(gradients, shares)
    square = _averaged(state["exp_avg_sq"], gradients, s["betas"][1])
    return gradients, mean, square


def _adam(
    weights: Tensor,
    gradients: Tensor,
    state: Tensors,
    s: Settings,
    shares: Tensor,
    kept: Tensor,
    sizes: Tensor,
    eps: Tensor,
) -> None:
    _, mean, square = _moments(weights, gradients, state, s, shares, kept)
    if s["amsgrad"]:
        square = state["max_exp_avg_sq"].copy_(torch.maximum(state["max_exp_avg_sq"], square))
    weights.addcmul_(mean / square.sqrt().add_(eps), sizes, value=-1)


def _nadam_columns(
    s: Settings, state: Tensors, steps: Tensor, rates: Tensor, momenta: Tensor
) -> list[Tensor]:
    shares, kept, _, eps = _adam_columns(s, state, steps, rates, momenta)
    mu, after = (
        momenta * (1 - 0.5 * 0.96 ** (t * s["momentum_decay"])) for t in (steps, steps + 1)
    )
    product = state["mu_product"].mul_(mu[:, None])[:, 0].double()
    scaled = rates * (1 - s["betas"][1] ** steps).sqrt()
    of_gradient, of_mean = scaled * (1 - mu) / (1 - product), scaled * after / (1 - product * after)
    return [shares, kept, of_gradient, of_mean, eps]


def _nadam(
    weights: Tensor,
    gradients: Tensor,
    state: Tensors,
    s: Settings,
    shares: Tensor,
    kept: Tensor,
    of_gradient: Tensor,
    of_mean: Tensor,
    eps: Tensor,
) -> None:
    gradients, mean, square = _moments(weights, gradients, state, s, shares, kept)
    moved = (gradients * of_gradient).addcmul_(mean, of_mean)
    weights.sub_(moved / square.sqrt().add_(eps))


def _radam_columns(
    s: Settings, state: Tensors, steps: Tensor, rates: Tensor, momenta: Tensor
) -> list[Tensor]:
    beta2 = s["betas"][1]
    most = 2 / (1 - beta2) - 1
    left = 1 - beta2**steps
    length = most - 2 * steps * beta2**steps / left
    known = length > 5  # whether the variance is
    rectified = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
    sizes = rates / (1 - momenta**steps) * torch.where(known, (rectified * left).sqrt(), 1.0)
    return [1 - momenta, 1 - rates * s["weight_decay"], sizes, known.double()]


def _radam(
    weights: Tensor,
    gradients: Tensor,
    state: Tensors,
    s: Settings,
    shares: Tensor,
    kept: Tensor,
    sizes: Tensor,
    known: Tensor,
) -> None:
    _, mean, square = _moments(weights, gradients, state, s, shares, kept)
    spread = torch.where(known > 0, square.sqrt().add_(s["eps"]), 1.0)
    weights.addcmul_(mean / spread, sizes, value=-1)


def _adamax_columns(
    s: Settings, state: Tensors, steps: Tensor, rates: Tensor, momenta: Tensor
) -> list[Tensor]:
    return [rates / (1 - momenta**steps), 1 - momenta]


def _adamax(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, sizes: Tensor, shares: Tensor
) -> None:
    gradients = _with_decay(gradients, weights, s)
    mean, most = state["exp_avg"].lerp_(gradients, shares), state["exp_inf"].mul_(s["betas"][1])
    most.copy_(torch.maximum(most, gradients.abs().add_(s["eps"])))
    weights.addcmul_(mean / most, sizes, value=-1)


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


def _adagrad_columns(
    s: Settings, state: Tensors, steps: Tensor, rates: Tensor, momenta: Tensor
) -> list[Tensor]:
    return [rates / (1 + (steps - 1) * s["lr_decay"])]


def _adagrad(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, rates: Tensor
) -> None:
    gradients = _with_decay(gradients, weights, s)
    square = state["sum"].addcmul_(gradients, gradients)
    weights.addcmul_(gradients / square.sqrt().add_(s["eps"]), rates, value=-1)


def _adadelta(
    weights: Tensor, gradients: Tensor, state: Tensors, s: Settings, rates: Tensor, _: Tensor
) -> None:
    gradients, rho, eps = _with_decay(gradients, weights, s), s["rho"], s["eps"]
    square = _averaged(state["square_avg"], gradients, rho)
    moved = state["acc_delta"].add(eps).sqrt_().div_(square.add(eps).sqrt_()).mul_(gradients)
    _averaged(state["acc_delta"], moved, rho)
    weights.addcmul_(moved, rates, value=-1)


# By adjust_lr_fn, what the rate of a matrix (height, width) is multiplied by.
ADJUSTED: dict[str | None, Callable[[int, int], float]] = {
    None: lambda height, width: math.sqrt(max(1, height / width)),
    "original": lambda height, width: math.sqrt(max(1, height / width)),
    "match_rms_adamw": lambda height, width: 0.2 * math.sqrt(max(height, width)),
    "spectral_unclamped": lambda height, width: math.sqrt(height / width),
}


def _muon_columns(
    s: Settings, state: Tensors, steps: Tensor, rates: Tensor, momenta: Tensor
) -> list[Tensor]:
    return [rates, momenta, 1 - rates * s["weight_decay"]]


def _muon(
    weights: Tensor,
    gradients: Tensor,
    state: Tensors,
    s: Settings,
    rates: Tensor,
    momenta: Tensor,
    kept: Tensor,
) -> None:
    height, width = s["shape"]
    buffer = state["momentum_buffer"].lerp_(gradients, 1 - momenta)
    moved = gradients.lerp(buffer, momenta) if s["nesterov"] else buffer
    numbers = moved.shape[1] // (height * width) * height * width  # the rest is for alignment
    matrices = moved[:, :numbers].reshape(-1, height, width)
    moved = _orthogonal(matrices, s).reshape(-1, numbers).to(weights.dtype)
    weights.mul_(kept)
    sizes = rates * ADJUSTED[s["adjust_lr_fn"]](height, width)
    weights[:, :numbers].addcmul_(moved, sizes, value=-1)


def _orthogonal(matrices: Tensor, s: Settings) -> Tensor:
    """Torch's Newton-Schulz iteration, in bfloat16 as there, of many matrices (n, a, b)."""
    a, b, c = s["ns_coefficients"]
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=s["eps"])[:, None, None]
    for _ in range(s["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


_ADAM = Rule(_adam_columns, _adam)
RULES: dict[Any, Rule] = {
    torch.optim.SGD: Rule(_plain, _sgd),
    torch.optim.Adam: _ADAM,
    torch.optim.AdamW: _ADAM,
    torch.optim.NAdam: Rule(_nadam_columns, _nadam, {"mu_product": 1.0}),
    torch.optim.RAdam: Rule(_radam_columns, _radam),
    torch.optim.Adamax: Rule(_adamax_columns, _adamax, {"exp_inf": 0.0}),
    torch.optim.RMSprop: Rule(_plain, _rmsprop),
    torch.optim.Adagrad: Rule(_adagrad_columns, _adagrad),
    torch.optim.Adadelta: Rule(_plain, _adadelta),
    torch.optim.Muon: Rule(_muon_columns, _muon, by_shape=True),
}
