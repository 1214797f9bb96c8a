"""Promise: in float16 and bfloat16 the gradient is Eq. 8 and 9 to the precision of the dtype, for small weights too."""

from __future__ import annotations

import pytest
import torch
from conftest import AXES, TOLERANCE, VARIANTS
from peft import get_peft_model
from torch import nn

from dude_peft import DudeConfig
from dude_peft.autograd import column_sums, converting_sums
from dude_peft.functional import RangedProduct

SIDE, RANK, TOKENS = 256, 8, 48
PARTS = ("dA", "dB", "m", "x")


def gradients(weight, dtype, axis, step, loss_scale=1.0, variant="dude"):
    """dL/d(dA, dB, m, x) of one layer one step away from its initialisation, computed in `dtype`."""
    base = nn.Sequential(nn.Linear(SIDE, SIDE, bias=False))
    base[0].weight = nn.Parameter(weight.to(dtype))
    config = DudeConfig(r=RANK, target_modules=["0"], magnitude_axis=axis, init_variant=variant)
    layer = get_peft_model(base, config).base_model.model[0].train()
    generator = torch.Generator().manual_seed(1)
    trained = [getattr(layer, f"lora_{name}")["default"].weight for name in ("A", "B", "magnitude_vector")]
    for parameter in trained[:2]:  # one step of Adam: the same size everywhere, the sign at random
        signs = torch.randn(parameter.shape, generator=generator).sign()
        with torch.no_grad():
            parameter += step * signs.to(parameter.dtype)
    x = torch.randn(TOKENS, SIDE, generator=generator).half().to(dtype).requires_grad_()
    G = (loss_scale * torch.randn(TOKENS, SIDE, generator=generator)).half().to(dtype)
    layer(x).backward(G)
    return [p.grad.double() for p in (*trained, x)]


def deviation(got, want):
    return float((got - want).norm() / want.norm())


@pytest.mark.supports(base=["bfloat16", "float16"], engine="one process", method=["DuDe", "DuDe, axis in"])
@pytest.mark.parametrize("size", [2e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("axis", AXES)
def test_float16_is_as_close_to_float64_as_bfloat16(axis, size):
    """A projection lost by underflow is an error of 6e-2 in dL/dB, whatever the size of the weights."""
    torch.manual_seed(0)
    weight, step = size * torch.randn(SIDE, SIDE), 1e-4 * (size / 2e-2) ** 0.5
    errors = {}
    for dtype in (torch.float16, torch.bfloat16):
        weight_ = weight.to(dtype)
        want = gradients(weight_, torch.float64, axis, step)
        got = gradients(weight_, dtype, axis, step)
        errors[dtype] = dict(zip(PARTS, map(deviation, got, want), strict=True))
    for part in PARTS:
        assert errors[torch.float16][part] < 1.2 * errors[torch.bfloat16][part], errors
        assert errors[torch.float16][part] < TOLERANCE[torch.float16], errors


@pytest.mark.parametrize("size", [1e-4, 1e-6])
@pytest.mark.parametrize("variant", [*VARIANTS, "random"])
@pytest.mark.parametrize("axis", AXES)
def test_float16_gradients_of_small_weights_are_finite(axis, variant, size):
    """In the first step, where dB is zero and dL/d(dB^T W0), with its 1 / ||V||^2, leaves float16's range."""
    torch.manual_seed(0)
    weight = (size * torch.randn(SIDE, SIDE)).half()
    for part, gradient in zip(PARTS, gradients(weight, torch.float16, axis, 0.0, 512.0, variant), strict=True):
        assert torch.isfinite(gradient).all(), part


def test_the_ranged_product_is_differentiable_to_second_order():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    matrix = torch.randn(7, 5, dtype=torch.float64, generator=generator)
    assert torch.autograd.gradcheck(lambda r: RangedProduct.apply(r, matrix, torch.float64), rows)
    assert torch.autograd.gradgradcheck(lambda r: RangedProduct.apply(r, matrix, torch.float64), rows)


@pytest.mark.parametrize("power", [-120, -30, 0, 30, 100])
def test_the_ranged_product_scales_with_its_rows_and_its_gradient_in_float16(power):
    """A power of two on either side comes out as the same power of two, bit for bit."""
    generator = torch.Generator().manual_seed(0)
    rows, G = torch.randn(3, 64, generator=generator), torch.randn(3, 32, generator=generator)
    matrix = torch.randn(64, 32, generator=generator).half()
    results = []
    for p in (0, power):
        leaf = (rows * 2.0**p).requires_grad_()
        product = RangedProduct.apply(leaf, matrix, torch.float32)
        (gradient,) = torch.autograd.grad(product, leaf, G * 2.0**p)
        results.append((product.detach() / 2.0**p, gradient / 2.0**p))
    for got, want in zip(*reversed(results), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("biased", [False, True])
def test_the_column_sums_of_a_gpu_are_computed_in_float32_too(dtype, biased):
    G, y = torch.randn(3 * TOKENS, SIDE).to(dtype), torch.randn(3 * TOKENS, SIDE).to(dtype)
    bias = torch.randn(SIDE).to(dtype) if biased else None
    got = converting_sums(G, y, bias, torch.float32)
    assert got.dtype == torch.float32
    want = column_sums(G.double(), y.double(), None if bias is None else bias.double(), torch.float64)
    assert deviation(got.double(), want) < 2e-7
