"""Validation of many trials at once."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from lrtune.engine.program import Program
from lrtune.engine.rows import Rows
from lrtune.engine.setup import Setup, Tally
from lrtune.errors import InputError
from lrtune.tasks.tree import Tree, leaves, tree_map

T = TypeVar("T")
Figures = tuple[float, dict[str, float]]


@torch.no_grad()
def judge(setup: Setup, program: Program, rows: Rows, width: int) -> list[Figures | Exception]:
    """Loss and metrics of each row on val, or what the task's own functions raise of it.

    Args:
        setup: the task on its device.
        program: of its model.
        rows: K of them; their averages are judged where there are any.
        width: how many trials may train at once: that much memory there is.
    """
    models = {**rows.weights, **rows.buffers}
    if rows.average:
        models = {**rows.average["weights"], **rows.average["buffers"]}
    count = len(next(iter(models.values())))
    tallies = [Tally(setup) for _ in range(count)]
    errors: dict[int, Exception] = {}
    with setup.own_generators():
        for stored, targets in setup.val.whole():
            with setup.autocast():
                inputs = setup.prepare(stored)
            # Without gradients an activation is soon forgotten: twice the samples of an update.
            samples = 2 * width * setup.task.batch_size
            at_once = max(1, samples // len(next(leaves(targets))))
            outputs = program.outputs(models, inputs, min(count, at_once))
            for row, tally in enumerate(tallies):
                if row not in errors:
                    error = attempt(partial(tally.add, _row(outputs, row), targets))
                    if error is not None:
                        errors[row] = error
    figures = [attempt(tally.figures) for tally in tallies]
    return [errors.get(row, found) for row, found in enumerate(figures)]


def _row(tree: Tree, row: int) -> Tree:
    return tree_map(lambda tensor: tensor[row], tree)


def attempt(function: Callable[[], T]) -> T | Exception:
    """What a function of the task's gives, or raises of one trial."""
    try:
        return function()
    except InputError:  # the data's fault, not the trial's: all of the search stops
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return error


def is_out_of_memory(error: Exception) -> bool:
    """Whether there would be room for less."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("allocate memory", "_ALLOC_FAILED"))
