"""LoRA-XS (arXiv 2405.17604): W' = W0 + s U_r R S_r V_r^T, with only R (r, r) trained.

U_r S_r V_r^T is the top part of W0. The singular values stand on the side of the input, as in the paper's h = x A R B
with A = V_r S_r (its weights are (in, out)) and in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from ..base_weight import check_finite
from ..svd import SvdMethod, cached_triplets, module_seed
from ..targets import check_rank
from .tuner import BaselineConfig, BaselineLayer, BaselineModel, BaselineType, placeholder, register


@dataclass
class LoraXsConfig(BaselineConfig):
    """Keys of LoRA-XS beside the shared ones.

    Attributes:
        r: rank of the frozen factors, and side of R.
        lora_alpha: s = lora_alpha / r; None: s = 1.
        lora_dropout: of the update's input.
        init_std: standard deviation of R's initial entries; the paper's is 1e-5.
        svd: `krylov` or `exact`.
        svd_seed: seed of the Krylov block, combined with the module's name.
    """

    r: int = 16
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    init_std: float = 1e-5
    svd: SvdMethod = "krylov"
    svd_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BaselineType.LORA_XS  # type: ignore[assignment]


class LoraXsLayer(BaselineLayer):
    """R (r, r) is `lora_xs_R`; S_r V_r^T (r, k) is `lora_xs_A` and U_r (d, r) `lora_xs_B`."""

    adapter_layer_names = ("lora_xs_R",)
    other_param_names = ("lora_xs_A", "lora_xs_B")

    def initial_values(self, weight: Tensor, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """Return R close to zero, A and B from the top r singular triplets of the weight (d, k)."""
        key = get_pattern_key(config.rank_pattern.keys(), module_name)
        r, (d, k) = config.rank_pattern.get(key, config.r), weight.shape
        check_rank(module_name, (d, k), r)
        if config.start_is_saved:
            return {"lora_xs_R": placeholder(r, r), "lora_xs_A": placeholder(r, k), "lora_xs_B": placeholder(d, r)}
        check_finite(module_name, weight)
        seed = module_seed(module_name, config.svd_seed)
        U, S, Vh = (t.float() for t in cached_triplets(weight, r, method=config.svd, seed=seed))
        return {"lora_xs_R": torch.randn(r, r) * config.init_std, "lora_xs_A": S[:, None] * Vh, "lora_xs_B": U}

    def update(self, adapter: str, x: Tensor, y: Tensor) -> Tensor:
        """Return s x (S_r V_r^T)^T R^T U_r^T (..., d)."""
        R, A, B = self.parts(adapter)
        x = nn.functional.dropout(x, self.configs[adapter].lora_dropout, self.training).to(R.dtype)
        for factor in (A, R, B):
            x = nn.functional.linear(x, factor)
        return self.scaling(adapter) * x

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return s U_r R S_r V_r^T (d, k)."""
        R, A, B = self.parts(adapter)
        return self.scaling(adapter) * (B @ R @ A)


class LoraXsModel(BaselineModel):
    """PEFT's model for LoRA-XS."""

    prefix = "lora_xs_"
    tuner_layer_cls = LoraXsLayer


register(LoraXsConfig, BaselineType.LORA_XS, LoraXsModel)
