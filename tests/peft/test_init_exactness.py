"""Promise: what "bit for bit at the initialisation" covers, layer by layer over a grid of shapes, rows and dtypes.

Exact: every forward in eval mode, every forward of axis `"in"`, and training forwards of more than d / 2 rows. The
others go through one product with the rows of dA below those of the input, which a BLAS may sum in another order.
"""

from __future__ import annotations

import pytest
import torch
from conftest import AXES, DTYPES
from peft import get_peft_model
from torch import nn

from dude_peft import DudeConfig
from dude_peft.layer import JOIN

SHAPES = ((5, 7), (48, 64), (130, 257), (256, 96))  # (d, k)
ROWS = (1, 2, 3, 8, 17, 64, 130, 300)
# The largest difference in units of eps (|x| |W0|^T + |b|); measured over 152 cases: 1.71, 0.60 and 0.73.
UNITS = {torch.float32: 2.0, torch.bfloat16: 1.0, torch.float16: 1.0}


def layers(dtype, axis):
    """An adapted layer of every shape at its initialisation, with and without a bias, and its base layer."""
    for d, k in SHAPES:
        for bias in (True, False):
            torch.manual_seed(d * k)
            linear = nn.Linear(k, d, bias=bias).to(dtype)
            config = DudeConfig(r=4, target_modules=["0"], magnitude_axis=axis, lora_alpha=3)
            yield linear, get_peft_model(nn.Sequential(linear), config).base_model.model[0]


def rows_for(dtype):
    return ROWS if dtype == torch.float32 else ROWS[::3]  # half-precision products are emulated on most CPUs


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("axis", AXES)
def test_in_eval_mode_every_forward_is_the_base_layers_bit_for_bit(axis, dtype):
    for linear, layer in layers(dtype, axis):
        layer.eval()
        for n in rows_for(dtype):
            x = torch.randn(n, linear.in_features).to(dtype)
            want = linear(x)
            for _ in range(2):  # computed anew, and from what is cached
                assert torch.equal(layer(x), want), (linear, n)
                with torch.no_grad():
                    assert torch.equal(layer(x), want), (linear, n)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", AXES)
def test_in_training_a_forward_of_few_rows_may_round_otherwise_and_every_other_is_exact(axis, dtype):
    eps = torch.finfo(dtype).eps
    for linear, layer in layers(dtype, axis):
        layer.train()
        start = layer.lora_dude["default"]
        for n in rows_for(dtype):
            x = torch.randn(n, linear.in_features).to(dtype)
            want = linear(x).double()
            start.train()  # drops what is cached: the first forward after a step
            got = layer(x).double()
            if axis == "in" or n > JOIN * linear.out_features:
                assert torch.equal(got, want), (linear, n)
                continue
            size = x.double().abs() @ linear.weight.double().abs().T
            size = size if linear.bias is None else size + linear.bias.double().abs()
            assert float(((got - want).abs() / (eps * size)).max()) <= UNITS[dtype], (linear, n)
            assert torch.equal(layer(x).double(), want), (linear, n)  # the norm is known now: no joined product
