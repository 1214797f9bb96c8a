"""The bottleneck adapter (Houlsby et al., arXiv 1902.00751) on a layer's output y.

    y + W_up gelu(W_down y + b_down) + b_up

The paper puts one after the attention's output projection and one after the second layer of the feed-forward part, each
before the residual sum, and is initialised close to the identity. Here W_up is zero, which is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DudeError
from .tuner import BaselineConfig, BaselineLayer, BaselineModel, BaselineType, register

DOWN_STD = 1e-2  # the paper's, of every weight


@dataclass
class BottleneckConfig(BaselineConfig):
    """Keys of the adapter beside the shared ones.

    Attributes:
        r: width of the bottleneck.
    """

    r: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BaselineType.BOTTLENECK  # type: ignore[assignment]


class BottleneckLayer(BaselineLayer):
    """`bottleneck_down` (r, d), `bottleneck_down_bias` (r,), `bottleneck_up` (d, r), `bottleneck_up_bias` (d,)."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_down_bias", "bottleneck_up", "bottleneck_up_bias")

    def initial_values(self, weight: Tensor, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """Return W_down from a normal distribution truncated at two standard deviations, and zeros for the rest."""
        d, r = weight.shape[0], config.r
        down = nn.init.trunc_normal_(torch.empty(r, d), std=DOWN_STD, a=-2 * DOWN_STD, b=2 * DOWN_STD)
        zeros = torch.zeros(r), torch.zeros(d, r), torch.zeros(d)
        return dict(zip(self.adapter_layer_names, (down, *zeros), strict=True))

    def update(self, adapter: str, x: Tensor, y: Tensor) -> Tensor:
        """Return W_up gelu(W_down y + b_down) + b_up (..., d)."""
        down, down_bias, up, up_bias = self.parts(adapter)
        h = nn.functional.gelu(nn.functional.linear(y.to(down.dtype), down, down_bias))
        return nn.functional.linear(h, up, up_bias)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: the update is not linear in the layer's input."""
        raise DudeError(
            "method 'adapter' cannot be merged: its bottleneck has a nonlinearity, so no weight W' computes "
            "y + W_up gelu(W_down y + b_down) + b_up. Use the adapter as it is (`dude eval RUN`, "
            "`PeftModel.from_pretrained`)."
        )


class BottleneckModel(BaselineModel):
    """PEFT's model for the bottleneck adapter."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _check_merge_allowed(self) -> None:
        next(m for m in self.model.modules() if isinstance(m, BottleneckLayer)).merge()


register(BottleneckConfig, BaselineType.BOTTLENECK, BottleneckModel)
