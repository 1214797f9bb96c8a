"""LoRA from factors of the weight's spectrum: W' = W0 + s (B A - B0 A0), with A and B trained from A0 and B0.

With the singular vectors of the weight it is PiSSA (arXiv 2404.02948), without writing to the base model. With random
vectors of the same singular values it is the control of an ablation: what the directions contribute, apart from the
size of the initial factors. DuDe without its magnitude is the same update.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from ..base_weight import check_finite
from ..svd import SvdMethod, cached_triplets, initial_factors, module_seed, random_vectors
from ..targets import check_rank
from .tuner import BaselineConfig, BaselineLayer, BaselineModel, BaselineType, lora_scaling, placeholder, register


@dataclass
class ShiftedLoraConfig(BaselineConfig):
    """Keys of the method beside the shared ones.

    Attributes:
        r: rank of the update.
        lora_alpha: s = lora_alpha / r; None: s = 1.
        lora_dropout: of the update's input.
        vectors: singular vectors of A0 and B0: `principal`, those of the weight, or `random`.
        svd: `krylov` or `exact`.
        svd_seed: seed of the Krylov block and of random vectors, combined with the module's name.
    """

    r: int = 16
    lora_alpha: float | None = None
    lora_dropout: float = 0.0
    vectors: Literal["principal", "random"] = "principal"
    svd: SvdMethod = "krylov"
    svd_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BaselineType.SHIFTED_LORA  # type: ignore[assignment]


class ShiftedLoraLayer(BaselineLayer):
    """A (r, k) and B (d, r) are `shifted_lora_A` and `_B`; their initial values stay in `shifted_lora_A0` and `_B0`."""

    adapter_layer_names = ("shifted_lora_A", "shifted_lora_B")
    other_param_names = ("shifted_lora_A0", "shifted_lora_B0")

    def initial_values(self, weight: Tensor, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """Return A0 and B0 with s B0 A0 of the weight's top r singular values (d, k), each twice."""
        key = get_pattern_key(config.rank_pattern.keys(), module_name)
        r, (d, k) = config.rank_pattern.get(key, config.r), weight.shape
        check_rank(module_name, (d, k), r)
        if config.start_is_saved:
            A0, B0 = placeholder(r, k), placeholder(d, r)
        else:
            check_finite(module_name, weight)
            seed = module_seed(module_name, config.svd_seed)
            triplets = cached_triplets(weight, r, method=config.svd, seed=seed)
            if config.vectors == "random":
                triplets = random_vectors(triplets, seed)
            A0, B0 = (one.float() for one in initial_factors(triplets, lora_scaling(config, r)))
        names = (*self.adapter_layer_names, *self.other_param_names)
        return dict(zip(names, (A0.clone(), B0.clone(), A0, B0), strict=True))

    def update(self, adapter: str, x: Tensor, y: Tensor) -> Tensor:
        """Return s (x A^T B^T - x A0^T B0^T) (..., d)."""
        A, B, A0, B0 = self.parts(adapter)
        x = nn.functional.dropout(x, self.configs[adapter].lora_dropout, self.training).to(A.dtype)
        linear = nn.functional.linear
        return self.scaling(adapter) * (linear(linear(x, A), B) - linear(linear(x, A0), B0))

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return s (B A - B0 A0) (d, k)."""
        A, B, A0, B0 = self.parts(adapter)
        return self.scaling(adapter) * (B @ A - B0 @ A0)


class ShiftedLoraModel(BaselineModel):
    """PEFT's model for the method."""

    prefix = "shifted_lora_"
    tuner_layer_cls = ShiftedLoraLayer


register(ShiftedLoraConfig, BaselineType.SHIFTED_LORA, ShiftedLoraModel)
