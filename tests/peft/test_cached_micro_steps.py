"""Promise: micro-steps of gradient accumulation on a CPU compute the norm once, and no cached value is ever stale."""

from __future__ import annotations

import copy
import pickle
from unittest import mock

import pytest
import tiny_models as models
import torch
from peft import get_peft_model
from test_cached_norm import WAYS, Counted, fresh, make, x_for
from torch import nn
from transformers.pytorch_utils import Conv1D

from dude_peft.cache import MicroStepCache
from dude_peft.layer import trained_parameters


def micro_steps(layer, times, train=False):
    """Accumulate gradients; with `train`, as Hugging Face's trainer does, which calls `train()` before each."""
    for _ in range(times):
        if train:
            layer.train()
        layer(x_for(layer)).float().square().sum().backward()


def accumulating(**options):
    """A model in training whose cache is filled."""
    model, layer = make(**options)
    model.train()
    micro_steps(layer, 2)
    cache = layer.lora_dude["default"]._micro_steps
    assert cache._entry is not None
    return model, layer, cache


def uncached():
    return mock.patch.object(MicroStepCache, "get", lambda *_: None)


@pytest.mark.parametrize("train", [False, True])
def test_from_the_second_micro_step_on_nothing_is_computed_again(train):
    model, layer = make()
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for computed in (2, 1, 1):
        with Counted() as counted:
            micro_steps(layer, 4, train)
        assert counted.calls == computed
        optimizer.step()
        optimizer.zero_grad()


def test_training_without_accumulation_caches_nothing():
    model, layer = make()
    model.train()
    with Counted() as counted:
        for _ in range(3):
            micro_steps(layer, 1)
            model.zero_grad()
    assert counted.calls == 3 and layer.lora_dude["default"]._micro_steps is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": torch.float64},
        {"dtype": torch.bfloat16},
        {"dtype": torch.float16},
        {"detach_norm": True},
        {"lora_dropout": 0.5},
        {"lora_alpha": 7},
        {"hooked": True},
        {"conv": True},
        {"autocast": True},
        {"halved": True},
    ],
    ids=str,
)
def test_cached_and_uncached_gradients_have_the_same_bits(options):
    """Over two optimizer steps of three micro-steps each; fused, so that the parameters' versions stay."""
    options = dict(options)
    hooked, conv, autocast, halved = (options.pop(n, False) for n in ("hooked", "conv", "autocast", "halved"))
    found = []
    for cached in (True, False):
        torch.manual_seed(0)
        if conv:
            config = models.config_for("llama", r=3, target_modules=["0"], task_type=None, fan_in_fan_out=True)
            model = get_peft_model(nn.Sequential(Conv1D(40, 24)), config)
            models.move(model, 0.1)
            layer = model.base_model.model[0]
        else:
            model, layer = make(**options)
        if hooked:
            layer.base_layer.register_forward_hook(lambda module, inputs, output: output + 1)
        if halved:
            model.bfloat16()
        model.train()
        trained = trained_parameters(layer, "default")
        optimizer = torch.optim.AdamW(trained, lr=0.01, fused=True)
        torch.manual_seed(1)
        with mock.patch.object(MicroStepCache, "get", MicroStepCache.get if cached else lambda *_: None):
            for _ in range(2):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast), Counted() as counted:
                    micro_steps(layer, 3)
                gradients = [p.grad for p in trained]
                optimizer.step()
                optimizer.zero_grad()
        assert counted.calls == (1 if cached else 3)
        found.append((*gradients, *trained))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def step_of_one_entry(index):
    def step(model, layer):
        trained_parameters(layer, "default")[index].data.view(-1)[-1].add_(1e-3)

    return step


def replaced_base_weight(model, layer):
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight * 2, requires_grad=False)


def replaced_parameter(model, layer):
    layer.lora_A["default"].weight = nn.Parameter(layer.lora_A["default"].weight * 2)


def rounded_magnitude(model, layer):
    magnitude = layer.lora_magnitude_vector["default"]
    magnitude.weight = nn.Parameter(magnitude.weight.detach().bfloat16())


def bare_pointer_step(model, layer):
    """As 8-bit optimizers step."""
    for p in trained_parameters(layer, "default"):
        p.detach().numpy()[:] -= 1e-2 * p.grad.numpy()


MORE = {
    "one entry of dA": step_of_one_entry(0),
    "one entry of dB": step_of_one_entry(1),
    "one entry of the magnitude": step_of_one_entry(2),
    "base weight": replaced_base_weight,
    "parameter": replaced_parameter,
    "magnitude in another dtype": rounded_magnitude,
    "bare pointers": bare_pointer_step,
}


@pytest.mark.parametrize("way", [*WAYS, *MORE])
def test_no_way_to_change_a_layer_leaves_it_stale(way):
    model, layer, _ = accumulating()
    with torch.no_grad():
        before = layer(x_for(layer))
    (WAYS | MORE)[way](model, layer)
    after = layer(x_for(layer))
    with uncached():
        want = layer(x_for(layer))
    assert torch.equal(after, want) and not torch.equal(after, before)
    got, wanted = [torch.autograd.grad(y.square().sum(), trained_parameters(layer, "default")) for y in (after, want)]
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_a_parameter_that_is_not_a_number_is_computed_again():
    _, layer, _ = accumulating()
    layer.lora_B["default"].weight.data[0, 0] = torch.nan
    assert layer(x_for(layer))[:, 0].isnan().all()


