"""The layer of axis `"out"` with its gradient by hand: Eq. 8 and 9 exactly, for r rows more in one product.

With y = x W'^T + b, G = dL/dy, g = m / n, n = ||V||_c and u = (y - b) / g the output before its magnitude,

    dL/dm  = colsum(G * u) / n                                       Eq. 8
    c      = m / n^3 * colsum(G * u)                                 what the projection of Eq. 9 takes away
    dL/dB  = s [(g G)^T (x A^T) - diag(c) V A^T]
    dL/dA  = s [((g G) B)^T x - (diag(c) B)^T V]
    dL/dx  = (g G) W0 + s ((g G) Bh) Ah

(diag(c) B)^T W0, the one part of the projection as large as the base layer's own backward, goes as r more rows into its
product (g G) W0. `outer` = s g Bh^T carries g and s into the thin products, so only that one product needs g G itself.

colsum(G * u) is taken from the output itself. Where that was overwritten by an in-place operation (`y.relu_()`,
`y += x`), or where the base layer's output y0 is at hand, it comes from x W0^T = y0 - b:

    g colsum(G * u) = g colsum(G * (y0 - b)) + colsum(outer * ((x Ah^T)^T G))

The projection's part is linear in colsum(G * u), so with gradient accumulation it could be gathered and propagated once
per optimizer step. It is propagated in every backward all the same: clipping, gradient scalers, hooks and optimizers
read `.grad` whenever they like, and no place is left where it could still be added unseen.

The layer of axis `"out"` through its whole weight: Eq. 7 to 9 as the paper writes them, where that is less work.

With V = W0 + s Bt^T Ah, g = m / n, n = ||V||_c and M = G^T x, the gradient of the whole W',

    y     = x (g V)^T + b
    dL/dx = G (g V)
    dL/dm = rowsum(M * V) / n                                Eq. 8
    H     = g M - diag(c) V,    c = g rowsum(M * V) / n^2    Eq. 9
    dL/dB = s H A^T,    dL/dA = s B^T H

M is a third product as large as the base layer's two. All else has the size of the weight, not of the input: no pass
over (tokens, d) is made, and neither y nor x Ah^T is kept for the backward. On narrow layers that is cheaper than
`gradient`'s thin products and passes; without a gradient, on all but the widest. In half precision W' would round small
changes away, so there this way is never taken.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import functional, kernels
from .functional import Composition, Factors

# Rows of a reduction at a time: on a CPU what its cache holds (1024 rows of width 1024 took 0.8 ms by 128 rows, 1.4 ms
# by 256), on a GPU few launches.
CHUNK = {"cpu": 128}
GPU_CHUNK = 4096


def column_sums(G: Tensor, y: Tensor, bias: Tensor | None, wide: torch.dtype) -> Tensor:
    """colsum(G * (y - b)) (d,) of two (n, d), summed in `wide`."""
    y = y.to(wide)
    return (G.to(wide) * (y if bias is None else y - bias)).sum(dim=0)


def sums_and_scaled(
    G: Tensor, y: Tensor | None, bias: Tensor | None, gain: Tensor, scaled: Tensor | None, wide: torch.dtype
) -> Tensor | None:
    """`column_sums` of G and y, and g G written into `scaled` (n, d) while G is in the cache; each where given."""
    fused = kernels.attempt("sums_and_scaled", G, y, bias, gain, scaled) if wide == torch.float32 else None
    if fused is not None:
        return fused[0]
    n, size = G.shape[0], CHUNK.get(G.device.type, GPU_CHUNK)
    if n <= 2 * size:
        if scaled is not None:
            torch.addcmul(G, G, gain, out=scaled)
        return None if y is None else column_sums(G, y, bias, wide)
    total = None if y is None else torch.zeros(G.shape[1], dtype=wide, device=G.device)
    for begin in range(0, n, size):
        rows = slice(begin, begin + size)
        if total is not None and y is not None:
            total += column_sums(G[rows], y[rows], bias, wide)
        if scaled is not None:
            torch.addcmul(G[rows], G[rows], gain, out=scaled[rows])
    return total


class ComposedLinear(torch.autograd.Function):
    """y = x W'^T + b (n, d) from the base layer's output y0; see `compose.output` and the formulas above."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_dropped: Tensor | None,
        y0: Tensor | None,
        dA: Tensor,
        dB: Tensor,
        magnitude: Tensor,
        own: tuple[Tensor, bool] | None,
        now: Composition,
        ready: Factors,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        detach_norm: bool,
    ) -> Tensor:
        """The output, and what the backward needs: no tensor of n rows but x, y (or y0) and x Ah^T.

        Args:
            x: (n, k), the layer's input, and x_dropped: the same after dropout, None without dropout.
            y0: (n, d), what the low-rank part is added to, where its gradient is somebody else's.
            dA: (r, k), dB: (d, r), magnitude: (d,): the trainable parameters, from which `now` and `ready` come.
            own: instead of y0, this layer's x W0^T, which may be overwritten and whose gradient is made here, and
                whether the bias is in it.
            weight: W0 (d, k), in any dtype. bias: (d,) or None.
            scaling: s. detach_norm: leave out c.
        """
        wide = now.Ah.dtype
        with functional.without_autocast(x.device):
            x_update = x if x_dropped is None else x_dropped
            inner = F.linear(x_update, ready.Ah)
            given, biased = (cast(Tensor, y0), True) if own is None else own
            y = functional.output(given, bias, ready.gain, inner, ready.outer, own=own is not None, biased=biased)
            y = y.detach()  # not a view of the rows that it may have been computed with
        parameters = any(ctx.needs_input_grad[3:6])
        ctx.options = scaling, detach_norm or not parameters, own is not None, x_dropped is not None, wide
        ctx.dtypes = dA.dtype, dB.dtype, magnitude.dtype
        ctx.probe = None
        x_base = summed = None
        if parameters and own is None:
            summed = y0
        elif parameters:
            summed, ctx.probe = _watched(y)
            x_base = x if x_dropped is not None else None
        ctx.save_for_backward(x_update, x_base, summed, weight, bias, *now, *ready, inner, magnitude)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> Any:  # type: ignore[override]
        """dL/d(x, x_dropped, y0, dA, dB, m) for G = dL/dy (n, d), in float32 also where autocast is on."""
        with functional.without_autocast(G.device):
            return _backward(ctx, G)


