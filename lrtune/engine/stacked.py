"""StackedState and Program: the weights of many trials, and one update of all of them.

And ``vmap_check``: does a model run rightly so? Some models raise under ``vmap`` (``.item()``, a
branch on data), and some are silently wrong (a buffer reassigned rather than changed in place). So
two trials run together once, in training and in evaluation, and are compared with plain autograd.
"""

import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import sdpa_kernel

from lrtune.engine.attention import KERNELS
from lrtune.engine.device_task import DeviceTask, Parts, numbers_of, stack_batches, to_host
from lrtune.engine.optimizers import StackedOptimizer, Tensors, Unfit, column
from lrtune.errors import InputError
from lrtune.tasks import Split
from lrtune.tasks.splits import Tree, laid_out, leaves, tree_map

# Of vmap_check:
SAMPLES = 8  # of a batch: enough for batch norm, cheap for large models
TRIALS = 2
CLOSE = 1e-3  # relative; rounding in float32 stays well below, errors are of order one
ROUNDING = 1e-5  # of the whole gradient: a part that is smaller than this is as good as zero

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
OURS = (Path(torch.__file__).parent, Path(__file__).parent)


class StackedState:
    """Weights, optimizer state, buffers and averages: a row of every tensor is a trial.

    Attributes:
        weights: by name (K, ...): the parameters that are trained.
        buffers: by name (K, ...): everything else that a model holds.
        states: of the optimizer, of each parameter, by torch's names (K, ...).
        average: weights and buffers, averaged, by name (K, ...); empty where none are averaged.
    """

    def __init__(
        self, weights: Tensors, buffers: Tensors, states: dict[str, Tensors], average: Tensors
    ) -> None:
        self.weights = weights
        self.buffers = buffers
        self.states = states
        self.average = average

    @classmethod
    def empty(
        cls, optimizer: StackedOptimizer, model: nn.Module, rows: int, averaged: bool
    ) -> "StackedState":
        """Room for trials, each as a fresh optimizer and this model would have it."""

        def repeated(tensor: Tensor) -> Tensor:
            wide = tensor.detach().expand(rows, *tensor.shape)
            return wide.clone(memory_format=torch.contiguous_format)

        held = {name: repeated(tensor) for name, tensor in _held(model).items()}
        average = tree_map(torch.clone, held) if averaged else {}
        weights = {name: held.pop(name) for name in optimizer.settings}
        states: dict[str, Tensors] = {}
        for name, weight in weights.items():
            # What torch counts in one number is one number per row.
            counts = (rows, *[1] * (weight.dim() - 1))
            states[name] = {
                kind: weight.new_full(counts if kind == "step" else weight.shape, value)
                for kind, value in optimizer.initial[name].items()
            }
        return cls(weights, held, states, average)

    @property
    def tree(self) -> Tree:
        """All tensors."""
        return [self.weights, self.buffers, self.states, self.average]

    @property
    def models(self) -> dict[str, Tensors]:
        """Weights and buffers by name (K, ...): the current ones, and the averages if any."""
        current = {"weights": {**self.weights, **self.buffers}}
        return current | ({"average": self.average} if self.average else {})

    def map(self, function: Any) -> "StackedState":
        """Each tensor replaced."""
        return StackedState(*tree_map(function, self.tree))

    def part(self, start: int, stop: int) -> "StackedState":
        """Some of the rows, without a copy."""
        return self.map(lambda tensor: tensor[start:stop])

    @torch.no_grad()
    def paste(self, rows: Any, other: "StackedState") -> None:
        """Write other rows over these: an index, a slice or a list of them."""
        for ours, theirs in zip(leaves(self.tree), leaves(other.tree), strict=True):
            ours[rows] = theirs

    @torch.no_grad()
    def load(self, row: int, tensors: Mapping[str, Tensor], optimizer: StackedOptimizer) -> None:
        """Put a Snapshot's tensors in a row; missing optimizer state and averages begin anew."""
        for kind, model in self.models.items():
            for name, tensor in model.items():
                tensor[row] = tensors.get(f"{kind}/{name}", tensors[f"weights/{name}"])
        for name, state in self.states.items():
            for kind, tensor in state.items():
                initial = optimizer.initial[name][kind]
                tensor[row] = tensors.get(f"optimizer/{name}/{kind}", initial)

    def save(self, row: int) -> Tensors:
        """The tensors of a Snapshot, copied to the CPU."""
        tensors = {
            f"{kind}/{name}": tensor[row]
            for kind, model in self.models.items()
            for name, tensor in model.items()
        }
        for name, state in self.states.items():
            for kind, tensor in state.items():
                own = tensor[row]
                tensors[f"optimizer/{name}/{kind}"] = own.flatten()[0] if kind == "step" else own
        return to_host(tensors)

    @torch.no_grad()
    def mix(self, shares: Tensor) -> None:
        """Take the weights into their averages, shares (K,) says how much; see Average."""
        current = self.models["weights"]
        for name, mean in self.average.items():
            if mean.is_floating_point():
                mean.lerp_(current[name], column(shares, mean))
            else:  # an index or a count has no mean
                mean.copy_(current[name])