def test_eval_frees_it_and_an_optimizer_step_frees_the_old_entry():
    model, layer, cache = accumulating()
    with mock.patch.object(type(layer.lora_dude["default"]), "compose", side_effect=ZeroDivisionError):
        layer.lora_A["default"].weight.data.add_(1)
        with pytest.raises(ZeroDivisionError):
            micro_steps(layer, 1)
    assert cache._entry is None  # while the next one was computed
    model.eval()
    assert layer.lora_dude["default"]._micro_steps is None
    micro_steps(layer, 3)
    assert layer.lora_dude["default"]._micro_steps is None  # and in eval mode nothing is cached for a gradient


def test_of_the_parameters_it_copies_the_magnitude_alone():
    """The composition holds dA and dB."""
    _, layer, cache = accumulating()
    *_, magnitude, composition, factors = cache._entry
    r, (d, k) = 3, layer.base_layer.weight.shape
    held = {t.untyped_storage().data_ptr(): t.numel() for t in (magnitude, *composition, *factors)}
    assert sum(held.values()) == d + 2 * r * (k + d) + 2 * r * d + d + d + 2 * r * d  # m, Ah, Bt, V_other, norm, gain
    assert not any(t.requires_grad for t in (magnitude, *composition, *factors))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_has_an_empty_cache(copied):
    _, layer, cache = accumulating()
    other = copied(layer)
    assert cache._entry is not None and other.lora_dude["default"]._micro_steps._entry is None
    step_of_one_entry(0)(None, other)
    with uncached():
        want = other(x_for(other))
    assert torch.equal(other(x_for(other)), want)


def test_nothing_is_cached_while_compiling():
    model, layer = make()
    model.train()
    with mock.patch("torch.compiler.is_compiling", return_value=True), Counted() as counted:
        micro_steps(layer, 3)
    assert counted.calls == 3 and layer.lora_dude["default"]._micro_steps is None


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    from torch.utils.checkpoint import checkpoint

    found = []
    for checkpointed in (False, True):
        model, layer = make()
        model.train()
        for step in range(2):
            model.zero_grad()
            for _ in range(3):
                x = x_for(layer).requires_grad_()
                y = checkpoint(layer, x, use_reentrant=reentrant) if checkpointed else layer(x)
                y.square().sum().backward()
            for p in trained_parameters(layer, "default"):
                p.data.sub_(p.grad, alpha=1e-3 * (step + 1))
        found.append([p.grad for p in trained_parameters(layer, "default")])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_layer_that_is_used_twice_in_a_forward():
    found = []
    for cached in (True, False):
        torch.manual_seed(0)
        config = models.config_for("llama", r=3, target_modules=["0"], task_type=None)
        model = get_peft_model(nn.Sequential(nn.Linear(24, 24)), config)
        models.move(model, 0.1)
        layer = model.base_model.model[0]
        model.train()
        with mock.patch.object(MicroStepCache, "get", MicroStepCache.get if cached else lambda *_: None):
            for _ in range(3):
                layer(layer(x_for(layer))).square().sum().backward()
        found.append([p.grad for p in trained_parameters(layer, "default")])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_two_adapters_have_a_cache_each():
    model, layer = make()
    model.add_adapter("second", models.config_for("llama", r=2, target_modules=["0"], task_type=None))
    models.move(model, 0.3, adapter="second")
    model.train()
    for name in ("default", "second", "default", "second"):
        model.set_adapter(name)
        micro_steps(layer, 3)
        with torch.no_grad():
            assert torch.allclose(layer(x_for(layer)), fresh(layer, name), rtol=1e-5, atol=1e-5)
    layer.set_adapter(["default", "second"])
    micro_steps(layer, 2)
    y = layer(x_for(layer))
    with uncached():
        assert torch.equal(y, layer(x_for(layer)))


def test_inference_mode_neither_fills_nor_uses_it():
    _, layer, cache = accumulating()
    entry = cache._entry
    with torch.inference_mode():
        layer(x_for(layer))
    assert cache._entry is entry
    micro_steps(layer, 1)


def test_parameters_made_in_inference_mode_have_no_version_and_are_not_cached():
    with torch.inference_mode():
        _, layer = make()
    init, weight = layer.lora_dude["default"].init, layer.base_layer.weight
    cache = MicroStepCache()
    trained = trained_parameters(layer, "default")
    composition = layer.lora_dude["default"].compose(*trained, weight, 1.0)
    cache.put((1.0, torch.float32), trained, init, weight, composition, None)
    assert cache._entry is None


def test_another_dtype_is_computed_again():
    _, layer, _ = accumulating()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x_for(layer))
        with uncached():
            assert y.dtype == torch.bfloat16 and torch.equal(y, layer(x_for(layer)))
    y = layer(x_for(layer))
    with uncached():
        assert y.dtype == torch.float32 and torch.equal(y, layer(x_for(layer)))


def test_a_base_weight_at_the_same_address_is_another_one():
    _, layer, _ = accumulating()
    layer.base_layer.weight = nn.Parameter(layer.base_layer.weight.data, requires_grad=False)
    micro_steps(layer, 1)
    old = layer.base_layer.weight
    old.data.numpy()[:] *= 2  # the storage as a new parameter may find it
    layer.base_layer.weight = nn.Parameter(old.data, requires_grad=False)
    now = layer.base_layer.weight
    assert (now.data_ptr(), now._version, now.dtype) == (old.data_ptr(), old._version, old.dtype)
    y = layer(x_for(layer))
    with uncached():
        assert torch.equal(y, layer(x_for(layer)))
