"""StackedState and Program: the weights of many trials, and one update of all of them.

And ``vmap_check``: does a model run rightly so? Some models raise under ``vmap`` (``.item()``, a
branch on data), and some are silently wrong (a buffer reassigned rather than changed in place). So
two trials run together once, in training and in evaluation, and are compared with plain autograd.
"""

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel
from torch.overrides import TorchFunctionMode

from lrtune.engine.attention import KERNELS
from lrtune.engine.device_task import DeviceTask, Parts, numbers_of, stack_batches, to_host
from lrtune.engine.pool import raised_at
from lrtune.engine.stacked_optimizers import (
    Columns,
    Group,
    StackedOptimizer,
    Tensors,
    Unfit,
    column,
)
from lrtune.errors import InputError
from lrtune.tasks import Split
from lrtune.tasks.splits import Tree, laid_out, leaves, tree_map

# Of vmap_check:
SAMPLES = 8  # of a batch: enough for batch norm, cheap for large models
TRIALS = 2
CLOSE = 1e-3  # relative; rounding in float32 stays well below, errors are of order one
ROUNDING = 1e-5  # of the whole gradient: a part that is smaller than this is as good as zero
# In bfloat16: so many times as far from full precision as a model alone, and a share on top.
NEAR, LUCK = 4.0, 0.02
# Where float32 may be computed in fewer digits: on CUDA and on newer CPUs. In terms of the newer of
# torch's two interfaces; where one has been used to set it, the other raises.
PRECISIONS = [
    getattr(backend, part)
    for backend, part in (
        (torch.backends.cuda, "matmul"),
        (torch.backends.cudnn, "conv"),
        (torch.backends.cudnn, "rnn"),
        (torch.backends.mkldnn, "matmul"),
        (torch.backends.mkldnn, "conv"),
        (torch.backends.mkldnn, "rnn"),
    )
]

# What torch says, and what it means. The first that fits.
REASONS = {
    r"calling \.item\(\)": "a number is read off a tensor: by .item(), or by an if on its values",
    r"data-dependent control flow": "an if depends on a tensor's values",
    r"dynamic shape": "the shape of a tensor depends on its values, as with a boolean mask",
    r"(?:batching rule.* for|rule not implemented for) aten::(\w+)": (
        "torch's {} takes no weights of several models at once"
    ),
    r"inplace arithmetic": "what all trials share is changed in place",
    r"called random operation": "random numbers are drawn",
}


