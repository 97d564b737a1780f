"""Validation of many trials at once."""

import torch

from lrtune.engine.feed import Feed
from lrtune.engine.program import Program
from lrtune.engine.rows import Rows, Tensors
from lrtune.engine.setup import Setup
from lrtune.engine.tally import Figures, Scorer, Tally, figures_of
from lrtune.tasks.metrics import Metric
from lrtune.tasks.tree import leaves


@torch.no_grad()
def judge(
    setup: Setup, split: Feed, program: Program, rows: Rows, width: int, scorer: Scorer
) -> list[Figures | Exception]:
    """Loss and metrics of each row, or what the task's own functions raise of it.

    Args:
        setup: the task on its device.
        split: what they are judged on.
        program: of its model.
        rows: K of them.
        width: how many trials may train at once: that much memory there is.
        scorer: of the task's metrics.
    """
    judged = [(models, Tally(metrics, scorer)) for models, metrics in _judged(setup, rows)]
    count = len(next(iter(judged[0][0].values())))
    with setup.own_generators():
        for stored, targets in split.whole():
            with setup.autocast():
                inputs = setup.prepare(stored)
            # Without gradients an activation is soon forgotten: twice the samples of an update.
            samples = 2 * width * setup.task.batch_size
            at_once = max(1, samples // len(next(leaves(targets))))
            for models, tally in judged:
                tally.add(program.outputs(models, inputs, min(count, at_once)), targets)
    found = zip(*(tally.figures() for _, tally in judged), strict=True)
    return [figures_of(setup.task, *figures) for figures in found]


def _judged(setup: Setup, rows: Rows) -> list[tuple[Tensors, tuple[Metric, ...]]]:
    """Weights, and what is measured of them."""
    current = {**rows.weights, **rows.buffers}
    if not rows.average:
        return [(current, setup.measured)]
    averaged = {**rows.average["weights"], **rows.average["buffers"]}
    if setup.task.ema is not None:
        return [(averaged, setup.measured)]
    return [(current, setup.measured), (averaged, (setup.task.objective,))]
