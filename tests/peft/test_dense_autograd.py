"""The two ways of a layer, thin products and the whole weight: one result, and a rule for when each is taken."""

from __future__ import annotations

import pytest
import torch
from conftest import relative_error
from test_gradients import make_layer, trainable

from dude_peft import autograd


def both_ways(layer, x, monkeypatch, call):
    found = []
    for whole in (False, True):
        monkeypatch.setattr(autograd, "pays", lambda *shape, whole=whole: whole)
        layer.lora_dude["default"].train(layer.training)  # nothing is kept from the other way
        found.append(call(layer, x))
    return found


def gradients(layer, x):
    return torch.autograd.grad(layer(x).square().sum(), (x, *trainable(layer)))


@pytest.mark.parametrize("detach_norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_ways_agree(bias, detach_norm, monkeypatch):
    layer = make_layer("out", bias=bias, detach_norm=detach_norm).train()
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    for thin, whole in zip(*both_ways(layer, x, monkeypatch, gradients), strict=True):
        assert relative_error(whole, thin) < 1e-12


def test_a_batch_in_training_has_the_same_bits_with_and_without_a_gradient(monkeypatch):
    """Checkpointing computes a layer without a gradient first, and again with one."""
    layer = make_layer("out", d=48, k=32).float().train()
    x = torch.randn(200, 32, requires_grad=True)
    with torch.no_grad():
        first = layer(x)
    assert torch.equal(first, layer(x))


def test_w_is_kept_for_generation_and_made_anew_when_a_parameter_moves(monkeypatch):
    made = []
    real = autograd.whole_weight
    monkeypatch.setattr(autograd, "whole_weight", lambda *a: made.append(1) or real(*a))
    layer = make_layer("out").eval()
    x = torch.randn(1, 5, dtype=torch.float64)
    with torch.no_grad():
        first = layer(x)
        assert torch.equal(layer(x), first) and len(made) == 1
        trainable(layer)[1].add_(0.1)
        assert not torch.equal(layer(x), first) and len(made) == 2
    layer.train()
    assert layer.lora_dude["default"]._kept._entry is None


def test_half_precision_autocast_and_dropout_never_go_through_the_whole_weight(monkeypatch):
    def refuse(*_):
        raise AssertionError("the whole weight was made")

    monkeypatch.setattr(autograd, "pays", lambda *shape: True)
    monkeypatch.setattr(autograd, "whole_weight", refuse)
    make_layer("out").bfloat16()(torch.randn(9, 5).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        make_layer("out").float()(torch.randn(9, 5))
    make_layer("out", dropout=0.5).train()(torch.randn(9, 5, dtype=torch.float64))
    with pytest.raises(AssertionError, match="whole weight"):
        make_layer("out").train()(torch.randn(9, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("tokens", "d", "k", "r", "training", "pays"),
    [
        (1024, 256, 256, 16, True, True),
        (256, 256, 256, 16, True, False),
        (4096, 1024, 1024, 16, True, False),
        (4096, 4096, 4096, 64, True, False),
        (1, 256, 256, 16, False, True),
        (1, 1024, 1024, 16, False, False),
        (1024, 1024, 1024, 16, False, True),
        (8192, 4096, 4096, 16, False, False),
    ],
)
def test_the_rule(tokens, d, k, r, training, pays):
    assert autograd.pays(tokens, d, k, r, training) is pays
