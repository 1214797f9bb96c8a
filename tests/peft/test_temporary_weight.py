"""The two ways without a gradient, thin products and a temporary W': one result, and a rule for when each is taken."""

from __future__ import annotations

import weakref

import pytest
import torch
from conftest import relative_error
from test_gradients import make_layer

from dude_peft import functional


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_they_agree(bias, monkeypatch):
    layer = make_layer("out", bias=bias).eval()
    x, found = torch.randn(3, 4, 5, dtype=torch.float64), []
    monkeypatch.setattr(functional, "temporary_weight_pays", lambda *shape: False)
    for pays in (False, True):
        monkeypatch.setattr("dude_peft.cache.CACHED_WEIGHT", 1000 * pays)
        found.append(layer(x))
    assert not torch.equal(*found) and relative_error(*found) < 1e-12


def test_half_precision_autocast_dropout_training_and_a_gradient_never_make_it(monkeypatch):
    def refuse(*_):
        raise AssertionError("W' was made")

    monkeypatch.setattr(functional, "temporary_weight", refuse)
    x = torch.randn(9, 5, dtype=torch.float64)
    make_layer("out").eval()(x)  # a gradient
    with torch.no_grad():
        make_layer("out").bfloat16().eval()(x.bfloat16())
        make_layer("out").train()(x)  # recomputed with a gradient under checkpointing
        with torch.autocast("cpu", torch.bfloat16):
            make_layer("out").float().eval()(x.float())
        layer = make_layer("out", dropout=0.5).eval()
        layer.lora_dropout["default"].train()
        layer(x)
        with pytest.raises(AssertionError, match="W' was made"):
            make_layer("out").eval()(x)


def test_a_batch_in_training_has_the_same_bits_with_and_without_a_gradient():
    """Checkpointing computes a layer without a gradient first, and again with one."""
    layer = make_layer("out", d=48, k=32).float().train()
    x = torch.randn(200, 32, requires_grad=True)
    with torch.no_grad():
        first = layer(x)
    assert torch.equal(first, layer(x))


@pytest.mark.parametrize(
    ("tokens", "d", "k", "pays"),
    [(1, 256, 256, False), (512, 576, 576, True), (1024, 1024, 1024, True), (8192, 4096, 4096, False)],
)
def test_the_rule(tokens, d, k, pays):
    assert functional.temporary_weight_pays(tokens, d, k) is pays


@pytest.fixture
def made(monkeypatch):
    """How often W' was computed, in a layer that always takes it."""
    calls, real = [], functional.temporary_weight
    monkeypatch.setattr(functional, "temporary_weight_pays", lambda *shape: True)
    monkeypatch.setattr(functional, "temporary_weight", lambda *args: calls.append(1) or real(*args))
    return calls


@torch.no_grad()
def test_a_narrow_layer_computes_it_once_for_one_set_of_parameters(made):
    layer, x = make_layer("out").eval(), torch.randn(9, 5, dtype=torch.float64)
    assert torch.equal(layer(x), layer(x)) and len(made) == 1
    for changed in range(2, 4):
        before = layer(x)
        layer.lora_B["default"].weight.add_(0.1)
        after = layer(x)
        assert len(made) == changed and not torch.equal(before, after) and torch.equal(after, layer(x))
    layer.set_scale("default", 3.0)
    assert not torch.equal(layer(x), after) and len(made) == 4


@torch.no_grad()
def test_inputs_of_any_length_use_it_once_it_is_cached(made, monkeypatch):
    monkeypatch.setattr(functional, "temporary_weight_pays", lambda *shape: False)
    layer, x = make_layer("out").eval(), torch.randn(9, 5, dtype=torch.float64)
    whole, parts = layer(x), [layer(line) for line in x.split(1)]
    assert len(made) == 1 and relative_error(torch.cat(parts), whole) < 1e-12
    layer.lora_A["default"].weight.grad = torch.zeros_like(layer.lora_A["default"].weight)
    layer(x)  # nothing would be cached, so W' is not made
    assert len(made) == 1


@torch.no_grad()
def test_it_is_freed_with_the_factors(made, monkeypatch):
    layer, x = make_layer("out").eval(), torch.randn(9, 5, dtype=torch.float64)
    layer(x)
    cached = weakref.ref(layer.lora_dude["default"]._cache._weight)
    layer.train()
    assert cached() is None
    layer.eval()
    layer(x)
    cached = weakref.ref(layer.lora_dude["default"]._cache._weight)
    with torch.enable_grad():
        layer(x).sum().backward()
    assert cached() is None
    layer.eval()
    layer(x), layer(x)  # beside a `.grad` nothing is cached
    assert len(made) == 4 and layer.lora_dude["default"]._cache._weight is None
    for p in layer.parameters():
        p.grad = None
    layer(x)
    cached = weakref.ref(layer.lora_dude["default"]._cache._weight)
    layer.lora_B["default"].weight.add_(0.1)
    monkeypatch.setattr(functional, "temporary_weight_pays", lambda *shape: False)
    monkeypatch.setattr("dude_peft.cache.CACHED_WEIGHT", 0)
    layer(x)  # the factors alone
    assert cached() is None


@torch.no_grad()
def test_a_wide_layer_does_not_cache_it(made, monkeypatch):
    monkeypatch.setattr("dude_peft.cache.CACHED_WEIGHT", 7 * 5 - 1)
    layer, x = make_layer("out", d=7, k=5).eval(), torch.randn(9, 5, dtype=torch.float64)
    layer(x), layer(x)
    assert len(made) == 2 and layer.lora_dude["default"]._cache._weight is None
    monkeypatch.setattr("dude_peft.cache.CACHED_WEIGHT", 7 * 5)
    layer(x), layer(x)
    assert len(made) == 3