def _watched(y: Tensor) -> tuple[Tensor, tuple[Tensor, int] | None]:
    """`y` to be saved for the backward without autograd's check for in-place operations, and what tells of them.

    That is a tensor without values that shares the version counter of `y`, and the version now: unlike another
    reference to `y` it keeps no memory from the hooks on saved tensors (checkpointing, offloading).
    """
    if torch.compiler.is_compiling():  # whose graphs have no in-place operations
        return y, None
    probe = y.detach()
    probe.data = y.new_empty(0)
    return y.data, (probe, y._version)


def _backward(ctx: Any, G: Tensor) -> Any:
    x, x_base, summed, weight, bias, Ah, Bt, across, norm, gain, Ah_x, outer, gain_x, inner, magnitude = (
        ctx.saved_tensors
    )
    s, detach_norm, owns_base, dropped, wide = ctx.options
    n, r, dtype = G.shape[0], Ah.shape[0] // 2, x.dtype
    needs = ctx.needs_input_grad
    needs_base, needs_update = owns_base and needs[0], needs[1] if dropped else needs[0]

    # One buffer, one product: the rows of g G, and below them those of (diag(c) B)^T.
    project = 0 if detach_norm else r
    scaled_rows = n if needs_base or (not owns_base and needs[2]) else 0
    rows = G.new_empty(scaled_rows + project, G.shape[1], dtype=dtype)
    gG = rows[:scaled_rows] if scaled_rows else None
    overwritten = ctx.probe is not None and ctx.probe[0]._version != ctx.probe[1]
    if overwritten:
        summed, bias = F.linear(x if x_base is None else x_base, weight.to(dtype)), None
    q = sums_and_scaled(G, summed, bias, gain_x, gG, wide)
    if q is not None and (overwritten or not owns_base):
        q = torch.addcmul(q, q, gain) + (outer.to(wide) * (inner.T @ G).to(wide)).sum(dim=0)

    dm = ddA = ddB = cBt = c = exponent = None
    if q is not None:
        # q = colsum(G * (y - b)) = g colsum(G * u), so c = q / n^2 and dL/dm = q / m.
        m = magnitude.to(wide)
        dm = torch.where(m != 0, q / m, 0.0).to(ctx.dtypes[2])
    if project:
        c = q / norm.square()  # 0 where the norm is infinite: a line of zeros
        cBt = c * Bt[:r]
        rows[scaled_rows:], exponent = functional.fit_range(cBt, dtype)
    products = None
    if needs_base or project:
        products = (rows if needs_base else rows[scaled_rows:]) @ weight.to(dtype)

    dx = products[:n] if needs_base and products is not None else None
    dx_dropped = None
    through = F.linear(G, outer) if needs_update or needs[3] else None  # s (g G) Bh (n, 2r)
    if through is not None and needs_update:
        if dropped:
            dx_dropped = through @ Ah_x
        else:
            dx = through @ Ah_x if dx is None else dx.addmm_(through, Ah_x)
    if through is not None and needs[3]:
        ddA = (through[:, :r].T @ x).to(wide)
        if cBt is not None and products is not None:
            ddA.sub_(functional.undo_range(products[-r:], exponent, wide), alpha=s)
            ddA.addmm_(F.linear(cBt, Bt), Ah, alpha=-s * s)
        ddA = ddA.to(ctx.dtypes[0])
    if needs[4]:
        xAt = inner[:, :r] + inner[:, r:]
        ddBt = (xAt.T @ G).to(wide)
        ddBt.addcmul_(ddBt, gain)
        if c is not None:
            ddBt.addcmul_(across[:r] + across[r:], c, value=-1)
        ddB = (ddBt if s == 1 else ddBt.mul_(s)).T.to(ctx.dtypes[1]).contiguous()
    dy0 = None if owns_base else gG
    return dx, dx_dropped, dy0, ddA, ddB, dm, *[None] * 7


