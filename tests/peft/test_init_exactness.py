"""Promise: what "bit for bit at the initialisation" covers, layer by layer over a grid of shapes, rows and dtypes.

Exact: every forward, in training and in eval mode, on both axes.
"""

from __future__ import annotations

import pytest
import torch
from conftest import AXES, DTYPES
from peft import get_peft_model
from torch import nn

from dude_peft import DudeConfig

SHAPES = ((5, 7), (48, 64), (130, 257), (256, 96))  # (d, k)
ROWS = (1, 2, 3, 8, 17, 64, 130, 300)


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
def test_in_training_every_forward_is_the_base_layers_bit_for_bit(axis, dtype):
    for linear, layer in layers(dtype, axis):
        layer.train()
        for n in rows_for(dtype):
            x = torch.randn(n, linear.in_features).to(dtype)
            assert torch.equal(layer(x), linear(x)), (linear, n)
