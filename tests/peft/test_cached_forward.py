"""Promise: a cached forward has the bits of an uncached one, in every state that a layer can be brought into."""

from __future__ import annotations

from unittest import mock

import pytest
import tiny_models as models
import torch
from peft import get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from dude_peft.cache import FactorCache
from dude_peft.layer import DudeAdapter

D, K = 40, 24


def make(dtype=torch.float32, base=None, **options):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(K, D, dtype=dtype) if base is None else base)
    config = models.config_for("llama", r=3, target_modules=["0"], task_type=None, **options)
    model = get_peft_model(base, config).eval()
    models.move(model, 0.1)
    return model, model.base_model.model[0]


def x_for(dtype=torch.float32, *shape):
    return torch.randn(*(shape or (2, 1, K)), generator=torch.Generator().manual_seed(3)).to(dtype)


def uncached(layer, x, *args, **kwargs):
    with mock.patch.object(FactorCache, "get", lambda *_: None):
        return layer(x, *args, **kwargs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float64},
        {"base": nn.Linear(K, D, bias=False)},
        {"base": Conv1D(D, K), "fan_in_fan_out": True},
        {"lora_dropout": 0.5},
        {"lora_alpha": 7},
    ],
    ids=str,
)
@torch.no_grad()
def test_a_step_of_generation_is_cached_and_has_the_same_bits(options):
    _, layer = make(**options)
    for x in (x_for(layer.get_base_layer().weight.dtype), x_for(layer.get_base_layer().weight.dtype, K)):
        want = uncached(layer, x)
        with mock.patch.object(DudeAdapter, "compose", side_effect=AssertionError("not cached")):
            assert torch.equal(layer(x), want) and want.shape == (*x.shape[:-1], D)


def disabled(model, layer):
    layer.enable_adapters(False)


def merged(model, layer):
    layer.merge()


def other_adapter(model, layer):
    model.add_adapter("second", models.config_for("llama", r=2, target_modules=["0"], task_type=None))
    models.move(model, 0.3, adapter="second")
    model.set_adapter("second")
    model.eval()


def both_adapters(model, layer):
    other_adapter(model, layer)
    layer.set_adapter(["default", "second"])


def hooked_base(model, layer):
    layer.base_layer.register_forward_hook(lambda module, inputs, output: output + 1)


def replaced_forward(model, layer):
    layer.base_layer.forward = lambda x: torch.ones(*x.shape[:-1], D)


def training_dropout(model, layer):
    layer.lora_dropout["default"] = nn.Dropout(0.9).train()
    torch.manual_seed(0)


def other_scaling(model, layer):
    layer.set_scale("default", 3.0)


def replaced_parameter(model, layer):
    layer.lora_A["default"].weight = nn.Parameter(layer.lora_A["default"].weight * 2)


def replaced_base_weight(model, layer):
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight * 2, requires_grad=False)


STATES = (disabled, merged, other_adapter, both_adapters, hooked_base, replaced_forward, training_dropout)
STATES = (*STATES, other_scaling, replaced_parameter, replaced_base_weight)


@pytest.mark.parametrize("state", STATES, ids=lambda f: f.__name__)
@torch.no_grad()
def test_in_every_other_state_too(state):
    model, layer = make()
    before = layer(x_for())
    state(model, layer)
    got = layer(x_for())
    if state is training_dropout:
        torch.manual_seed(0)
    assert torch.equal(got, uncached(layer, x_for()))
    if state is not merged:
        assert not torch.allclose(got, before)


@torch.no_grad()
def test_autocast_and_axis_in():
    _, layer = make()
    layer(x_for())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x_for()).dtype == torch.bfloat16
    _, layer = make(magnitude_axis="in")
    assert torch.equal(layer(x_for()), layer(x_for()))


def test_a_gradient_is_never_lost():
    _, layer = make()
    with torch.no_grad():
        layer(x_for())
    layer(x_for()).sum().backward()
    assert layer.lora_A["default"].weight.grad.abs().sum() > 0
