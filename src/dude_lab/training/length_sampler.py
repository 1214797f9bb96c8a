"""A sampler of examples with batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

WINDOW = 50  # batches sorted together: enough for little padding, few enough that an epoch stays well mixed


class LengthGroupedSampler(Sampler[int]):
    """Sampler of an epoch's examples, with examples of similar length in a batch.

    The examples are shuffled, sorted by length within windows of `WINDOW` batches, and a window's batches shuffled
    again. transformers' sampler of that name does not shuffle the batches: their lengths decrease, and a short run sees
    long examples first and short ones last.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch.
        seed: seed of the order, with the epoch; a resumed run has the same order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0; the trainer calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        full = len(order) - len(order) % self.batch_size  # examples in full batches
        span = WINDOW * self.batch_size
        for start in range(0, full, span):
            window = sorted(order[start : min(start + span, full)], key=lambda i: self.lengths[i])
            for batch in torch.randperm(len(window) // self.batch_size, generator=generator).tolist():
                yield from window[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from order[full:]  # the short batch stays last: elsewhere it would shift those after it
