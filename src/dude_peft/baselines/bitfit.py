"""BitFit (arXiv 2106.10199): only biases are trained, b' = b + db.

The paper trains the biases that a model has. A Llama has none, so each target layer trains a db, initialised to
zero: the paper's method wherever there is a bias, and a new bias where there is none. A merged model can be saved only
where its architecture has a place for them: see `find_places`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DudeError
from .tuner import BaselineConfig, BaselineLayer, BaselineModel, BaselineType, register

BIAS_FLAGS = ("attention_bias", "mlp_bias", "qkv_bias", "use_qkv_bias", "use_bias", "bias")
"""What configs of transformers call the choice to have biases."""


@dataclass
class BitfitConfig(BaselineConfig):
    """BitFit has no keys beside the shared ones."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = BaselineType.BITFIT  # type: ignore[assignment]


class BitfitLayer(BaselineLayer):
    """`bitfit_b` is db (d,)."""

    adapter_layer_names = ("bitfit_b",)

    def initial_values(self, weight: Tensor, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """Return db = 0 (d,)."""
        return {"bitfit_b": torch.zeros(weight.shape[0])}

    def update(self, adapter: str, x: Tensor, y: Tensor) -> Tensor:
        """Return db (d,)."""
        return self.parts(adapter)[0]

    def merge_into(self, base: Any, adapter: str) -> None:
        """Return b + db, or a new bias for a layer that has none."""
        db = self.parts(adapter)[0]
        merged = db if base.bias is None else base.bias.float() + db
        base.bias = nn.Parameter(merged.to(base.weight.dtype, copy=True), requires_grad=False)


class BitfitModel(BaselineModel):
    """PEFT's model for BitFit."""

    prefix = "bitfit_"
    tuner_layer_cls = BitfitLayer

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        new = {
            name: module.get_base_layer()
            for name, module in self.model.named_modules()
            if isinstance(module, BitfitLayer) and module.get_base_layer().bias is None
        }
        places = find_places(self.model, set(new)) if merge and new and hasattr(self.model, "config") else None
        model = super()._unload_and_optionally_merge(merge, *args, **kwargs)
        if places is not None:
            declare_biases(model, *places)
        return model


register(BitfitConfig, BaselineType.BITFIT, BitfitModel)


def find_places(model: Any, names: set[str]) -> tuple[list[str], set[str]]:
    """Return the options of the model's config that give biases to the layers `names`, and all layers that they affect.

    Raises:
        DudeError: the architecture has no place for a bias of some of them.
    """
    has = {name for name, module in model.named_modules() if getattr(module, "bias", None) is not None}
    flags, given = [], set()
    for flag in BIAS_FLAGS:
        if getattr(model.config, flag, None) is not False:
            continue
        config = copy.deepcopy(model.config)
        setattr(config, flag, True)
        with torch.device("meta"):
            other = type(model)(config)
        gains = {name for name, module in other.named_modules() if getattr(module, "bias", None) is not None} - has
        if gains & names:
            flags.append(flag)
            given |= gains
    if lost := sorted(names - given):
        kinds = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in lost}))
        raise DudeError(
            f"method 'bitfit': {type(model).__name__} has no place for a bias of {kinds} ({len(lost)} layers, the "
            f"first '{lost[0]}'), so the merged model could not be saved. Use the adapter unmerged, or leave these "
            "modules out of target_modules."
        )
    return flags, given


def declare_biases(model: Any, flags: list[str], layers: set[str]) -> None:
    """Make the merged model one that transformers loads with its biases; zeros where none was trained."""
    for flag in flags:
        setattr(model.config, flag, True)
    for name in layers:
        layer = model.get_submodule(name)
        if layer.bias is None:
            zeros = torch.zeros(layer.weight.shape[0], dtype=layer.weight.dtype, device=layer.weight.device)
            layer.bias = nn.Parameter(zeros, requires_grad=False)
