"""What the baselines share as PEFT methods: config, layer, model. A baseline adds its initial values, update and merge.

PEFT's tables are keyed by its closed enum `PeftType`, whose members are strings; `BaselineType` has further members
that compare and save alike.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..base_weight import dense_weight, quantization
from ..errors import DudeError
from ..injection import report_init, unchanged_on_error


class BaselineType(str, enum.Enum):
    """The `peft_type` of the baselines, as `adapter_config.json` has it."""

    LORA_XS = "LORA_XS"
    SHIFTED_LORA = "SHIFTED_LORA"
    SVFT = "SVFT"
    BITFIT = "BITFIT"
    BOTTLENECK = "BOTTLENECK"


@dataclass
class BaselineConfig(PeftConfig):
    """Keys of every baseline; names and meanings are those of `peft.LoraConfig`.

    Attributes:
        start_is_saved: set in every saved config: the frozen factors are in the file beside it, and a layer made from
            the config waits for them (as NaN) instead of decomposing its weight.
    """

    target_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    rank_pattern: dict[str, int] = field(default_factory=dict)
    start_is_saved: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)

    def to_dict(self) -> dict[str, Any]:
        """Return what `save_pretrained` writes."""
        return super().to_dict() | {"start_is_saved": True}


class BaselineLayer(nn.Module, BaseTunerLayer):
    """A linear layer with adapters of one baseline on it.

    A subclass names its tensors, one `ParameterDict` each keyed by adapter: those in `adapter_layer_names` are trained,
    those in `other_param_names` stay frozen (parameters, not buffers: sharding and checkpoints walk over parameters).
    All are float32, whatever the base's dtype.

    Args:
        base_layer: `nn.Linear` or `Conv1D`; never written but by `merge`.
        adapter_name: of the first adapter.
        config: of that adapter.
        module_name: of the layer in the model, for errors and seeds.
    """

    adapter_layer_names: tuple[str, ...]
    other_param_names: tuple[str, ...] = ()
    # What PEFT's base class has, whose types are not read.
    active_adapters: list[str]
    disable_adapters: bool
    merged: bool
    merged_adapters: list[str]
    get_base_layer: Any
    set_adapter: Any

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: Any, module_name: str) -> None:
        super().__init__()
        self.base_layer = base_layer
        for name in (*self.adapter_layer_names, *self.other_param_names):
            setattr(self, name, nn.ParameterDict())
        self._disable_adapters = False
        self.merged_adapters = []
        self._before_merge: list[tuple[Tensor, nn.Parameter | None]] = []
        self.configs: dict[str, Any] = {}
        self._active_adapter = adapter_name
        self.update_layer(adapter_name, config, module_name)

    def update_layer(self, adapter_name: str, config: Any, module_name: str) -> None:
        """Add the adapter `adapter_name`.

        Raises:
            DudeError: a layer that is not linear, or weights that have no singular values; names the module.
        """
        base = self.get_base_layer()
        if quantized := quantization(base):
            raise DudeError(
                f"module '{module_name}' is quantised ({quantized.name}), which {type(config).__name__} does "
                "not support. Load the base model without quantisation"
            )
        weight = dense_weight(base, module_name)
        self.configs[adapter_name] = config
        for name, tensor in self.initial_values(weight, config, module_name).items():
            parameter = nn.Parameter(tensor.to(weight.device), requires_grad=name in self.adapter_layer_names)
            getattr(self, name)[adapter_name] = parameter
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def initial_values(self, weight: Tensor, config: Any, module_name: str) -> Mapping[str, Tensor]:
        """Return each tensor of a new adapter, by name, for the weight (d, k); float32."""
        raise NotImplementedError

    def update(self, adapter: str, x: Tensor, y: Tensor) -> Tensor:
        """Return what the adapter adds to the output y (..., d), from y and the layer's input x (..., k)."""
        raise NotImplementedError

    def get_delta_weight(self, adapter: str) -> Tensor:
        """Return W' - W0 (d, k), float32."""
        raise NotImplementedError

    def parts(self, adapter: str) -> list[Tensor]:
        """Return the tensors of an adapter, in the order of `adapter_layer_names` and `other_param_names`."""
        return [getattr(self, name)[adapter] for name in (*self.adapter_layer_names, *self.other_param_names)]

    def scaling(self, adapter: str) -> float:
        """Return s of an adapter with a rank, whose first tensor has r rows."""
        return lora_scaling(self.configs[adapter], self.parts(adapter)[0].shape[0])

    def has_adapter(self, adapter: str) -> bool:
        """Return whether the layer has an adapter of this name."""
        return adapter in getattr(self, self.adapter_layer_names[0])

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base layer's output (..., d) plus the update of each active adapter, in the base's dtype."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        dtype = y.dtype
        for adapter in self.active_adapters:
            if self.has_adapter(adapter):
                y = y + self.update(adapter, x, y)
        return y.to(dtype)

    def merge_into(self, base: Any, adapter: str) -> None:
        """Put the adapter into the base layer's weight: added in float32, rounded once."""
        weight = dense_weight(base)
        merged = (weight.float() + self.get_delta_weight(adapter)).to(weight.dtype)
        base.weight.data = merged.T.contiguous() if isinstance(base, Conv1D) else merged

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge adapters into the base layer, all active ones unless named; its old tensors are stored for `unmerge`.

        Raises:
            DudeError: with `safe_merge`, a merged weight that is not finite; the layer is left as it was.
        """
        for adapter in check_adapters_to_merge(self, adapter_names):
            if not self.has_adapter(adapter):
                continue
            base: Any = self.get_base_layer()
            self._before_merge.append((base.weight.data, base.bias))
            self.merge_into(base, adapter)
            self.merged_adapters.append(adapter)
            if safe_merge and not all(torch.isfinite(p).all() for p in base.parameters()):
                self.unmerge()
                raise DudeError(f"adapter '{adapter}': the merged weights are not finite, so it is damaged")

    def unmerge(self) -> None:
        """Restore the base layer from before the merge, bit for bit."""
        base: Any = self.get_base_layer()
        while self._before_merge:
            base.weight.data, base.bias = self._before_merge.pop()
        self.merged_adapters.clear()


class BaselineModel(BaseTuner):
    """PEFT's model of one baseline: puts its layers into a model."""

    tuner_layer_cls: type[BaselineLayer]
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's table of defaults: there are none

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Inject as PEFT does; after an error the model is as it was."""
        try:
            with unchanged_on_error(self, model):
                super().inject_adapter(model, adapter_name, *args, **kwargs)
        except BaseException:
            self.peft_config.pop(adapter_name, None)
            raise

    def _create_and_replace(  # type: ignore[override]
        self,
        config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        report_init(current_key)
        if isinstance(target, self.tuner_layer_cls):
            target.update_layer(adapter_name, config, current_key)
            return
        layer = self.tuner_layer_cls(target, adapter_name, config, current_key)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        found = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        wanted = {name for name in model.state_dict() if cls.prefix in name and name.endswith(f".{adapter_name}")}
        if lost := sorted(wanted - set(found)):
            raise DudeError(f"the adapter has no entry for '{lost[0]}': it is truncated, or made for other modules")
        return found


def register(config: type[BaselineConfig], kind: BaselineType, model: type[BaselineModel]) -> None:
    """Make a baseline known to PEFT under `kind`."""
    PEFT_TYPE_TO_CONFIG_MAPPING[kind] = config  # type: ignore[index]
    PEFT_TYPE_TO_TUNER_MAPPING[kind] = model  # type: ignore[index]
    PEFT_TYPE_TO_PREFIX_MAPPING[kind] = model.prefix  # type: ignore[index]


def lora_scaling(config: Any, r: int) -> float:
    """Return s = lora_alpha / r, or 1 if the config has no lora_alpha."""
    return 1.0 if config.lora_alpha is None else config.lora_alpha / r


def placeholder(*shape: int) -> Tensor:
    """Return NaN in place of a factor until it is loaded from a file, so that a missing one is noticed."""
    return torch.full(shape, torch.nan)
