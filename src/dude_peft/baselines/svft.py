"""SVFT (arXiv 2405.19597): W' = W0 + U M V^T over all singular vectors of W0, with some diagonals of M trained.

M is initialised to zero, so W' to W0. (The released code draws M at random and multiplies it by a trained gate.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..base_weight import check_finite
from ..svd import top_singular_triplets
from .tuner import BaselineConfig, BaselineLayer, BaselineModel, BaselineType, placeholder, register


@dataclass
class SvftConfig(BaselineConfig):
    """Keys of SVFT beside the shared ones.

    Attributes:
        off_diag: trained diagonals on each side of the main one: 0 is SVFT-plain, more is SVFT-banded.
    """

    off_diag: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BaselineType.SVFT  # type: ignore[assignment]


class SvftLayer(BaselineLayer):
    """`svft_M`: the diagonals of M (p, p) one after another, lowest first; `svft_U` (d, p), `svft_V` (p, k)."""

    adapter_layer_names = ("svft_M",)
    other_param_names = ("svft_U", "svft_V")

    def initial_values(self, weight: Tensor, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """Return M = 0, and all p = min(d, k) singular vectors of the weight (d, k)."""
        (d, k), o = weight.shape, config.off_diag
        p = min(d, k)
        M = torch.zeros(p * (2 * o + 1) - o * (o + 1))
        if config.start_is_saved:
            return {"svft_M": M, "svft_U": placeholder(d, p), "svft_V": placeholder(p, k)}
        check_finite(module_name, weight)
        U, _, Vh = top_singular_triplets(weight.float(), p, method="exact")
        return {"svft_M": M, "svft_U": U, "svft_V": Vh}

    def diagonals(self, adapter: str) -> Iterator[tuple[int, Tensor]]:
        """Return each trained diagonal of M: its offset, column less row, and its values (p - |offset|,)."""
        M, U, _ = self.parts(adapter)
        o = self.configs[adapter].off_diag
        offsets = range(-o, o + 1)
        return zip(offsets, M.split([U.shape[1] - abs(offset) for offset in offsets]), strict=True)

    def update(self, adapter: str, x: Tensor, y: Tensor) -> Tensor:
        """Return ((x V) M^T) U^T (..., d)."""
        M, U, V = self.parts(adapter)
        h = nn.functional.linear(x.to(M.dtype), V)
        p, total = h.shape[-1], torch.zeros_like(h)
        for offset, values in self.diagonals(adapter):
            row, column = max(0, -offset), max(0, offset)
            total = total + nn.functional.pad(values * h[..., column : p - row], (row, column))
        return nn.functional.linear(total, U)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return U M V^T (d, k)."""
        _, U, V = self.parts(adapter)
        M = torch.zeros(U.shape[1], U.shape[1], dtype=U.dtype, device=U.device)
        for offset, values in self.diagonals(adapter):
            M.diagonal(offset).copy_(values)
        return U @ M @ V


class SvftModel(BaselineModel):
    """PEFT's model for SVFT."""

    prefix = "svft_"
    tuner_layer_cls = SvftLayer


register(SvftConfig, BaselineType.SVFT, SvftModel)
