"""Fused Triton kernels for the element-wise work of `functional` and `autograd`; called through `kernels`.

Each has the arguments and the meaning of the plain function, which stays the reference. Products and sums are float32
(no TF32), every result is rounded once to its dtype, and nothing is added atomically: the same input gives the same
bits. In half precision plain torch rounds the change h (y0 - b) + (x Ah^T) outer up to three times before it is added.
At the initialisation (dA = dB = 0, m = n0) every added term is exactly zero, so the output is the base layer's bit for
bit.

| kernel | plain torch | what is saved |
|---|---|---|
| `output` | 4 passes over (n, d) in half precision with a bias, 3 in float32 | 1 pass: y0 is read and y written |
| `sums_and_scaled` | about 4 passes and float32 copies, by chunks | 1 pass: G and y read, g G written |
| `product_norm_gain` | 14 launches on (2r, d) and (d,) | 1 launch; 2r <= 64 |

Tested in Triton's interpreter on a CPU and compiled for GPUs (sm_80, sm_90, gfx942); not yet run or timed on one.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import interpreted

# Fixed sizes and no autotuning: another choice would add in another order, and a run would not repeat. Compiled for an
# H100 with them, no kernel spills registers. `enable_fp_fusion` is named because Triton's default is about to change.
COLUMNS = 128  # of a tile; a warp reads whole lines of memory
INNER = 32  # of the thin product at a time
REDUCED = 128  # rows per partial sum: enough programs for a GPU from 1024 tokens on, 3% of G in float32 partials
MAX_RANK_ROWS = 64  # 2r whose Gram matrix and factors fit one tile


@triton.jit
def _output_kernel(
    y0, bias, gain, inner, outer, y, n, d, k, y0_n, y0_d, inner_n, inner_k, outer_k, outer_d, y_n, y_d,
    BIAS: tl.constexpr, WIDEN: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0).to(tl.int64) * M + tl.arange(0, M)  # 64 bits: n d may exceed 2^31
    columns = tl.program_id(1) * N + tl.arange(0, N)
    row_there, column_there = rows < n, columns < d
    there = row_there[:, None] & column_there[None, :]
    change = tl.zeros((M, N), dtype=tl.float32)
    for begin in range(0, k, K):
        middle = begin + tl.arange(0, K)
        left_there, right_there = row_there[:, None] & (middle < k)[None, :], (middle < k)[:, None] & column_there
        left = tl.load(inner + rows[:, None] * inner_n + middle[None, :] * inner_k, mask=left_there, other=0.0)
        right = tl.load(outer + middle[:, None] * outer_k + columns[None, :] * outer_d, mask=right_there, other=0.0)
        if WIDEN:  # the same products; the interpreter multiplies the bits of bfloat16 as if they were integers
            left, right = left.to(tl.float32), right.to(tl.float32)
        change = tl.dot(left, right, acc=change, input_precision="ieee")
    base = tl.load(y0 + rows[:, None] * y0_n + columns[None, :] * y0_d, mask=there, other=0.0).to(tl.float32)
    h = tl.load(gain + columns, mask=column_there, other=0.0).to(tl.float32)
    if BIAS:
        b = tl.load(bias + columns, mask=column_there, other=0.0).to(tl.float32)
        change += (base - b[None, :]) * h[None, :]
    else:
        change += base * h[None, :]
    tl.store(y + rows[:, None] * y_n + columns[None, :] * y_d, (base + change).to(y.dtype.element_ty), mask=there)


def output(y0: Tensor, bias: Tensor | None, gain: Tensor, inner: Tensor, outer: Tensor, in_place: bool) -> Tensor:
    """Compute `functional.output`: y (n, d) from y0 (n, d), which is overwritten if `in_place`."""
    y = y0 if in_place else torch.empty_like(y0, memory_format=torch.contiguous_format)
    (n, d), k = y0.shape, inner.shape[1]
    if n == 0 or d == 0:
        return y
    size = 16 if n <= 16 else 64
    _output_kernel[triton.cdiv(n, size), triton.cdiv(d, COLUMNS)](
        y0, _line(gain if bias is None else bias), _line(gain), inner, outer, y, n, d, k,
        *y0.stride(), *inner.stride(), *outer.stride(), *y.stride(),
        BIAS=bias is not None, WIDEN=interpreted() and y0.dtype == torch.bfloat16,
        M=size, N=COLUMNS, K=INNER, num_warps=4 if size == 16 else 8, enable_fp_fusion=True,
    )  # fmt: skip
    return y


@triton.jit
def _sums_and_scaled_kernel(
    G, y, bias, gain, scaled, partial, n, d, G_n, G_d, y_n, y_d, scaled_n, scaled_d,
    SUM: tl.constexpr, SCALE: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ROWS
    columns = tl.program_id(1) * N + tl.arange(0, N)
    column_there = columns < d
    h = tl.load(gain + columns, mask=column_there, other=0.0).to(tl.float32)
    if BIAS:
        b = tl.load(bias + columns, mask=column_there, other=0.0).to(tl.float32)
    total = tl.zeros((M, N), dtype=tl.float32)
    for begin in range(0, ROWS, M):
        rows = first + begin + tl.arange(0, M)
        there = (rows < n)[:, None] & column_there[None, :]
        g = tl.load(G + rows[:, None] * G_n + columns[None, :] * G_d, mask=there, other=0.0).to(tl.float32)
        if SUM:
            u = tl.load(y + rows[:, None] * y_n + columns[None, :] * y_d, mask=there, other=0.0).to(tl.float32)
            if BIAS:
                u -= b[None, :]
            total += g * u
        if SCALE:
            result = (g + g * h[None, :]).to(scaled.dtype.element_ty)
            tl.store(scaled + rows[:, None] * scaled_n + columns[None, :] * scaled_d, result, mask=there)
    if SUM:
        tl.store(partial + tl.program_id(0).to(tl.int64) * d + columns, tl.sum(total, axis=0), mask=column_there)


def sums_and_scaled(
    G: Tensor, y: Tensor | None, bias: Tensor | None, gain: Tensor, scaled: Tensor | None
) -> tuple[Tensor | None]:
    """Compute `autograd.sums_and_scaled`: a tuple of colsum(G * (y - b)) (d,) in float32; g G goes into `scaled`."""
    (n, d), blocks = G.shape, triton.cdiv(G.shape[0], REDUCED)
    partial = torch.empty(blocks if y is not None else 0, d, dtype=torch.float32, device=G.device)
    if n and d and not (y is None and scaled is None):
        read, written = G if y is None else y, G if scaled is None else scaled
        _sums_and_scaled_kernel[blocks, triton.cdiv(d, COLUMNS)](
            G, read, _line(gain if bias is None else bias), _line(gain), written, partial, n, d,
            *G.stride(), *read.stride(), *written.stride(),
            SUM=y is not None, SCALE=scaled is not None, BIAS=bias is not None, ROWS=REDUCED, M=32, N=COLUMNS,
            num_warps=8, enable_fp_fusion=True,
        )  # fmt: skip
    return (None if y is None else partial.sum(dim=0),)


@triton.jit
def _product_norm_gain_kernel(
    factor, gram, P, n0, magnitude, V_other, norm, gain, s, rows_of_rank, d, factor_r, factor_d, gram_r, gram_c,
    P_r, P_d,
    R: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    rank = tl.arange(0, R)
    columns = tl.program_id(0) * N + tl.arange(0, N)
    rank_there, column_there = rank < rows_of_rank, columns < d
    there = rank_there[:, None] & column_there[None, :]
    square = rank_there[:, None] & rank_there[None, :]
    V = tl.load(factor + rank[:, None] * factor_r + columns[None, :] * factor_d, mask=there, other=0.0)
    product = tl.load(P + rank[:, None] * P_r + columns[None, :] * P_d, mask=there, other=0.0)
    F = tl.load(gram + rank[:, None] * gram_r + rank[None, :] * gram_c, mask=square, other=0.0)
    other_product = product + s * tl.dot(F, V, input_precision="ieee")
    tl.store(V_other + rank[:, None].to(tl.int64) * d + columns[None, :], other_product, mask=there)
    q = tl.sum((product + other_product) * V, axis=0)
    initial = tl.load(n0 + columns, mask=column_there, other=1.0)
    m = tl.load(magnitude + columns, mask=column_there, other=1.0).to(tl.float32)
    squares = initial * initial + s * q
    alive = squares > 0
    length = tl.where(alive, tl.sqrt_rn(tl.where(alive, squares, 1.0)), float("inf"))
    h = tl.div_rn(m - initial - tl.div_rn(s * q, initial + length), length)
    tl.store(norm + columns, length, mask=column_there)
    tl.store(gain + columns, tl.where(alive, h, -1.0), mask=column_there)


def product_norm_gain(
    factor: Tensor, other: Tensor, P: Tensor, n0: Tensor, magnitude: Tensor, scaling: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Compute V_other (2r, n), ||V||_c and h (n,) of `functional.norm_change` and `relative_gain`; None if 2r > 64.

    Args:
        factor: (2r, n), other: (2r, ...), P: (2r, n), n0 and magnitude: (n,); float32, the magnitude in any dtype.
    """
    (rows, d), wide = factor.shape, torch.float32
    if rows > MAX_RANK_ROWS or any(t.dtype != wide for t in (factor, other, P, n0)):
        return None
    gram = other @ other.T
    V_other = torch.empty(rows, d, dtype=wide, device=factor.device)
    norm, gain = torch.empty_like(V_other[0]), torch.empty_like(V_other[0])
    size: Any = max(16, triton.next_power_of_2(rows))
    _product_norm_gain_kernel[(triton.cdiv(d, 32),)](
        factor, gram, P, _line(n0), _line(magnitude), V_other, norm, gain, float(scaling), rows, d,
        *factor.stride(), *gram.stride(), *P.stride(), R=size, N=32, enable_fp_fusion=True,
    )  # fmt: skip
    return V_other, norm, gain


def _line(values: Tensor) -> Tensor:
    """Return a vector with contiguous entries."""
    return values.contiguous()
