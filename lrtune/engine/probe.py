"""The probe: does a model run rightly with the weights of many trials at once?

Some models raise under ``vmap`` (``.item()``, a branch on data), and some are silently wrong (a
buffer reassigned rather than changed in place). So two trials run together once, in training and in
evaluation, and everything is compared with plain autograd.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrtune.engine.batches import together
from lrtune.engine.program import Program
from lrtune.engine.reasons import no_slow_loops, reason
from lrtune.engine.rows import Layout, Rows, Tensors, Unfit, empty_rows, load, tensors_of
from lrtune.engine.setup import Parts, Setup
from lrtune.errors import InputError
from lrtune.tasks import Split
from lrtune.tasks.splits import Tree, laid_out, leaves, tree_map

SAMPLES = 8  # of a batch: enough for batch norm, cheap for large models
TRIALS = 2
CLOSE = 1e-3  # relative; rounding in float32 stays well below, errors are of order one
ROUNDING = 1e-5  # of the whole gradient: a part that is smaller than this is as good as zero


@dataclass(frozen=True)
class Fit:
    """What is known of a model that runs rightly.

    Attributes:
        layout: of its parameters.
        draws: whether batches are augmented or ``prepare`` draws at random, which is done trial by
            trial, before the model.
    """

    layout: Layout
    draws: bool


def probe(setup: Setup) -> Fit:
    """Run two trials together and apart.

    Raises:
        Unfit: they differ, or they cannot run together.
        InputError: the data cannot be read.
    """
    try:
        with setup.training(), _full_precision(setup):
            return _probe(setup)
    except (Unfit, InputError):
        raise
    except Exception as error:  # whatever a user's model may raise, and vmap of it
        raise Unfit(reason(error)) from error


def _probe(setup: Setup) -> Fit:
    batches = _batches(setup)
    draws = _draws_before_the_model(setup, batches[0])
    ready = [setup.inputs(batch) for batch in batches]
    models = [setup.model(seed) for seed in range(TRIALS)]
    fresh = [tree_map(torch.clone, tensors_of(model)) for model in models]
    alone = [_alone(setup, model, *own) for model, own in zip(models, ready, strict=True)]
    layout = Layout(setup.task, models[0], set(alone[0].gradients))
    rows = empty_rows(layout, models[0], TRIALS, averaged=False)
    for row, tensors in enumerate(fresh):
        load(rows, layout, row, tensors)
    again = rows.map(torch.clone)
    program = Program(setup, layout, prepared=draws, autocast=nullcontext)
    given = together(ready if draws else [(b.inputs, [(1.0, b.targets)]) for b in batches])
    seen = setup.prepare(batches[0].inputs)
    with no_slow_loops(), torch.no_grad():
        gradients, losses = program.gradients(rows, *given)
        _compare("its loss the second time", program.gradients(again, *given)[1], losses)
        trained = rows.map(torch.clone)
        outputs = program.outputs(
            {**rows.weights, **rows.buffers}, tree_map(torch.clone, seen), TRIALS
        )
    for row, model in enumerate(models):
        _compare("its loss", losses[row], alone[row].loss)
        _compare_gradients({n: g[row] for n, g in gradients.items()}, alone[row].gradients)
        _compare_buffers(trained, row, model)
        expected = _evaluated(setup, model, tree_map(torch.clone, seen))
        for ours, theirs in zip(leaves(outputs), leaves(expected), strict=True):
            _compare("its output in evaluation", ours[row], theirs)
        _compare_buffers(rows, row, model)
    return Fit(layout, draws)


def _batches(setup: Setup) -> list[Split]:
    batches = list(setup.train.updates(0, 0, min(TRIALS, setup.task.horizon)))
    setup.train.forget(0, len(batches))
    small = [Split(*tree_map(lambda t: t[:SAMPLES], tuple(batch))) for batch in batches]
    return (small * TRIALS)[:TRIALS]


def _draws_before_the_model(setup: Setup, batch: Split) -> bool:
    before = _generators(setup)
    setup.prepare(batch.inputs)
    return bool(setup.task.augment) or before != _generators(setup)


@dataclass(frozen=True)
class _Alone:
    """What plain autograd makes of one batch."""

    loss: Tensor
    gradients: Tensors  # by parameter, of those that the loss reaches


def _alone(setup: Setup, model: nn.Module, inputs: Tree, parts: Parts) -> _Alone:
    """Loss and gradients; refused if anything changes but buffers, and they in place."""
    generators, numbers, buffers = _generators(setup), _numbers(model), dict(model.named_buffers())
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    loss = setup.loss_of(model(laid_out(inputs, setup.task.layout)), parts)
    loss.backward()
    if generators != _generators(setup):
        raise Unfit(f"{_who_draws(setup, model, inputs)} draws random numbers, each trial its own")
    for name, number in _numbers(model).items():
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
    return _Alone(loss.detach(), gradients)


@torch.no_grad()
def _evaluated(setup: Setup, model: nn.Module, inputs: Tree) -> Tree:
    before, generators = tree_map(torch.clone, inputs), _generators(setup)
    model.eval()
    outputs = model(laid_out(inputs, setup.task.layout))
    if generators != _generators(setup):
        raise Unfit(f"{_who_draws(setup, model, inputs)} draws random numbers in evaluation")
    if not all(map(torch.equal, leaves(before), leaves(inputs))):
        raise Unfit("its forward changes its input in place, which is for other trials too")
    return outputs


def _who_draws(setup: Setup, model: nn.Module, inputs: Tree) -> str:
    """The innermost of a model's modules that draws, or the loss."""
    states: list[list[bytes]] = []
    found: list[str] = []

    def enter(*_: object) -> None:
        states.append(_generators(setup))

    def leave(module: nn.Module, *_: object) -> None:
        if states.pop() != _generators(setup):
            found.append(type(module).__name__)

    hooks = [module.register_forward_pre_hook(enter) for module in model.modules()]
    hooks += [module.register_forward_hook(leave) for module in model.modules()]
    model(laid_out(inputs, setup.task.layout))
    for hook in hooks:
        hook.remove()
    return f"its {found[0]}" if found else "the loss"


