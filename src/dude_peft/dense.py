"""The layer of axis `"out"` through its whole weight: Eq. 7 to 9 as the paper writes them, where that is less work.

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

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import compose
from .compose import Composition, Factors

# Entries of a weight up to which it stays in a core's cache between the passes over it; in eval mode W' itself is kept
# of such a one, which a model has no more than some hundred of (at most 2 MiB each).
NARROW = 1 << 19
# ... and up to which a temporary of its size is made at all: 16 MiB.
TEMPORARY = 1 << 22


def pays(tokens: int, d: int, k: int, r: int, training: bool) -> bool:
    """Whether this way is the faster one for an input of `tokens` rows, a weight (d, k) and rank r, on a CPU.

    In training it saves thin products, 5 r (d + k) a token, and passes over (tokens, d), and costs d k. In evaluation
    it costs nothing but W', and of a narrow weight not even that. Measured: see `docs/log.md`, 2026-11-22.
    """
    if training:
        return tokens >= 2 * max(d, k) and d * k <= NARROW and d * k <= 8 * r * (d + k)
    return d * k <= NARROW or (tokens >= max(d, k) and d * k <= TEMPORARY)


def keeps(entries: int) -> bool:
    """Whether W' of a weight of so many entries is kept in eval mode."""
    return entries <= NARROW


def whole_weight(weight: Tensor, ready: Factors) -> Tensor:
    """W' (d, k) in the dtype of `weight`, float32 or float64: W'^T is what the layer makes of the identity."""
    return compose.output(weight.detach().T, None, ready.gain, ready.Ah.T, ready.outer).T


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
        with compose.without_autocast(G.device):
            return _backward(ctx, G)


def _backward(ctx: Any, G: Tensor) -> Any:
    x, whole, weight, Ah, Bt, norm, gain = ctx.saved_tensors
    s, detach_norm = ctx.options
    needs = ctx.needs_input_grad
    r = Ah.shape[0] // 2
    dx = G @ whole if needs[0] else None
    ddA = ddB = dm = None
    if any(needs[1:4]):
        M, V = G.T @ x, compose.updated_weight(weight, Ah, Bt, s)
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