class StackedState:
    """Weights, optimizer state, buffers and averages: a row of every tensor is a trial.

    Attributes:
        groups: of the parameters that are trained.
        weights: of each group (K, N).
        states: of the optimizer, of each group by torch's names (K, N), and step (K, parameters).
        buffers: by name (K, ...): everything else that a model holds.
        averages: the averaged weights of each group (K, N); none where none are averaged.
        averaged_buffers: likewise.
    """

    def __init__(
        self,
        groups: list[Group],
        weights: list[Tensor],
        states: list[Tensors],
        buffers: Tensors,
        averages: list[Tensor],
        averaged_buffers: Tensors,
    ) -> None:
        self.groups = groups
        self.weights = weights
        self.states = states
        self.buffers = buffers
        self.averages = averages
        self.averaged_buffers = averaged_buffers

    @classmethod
    def empty(
        cls, optimizer: StackedOptimizer, model: nn.Module, rows: int, averaged: bool
    ) -> "StackedState":
        """Room for trials, each as a fresh optimizer and this model would have it."""

        def repeated(tensor: Tensor) -> Tensor:
            wide = tensor.detach().expand(rows, *tensor.shape)
            return wide.clone(memory_format=torch.contiguous_format)

        groups = optimizer.groups
        held = {name: repeated(tensor) for name, tensor in _held(model).items()}
        weights = [group.matrix(held) for group in groups]
        states = [
            {
                kind: weights[0].new_full((rows, group.width(kind)), value)
                for kind, value in group.initial.items()
            }
            for group in groups
        ]
        trained = {name for group in groups for name in group.shapes}
        buffers = {name: tensor for name, tensor in held.items() if name not in trained}
        averages = tree_map(torch.clone, [weights, buffers]) if averaged else [[], {}]
        return cls(groups, weights, states, buffers, *averages)

    @property
    def tree(self) -> Tree:
        """All tensors."""
        return [self.weights, self.states, self.buffers, self.averages, self.averaged_buffers]

    @property
    def apart(self) -> "StackedState":
        """The same tensors, each parameter as a group of its own."""
        apart = [one for group in self.groups for one in group.apart]

        def columns(matrices: list[Tensor]) -> list[Tensor]:
            pairs = zip(self.groups, matrices, strict=False)
            return [part for group, matrix in pairs for part in group.columns(matrix)]

        states: list[Tensors] = []
        for group, state in zip(self.groups, self.states, strict=True):
            parts = {kind: group.columns(matrix, kind) for kind, matrix in state.items()}
            states += [
                {kind: own[i] for kind, own in parts.items()} for i in range(len(group.shapes))
            ]
        return StackedState(
            apart,
            columns(self.weights),
            states,
            self.buffers,
            columns(self.averages),
            self.averaged_buffers,
        )

    @property
    def parameters(self) -> Tensors:
        """The weights by name (K, ...), as parts of the matrices."""
        return _by_name(self.groups, self.weights)

    @property
    def models(self) -> dict[str, Tensors]:
        """Weights and buffers by name (K, ...): the current ones, and the averages if any."""
        current = {"weights": self.parameters | self.buffers}
        if not self.averages:
            return current
        return current | {"average": _by_name(self.groups, self.averages) | self.averaged_buffers}

    def map(self, function: Any) -> "StackedState":
        """Each tensor replaced."""
        return StackedState(self.groups, *tree_map(function, self.tree))

    def part(self, start: int, stop: int) -> "StackedState":
        """Some of the rows, without a copy."""
        return self.map(lambda tensor: tensor[start:stop])

    @torch.no_grad()
    def paste(self, rows: Any, other: "StackedState") -> None:
        """Write other rows over these: an index, a slice or a tensor of them."""
        for ours, theirs in zip(leaves(self.tree), leaves(other.tree), strict=True):
            ours[rows] = theirs

    @torch.no_grad()
    def load(self, row: int, tensors: Mapping[str, Tensor]) -> None:
        """Put a Snapshot's tensors in a row; missing optimizer state and averages begin anew."""

        def fill(matrix: Tensor, names: list[str]) -> None:
            numbers = torch.cat([tensors[name].flatten() for name in names])
            matrix[row, : len(numbers)] = numbers

        def held(kind: str, name: str) -> str:
            return next(key for key in (f"{kind}/{name}", f"weights/{name}") if key in tensors)

        kinds = {"weights": (self.weights, self.buffers)}
        if self.averages:
            kinds["average"] = self.averages, self.averaged_buffers
        for kind, (matrices, buffers) in kinds.items():
            for group, matrix in zip(self.groups, matrices, strict=True):
                fill(matrix, [held(kind, name) for name in group.shapes])
            for name, buffer in buffers.items():
                buffer[row] = tensors[held(kind, name)]
        for group, state in zip(self.groups, self.states, strict=True):
            for kind, matrix in state.items():
                names = [f"optimizer/{name}/{kind}" for name in group.shapes]
                if names[0] not in tensors:
                    matrix[row] = group.initial[kind]
                else:
                    fill(matrix, names)

    def save(self, row: int) -> Tensors:
        """The tensors of a Snapshot, copied to the CPU."""
        here = self.part(row, row + 1)
        copies = to_host({str(n): tensor for n, tensor in enumerate(leaves(here.tree))})
        in_order = iter(copies.values())
        own = here.map(lambda _: next(in_order))
        tensors = {
            f"{kind}/{name}": tensor[0]
            for kind, model in own.models.items()
            for name, tensor in model.items()
        }
        for group, state in zip(self.groups, own.states, strict=True):
            for kind, matrix in state.items():
                for name, tensor in group.views(matrix, kind).items():
                    tensors[f"optimizer/{name}/{kind}"] = tensor[0]
        return {name: tensor.clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def mix(self, shares: Tensor) -> None:
        """Take the weights into their averages, shares (K,) says how much; see Average."""
        means = [*self.averages, *self.averaged_buffers.values()]
        current = [*self.weights, *self.buffers.values()]
        for mean, newest in zip(means, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(newest, column(shares, mean))
            else:  # an index or a count has no mean
                mean.copy_(newest)


def _by_name(groups: list[Group], matrices: list[Tensor]) -> Tensors:
    pairs = zip(groups, matrices, strict=True)
    return {name: part for group, matrix in pairs for name, part in group.views(matrix).items()}


def _held(model: nn.Module) -> Tensors:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def tensors_of(model: nn.Module) -> Tensors:
    """A fresh model as a Snapshot has it: its average is itself, its optimizer knows nothing."""
    return {f"weights/{name}": tensor.detach() for name, tensor in _held(model).items()}


class Mixed(TorchFunctionMode):
    """Autocast for what ``vmap`` takes apart before autocast sees it; see RULES."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        rule = RULES.get(func)
        return (
            func(*args, **(kwargs or {})) if rule is None else rule(func, *args, **(kwargs or {}))
        )


def _norm(function: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In float32, as its weights and statistics are."""
    if input.dtype != torch.bfloat16:
        return function(input, *args, **kwargs)
    output = function(input.float(), *args, **kwargs)
    return output if input.is_cuda and NORMS[function] else output.to(input.dtype)


def _product(function: Callable[..., Tensor], first: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In bfloat16, a bias or a mask too."""
    kind = first.device.type
    if not torch.is_autocast_enabled(kind):  # the model has left it for a while
        return function(first, *args, **kwargs)

    def lower(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.dtype == torch.float32
        return value.to(torch.get_autocast_dtype(kind)) if fits else value

    with torch.autocast(kind, enabled=False):
        return function(lower(first), *map(lower, args), **{k: lower(v) for k, v in kwargs.items()})


# Whether CUDA's autocast gives it in float32.
NORMS: dict[Callable[..., Tensor], bool] = {
    F.batch_norm: False,
    F.instance_norm: False,
    F.layer_norm: True,
    F.group_norm: True,
    F.rms_norm: True,
}
RULES: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: _product,
    F.scaled_dot_product_attention: _product,
    **dict.fromkeys(NORMS, _norm),
}


class Program:
    """One model run with the weights of many; the model's own weights are never looked at."""

    def __init__(
        self,
        task: DeviceTask,
        optimizer: StackedOptimizer,
        *,
        prepared: bool,
        autocast: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        """Make the program.

        Args:
            task: on its device.
            optimizer: of the model's parameters.
            prepared: whether batches come prepared and augmented; else that is done here, by the
                parts' targets.
            autocast: the precision, if not the task's.
        """
        self._task = task
        self._optimizer = optimizer
        self._trained = task.model(seed=0)
        self._judged = task.model(seed=0).eval()
        self._prepared = prepared
        self._autocast = task.autocast if autocast is None else autocast
        self._mixed = Mixed if task.is_mixed and autocast is None else nullcontext
        self._clip_norm = task.task.clip_norm

    def state(self, models: Sequence[nn.Module]) -> StackedState:
        """That of trials which begin with these models, without averages."""
        state = StackedState.empty(self._optimizer, models[0], len(models), averaged=False)
        for row, model in enumerate(models):
            state.load(row, tensors_of(model))
        return state

    @torch.no_grad()
    def update(
        self,
        state: StackedState,
        inputs: Tree,
        parts: Parts,
        columns: list[Columns],
        *smoothing: Tensor,
    ) -> Tensor:
        """One update of every row, in place.

        Args:
            state: of K trials.
            inputs: tensors (K, batch, ...).
            parts: weights (K,), and targets (K, batch, ...).
            columns: of each of its groups, see ``StackedOptimizer.columns``.
            smoothing: (K,) of labels, where it is not the loss's own.

        Returns:
            The losses (K,) before the update.
        """
        by_name, losses = self.gradients(state, inputs, parts, *smoothing)
        gradients = [group.matrix(by_name) for group in state.groups]
        if self._clip_norm is not None:
            _clip(gradients, self._clip_norm)
        self._optimizer.step(state.groups, state.weights, gradients, state.states, columns)
        return losses

    def gradients(
        self, state: StackedState, inputs: Tree, parts: Parts, *smoothing: Tensor
    ) -> tuple[Tensors, Tensor]:
        """Gradients (K, ...) and losses (K,) of every row; buffers change as the model says."""
        with sdpa_kernel(KERNELS):
            gradients, losses = vmap(grad_and_value(self._loss))(
                state.parameters, state.buffers, inputs, parts, *smoothing
            )
        return gradients, losses

    @torch.no_grad()
    def outputs(self, models: Tensors, inputs: Tree, at_once: int) -> Tree:
        """What K models say of the same inputs, in evaluation mode: tensors (K, n, ...).

        Args:
            models: weights and buffers (K, ...).
            inputs: as the model takes them.
            at_once: how many models run together.
        """

        def run(held: Tensors, inputs: Tree) -> Any:
            with self._autocast(), self._mixed():
                return self._outputs(self._judged, held, inputs)

        with sdpa_kernel(KERNELS), _in_parts():
            return vmap(run, in_dims=(0, None), chunk_size=at_once)(models, inputs)

    def _loss(
        self, weights: Tensors, buffers: Tensors, inputs: Tree, parts: Parts, *smoothing: Tensor
    ) -> Tensor:
        held = {**weights, **buffers}
        # But not around the backward pass, which follows the forward one.
        with self._autocast(), self._mixed():
            if not self._prepared:
                inputs, parts = self._task.inputs(Split(inputs, parts[0][1]))
            outputs = self._outputs(self._trained, held, inputs)
            return self._task.loss_of(outputs, parts, *smoothing)

    def _outputs(self, model: nn.Module, held: Tensors, inputs: Tree) -> Tree:
        def call(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, held, args, kwargs)

        return self._task.task.outputs(call, inputs)


@contextmanager
def _in_parts() -> Iterator[None]:
    """Torch's modules of attention by its functions: their short cut has no batched form."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _clip(gradients: list[Tensor], longest: float) -> None:
    """As ``clip_grad_norm_``, each row for itself."""
    norms = torch.stack([matrix.norm(dim=1) for matrix in gradients]).norm(dim=0)
    shares = (longest / (norms + 1e-6)).clamp(max=1.0)
    for matrix in gradients:
        matrix.mul_(shares[:, None])


class _Run(NamedTuple):
    """What one trial gives at an update and at an evaluation after it."""

    loss: Tensor
    gradients: Tensors
    trained: Tensors  # its buffers after the update
    outputs: list[Tensor]
    buffers: Tensors  # after the evaluation

    def vectors(self, names: Iterable[str]) -> list[Tensor]:
        """Loss, gradient of these parameters, and outputs."""
        parts = [self.loss], [self.gradients[name] for name in names], self.outputs
        return [torch.cat([each.flatten().double() for each in part]) for part in parts]


def vmap_check(task: DeviceTask) -> tuple[StackedOptimizer, bool]:
    """Run an update and an evaluation of two trials together and apart.

    In full precision, where no error can hide; and in the task's own, if that is another.

    Returns:
        The optimizer of stacked weights; and whether ``prepare`` draws at random, which is to be
        done trial by trial, before the model.

    Raises:
        Unfit: they differ, or they cannot run together.
        InputError: the data cannot be read.
    """
    try:
        with task.training():
            return _check(task)
    except (Unfit, InputError):
        raise
    except Exception as error:  # whatever a user's model may raise, and vmap of it
        raise Unfit(_reason(error)) from error


def _check(task: DeviceTask) -> tuple[StackedOptimizer, bool]:
    batches = _batches(task)
    before = _generators(task)
    task.prepare(_stored(task, batches[0]))
    drawing = before != _generators(task)
    prepared = [task.inputs(batch) for batch in batches]
    given = stack_batches(
        prepared if drawing else [(b.inputs, [(1.0, b.targets)]) for b in batches]
    )
    inputs = task.prepare(_stored(task, batches[0]))
    models = [task.model(seed) for seed in range(TRIALS)]
    fresh = deepcopy(models)
    with _full_precision(task):
        full = [
            _alone(task, m, b, inputs, nullcontext) for m, b in zip(models, prepared, strict=True)
        ]
        optimizer = StackedOptimizer(task.task, fresh[0], set(full[0].gradients))
        program = Program(task, optimizer, prepared=drawing, autocast=nullcontext)
        for ours, theirs in zip(_together(program, fresh, given, inputs), full, strict=True):
            _compare_exactly(ours, theirs)
    if task.is_mixed:
        program = Program(task, optimizer, prepared=drawing)
        together = _together(program, fresh, given, inputs)
        for model, batch, ours, exact in zip(fresh, prepared, together, full, strict=True):
            _compare_mixed(ours, _alone(task, model, batch, inputs, task.autocast), exact)
    return optimizer, drawing


def _together(
    program: Program, models: Sequence[nn.Module], given: tuple[Tree, Parts], inputs: Tree
) -> list[_Run]:
    state = program.state(models)
    again = state.map(torch.clone)
    with warnings.catch_warnings(), torch.no_grad():
        # Where vmap has no rule for an operation it says so and loops over the trials: slowly.
        warnings.filterwarnings("error", message=".*batching rule.*")
        gradients, losses = program.gradients(state, *given)
        _compare("its loss the second time", program.gradients(again, *given)[1], losses)
        trained = tree_map(torch.clone, state.buffers)
        outputs = program.outputs(state.models["weights"], tree_map(torch.clone, inputs), TRIALS)
    whole = [losses, gradients, trained, list(leaves(outputs)), state.buffers]
    return [_Run(*tree_map(itemgetter(row), whole)) for row in range(TRIALS)]


def _compare_exactly(ours: _Run, theirs: _Run) -> None:
    _compare("its loss", ours.loss, theirs.loss)
    # Parameter by parameter: one that is wrong may be a small part of the whole.
    whole = torch.stack([gradient.norm() for gradient in theirs.gradients.values()]).norm().item()
    for name, gradient in ours.gradients.items():  # of those that the optimizer has
        _compare(f"the gradient of {name}", gradient, theirs.gradients[name], ROUNDING * whole)
    for name, buffer in theirs.trained.items():
        _compare(f"its buffer {name}", ours.trained[name], buffer)
    for mine, output in zip(ours.outputs, theirs.outputs, strict=True):
        _compare("its output in evaluation", mine, output)
    for name, buffer in theirs.buffers.items():
        _compare(f"its buffer {name}", ours.buffers[name], buffer)


def _compare_mixed(ours: _Run, theirs: _Run, exact: _Run) -> None:
    """Rounding may move it about as far from full precision as it moves a model alone."""
    whats = "its loss", "its gradient", "its output in evaluation"
    runs = [run.vectors(ours.gradients) for run in (ours, theirs, exact)]
    for what, mine, other, aim in zip(whats, *runs, strict=True):
        if not (mine - aim).norm() <= NEAR * (other - aim).norm() + LUCK * aim.norm():
            raise Unfit(f"{what} in bfloat16 comes out otherwise when several trials run together")


def _stored(task: DeviceTask, batch: Split) -> Tree:
    return batch.inputs[0] if task.task.augment else batch.inputs


def _batches(task: DeviceTask) -> list[Split]:
    batches = list(task.updates(0, 0, min(TRIALS, task.task.horizon)))
    task.train.forget(0, len(batches))
    small = [Split(*tree_map(lambda t: t[:SAMPLES], tuple(batch))) for batch in batches]
    return (small * TRIALS)[:TRIALS]


def _alone(
    task: DeviceTask,
    model: nn.Module,
    batch: tuple[Tree, Parts],
    evaluated: Tree,
    precision: Callable[[], AbstractContextManager[object]],
) -> _Run:
    """By plain autograd; gradients are of the parameters that the loss reaches.

    Refused if anything changes but buffers, and they in place.
    """
    generators, numbers, buffers = _generators(task), numbers_of(model), dict(model.named_buffers())
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    with precision():
        outputs = task.task.outputs(model, laid_out(batch[0], task.task.layout))
        loss = task.loss_of(outputs, batch[1])
    loss.backward()
    if generators != _generators(task):
        raise Unfit("its forward or the loss draws random numbers (dropout, say): each its own")
    for name, number in numbers_of(model).items():
        if numbers.get(name) != number:
            raise Unfit(f"its forward changes {name}, which all trials would share: no buffer")
    for name, buffer in model.named_buffers():
        if buffer is not buffers.get(name):
            raise Unfit(f"its forward puts a new tensor in place of its buffer {name}")
    gradients = {}
    for name, weight in model.named_parameters():
        if not torch.equal(weight, weights[name]):
            raise Unfit(f"its forward changes its parameter {name}")
        if weight.grad is not None:
            if weight.grad.layout != torch.strided:
                raise Unfit(f"the gradient of {name} is sparse")
            gradients[name] = weight.grad
    trained = tree_map(torch.clone, buffers)
    outputs = _evaluated(task, model, tree_map(torch.clone, evaluated), precision)
    return _Run(loss.detach(), gradients, trained, outputs, dict(model.named_buffers()))


@torch.no_grad()
def _evaluated(
    task: DeviceTask,
    model: nn.Module,
    inputs: Tree,
    precision: Callable[[], AbstractContextManager[object]],
) -> list[Tensor]:
    before, generators = tree_map(torch.clone, inputs), _generators(task)
    with precision():
        outputs = task.task.outputs(model.eval(), laid_out(inputs, task.task.layout))
    if generators != _generators(task):
        raise Unfit("its forward draws random numbers in evaluation")
    if not all(map(torch.equal, leaves(before), leaves(inputs))):
        raise Unfit("its forward changes its input in place, which is for other trials too")
    return list(leaves(outputs))


def _compare(what: str, ours: Tensor, theirs: Tensor, rounding: float = 1e-7) -> None:
    ours, theirs = ours.double(), theirs.double()
    if not (ours - theirs).norm() <= CLOSE * theirs.norm() + rounding:
        raise Unfit(f"{what} comes out otherwise when several trials run together")


def _generators(task: DeviceTask) -> list[bytes]:
    states = [torch.get_rng_state()]
    if task.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(task.device))
    return [state.numpy().tobytes() for state in states]


@contextmanager
def _full_precision(task: DeviceTask) -> Iterator[None]:
    """No rounding to bfloat16 or, on CUDA, TF32, beside which an error could hide."""
    coarse = {part: part.fp32_precision for part in PRECISIONS if part.fp32_precision != "ieee"}
    for part in coarse:
        part.fp32_precision = "ieee"
    try:
        with torch.autocast(task.device.type, enabled=False):
            yield
    finally:
        for part, precision in coarse.items():
            part.fp32_precision = precision


def _reason(error: Exception) -> str:
    """One line: the cause, and the user's own line that it comes from."""
    message = " ".join(str(error).split())
    for pattern, meaning in REASONS.items():
        match = re.search(pattern, message)
        if match:
            return meaning.format(*match.groups()) + raised_at(error)
    return f"{type(error).__name__}: {message[:150]}{raised_at(error)}"
