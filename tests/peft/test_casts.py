"""Promise: a cast of the whole model leaves what must be float32 in float32, and what is saved then loads exactly."""

from __future__ import annotations

import pytest
import tiny_models as models
import torch
from conftest import AXES
from peft import get_peft_model

from dude_peft import load_adapter

CASTS = {
    "to bfloat16": lambda model: model.to(torch.bfloat16),
    "half": lambda model: model.half(),
    "bfloat16": lambda model: model.bfloat16(),
    "layer by layer": lambda model: [layer.to(torch.bfloat16) for layer in models.dude_layers(model).values()],
    "to device and dtype": lambda model: model.to("cpu", torch.float16),
}


def precise(model):
    """The initialisation and the magnitude of every adapted layer, by name."""
    parts = ("lora_A0", "lora_B0", "lora_n0", "lora_P0", "lora_magnitude_vector")
    return {name: p for name, p in model.named_parameters() if any(part in name for part in parts)}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_leaves_initialisation_and_magnitude_as_they_are(cast, axis):
    model = get_peft_model(models.llama(), models.config_for("llama", magnitude_axis=axis))
    before = {name: p.clone() for name, p in precise(model).items()}
    CASTS[cast](model)
    layers = models.dude_layers(model).values()
    assert all(layer.get_base_layer().weight.dtype != torch.float32 for layer in layers)
    after = precise(model)
    assert after.keys() == before.keys() and len(before) == 5 * len(layers)
    for name, parameter in after.items():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("axis", AXES)
def test_a_model_that_was_cast_is_still_the_cast_base_at_the_initialisation(axis):
    base = models.llama()
    before = models.logits(models.llama(torch.bfloat16))
    model = get_peft_model(base, models.config_for("llama", magnitude_axis=axis)).to(torch.bfloat16).eval()
    assert torch.equal(models.logits(model), before)


def test_double_and_devices_are_followed():
    model = get_peft_model(models.llama(), models.config_for("llama"))
    assert all(p.dtype == torch.float64 for p in precise(model.double()).values())
    assert all(p.dtype == torch.float32 for p in precise(model.float()).values())
    assert all(p.is_meta and p.dtype == torch.float32 for p in precise(model.to("meta", torch.bfloat16)).values())


@pytest.mark.parametrize("axis", AXES)
def test_saving_and_loading_after_a_cast_is_exact(axis, tmp_path):
    model = get_peft_model(models.llama(), models.config_for("llama", magnitude_axis=axis))
    models.move(model, 0.05)
    model.to(torch.bfloat16).eval()
    model.save_pretrained(tmp_path)
    loaded = load_adapter(models.llama(torch.bfloat16), tmp_path)
    for (name, saved), found in zip(precise(model).items(), precise(loaded).values(), strict=True):
        if "P0" not in name and "n0" not in name:  # which follow from the base, now rounded
            assert torch.equal(saved, found), name


def test_trainer_casts_of_trl_leave_them_too():
    """It casts the layers of an adapter one by one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = get_peft_model(models.llama(torch.bfloat16), models.config_for("llama"))
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.to(torch.bfloat16)
    assert all(p.dtype == torch.float32 for p in precise(model).values())
