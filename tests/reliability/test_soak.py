"""Thousands of load, merge, unmerge, unload and delete cycles: the base stays the same bits, memory stays flat."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import tiny_models as models
import torch
from peft import PeftModel, get_peft_model
from tally import tally  # noqa: F401

from dude_peft import DudeConfig, load_adapter

WARM = 100  # cycles until allocators and caches have their size
GROWTH = 4 << 20  # bytes of resident memory over all later cycles: a leak of one factor a cycle would be more


def cycle(base: torch.nn.Module, folder: Path, wanted: torch.Tensor) -> None:
    """Once through the life of an adapter; ends with the plain base."""
    model = load_adapter(base, folder)
    load_adapter(model, folder, "second")
    model.merge_adapter(["second"])
    model.unmerge_adapter()
    model.delete_adapter("second")
    assert torch.equal(models.logits(model), wanted)
    assert model.unload() is base


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())


def soak(tmp_path: Path, axis: str, cycles: int) -> tuple[int, int]:
    """Returns by how much live tensors and resident bytes grew from cycle `WARM` (at most half of all) to the last."""
    base = models.llama(layers=1)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    trained = get_peft_model(
        models.llama(layers=1), DudeConfig(r=4, target_modules=["q_proj", "down_proj"], magnitude_axis=axis)
    ).eval()
    models.move(trained)
    trained.save_pretrained(tmp_path)
    model = load_adapter(base, tmp_path)
    assert isinstance(model, PeftModel)
    wanted = models.logits(model)
    model.unload()
    tensors = memory = 0
    for number in range(cycles):
        if number == min(WARM, cycles // 2):
            tensors, memory = live_tensors(), psutil.Process().memory_info().rss
        cycle(base, tmp_path, wanted)
    grown = live_tensors() - tensors, psutil.Process().memory_info().rss - memory
    assert base.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    return grown


@pytest.mark.parametrize("axis", ["out", "in"])
def test_some_cycles(tmp_path: Path, axis: str) -> None:
    assert soak(tmp_path, axis, 10)[0] <= 0  # below 0: what earlier tests left was freed


@pytest.mark.reliability
@pytest.mark.parametrize("axis", ["out", "in"])
def test_many_cycles(tmp_path: Path, tally: Callable[..., None], axis: str) -> None:  # noqa: F811
    tensors, memory = soak(tmp_path, axis, 1000)
    good = tensors == 0 and memory < GROWTH
    tally("load, merge, unmerge, delete, unload: base the same bits, memory flat", f"axis {axis}", 1000, 1000 * good)
    assert good, f"{tensors} tensors and {memory} bytes more"
