"""The layer of axis `"out"` with its gradient by hand: Eq. 8 and 9 exactly, for r rows more in one product.

With y = x W'^T + b, G = dL/dy, g = m / n, n = ||V||_c and u = (y - b) / g the output before its magnitude,

    dL/dm  = colsum(G * u) / n                                       Eq. 8
    c      = m / n^3 * colsum(G * u)                                 what the projection of Eq. 9 takes away
    dL/dB  = s [(g G)^T (x A^T) - diag(c) V A^T]
    dL/dA  = s [((g G) B)^T x - (diag(c) B)^T V]
    dL/dx  = (g G) W0 + s ((g G) Bh) Ah

(diag(c) B)^T W0, the one part of the projection as large as the base layer's own backward, goes as r more rows into its
product (g G) W0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import compose

CHUNK = {"cpu": 256}  # rows of a reduction at a time: on a CPU what stays in its cache, on a GPU few launches
GPU_CHUNK = 4096


def column_sums(G: Tensor, y: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """colsum(G * (y - b)) (d,) of two (n, d), summed in `dtype` without a temporary of their size."""
    total = torch.zeros(G.shape[1], dtype=dtype, device=G.device)
    size = CHUNK.get(G.device.type, GPU_CHUNK)
    for some_G, some_y in zip(G.split(size), y.split(size), strict=True):
        some_y = some_y.to(dtype)
        total += (some_G.to(dtype) * (some_y if bias is None else some_y - bias)).sum(dim=0)
    return total


class ComposedLinear(torch.autograd.Function):
    """y = x W'^T + b (n, d) from the base layer's output y0; see `compose.output` and the formulas above."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_dropped: Tensor | None,
        y0: Tensor,
        dA: Tensor,
        dB: Tensor,
        magnitude: Tensor,
        start: tuple[Tensor, Tensor, Tensor, Tensor],
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        detach_norm: bool,
        owns_base: bool,
    ) -> Tensor:
        """The output, and what the backward needs: no tensor of n rows but x, y and x Ah^T.

        Args:
            x: (n, k), the layer's input, and x_dropped: the same after dropout, None without dropout.
            y0: (n, d), what the low-rank part is added to.
            dA: (r, k), dB: (d, r), magnitude: (d,): the trainable parameters.
            start: A0, B0, n0, P0, as in `compose`.
            weight: W0 (d, k), in any dtype. bias: (d,) or None.
            scaling: s. detach_norm: leave out c.
            owns_base: y0 is this layer's x W0^T + b without a graph, and dL/dx has its part of the gradient.
        """
        Ah, Bh, product, norm, gain = compose.composition(dA, dB, magnitude, start, weight, scaling, "out")
        with torch.autocast(x.device.type, enabled=False):
            x_update = x if x_dropped is None else x_dropped
            inner = x_update @ Ah.to(x.dtype).T
            bias = None if bias is None else bias.to(y0.dtype)
            y = compose.output(y0, bias, gain, inner, Bh, scaling)
        ctx.options = scaling, detach_norm, owns_base, x_dropped is not None
        ctx.dtypes = dA.dtype, dB.dtype, magnitude.dtype
        WA = product + start[3]  # W0 A^T
        ctx.save_for_backward(x_update, y, weight, bias, Ah, Bh, inner, WA, gain, norm, magnitude)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> Any:  # type: ignore[override]
        """dL/d(x, x_dropped, y0, dA, dB, m) for G = dL/dy (n, d)."""
        x, y, weight, bias, Ah, Bh, inner, WA, gain, norm, magnitude = ctx.saved_tensors
        s, detach_norm, owns_base, dropped = ctx.options
        r, dtype, wide = Ah.shape[0] // 2, x.dtype, Ah.dtype
        A, B = Ah[:r] + Ah[r:], Bh[:, :r]
        alive = norm > 0
        n = torch.where(alive, norm, 1.0)

        # q = colsum(G * (y - b)) = g colsum(G * u), so c = q / n^2 and dL/dm = q / m.
        q = torch.where(alive, column_sums(G, y, bias, wide), 0.0)
        m = magnitude.to(wide)
        dm = torch.where(m != 0, q / torch.where(m != 0, m, 1.0), 0.0)
        project = not detach_norm
        cBt = ((q / n.square()) * B.T if project else B[:, :0].T).contiguous()  # (r, d), or nothing

        # One buffer, one product: the rows of g G, and below them those of (diag(c) B)^T, scaled to the range of half
        # precision (a power of two, so that nothing is rounded).
        rows = G.new_empty(G.shape[0] + cBt.shape[0], G.shape[1], dtype=dtype)
        gG = torch.mul(G, (1 + gain).to(dtype), out=rows[: G.shape[0]])
        _, exponent = torch.frexp(cBt.abs().amax(dim=1))
        rows[G.shape[0] :] = torch.ldexp(cBt, -exponent[:, None])
        needs_base = owns_base and ctx.needs_input_grad[0]
        products = (rows if needs_base else rows[G.shape[0] :]) @ weight.to(dtype)
        through = gG @ Bh.to(dtype)  # (n, 2r)

        dx = products[: G.shape[0]] if needs_base else None
        dx_dropped = None
        if dropped and ctx.needs_input_grad[1]:
            dx_dropped = through @ (s * Ah).to(dtype)
        elif not dropped and ctx.needs_input_grad[0]:
            factor = (s * Ah).to(dtype)
            dx = through @ factor if dx is None else dx.addmm_(through, factor)

        ddA = (through[:, :r].T @ x).to(wide)
        ddB = (gG.T @ (inner[:, :r] + inner[:, r:])).to(wide)
        if project:
            cBW = torch.ldexp(products[-r:].to(wide), exponent[:, None])
            ddA = ddA - (cBW + s * (cBt @ Bh) @ Ah)
            ddB = ddB - (q / n.square())[:, None] * (WA + s * Bh @ (Ah @ A.T))
        dy0 = None if owns_base else gG
        grads = (s * ddA).to(ctx.dtypes[0]), (s * ddB).to(ctx.dtypes[1]), dm.to(ctx.dtypes[2])
        return dx, dx_dropped, dy0, *grads, None, None, None, None, None, None
