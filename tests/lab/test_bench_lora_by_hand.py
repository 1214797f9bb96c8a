"""Promise: the hand-written LoRA that DuDe is measured against is LoRA, and stands where PEFT's LoRA stands."""

from __future__ import annotations

import pytest
import torch
from conftest import relative_error
from torch import nn

from dude_lab.bench.bench_models import TINY, base_model
from dude_lab.bench.lora_by_hand import HandLora, put_on


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_hand_written_rival_is_lora(dtype):
    """A rival that computes something else would be no rival: against autograd through W + B A."""
    torch.manual_seed(0)
    layer = HandLora(nn.Linear(7, 5).to(dtype), 3)
    with torch.no_grad():
        layer.B.normal_()
    x = torch.randn(2, 4, 7, dtype=dtype, requires_grad=True)
    got = torch.autograd.grad(layer(x).square().sum(), (x, layer.A, layer.B))
    dense = nn.functional.linear(
        x.double(), layer.base.weight.double() + layer.B.double() @ layer.A.double(), layer.base.bias.double()
    )
    want = torch.autograd.grad(dense.square().sum(), (x, layer.A, layer.B))
    for some, other in zip(got, want, strict=True):
        assert relative_error(some, other) < (1e-12 if dtype == torch.float64 else 3e-2)
    assert layer.A.dtype == torch.promote_types(dtype, torch.float32)


def test_the_rival_goes_where_lora_goes():
    base = base_model(TINY, torch.float32, "cpu")
    names = {
        name for name, module in put_on(base, 2, ("q_proj", "v_proj")).named_modules() if isinstance(module, HandLora)
    }
    assert names == {"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"}
    all_linear = put_on(base_model(TINY, torch.float32, "cpu"), 2)
    assert sum(isinstance(module, HandLora) for module in all_linear.modules()) == 7
