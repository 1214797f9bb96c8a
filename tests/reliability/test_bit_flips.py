"""Every file of a checkpoint and of a final adapter with a flipped bit is noticed, for every method."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from bit_flips import measure
from runs import METHODS
from tally import tally  # noqa: F401
from tiny_run import tiny_base  # noqa: F401

WHERE = {"checkpoint": "bit flipped in a checkpoint's file", "result": "bit flipped in a final adapter's file"}


@pytest.mark.reliability
@pytest.mark.parametrize("method", METHODS)
def test_bit_flips(tiny_base: Path, tmp_path: Path, tally: Callable[..., None], method: str) -> None:  # noqa: F811
    found = measure(method, tiny_base, tmp_path, 3, random.Random(method))
    for part, (noticed, _, flips) in found.items():
        tally(WHERE[part], method, flips, noticed)
    assert all(noticed == flips for noticed, _, flips in found.values()), found
