"""The state of one DuDe adapter on one linear layer, and its calls into `compose`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from . import compose
from .compose import MagnitudeAxis
from .decompose import SvdMethod, Variant, initial_factors, module_seed, top_singular_triplets
from .errors import DudeError
from .gradient import ComposedLinear
from .targets import check_rank

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def dense_weight(layer: nn.Module, name: str = "") -> Tensor:
    """The weight of a linear layer as (d, k) = (out_features, in_features): a view, never a copy.

    Raises:
        DudeError: not a linear layer, a quantised one, or one without values; names the module.
    """
    weight = getattr(layer, "weight", None)
    kind = type(layer).__name__
    if not isinstance(layer, nn.Linear | Conv1D) or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise DudeError(
            f"module '{name}' is a {kind}: DuDe adapts nn.Linear and Conv1D. Leave it out of target_modules"
        )
    if weight.dtype not in FLOATS:
        raise DudeError(
            f"module '{name}' ({kind}) holds {weight.dtype} weights: DuDe decomposes float32, bfloat16 and float16. "
            "Load the base model without quantisation"
        )
    return weight.T if isinstance(layer, Conv1D) else weight


def is_plain(layer: nn.Module) -> bool:
    """Whether `layer` computes x W^T + b with a frozen W and b and nothing else, no hook and no forward of its own.

    Its backward is then one product, which `ComposedLinear` can do together with its own.
    """
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    own_forward = type(layer) not in (nn.Linear, Conv1D) or "forward" in layer.__dict__
    return not (hooked or own_forward or any(p.requires_grad for p in layer.parameters()))


class Start(NamedTuple):
    """Where one adapter starts on one layer: A0 (r, k), B0 (d, r), n0 and P0 as in `compose`; float32 or wider."""

    A0: Tensor
    B0: Tensor
    n0: Tensor
    P0: Tensor


def decompose_start(
    weight: Tensor, name: str, r: int, scaling: float, variant: Variant, axis: MagnitudeAxis, svd: SvdMethod, seed: int
) -> Start:
    """The start of `weight` (d, k) for module `name` (Eq. 3, 5, 6, 10, 11).

    Raises:
        DudeError: r above min(d, k), weights that are not finite or not there (meta device).
    """
    check_rank(name, tuple(weight.shape), r)
    if weight.is_meta:
        raise DudeError(f"module '{name}' has no values (meta device): load the base model's weights first")
    if not torch.isfinite(weight).all():
        raise DudeError(
            f"module '{name}' has {int((~torch.isfinite(weight)).sum())} weights that are not finite (NaN or inf), so "
            "it has no singular values. Check the base model's file, or leave the module out of target_modules"
        )
    triplets = top_singular_triplets(weight, r, method=svd, seed=module_seed(name, seed))
    return start_from(weight, *initial_factors(triplets, scaling, variant), axis)


def start_from(weight: Tensor, A0: Tensor, B0: Tensor, axis: MagnitudeAxis) -> Start:
    """The start with given factors: what follows from the weight (d, k) alone is computed, nothing is decomposed."""
    return Start(A0, B0, compose.weight_norm(weight, axis), compose.start_product(weight, A0, B0, axis))


class Magnitude(nn.Module):
    """The trainable magnitude m, (d,) or (k,): float32, whatever the base's dtype, and at its start n0 itself."""

    def __init__(self, n0: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(n0.clone())


class FrozenStart(nn.Module):
    """The frozen start of one adapter and the two choices that its formulas depend on.

    Parameters rather than buffers, because sharding, checkpoints and reference copies all walk over parameters.

    Args:
        start: A0 (r, k), B0 (d, r), n0 and P0.
        axis: of the magnitude.
        detach_norm: leave the norm out of the gradient.
    """

    def __init__(self, start: Start, axis: MagnitudeAxis, detach_norm: bool) -> None:
        super().__init__()
        self.lora_A0, self.lora_B0, self.lora_n0, self.lora_P0 = (nn.Parameter(t, requires_grad=False) for t in start)
        self.axis, self.detach_norm = axis, detach_norm

    @property
    def start(self) -> Start:
        """The four frozen parameters."""
        return Start(self.lora_A0, self.lora_B0, self.lora_n0, self.lora_P0)

    def compose(self, dA: Tensor, dB: Tensor, magnitude: Tensor, weight: Tensor, scaling: float) -> compose.Composition:
        """Where the parameters stand: see `compose.composition`."""
        return compose.composition(dA, dB, magnitude, self.start, weight, scaling, self.axis, self.detach_norm)

    def forward(
        self,
        x: Tensor,
        x_update: Tensor,
        y0: Tensor,
        dA: Tensor,
        dB: Tensor,
        magnitude: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        *,
        owns_base: bool,
    ) -> Tensor:
        """y = x W'^T + b (..., d) from the base layer's own output y0 (..., d).

        Args:
            x: (..., k), in the dtype of y0, and x_update: the same after dropout.
            dA, dB, magnitude, weight, scaling: as in `compose`. bias: (d,) or None.
            owns_base: y0 comes from this very weight and nothing else, so its gradient can be computed here too.
        """
        if self.axis == "in":
            now = self.compose(dA, dB, magnitude, weight, scaling)
            W = weight.to(x.dtype)
            return compose.scaled_input_output(y0, x, x_update, W, now.gain, now.Ah, now.Bh, scaling)
        return ComposedLinear.apply(
            x.reshape(-1, x.shape[-1]),
            None if x_update is x else x_update.reshape(-1, x.shape[-1]),
            (y0.detach() if owns_base else y0).reshape(-1, y0.shape[-1]),
            dA,
            dB,
            magnitude,
            self.start,
            weight,
            bias,
            scaling,
            self.detach_norm,
            owns_base,
        ).reshape(y0.shape)

    def extra_repr(self) -> str:
        """Shapes and choices, as `print(model)` shows them."""
        return f"r={self.lora_A0.shape[0]}, axis={self.axis!r}, detach_norm={self.detach_norm}"
