"""What the updates of several trials take in, stacked."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lrtune.engine.feed import Span
from lrtune.engine.order import UPDATE_NOISE, reseed
from lrtune.engine.setup import Parts, Setup
from lrtune.tasks.splits import Tree, leaves, stack


def stored(setup: Setup, spans: Sequence[Span]) -> Iterator[tuple[Tree, Parts]]:
    """Batches as they are stored, tensors (trials, batch, ...), with their targets.

    As many as the longest span has; what a shorter one gets at the end is to be ignored.
    """
    ones = torch.ones(len(spans), device=setup.device)
    for inputs, targets in setup.train.together(spans):
        yield inputs, [(ones, targets)]


def prepared(setup: Setup, spans: Sequence[Span]) -> Iterator[tuple[Tree, Parts]]:
    """The same, prepared and augmented as each trial draws it."""
    streams = {span: setup.train.updates(*span) for span in set(spans)}
    latest: dict[Span, tuple[Tree, Parts]] = {}
    for done in range(max(stop - start for _, start, stop in spans)):
        for span, stream in streams.items():
            seed, start, stop = span
            if start + done < stop:
                reseed(setup.device, seed, UPDATE_NOISE, start + done)
                with setup.autocast():
                    latest[span] = setup.inputs(next(stream))
        yield together([latest[span] for span in spans])


def together(batches: Sequence[tuple[Tree, Parts]]) -> tuple[Tree, Parts]:
    """Batches of one form as one, stacked."""
    parts: Parts = []
    for part in zip(*(own for _, own in batches), strict=True):
        targets = stack([targets for _, targets in part])
        device = next(leaves(targets)).device
        parts.append((_column([weight for weight, _ in part], device), targets))
    return stack([inputs for inputs, _ in batches]), parts


def _column(weights: Sequence[Tensor | float], device: torch.device) -> Tensor:
    drawn = [weight for weight in weights if isinstance(weight, Tensor)]
    if drawn:
        return torch.stack(drawn)
    # 1.0, where nothing is mixed: filled in there, while a tensor of each would be copied there.
    return torch.full((len(weights),), float(weights[0]), device=device)
