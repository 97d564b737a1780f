"""Everything random that a trial meets, as a function of (seed, update) alone."""

import hashlib
import struct
from functools import lru_cache

import torch
from torch import Tensor

# Streams of one seed.
INITIAL_WEIGHTS, EPOCH_ORDER, UPDATE_NOISE, VALIDATION_NOISE, SAMPLE_NOISE = range(5)


def derive(*words: int) -> int:
    """A seed in 0 ... 2**63 - 1 from whole numbers; neighbours in, strangers out."""
    packed = struct.pack(f"<{len(words)}q", *words)
    return int.from_bytes(hashlib.blake2b(packed, digest_size=8).digest(), "little") >> 1


def reseed(device: torch.device, *words: int) -> None:
    """Set the generators that a model on ``device`` draws from.

    ``torch.manual_seed`` would do, but where CUDA is not up yet it formats a stack trace each time.
    """
    seed = derive(*words)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


class BatchOrder:
    """Which samples an update sees: permutation after permutation, cut into equal batches.

    A batch may hold the end of one epoch and the start of the next, so that no batch is short and
    no sample is left out.
    """

    def __init__(self, samples: int, batch_size: int, device: torch.device, slots: int = 1) -> None:
        self._samples = samples
        self.batch_size = batch_size
        self._device = device
        # Two epochs per slot, which may all be at different points: that is all that is needed.
        self._permutation = lru_cache(maxsize=2 * slots)(self._draw)

    def _draw(self, seed: int, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive(seed, EPOCH_ORDER, epoch))
        return torch.randperm(self._samples, generator=generator).to(self._device)

    def batch(self, seed: int, update: int) -> Tensor:
        """Indices int64 (batch_size,) of the samples of one update, on the device."""
        epoch, start = divmod(update * self.batch_size, self._samples)
        stop = start + self.batch_size
        head = self._permutation(seed, epoch)[start:stop]
        if stop <= self._samples:
            return head
        # A batch is never larger than the data, so it touches two epochs at most.
        return torch.cat([head, self._permutation(seed, epoch + 1)[: stop - self._samples]])

    def batches(self, seed: int, start: int, stop: int) -> Tensor:
        """Indices int64 (stop - start, batch_size) of several updates in a row."""
        first, last = start * self.batch_size, stop * self.batch_size
        epochs = range(first // self._samples, (last - 1) // self._samples + 1)
        run = torch.cat([self._permutation(seed, epoch) for epoch in epochs])
        offset = epochs.start * self._samples
        return run[first - offset : last - offset].view(-1, self.batch_size)
