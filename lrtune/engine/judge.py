"""Validation of many trials at once."""

import torch

from lrtune.engine.blocks import Blocks
from lrtune.engine.program import Program
from lrtune.engine.rows import Rows, Tensors
from lrtune.engine.setup import Setup
from lrtune.engine.tally import Figures, Scorer, Tally, exact, figures_of
from lrtune.tasks.metrics import Metric
from lrtune.tasks.splits import leaves, tree_map


@torch.no_grad()
def judge(
    setup: Setup,
    program: Program,
    rows: Rows,
    width: int,
    scorer: Scorer,
    blocks: Blocks | None = None,
) -> list[Figures | Exception]:
    """Loss and metrics of each row on val, or what the task's own functions raise of it.

    Args:
        setup: the task on its device.
        program: of its model.
        rows: K of them.
        width: how many trials may train at once: that much memory there is.
        scorer: of the task's metrics.
        blocks: where there are, the row is one alone and is judged on the test split.
    """
    if blocks is not None:
        blocks.begin()
    judged = [(models, Tally(metrics, scorer)) for models, metrics in _judged(setup, rows)]
    count = len(next(iter(judged[0][0].values())))
    with setup.own_generators():
        for stored, targets in (setup.val if blocks is None else setup.test).whole():
            with setup.autocast():
                inputs = setup.prepare(stored)
            # Without gradients an activation is soon forgotten: twice the samples of an update.
            samples = 2 * width * setup.task.batch_size
            at_once = max(1, samples // len(next(leaves(targets))))
            for models, tally in judged:
                outputs = program.outputs(models, inputs, min(count, at_once))
                tally.add(outputs, targets)
                if blocks is not None and tally is judged[0][1]:
                    blocks.add(tree_map(lambda tensor: exact(tensor[0]), outputs), targets)
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
    return [(current, setup.measured), (averaged, (setup.objective,))]
