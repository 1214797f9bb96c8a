"""The gradient of axis `"out"`, written by hand: Eq. 8 and 9 exactly, for r more rows in one product.

With y = x W'^T + b, G = dL/dy, g = m / n, n = ||V||_c and u = (y - b) / g, the output before its magnitude,

    dL/dm  = colsum(G * u) / n                                       Eq. 8
    c      = m / n^3 * colsum(G * u)                                 the projection of Eq. 9
    dL/dB  = s [(g G)^T (x A^T) - diag(c) V A^T]
    dL/dA  = s [((g G) B)^T x - (diag(c) B)^T V]
    dL/dx  = (g G) W0 + s ((g G) Bh) Ah

The one part of the projection as large as the base layer's backward, (diag(c) B)^T W0, is r more rows in its product
(g G) W0. `outer` = s g Bh^T has g and s in it, so only that product needs g G itself.

colsum(G * u) is computed from y. Where y was overwritten by an in-place operation (`y.relu_()`, `y += x`), or where the
base layer's output y0 is an input, it is computed from x W0^T = y0 - b:

    g colsum(G * u) = g colsum(G * (y0 - b)) + colsum(outer * ((x Ah^T)^T G))

The projection is linear in colsum(G * u), so gradient accumulation could add it once per optimizer step. It is added in
every backward: gradient clipping, gradient scalers and hooks read `.grad` at any time.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import functional, kernels
from .base_weight import dense_weight
from .functional import Composition, Factors

# Rows per block of a reduction. On a CPU a block fits the cache (1024 rows of width 1024: 0.8 ms in blocks of 128,
# 1.4 ms of 256); on a GPU few launches.
CHUNK = {"cpu": 128}
GPU_CHUNK = 4096
# Their kernels write over a layer's output through raw pointers, which raises no version.
RAW_WRITERS = ("liger_kernel", "unsloth")


def written_raw() -> bool:
    """Return whether a library is loaded whose kernels overwrite a layer's output where autograd does not see it."""
    return not torch.compiler.is_compiling() and any(name in sys.modules for name in RAW_WRITERS)


def column_sums(G: Tensor, y: Tensor, bias: Tensor | None, wide: torch.dtype, scratch: Tensor | None = None) -> Tensor:
    """Return colsum(G * (y - b)) (d,) of two (n, d), summed in `wide`; `scratch` (n, d) is overwritten if it fits."""
    if scratch is not None and scratch.dtype == G.dtype == y.dtype == wide:
        product = torch.mul(G, y, out=scratch) if bias is None else torch.sub(y, bias, out=scratch).mul_(G)
        return product.sum(dim=0)
    if G.device.type != "cpu" and G.dtype != wide:
        return converting_sums(G, y, bias, wide)
    y = y.to(wide)
    return (G.to(wide) * (y if bias is None else y - bias)).sum(dim=0)


def converting_sums(G: Tensor, y: Tensor, bias: Tensor | None, wide: torch.dtype) -> Tensor:
    """Compute `column_sums` in two or three passes instead of four or five, on devices that convert while reading."""
    if bias is None:
        return torch.addcmul(torch.zeros(1, dtype=wide, device=G.device), G, y).sum(dim=0)
    return (G * (y - bias.to(wide))).sum(dim=0)


def sums_and_scaled(
    G: Tensor, y: Tensor | None, bias: Tensor | None, gain: Tensor, scaled: Tensor | None, wide: torch.dtype
) -> Tensor | None:
    """Return `column_sums` of G and y (None without y), and write g G into `scaled` (n, d) in the same pass."""
    fused = kernels.attempt("sums_and_scaled", G, y, bias, gain, scaled) if wide == torch.float32 else None
    if fused is not None:
        return fused[0]
    n, size = G.shape[0], CHUNK.get(G.device.type, GPU_CHUNK)
    if n <= 2 * size:
        sums = None if y is None else column_sums(G, y, bias, wide, scaled)
        if scaled is not None:
            torch.addcmul(G, G, gain, out=scaled)
        return sums
    total = None if y is None else torch.zeros(G.shape[1], dtype=wide, device=G.device)
    for begin in range(0, n, size):
        rows = slice(begin, begin + size)
        if total is not None and y is not None:
            total += column_sums(G[rows], y[rows], bias, wide, None if scaled is None else scaled[rows])
        if scaled is not None:
            torch.addcmul(G[rows], G[rows], gain, out=scaled[rows])
    return total


