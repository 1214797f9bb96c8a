"""What the tests of the fused kernels and of the choice between them and plain torch share."""

from __future__ import annotations

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = {"output", "sums_and_scaled", "product_norm_gain"}


def numbers(*shape, dtype=torch.float32, seed=0, size=1.0):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * size
    return values.to(dtype).to(DEVICE)


def output_arguments(n, d, k, dtype):
    y0, bias = numbers(n, d, dtype=dtype), numbers(d, dtype=dtype, seed=1)
    gain, inner = numbers(d, dtype=dtype, seed=2, size=0.1), numbers(n, k, dtype=dtype, seed=3)
    return y0, bias, gain, inner, numbers(k, d, dtype=dtype, seed=4, size=0.1)
