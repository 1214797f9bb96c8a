"""Promise: forward and merge are the paper's dense formula in float64, wherever A, B and m have moved to."""

from __future__ import annotations

import math

import pytest
import tiny_models as models
import torch
from conftest import AXES, DTYPES, VARIANTS, assert_close, relative_error
from peft import get_peft_model

from dude_peft import reference
from dude_peft.base_weight import dense_weight


def dense(layer, adapter: str = "default") -> torch.Tensor:
    """Eq. 7 in float64 from the layer's parameters: W_f = W0 - s B0 A0, A = A0 + dA, B = B0 + dB."""
    start, s = layer.lora_dude[adapter], layer.scaling[adapter]
    A0, B0 = start.lora_A0.double(), start.lora_B0.double()
    Wf = dense_weight(layer.get_base_layer()).double() - s * B0 @ A0
    A, B = A0 + layer.lora_A[adapter].weight.double(), B0 + layer.lora_B[adapter].weight.double()
    return reference.composed_weight(layer.lora_magnitude_vector[adapter].weight.double(), Wf, A, B, s, start.axis)


def moved(family: str, dtype: torch.dtype, size: float = 0.05, **options):
    model = get_peft_model(models.FAMILIES[family](dtype), models.config_for(family, **options)).eval()
    models.move(model, size)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", (*DTYPES, torch.float64), ids=str)
def test_forward_is_the_dense_formula(dtype, axis, variant):
    model = moved("llama", dtype, magnitude_axis=axis, init_variant=variant, lora_alpha=6)
    for name, layer in models.dude_layers(model).items():
        W, base = dense(layer), layer.get_base_layer()
        x = torch.randn(3, 5, W.shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
        with torch.no_grad():
            want = x.double() @ W.T + base.bias.double()
            assert_close(layer(x), want, dtype)
            assert relative_error(base(x), want) > 5e-3, f"{name} did not move"


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("family", ["gpt2", "phi3", "qwen2", "mini"])
def test_forward_on_every_kind_of_layer(family, axis):
    model = moved(family, torch.float32, magnitude_axis=axis)
    for layer in models.dude_layers(model).values():
        W, base = dense(layer), layer.get_base_layer()
        x = torch.randn(7, W.shape[1], generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            want = x.double() @ W.T + (0 if base.bias is None else base.bias.double())
            assert_close(layer(x), want)


@pytest.mark.parametrize("size", [1e-4, 1e-2, 0.3, 3.0])
@pytest.mark.parametrize("axis", AXES)
def test_forward_far_from_the_start_and_next_to_it(axis, size):
    model = moved("llama", torch.float64, size, magnitude_axis=axis)
    for layer in models.dude_layers(model).values():
        W, base = dense(layer), layer.get_base_layer()
        x = torch.randn(4, W.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            # compared as changes: next to the start the output itself would hide any error
            assert relative_error(layer(x) - base(x), x @ W.T + base.bias - base(x)) < 1e-9


def test_scaling_with_rslora_and_patterns():
    model = moved(
        "llama",
        torch.float32,
        use_rslora=True,
        lora_alpha=8,
        rank_pattern={"q_proj": 2, "down_proj": 7},
        alpha_pattern={"v_proj": 3},
    )
    layers = models.dude_layers(model)
    for name, layer in layers.items():
        r = 2 if name.endswith("q_proj") else 7 if name.endswith("down_proj") else 4
        alpha = 3 if name.endswith("v_proj") else 8
        assert layer.lora_A["default"].weight.shape[0] == r
        assert layer.scaling["default"] == pytest.approx(alpha / math.sqrt(r))
        x = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert_close(layer(x), x.double() @ dense(layer).T + layer.get_base_layer().bias.double())


def test_the_default_scaling_is_one_everywhere():
    model = moved("llama", torch.float32, rank_pattern={"q_proj": 2})
    assert {layer.scaling["default"] for layer in models.dude_layers(model).values()} == {1.0}


def test_no_dense_product_in_a_forward():
    """Nothing as large as W0 is made: neither B A nor W0 + B A, nor a copy of W0."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            inputs = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in inputs:
                    Largest.seen = max(Largest.seen, tensor.numel())
            return result

    model = moved("llama", torch.float32).train()
    for layer in models.dude_layers(model).values():
        x = torch.randn(2, layer.in_features, requires_grad=True)
        Largest.seen = 0
        with Largest():
            layer(x).sum().backward()
        assert 0 < Largest.seen <= 2 * 4 * max(layer.in_features, layer.out_features)
        assert Largest.seen < layer.in_features * layer.out_features
