"""The probe: does a model run rightly with the weights of many trials at once?

Some models raise under ``vmap`` (``.item()``, a branch on data), and some are silently wrong (a
buffer reassigned rather than changed in place). So two trials run together once, in training and in
evaluation, and everything is compared with plain autograd.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrtune.engine.order import UPDATE_NOISE, reseed
from lrtune.engine.program import Program
from lrtune.engine.rows import Layout, Rows, Unfit, empty_rows, load_model
from lrtune.engine.setup import Parts, Setup
from lrtune.tasks import Split
from lrtune.tasks.tree import Tree, laid_out, leaves, stack, tree_map

SAMPLES = 8  # of a batch: enough for batch norm, cheap for large models
CLOSE = 1e-3  # relative; rounding in float32 stays well below, errors are of order one
TRIALS = 2


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


def probe(setup: Setup, model: nn.Module) -> Fit:
    """Run two trials together and apart.

    Args:
        setup: the task on its device.
        model: one of the task's; it is left as it was.

    Raises:
        Unfit: they differ, or they cannot run together.
    """
    with setup.training(), _full_precision(setup):
        batches = _batches(setup)
        draws = _draws_before_the_model(setup, batches[0])
        ready = [setup.inputs(batch) for batch in batches]
        models = [setup.model(seed) for seed in range(TRIALS)]
        layout = Layout(setup.task, model, _reached(setup, setup.model(0), *ready[0]))
        rows = empty_rows(layout, models[0], TRIALS, None)
        for row, one in enumerate(models):
            load_model(rows, layout, row, one)
        apart = [_plain(setup, layout, *pair) for pair in zip(models, ready, strict=True)]
        program = Program(setup, layout, setup.model(0), prepared=draws)
        with _no_slow_loops():
            given = ready if draws else [(b.inputs, [(1.0, b.targets)]) for b in batches]
            gradients, losses = _tried(lambda: _together(program, rows, given))
            judged = [setup.prepare(batch.inputs) for batch in batches[:1]]
            outputs = _tried(lambda: program.outputs(rows.weights, rows.buffers, judged[0], TRIALS))
        for row, (loss, gradient) in enumerate(apart):
            _compare("its loss", losses[row], loss)
            _compare("its gradient", gradients[row], gradient)
            for name, tensor in models[row].named_buffers():
                _compare(f"its buffer {name}", rows.buffers[name][row], tensor)
            expected = _evaluated(setup, models[row], judged[0])
            for ours, theirs in zip(leaves(outputs), leaves(expected), strict=True):
                _compare("its output in evaluation", ours[row], theirs)
    return Fit(layout, draws)


def _batches(setup: Setup) -> list[Split]:
    batches = list(setup.train.updates(0, 0, min(TRIALS, setup.task.horizon)))
    setup.train.forget(0, len(batches))
    small = [Split(*tree_map(lambda t: t[:SAMPLES], tuple(batch))) for batch in batches]
    return (small * TRIALS)[:TRIALS]


def _draws_before_the_model(setup: Setup, batch: Split) -> bool:
    if setup.task.augment:
        return True
    with _watched(setup) as drew:
        setup.prepare(batch.inputs)
    return bool(drew)


def _reached(setup: Setup, model: nn.Module, inputs: Tree, parts: Parts) -> set[str]:
    """The parameters that have a gradient."""
    with _watched(setup) as drew:
        setup.loss_of(model(laid_out(inputs, setup.task.layout)), parts).backward()
    if drew:
        raise Unfit("it draws random numbers, as dropout does, which are each trial's own")
    return {name for name, parameter in model.named_parameters() if parameter.grad is not None}


def _plain(
    setup: Setup, layout: Layout, model: nn.Module, ready: tuple[Tree, Parts]
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one trial alone; its buffers are changed."""
    inputs, parts = ready
    loss = setup.loss_of(model(laid_out(inputs, setup.task.layout)), parts)
    parameters = dict(model.named_parameters())
    own = [parameters[column.name] for column in layout.columns]
    gradients = torch.autograd.grad(loss, own)
    return loss.detach(), torch.cat([gradient.flatten() for gradient in gradients])


@torch.no_grad()
def _together(
    program: Program, rows: Rows, given: list[tuple[Tree, Parts]]
) -> tuple[Tensor, Tensor]:
    inputs = stack([inputs for inputs, _ in given])
    parts: Parts = [
        (torch.stack([torch.as_tensor(w) for w, _ in part]), stack([t for _, t in part]))
        for part in zip(*(parts for _, parts in given), strict=True)
    ]
    return program.gradients(rows, inputs, parts)


@torch.no_grad()
def _evaluated(setup: Setup, model: nn.Module, inputs: Tree) -> Tree:
    with _watched(setup) as drew:
        outputs = model.eval()(laid_out(inputs, setup.task.layout))
    if drew:
        raise Unfit("it draws random numbers in evaluation, which are each trial's own")
    return outputs


def _compare(what: str, ours: Tensor, theirs: Tensor) -> None:
    ours, theirs = ours.double(), theirs.double()
    if not (ours - theirs).norm() <= CLOSE * theirs.norm() + 1e-7:
        raise Unfit(f"{what} comes out otherwise when several trials run together")


def _tried(call):  # type: ignore[no-untyped-def]
    try:
        return call()
    except Unfit:
        raise
    except Exception as error:  # whatever vmap may not like of a user's model
        said = " ".join(str(error).split())
        raise Unfit(f"several trials cannot run together: {said[:200]}") from error


@contextmanager
def _no_slow_loops() -> Iterator[None]:
    """Where ``vmap`` has no rule for an operation it says so and loops over the trials."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*batching rule.*")
        yield


@contextmanager
def _watched(setup: Setup) -> Iterator[list[str]]:
    """Tells afterwards, by a list that is not empty, whether a generator was drawn from."""
    drew: list[str] = []
    reseed(setup.device, 0, UPDATE_NOISE, 0)
    before = _generators(setup)
    yield drew
    if any(not torch.equal(a, b) for a, b in zip(before, _generators(setup), strict=True)):
        drew.append("drew")


def _generators(setup: Setup) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if setup.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(setup.device))
    return states


@contextmanager
def _full_precision(setup: Setup) -> Iterator[None]:
    with torch.autocast(setup.device.type, enabled=False):
        yield