def _held(model: nn.Module) -> Tensors:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def tensors_of(model: nn.Module) -> Tensors:
    """A fresh model as a Snapshot has it: its average is itself, its optimizer knows nothing."""
    return {f"weights/{name}": tensor.detach() for name, tensor in _held(model).items()}


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
        self._autocast = autocast or task.autocast
        self._clip_norm = task.task.clip_norm

    @torch.no_grad()
    def update(
        self,
        state: StackedState,
        inputs: Tree,
        parts: Parts,
        rates: Tensor,
        momenta: Tensor | None = None,
    ) -> Tensor:
        """One update of every row, in place.

        Args:
            state: of K trials.
            inputs: tensors (K, batch, ...).
            parts: weights (K,), and targets (K, batch, ...).
            rates: (K,).
            momenta: (K,), NaN where it is the optimizer's own; None where all are.

        Returns:
            The losses (K,) before the update.
        """
        gradients, losses = self.gradients(state, inputs, parts)
        if self._clip_norm is not None:
            gradients = _clipped(gradients, self._clip_norm)
        for name, weights in state.weights.items():
            self._optimizer.step(name, weights, gradients[name], state.states[name], rates, momenta)
        return losses

    def gradients(self, state: StackedState, inputs: Tree, parts: Parts) -> tuple[Tensors, Tensor]:
        """Gradients (K, ...) and losses (K,) of every row; buffers change as the model says."""
        with sdpa_kernel(KERNELS):
            gradients, losses = vmap(grad_and_value(self._loss))(
                state.weights, state.buffers, inputs, parts
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
            with self._autocast():
                return functional_call(self._judged, held, (inputs,))

        with sdpa_kernel(KERNELS):
            return vmap(run, in_dims=(0, None), chunk_size=at_once)(models, inputs)

    def _loss(self, weights: Tensors, buffers: Tensors, inputs: Tree, parts: Parts) -> Tensor:
        held = {**weights, **buffers}
        with self._autocast():  # but not around the backward pass, which follows the forward one
            if not self._prepared:
                inputs, parts = self._task.inputs(Split(inputs, parts[0][1]))
            return self._task.loss_of(functional_call(self._trained, held, (inputs,)), parts)


def _clipped(gradients: Tensors, longest: float) -> Tensors:
    """As ``clip_grad_norm_``, each row for itself."""
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
    shares = (longest / (norms + 1e-6)).clamp(max=1.0)
    return {name: g * column(shares, g) for name, g in gradients.items()}


def vmap_check(task: DeviceTask) -> tuple[StackedOptimizer, bool]:
    """Run two trials together and apart.

    Returns:
        The optimizer of stacked weights; and whether ``prepare`` draws at random, which is to be
        done trial by trial, before the model.

    Raises:
        Unfit: they differ, or they cannot run together.
        InputError: the data cannot be read.
    """
    try:
        with task.training(), _full_precision(task):
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
    models = [task.model(seed) for seed in range(TRIALS)]
    fresh = [tree_map(torch.clone, tensors_of(model)) for model in models]
    alone = [_alone(task, model, *batch) for model, batch in zip(models, prepared, strict=True)]
    optimizer = StackedOptimizer(task.task, models[0], set(alone[0][1]))
    state = StackedState.empty(optimizer, models[0], TRIALS, averaged=False)
    for row, tensors in enumerate(fresh):
        state.load(row, tensors, optimizer)
    again = state.map(torch.clone)
    program = Program(task, optimizer, prepared=drawing, autocast=nullcontext)
    given = stack_batches(
        prepared if drawing else [(b.inputs, [(1.0, b.targets)]) for b in batches]
    )
    inputs = task.prepare(_stored(task, batches[0]))
    with warnings.catch_warnings(), torch.no_grad():
        # Where vmap has no rule for an operation it says so and loops over the trials: slowly.
        warnings.filterwarnings("error", message=".*batching rule.*")
        gradients, losses = program.gradients(state, *given)
        _compare("its loss the second time", program.gradients(again, *given)[1], losses)
        trained = state.map(torch.clone)
        outputs = program.outputs(state.models["weights"], tree_map(torch.clone, inputs), TRIALS)
    for row, model in enumerate(models):
        loss, expected = alone[row]
        _compare("its loss", losses[row], loss)
        # Parameter by parameter: one that is wrong may be a small part of the whole.
        whole = torch.stack([gradient.norm() for gradient in expected.values()]).norm().item()
        for name, gradient in gradients.items():
            what = f"the gradient of {name}"
            _compare(what, gradient[row], expected[name], ROUNDING * whole)
        _compare_buffers(trained, row, model)
        evaluated = _evaluated(task, model, tree_map(torch.clone, inputs))
        for ours, theirs in zip(leaves(outputs), leaves(evaluated), strict=True):
            _compare("its output in evaluation", ours[row], theirs)
        _compare_buffers(state, row, model)
    return optimizer, drawing


def _stored(task: DeviceTask, batch: Split) -> Tree:
    return batch.inputs[0] if task.task.augment else batch.inputs


def _batches(task: DeviceTask) -> list[Split]:
    batches = list(task.updates(0, 0, min(TRIALS, task.task.horizon)))
    task.train.forget(0, len(batches))
    small = [Split(*tree_map(lambda t: t[:SAMPLES], tuple(batch))) for batch in batches]
    return (small * TRIALS)[:TRIALS]


def _alone(
    task: DeviceTask, model: nn.Module, inputs: Tree, parts: Parts
) -> tuple[Tensor, Tensors]:
    """Loss and gradients by plain autograd, of the parameters that the loss reaches.

    Refused if anything changes but buffers, and they in place.
    """
    generators, numbers, buffers = _generators(task), numbers_of(model), dict(model.named_buffers())
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loss = task.loss_of(model(laid_out(inputs, task.task.layout)), parts)
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
    return loss.detach(), gradients


@torch.no_grad()
def _evaluated(task: DeviceTask, model: nn.Module, inputs: Tree) -> Tree:
    before, generators = tree_map(torch.clone, inputs), _generators(task)
    outputs = model.eval()(laid_out(inputs, task.task.layout))
    if generators != _generators(task):
        raise Unfit("its forward draws random numbers in evaluation")
    if not all(map(torch.equal, leaves(before), leaves(inputs))):
        raise Unfit("its forward changes its input in place, which is for other trials too")
    return outputs


def _compare_buffers(state: StackedState, row: int, model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        _compare(f"its buffer {name}", state.buffers[name][row], buffer)


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
    cudnn = torch.backends.cudnn
    flags = {"enabled": cudnn.enabled, "deterministic": cudnn.deterministic}
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(task.device.type, enabled=False),
            cudnn.flags(**flags, benchmark=False, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)


def _reason(error: Exception) -> str:
    """One line: the cause, and the user's own line that it comes from."""
    message = " ".join(str(error).split())
    for pattern, meaning in REASONS.items():
        match = re.search(pattern, message)
        if match:
            return meaning.format(*match.groups()) + _place(error)
    return f"{type(error).__name__}: {message[:150]}{_place(error)}"


def _place(error: Exception) -> str:
    """The innermost line that is neither torch's nor the engine's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not any(path.is_relative_to(folder) for folder in OURS):
            return f" (line {frame.lineno} of {path.name}: {frame.line})"
    return ""
