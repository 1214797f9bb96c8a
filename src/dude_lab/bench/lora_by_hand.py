"""A hand-written LoRA with the layer's own machinery: a stronger baseline than the eager LoRA of PEFT.

One `autograd.Function`, the update added into the base layer's output in place, the gradient into the base's own; the
parameters in float32, as PEFT has them, and rounded once for half-precision products.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LoraFunction(torch.autograd.Function):
    """y = x W^T + b + s (x A^T) B^T."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, A: Tensor, B: Tensor, weight: Tensor, bias: Tensor | None, scaling: float
    ) -> Tensor:
        """Return y (n, d) for x (n, k), A (r, k), B (d, r) and weight (d, k)."""
        ctx.dtypes, ctx.scaling = (A.dtype, B.dtype), scaling
        A, B = A.to(x.dtype), B.to(x.dtype)
        inner = F.linear(x, A)
        ctx.save_for_backward(x, inner, A, B, weight)
        return F.linear(x, weight, bias).addmm_(inner, B.T, alpha=scaling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> Any:  # type: ignore[override]
        """Return dL/d(x, A, B)."""
        x, inner, A, B, weight = ctx.saved_tensors
        through = (G @ B).mul_(ctx.scaling)
        dx = (G @ weight).addmm_(through, A) if ctx.needs_input_grad[0] else None
        dA = (through.T @ x).to(ctx.dtypes[0])
        dB = (inner.T @ G).mul_(ctx.scaling).T.to(ctx.dtypes[1]).contiguous()
        return dx, dA, dB, None, None, None


class HandLora(nn.Module):
    """LoRA on a frozen linear layer, as `LoraFunction` computes it."""

    def __init__(self, base: nn.Linear, r: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        d, k = base.weight.shape
        device, dtype = base.weight.device, torch.promote_types(base.weight.dtype, torch.float32)
        self.A = nn.Parameter(torch.randn(r, k, device=device, dtype=dtype) / k**0.5)
        self.B = nn.Parameter(torch.zeros(d, r, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return y (..., d) for x (..., k)."""
        flat = x.reshape(-1, x.shape[-1])
        return LoraFunction.apply(flat, self.A, self.B, self.base.weight, self.base.bias, 1.0).view(*x.shape[:-1], -1)


def put_on(model: nn.Module, r: int, targets: tuple[str, ...] | None = None) -> nn.Module:
    """Put it on the linear layers with these last names, or on all but the head; everything else is frozen."""
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, nn.Linear) and (last in targets if targets else last != "lm_head"):
            setattr(model.get_submodule(parent), last, HandLora(module, r))
    return model