# Entries of a weight up to which it stays in a core's cache between the passes over it; in eval mode W' itself is kept
# of such a one, which a model has no more than some hundred of (at most 2 MiB each).
NARROW = 1 << 19
# ... and up to which a temporary of its size is made at all: 16 MiB.
TEMPORARY = 1 << 22


def pays(tokens: int, d: int, k: int, r: int, training: bool) -> bool:
    """Whether this way is the faster one for an input of `tokens` rows, a weight (d, k) and rank r, on a CPU.

    In training it saves thin products, 5 r (d + k) a token, and passes over (tokens, d), and costs d k. In evaluation
    it costs nothing but W', and of a narrow weight not even that. Measured: see `docs/dev/log.md`, 2026-11-22.
    """
    if training:
        return tokens >= 2 * max(d, k) and d * k <= NARROW and d * k <= 8 * r * (d + k)
    return d * k <= NARROW or (tokens >= max(d, k) and d * k <= TEMPORARY)


def keeps(entries: int) -> bool:
    """Whether W' of a weight of so many entries is kept in eval mode."""
    return entries <= NARROW


def whole_weight(weight: Tensor, ready: Factors) -> Tensor:
    """W' (d, k) in the dtype of `weight`, float32 or float64: W'^T is what the layer makes of the identity."""
    return functional.output(weight.detach().T, None, ready.gain, ready.Ah.T, ready.outer).T


class DenseLinear(torch.autograd.Function):
    """y = x W'^T + b (n, d) and its gradient; see the formulas above and `gradient.ComposedLinear`, which it equals."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dA: Tensor,
        dB: Tensor,
        magnitude: Tensor,
        now: Composition,
        whole: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        detach_norm: bool,
    ) -> Tensor:
        """The output; x and W' are kept.

        Args:
            x: (n, k), the layer's input, in the dtype of the weight, float32 or float64.
            dA: (r, k), dB: (d, r), magnitude: (d,): the trainable parameters, from which `now` comes.
            whole: `whole_weight`. weight: W0 (d, k). bias: (d,) or None. scaling: s. detach_norm: leave out c.
        """
        ctx.options = scaling, detach_norm
        ctx.dtypes = dA.dtype, dB.dtype, magnitude.dtype
        ctx.save_for_backward(x, whole, weight, now.Ah, now.Bt, now.norm, now.gain)
        return F.linear(x, whole, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> Any:  # type: ignore[override]
        """dL/d(x, dA, dB, m) for G = dL/dy (n, d)."""
        with functional.without_autocast(G.device):
            return _dense_backward(ctx, G)


def _dense_backward(ctx: Any, G: Tensor) -> Any:
    x, whole, weight, Ah, Bt, norm, gain = ctx.saved_tensors
    s, detach_norm = ctx.options
    needs = ctx.needs_input_grad
    r = Ah.shape[0] // 2
    dx = G @ whole if needs[0] else None
    ddA = ddB = dm = None
    if any(needs[1:4]):
        M, V = G.T @ x, functional.updated_weight(weight, Ah, Bt, s)
        along = (M * V).sum(dim=1)
        if needs[3]:
            dm = (along / norm).to(ctx.dtypes[2])
        g = 1 + gain
        H = M.mul_(g[:, None])
        if not detach_norm:
            H.addcmul_((g * along / norm.square())[:, None], V, value=-1)
        if needs[1]:
            ddA = (s * (Bt[:r] @ H)).to(ctx.dtypes[0])
        if needs[2]:
            ddB = (s * (H @ (Ah[:r] + Ah[r:]).T)).to(ctx.dtypes[1])
    return dx, ddA, ddB, dm, *[None] * 6
