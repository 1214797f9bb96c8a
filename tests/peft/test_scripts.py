"""Promise: what scripts for LoRA do beside PEFT works with DuDe: devices, replicas, filters on names, dtypes."""

from __future__ import annotations

import warnings

import pytest
import tiny_models as models
import torch
from conftest import AXES, assert_close
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn

from dude_peft import DudeConfig, load_adapter
from dude_peft.errors import DudeError
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


@pytest.mark.parametrize("modules_to_save", [None, ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("axis", AXES)
def test_an_adapter_of_a_resized_vocabulary_is_loaded_with_its_embeddings(axis, modules_to_save, tmp_path):
    """PEFT saves the embeddings too, and Trainer's `load_best_model_at_end` puts the file back into the model."""
    models.llama().save_pretrained(tmp_path / "base")

    def resized(seed: int) -> nn.Module:
        base = type(models.llama()).from_pretrained(tmp_path / "base")
        torch.manual_seed(seed)
        base.resize_token_embeddings(models.VOCAB + 3)
        return base.eval()

    options = {"target_modules": ["q_proj", "v_proj"], "magnitude_axis": axis, "modules_to_save": modules_to_save}
    model = get_peft_model(resized(0), DudeConfig(r=3, **options)).eval()
    models.move(model)
    ids = torch.arange(models.VOCAB + 3)[None]
    expected = models.logits(model, ids)
    with pytest.warns(UserWarning, match="resized"):
        model.save_pretrained(tmp_path / "adapter")
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("embed_tokens" in name for name in stored)
    with pytest.warns(UserWarning, match="embed_tokens.*weight' replaces those of this base model"):
        loaded = load_adapter(resized(1), tmp_path / "adapter")
    assert_close(models.logits(loaded, ids), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_peft_model_state_dict(loaded, stored)  # the same values again
    other = get_peft_model(resized(2), DudeConfig(r=3, **options)).eval()
    set_peft_model_state_dict(other, stored)
    assert_close(models.logits(other, ids), expected)
    with pytest.raises(DudeError, match=rf"embed_tokens.*{models.VOCAB + 3}.*expected .*{models.VOCAB}"):
        load_adapter(models.llama(), tmp_path / "adapter")


def test_the_adapter_that_transformers_saves_twice_is_loaded(tmp_path):
    """transformers saves the config before the weights: a hash in it would be that of the file before."""
    model = models.llama()
    model.add_adapter(DudeConfig(r=3, target_modules=["q_proj"]))
    models.move(model)
    model.save_pretrained(tmp_path)
    models.move(model)
    model.save_pretrained(tmp_path)
    ids = models.tokens(2, 8)
    assert_close(models.logits(load_adapter(models.llama(), tmp_path), ids), models.logits(model, ids))


@pytest.mark.parametrize("axis", AXES)
def test_a_state_dict_of_the_trained_parameters_is_a_whole_adapter(axis, tmp_path):
    model, x = adapted(axis), torch.randn(5, 10)
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    expected = get_peft_model_state_dict(model)
    found = get_peft_model_state_dict(model, state_dict=trained)
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    model.save_pretrained(tmp_path, state_dict=trained)
    torch.manual_seed(0)
    assert_close(load_adapter(Net(), tmp_path).eval()(x), model.eval()(x))


@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
def test_lora_in_place_of_dude_on_one_base_is_lora(tmp_path):
    base, x = Net(), torch.randn(5, 10)
    get_peft_model(base, DudeConfig(r=3, target_modules=["first"]))
    model = get_peft_model(base, LoraConfig(r=3, target_modules=["first"], init_lora_weights=False)).eval()
    layer = model.get_base_model().first
    assert not layer.lora_variant and not layer.lora_dude and not layer.lora_magnitude_vector
    expected = base.second(torch.tanh(layer.base_layer(x) + layer.scaling["default"] * layer.lora_B["default"](
        layer.lora_A["default"](x))))  # fmt: skip
    assert_close(model(x), expected)
    model.save_pretrained(tmp_path)
    fresh = Net()
    fresh.load_state_dict({n.replace("base_layer.", ""): v for n, v in base.state_dict().items() if "lora_" not in n})
    assert_close(PeftModel.from_pretrained(fresh, tmp_path).eval()(x), expected)
