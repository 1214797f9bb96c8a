"""Promise: merging a run holds one model at a time, beside the mapped file of the base."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401 - fixtures

from dude_lab.training import merging
from dude_lab.training.train_run import train


def live_bytes() -> int:
    """Return the bytes of the storages of all tensors that Python can reach."""
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)  # not the fake tensors that another test may have left
    tensors = [one for one in gc.get_objects() if type(one) in kinds and not one.is_meta]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


@pytest.mark.parametrize("method", ["dude", "lora"])
def test_nothing_of_the_unmerged_model_is_in_memory_when_the_result_is_read(
    tiny: Tiny,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    """The peak of SmolLM2-135M is 2.0 times its weights; with the merged model beside the result 3.0, and more."""
    tiny.raw["method"] = {"name": method, "r": 2, "target_modules": "all-linear"}
    train(tiny.settings("train.steps=1"))
    before, found, weights, wanted = live_bytes(), {}, 0, 0
    logits, load = merging._logits, merging.load_weights

    def spy_logits(model: Any, base: Any) -> torch.Tensor:
        nonlocal weights, wanted
        made = logits(model, base)
        wanted = made.nbytes
        tensors = [*model.parameters(), *model.buffers()]
        own = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())
        weights = weights or own
        found.setdefault("beside the unmerged model", live_bytes() - before - own - wanted)
        return made

    def spy_load(*args: Any, **options: Any) -> Any:
        found["before the result is read"] = live_bytes() - before - wanted
        return load(*args, **options)

    monkeypatch.setattr(merging, "_logits", spy_logits)
    monkeypatch.setattr(merging, "load_weights", spy_load)
    merging.merge(tiny.output, tmp_path / "merged")
    assert set(found) == {"beside the unmerged model", "before the result is read"}
    assert weights > 1e5 and all(size < 0.1 * weights for size in found.values()), (weights, found)
