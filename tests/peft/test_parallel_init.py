"""Promise: CPU threads decompose several weights at a time, and the initial values do not depend on their number."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from dude_peft import DudeConfig, DudeError, load_adapter
from dude_peft import model as peft_model

SHAPES = ((40, 600), (600, 500), (1500, 600), (96, 64))  # decomposed by the Gram matrix and by block Krylov


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict({f"layer{i}": nn.Linear(k, d) for i, (d, k) in enumerate(SHAPES)})


def adapted(model: nn.Module, threads: int) -> nn.Module:
    torch.set_num_threads(threads)
    made = get_peft_model(model, DudeConfig(r=16, target_modules=list(model)))  # type: ignore[arg-type, call-overload]
    assert torch.get_num_threads() == threads
    return made


def adapter(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if "lora_" in name}


def test_any_number_of_threads_gives_the_same_bits() -> None:
    expected = adapter(adapted(base(), 1))
    assert len(expected) == 7 * len(SHAPES)
    for count in (2, 5):
        found = adapter(adapted(base(), count))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_reloaded_adapter_has_the_same_bits_on_another_number_of_threads(tmp_path) -> None:
    made = adapted(base(), 2)
    made.save_pretrained(tmp_path)  # type: ignore[operator]
    torch.set_num_threads(1)
    found, expected = adapter(load_adapter(base(), tmp_path)), adapter(made)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("count", [1, 2])
def test_weights_are_decomposed_concurrently(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, init = threading.Barrier(2, timeout=60 if count == 2 else 0.1), peft_model.init_from_svd

    def waiting(*args: object):
        barrier.wait()
        return init(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(peft_model, "init_from_svd", waiting)
    if count == 2:
        adapted(base(), count)
    else:
        with pytest.raises(threading.BrokenBarrierError):
            adapted(base(), count)


def test_an_error_names_its_module_and_leaves_the_model_and_the_threads_as_they_were() -> None:
    model = base()
    with torch.no_grad():
        model["layer2"].weight[3, 4] = torch.nan  # type: ignore[index]
    with pytest.raises(DudeError, match="layer2"):
        adapted(model, 2)
    assert torch.get_num_threads() == 2
    assert all(type(layer) is nn.Linear for layer in model.values())  # type: ignore[operator]