def _numbers(model: nn.Module) -> dict[str, object]:
    """What a module holds beside tensors and other modules, by name."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, int | float | str)
    }


def _compare_gradients(ours: Tensors, theirs: Tensors) -> None:
    """Parameter by parameter: one that is wrong may be a small part of the whole."""
    whole = torch.stack([gradient.norm() for gradient in theirs.values()]).norm().item()
    for name, gradient in ours.items():
        _compare(f"the gradient of {name}", gradient, theirs[name], ROUNDING * whole)


def _compare_buffers(rows: Rows, row: int, model: nn.Module) -> None:
    for name, buffer in model.named_buffers():
        _compare(f"its buffer {name}", rows.buffers[name][row], buffer)


def _compare(what: str, ours: Tensor, theirs: Tensor, rounding: float = 1e-7) -> None:
    ours, theirs = ours.double(), theirs.double()
    if not (ours - theirs).norm() <= CLOSE * theirs.norm() + rounding:
        raise Unfit(f"{what} comes out otherwise when several trials run together")


def _generators(setup: Setup) -> list[bytes]:
    states = [torch.get_rng_state()]
    if setup.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(setup.device))
    return [state.numpy().tobytes() for state in states]


@contextmanager
def _full_precision(setup: Setup) -> Iterator[None]:
    """No rounding to bfloat16 or, on CUDA, TF32, beside which an error could hide."""
    cudnn = torch.backends.cudnn
    matmul = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.autocast(setup.device.type, enabled=False),
            cudnn.flags(
                enabled=cudnn.enabled,
                benchmark=False,
                deterministic=cudnn.deterministic,
                allow_tf32=False,
            ),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
