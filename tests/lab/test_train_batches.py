"""The order of the training examples: grouped by length or not, each of them once."""

import json
import random

import pytest
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.length_sampler import WINDOW, LengthGroupedSampler
from dude_lab.training.train_run import train


def padded(order: list[int], lengths: list[int], size: int) -> int:
    """Tokens of all batches with their padding."""
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    return sum(max(lengths[i] for i in batch) * len(batch) for batch in batches)


def drawn(count: int) -> list[int]:
    rng = random.Random(0)
    return [rng.randint(5, 200) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 7, 8, 8 * WINDOW, 8 * WINDOW + 3, 1001])
def test_every_example_once_whatever_the_epoch(count: int) -> None:
    sampler = LengthGroupedSampler(drawn(count), 8, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert sorted(first) == sorted(sampler) == list(range(count)) and len(sampler) == count
    assert count <= 8 or first != list(sampler)


def test_little_padding() -> None:
    lengths = drawn(2000)
    grouped = padded(list(LengthGroupedSampler(lengths, 8, seed=0)), lengths, 8)
    assert grouped / sum(lengths) < 1.05 < 1.5 < padded(list(range(2000)), lengths, 8) / sum(lengths)


def test_lengths_do_not_fall_from_batch_to_batch() -> None:
    """A run of fewer steps than a window must see short and long examples from beginning to end."""
    lengths = drawn(8 * WINDOW)
    order = list(LengthGroupedSampler(lengths, 8, seed=0))
    half = len(order) // 2
    means = [sum(lengths[i] for i in part) / half for part in (order[:half], order[half:])]
    assert abs(means[0] / means[1] - 1) < 0.25  # sorted, the ratio would be 3


def test_the_seed_and_the_epoch_decide() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthGroupedSampler(drawn(200), 4, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 2) == order(3, 2)
    assert len({tuple(order(*of)) for of in ((3, 2), (3, 1), (2, 2), (4, 1))}) == 4


def test_a_run_groups_when_told_to(tiny: Tiny) -> None:  # noqa: F811
    """Two epochs of whole batches: the tokens are the same; the first losses show another order."""
    losses = {}
    tokens = {}
    for grouped in (False, True):
        folder = tiny.folder / str(grouped)
        train(
            tiny.settings(
                f"train.group_by_length={str(grouped).lower()}",
                "train.epochs=1",
                "train.steps=null",
                f"output={folder}",
            )
        )
        run = json.loads((folder / "run.json").read_text())
        losses[grouped], tokens[grouped] = run["training"]["first_loss"], run["cost"]["tokens"]
    assert tokens[True] == tokens[False]
    assert losses[True] != losses[False]
