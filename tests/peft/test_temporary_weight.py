"""The two ways without a gradient, thin products and a temporary W': one result, and a rule for when each is taken."""

from __future__ import annotations

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
    for pays in (False, True):
        monkeypatch.setattr(functional, "temporary_weight_pays", lambda *shape, pays=pays: pays)
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
