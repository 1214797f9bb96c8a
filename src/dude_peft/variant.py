"""DuDe inside one of PEFT's LoRA layers: its state, its forward, merging and unmerging."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import Tensor, nn

from . import compose
from .config import DudeConfig
from .layers import Magnitude, Start, dense_weight, is_plain, onloaded
from .state import FrozenStart, Trained

TRAINED_NAMES = ("lora_A", "lora_B", "lora_magnitude_vector")


def trained_parameters(module: Any, adapter: str) -> Trained:
    """dA (r, k), dB (d, r) and the magnitude of `adapter` on PEFT's layer `module`."""
    return module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.lora_magnitude_vector[adapter].weight


def apply(module: Any, adapter: str, x: Tensor, dropped: Tensor, y0: Tensor | None) -> Tensor:
    """`FrozenStart.forward` of `adapter` on PEFT's layer `module`."""
    trained, base = trained_parameters(module, adapter), module.get_base_layer()
    if base.weight.is_meta:  # between the forwards of a layer that is offloaded
        with onloaded(base):
            return module.lora_dude[adapter](x, dropped, y0, trained, base, module.scaling[adapter])
    return module.lora_dude[adapter](x, dropped, y0, trained, base, module.scaling[adapter])


class DudeLinear(Linear):
    """PEFT's LoRA layer with a short way for its commonest state: one DuDe adapter, active and not merged, on a base
    that `is_plain`. The base's product is then made together with the adapter's; every other state goes PEFT's way.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """y (..., d) for x (..., k)."""
        if not (args or kwargs or self.training or torch.is_grad_enabled()):
            y = self._from_kept(x)
            if y is not None:
                return y
        active = self.active_adapters
        if len(active) == 1 and not (args or kwargs or self.disable_adapters or self.merged_adapters):
            adapter = active[0]
            if adapter in getattr(self, "lora_dude", ()) and is_plain(self.base_layer):
                return apply(self, adapter, x, self.lora_dropout[adapter](x), None)
        return super().forward(x, *args, **kwargs)

    def _from_kept(self, x: Tensor) -> Tensor | None:
        """y (..., d) from what is kept in eval mode, or None where the layer is to go the whole way.

        For a step of generation, where looking up modules and parameters by their names as attributes took several
        times as long as the products: here they are read from the tables that these look-ups end in.
        """
        held: Any = self.__dict__
        active, modules = held["_active_adapter"], held["_modules"]
        adapter = active if isinstance(active, str) else active[0] if len(active) == 1 else None
        start = modules["lora_dude"]._modules.get(adapter)
        if start is None or held["_disable_adapters"] or held["merged_adapters"]:
            return None
        base = modules["base_layer"]
        if modules["lora_dropout"]._modules[adapter].training or not is_plain(base):
            return None
        trained = tuple(modules[name]._modules[adapter]._parameters["weight"] for name in TRAINED_NAMES)
        return start.from_kept(x, trained, base, held["scaling"][adapter])


class DudeVariant(LoraVariant):
    """How PEFT's LoRA layer computes, merges and unmerges a DuDe adapter (Eq. 7).

    Several active adapters compose in order for axis `"out"`, as PEFT's DoRA does: each scales what it is given. For
    axis `"in"` they add.
    """

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Nothing: `attach` makes the whole state at once, after PEFT has built its layer."""

    @staticmethod
    def attach(module: Any, adapter_name: str, start: Start, config: DudeConfig) -> None:
        """Turn the LoRA adapter `adapter_name` of PEFT's layer into a DuDe adapter at its start."""
        for parameter in (module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight):
            nn.init.zeros_(parameter)  # the differences
        if not hasattr(module, "lora_dude"):
            module.lora_dude = nn.ModuleDict()
            # Not among the adapter_layer_names, so that PEFT moves and deletes the start but never trains it.
            module.other_param_names = (*module.other_param_names, "lora_dude")
        module.lora_dude[adapter_name] = FrozenStart(start, config.magnitude_axis, config.detach_norm)
        module.lora_magnitude_vector[adapter_name] = Magnitude(start.n0)
        module.lora_variant[adapter_name] = DudeVariant()
        if type(module) is Linear:
            module.__class__ = DudeLinear

    @staticmethod
    def _compose(module: Any, adapter: str, weight: Tensor) -> compose.Composition:
        return module.lora_dude[adapter].compose(*trained_parameters(module, adapter), weight, module.scaling[adapter])

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """y (..., d) from the layer's input x (..., k) and the base layer's own output `result` (..., d)."""
        x = x.to(result.dtype)
        dropped = module.lora_dropout[active_adapter](x)
        return apply(module, active_adapter, x, dropped, result)

    @staticmethod
    @torch.no_grad()
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The merged weight in the base layer's own layout; the base's bits are kept for `unmerge`."""
        base = module.get_base_layer()
        if module.merged_adapters:
            with module._unmerged_base_weight() as unmerged:
                W0 = unmerged.T if module.fan_in_fan_out else unmerged
                now = DudeVariant._compose(module, active_adapter, W0)
        else:
            W0 = dense_weight(base)
            now = DudeVariant._compose(module, active_adapter, W0)
        current, scaling, axis = (
            dense_weight(base),
            module.scaling[active_adapter],
            module.lora_dude[active_adapter].axis,
        )
        if axis == "out" or not module.merged_adapters:
            merged = compose.merged_weight(current, now.gain, now.Ah, now.Bt, scaling, axis)
        else:
            own = compose.merged_weight(W0.float(), now.gain, now.Ah, now.Bt, scaling, axis) - W0.float()
            merged = (current.float() + own).to(current.dtype)
        # Dividing back would change base bits, and W0 is never given up: its storage stays here until unmerge.
        module._cache_store(f"{active_adapter}-unmerged", base.weight.data)
        return merged.T.contiguous() if module.fan_in_fan_out else merged

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Like `merge_safe`, put in place."""
        orig_weight.data = DudeVariant.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight as it was before the merge, bit for bit."""
        return module._cache_pop(f"{active_adapter}-unmerged").to(orig_weight.device)

    def supports_lora_conversion(self) -> bool:
        """No: the magnitude makes W' - W0 a matrix of full rank."""
        return False