class ComposedLinear(torch.autograd.Function):
    """y = x W'^T + b (n, d) from the base layer's output y0: see `functional.output` and the formulas above."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_dropped: Tensor | None,
        y0: Tensor | None,
        dA: Tensor,
        dB: Tensor,
        magnitude: Tensor,
        base_output: tuple[Tensor] | None,
        composition: Composition,
        factors: Factors,
        weight: Tensor | nn.Module,
        bias: Tensor | None,
        scaling: float,
        detach_norm: bool,
    ) -> Tensor:
        """Compute the output. Of tensors with n rows, x, y (or y0) and x Ah^T are saved for the backward.

        Args:
            x: (n, k), the layer's input.
            x_dropped: x after dropout; None without dropout.
            y0: (n, d), the base layer's output where autograd computes its gradient, else None.
            dA: (r, k), dB: (d, r), magnitude: (d,): the trainable parameters.
            base_output: instead of y0, the base layer's output without a graph. It is overwritten, and its gradient
                with respect to x is computed here. (A tuple, so that autograd does not treat it as an input.)
            composition, factors: computed from the trainable parameters.
            weight: W0 (d, k), in any dtype, or the quantised layer that the backward reads it from again.
            bias: (d,) or None.
            scaling: s.
            detach_norm: leave out c.
        """
        wide = composition.Ah.dtype
        parameters = any(ctx.needs_input_grad[3:6])
        keeps = base_output is not None and parameters and written_raw()  # y0 is saved, not y
        with functional.without_autocast(x.device):
            x_update = x if x_dropped is None else x_dropped
            inner = F.linear(x_update, factors.Ah)
            if base_output is not None:
                y = functional.output(base_output[0], bias, factors.gain, inner, factors.outer, in_place=not keeps)
                y = y.detach()
            elif y0 is not None:
                y = functional.output(y0, bias, factors.gain, inner, factors.outer)
        ctx.from_y0 = keeps or y0 is not None
        ctx.options = scaling, detach_norm or not parameters, y0 is None, x_dropped is not None, wide
        ctx.dtypes = dA.dtype, dB.dtype, magnitude.dtype
        ctx.probe = None
        x_base = summed = None
        if parameters and y0 is not None:
            summed = y0
        elif keeps and base_output is not None:
            summed = base_output[0]
        elif parameters:
            summed, ctx.probe = _watched(y)
            x_base = x if x_dropped is not None else None
        ctx.layer, saved = (None, weight) if isinstance(weight, Tensor) else (weight, None)
        ctx.save_for_backward(x_update, x_base, summed, saved, bias, *composition, *factors, inner, magnitude)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> Any:  # type: ignore[override]
        """Return dL/d(x, x_dropped, y0, dA, dB, m) for G = dL/dy (n, d); in float32 also under autocast."""
        with functional.without_autocast(G.device):
            return _backward(ctx, G)


def _watched(y: Tensor) -> tuple[Tensor, tuple[Tensor, int] | None]:
    """Return `y` without autograd's check for in-place operations, and a probe that detects them.

    The probe is an empty tensor that shares the version counter of `y`, and its current version. Unlike a reference to
    `y` it keeps no memory alive, so hooks on saved tensors (checkpointing, offloading) still free it.
    """
    if torch.compiler.is_compiling():  # whose graphs have no in-place operations
        return y, None
    probe = y.detach()
    probe.data = y.new_empty(0)
    return y.data, (probe, y._version)


def _backward(ctx: Any, G: Tensor) -> Any:
    x, x_base, summed, weight, bias, Ah, Bt, V_other, norm, gain, Ah_x, outer, gain_x, inner, magnitude = (
        ctx.saved_tensors
    )
    s, detach_norm, computes_base, dropped, wide = ctx.options
    n, r, dtype = G.shape[0], Ah.shape[0] // 2, x.dtype
    needs = ctx.needs_input_grad
    needs_base, needs_update = computes_base and needs[0], needs[1] if dropped else needs[0]

    # One buffer, one product: the rows of g G, and below them those of (diag(c) B)^T.
    project = 0 if detach_norm else r
    scaled_rows = n if needs_base or (not computes_base and needs[2]) else 0
    rows = G.new_empty(scaled_rows + project, G.shape[1], dtype=dtype)
    gG = rows[:scaled_rows] if scaled_rows else None
    overwritten = ctx.probe is not None and ctx.probe[0]._version != ctx.probe[1]
    if overwritten:
        weight = dense_weight(ctx.layer) if weight is None else weight
        summed, bias = F.linear(x if x_base is None else x_base, weight.to(dtype)), None
    q = sums_and_scaled(G, summed, bias, gain_x, gG, wide)
    if q is not None and (overwritten or ctx.from_y0):
        q = torch.addcmul(q, q, gain) + (outer.to(wide) * (inner.T @ G).to(wide)).sum(dim=0)

    dm = ddA = ddB = cBt = c = exponent = None
    if q is not None:
        # q = colsum(G * (y - b)) = g colsum(G * u), so c = q / n^2 and dL/dm = q / m.
        m = magnitude.to(wide)
        dm = q / m
        if not functional.all_positive(m):
            dm.masked_fill_(m == 0, 0.0)
        dm = dm.to(ctx.dtypes[2])
    if project:
        c = q / norm.square()  # 0 where the norm is infinite: a line of zeros
        cBt = c * Bt[:r]
        if dtype == torch.float16:
            rows[scaled_rows:], exponent = functional.fit_range(cBt, dtype)
        else:
            rows[scaled_rows:] = cBt
    products = None
    if needs_base or project:
        weight = dense_weight(ctx.layer) if weight is None else weight
        products = (rows if needs_base else rows[scaled_rows:]) @ weight.to(dtype)
    dy0 = None if computes_base else gG
    del weight, summed, rows, gG  # a quantised layer's is as large as all the rest

    dx = products[:n] if needs_base and products is not None else None
    dx_dropped = None
    G_outer = F.linear(G, outer) if needs_update or needs[3] else None  # s (g G) Bh (n, 2r)
    if G_outer is not None and needs_update:
        if dropped:
            dx_dropped = G_outer @ Ah_x
        else:
            dx = G_outer @ Ah_x if dx is None else dx.addmm_(G_outer, Ah_x)
    if G_outer is not None and needs[3]:
        ddA = (G_outer[:, :r].T @ x).to(wide)
        if cBt is not None and products is not None:
            part = products[-r:] if exponent is None else functional.undo_range(products[-r:], exponent, wide)
            ddA.sub_(part, alpha=s)
            ddA.addmm_(F.linear(cBt, Bt), Ah, alpha=-s * s)
        ddA = ddA.to(ctx.dtypes[0])
    if needs[4]:
        xAt = inner[:, :r] + inner[:, r:]
        ddBt = xAt.T @ G
        ddBt = torch.addcmul(ddBt, ddBt, gain)  # in `wide`, the dtype of the gain
        if c is not None:
            ddBt.addcmul_(V_other[:r] + V_other[r:], c, value=-1)
        ddB = (ddBt if s == 1 else ddBt.mul_(s)).T.to(ctx.dtypes[1]).contiguous()
    # y = y0 + h (y0 - b) + ...: what a trained b gets beside the gradient of y0.
    db = -(gain * G.sum(dim=0, dtype=wide)).to(dtype) if ctx.needs_input_grad[10] else None
    return dx, dx_dropped, dy0, ddA, ddB, dm, *[None] * 4, db, None, None
