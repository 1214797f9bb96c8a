"""Promise: what scripts for LoRA do beside PEFT works with DuDe: devices, replicas, filters on names, dtypes."""

from __future__ import annotations

import pytest
import torch
from conftest import AXES, assert_close
from peft import get_peft_model
from torch import nn

from dude_peft import DudeConfig, load_adapter
from dude_peft.svd import random_vectors, top_singular_triplets


class Net(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, width), nn.Linear(width, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, 7)."""
        return self.second(torch.tanh(self.first(x)))


def adapted(axis: str = "out", dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    model = get_peft_model(Net().to(dtype), DudeConfig(r=3, target_modules=["first", "second"], magnitude_axis=axis))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_the_default_device_may_be_another_than_the_weights():
    """A generator of the CPU draws on the CPU; `meta` stands for a GPU."""
    weight = torch.randn(520, 520)
    expected = top_singular_triplets(weight, 8)
    torch.set_default_device("meta")
    try:
        found = top_singular_triplets(weight, 8)
        drawn = random_vectors(found, 0)
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(drawn, random_vectors(expected, 0), strict=True))


def replica_of(module: nn.Module) -> nn.Module:
    """Return what `torch.nn.parallel.replicate` makes of a module, on the same device."""
    modules = list(module.modules())
    replicas = {one: one._replicate_for_data_parallel() for one in modules}
    for one, replica in replicas.items():
        for name, child in one._modules.items():
            replica._modules[name] = None if child is None else replicas[child]
        for name, parameter in one._parameters.items():
            if parameter is not None:
                setattr(replica, name, parameter.view_as(parameter))
    return replicas[module]


@pytest.mark.parametrize("axis", AXES)
def test_a_replica_of_data_parallel_computes_the_same(axis):
    model, x = adapted(axis).train(), torch.randn(5, 10)
    assert torch.equal(replica_of(model)(x), model(x))


@pytest.mark.parametrize("axis", AXES)
def test_training_every_name_with_lora_keeps_the_initial_values(axis, tmp_path):
    model, x = adapted(axis), torch.randn(16, 10)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "lora_" in name
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2, weight_decay=0)
    for _ in range(5):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    torch.manual_seed(0)
    assert_close(load_adapter(Net(), tmp_path).eval()(x), model(x))


def test_unmerging_follows_the_dtype():
    model = adapted()
    model.merge_adapter()
    model.to(torch.bfloat16)
    model.unmerge_adapter()
    assert {parameter.dtype for parameter in model.get_base_model().first.base_layer.parameters()} == {torch.bfloat16}
    assert model(torch.randn(3, 10, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_config_is_made_again_from_its_dict():
    config = DudeConfig(r=5, target_modules=["first"], magnitude_axis="in")
    assert DudeConfig(**config.to_dict()).to_dude_dict() == config.to_dude_dict()


@pytest.mark.parametrize("axis", AXES)
def test_a_trained_base_bias_has_its_gradient(axis):
    model, x = adapted(axis, torch.float64), torch.randn(6, 10, dtype=torch.float64)
    bias = model.get_base_model().second.base_layer.bias.requires_grad_()

    def loss(value: torch.Tensor) -> torch.Tensor:
        return (
            torch.func.functional_call(model, {"base_model.model.second.base_layer.bias": value}, (x,)).square().sum()
        )

    model(x).square().sum().backward()
    expected = torch.zeros_like(bias)
    for k in range(bias.numel()):
        step = torch.zeros_like(bias)
        step[k] = 1e-6
        with torch.no_grad():
            expected[k] = (loss(bias + step) - loss(bias - step)) / 2e-6
    assert torch.allclose(bias.grad, expected, rtol=1e-6, atol=1e-7)


def test_two_merged_adapters_of_axis_in_keep_float64():
    model = adapted("in", torch.float64)
    model.add_adapter("other", DudeConfig(r=2, target_modules=["first", "second"], magnitude_axis="in"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".other" in name and "lora_dude" not in name:
                parameter += 0.1 * torch.randn_like(parameter)
    model.base_model.set_adapter(["default", "other"])
    x = torch.randn(4, 10, dtype=torch.float64)
    expected = model.eval()(x)
    model.merge_adapter()
    assert torch.allclose(model(x), expected, rtol=0, atol=1e-13)
