"""`LengthGroupedSampler`: batches of examples of about the same length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

WINDOW = 50  # batches sorted together: enough for little padding, few enough that an epoch stays well mixed


class LengthGroupedSampler(Sampler[int]):
    """The order of an epoch's examples: every one once, neighbours in a batch of about one length.

    The examples are shuffled, sorted by length within windows of `WINDOW` batches, and a window's batches shuffled
    again. transformers' sampler of that name leaves out the last step: there the lengths fall from batch to batch, and
    a short run sees long examples first and short ones last.

    Args:
        lengths: tokens of each example.
        batch_size: examples of a batch.
        seed: with the epoch it decides the order; a resumed run gets the same one.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """The trainer says which epoch (from 0) comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        whole = len(order) - len(order) % self.batch_size
        span = WINDOW * self.batch_size
        for start in range(0, whole, span):
            window = sorted(order[start : min(start + span, whole)], key=lambda i: self.lengths[i])
            for batch in torch.randperm(len(window) // self.batch_size, generator=generator).tolist():
                yield from window[batch * self.batch_size : (batch + 1) * self.batch_size]
        yield from order[whole:]  # the short batch stays last: anywhere else it would shift those behind it
