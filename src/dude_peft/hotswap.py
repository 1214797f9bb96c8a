"""PEFT's `hotswap_adapter` for DuDe adapters: new values in the same layers, which are not built again.

PEFT swaps entries by name, and has no hook for a method whose layer is not stored as it computes. So the functions that
`hotswap_adapter` calls are wrapped: those of a `DudeConfig` come here, every other adapter goes PEFT's way untouched.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft.utils import hotswap as peft_hotswap
from torch import Tensor, nn

from . import checkpoint
from .base_weight import dense_weight, weight_shape, with_values
from .config import CONFIG_NAME, WEIGHTS_NAME, DudeConfig
from .errors import DudeError
from .experts import DudeExperts
from .files import sha256
from .layer import init_from_factors
from .model import dude_layers, saved_parameters
from .targets import Target, rank_and_scaling


def install() -> None:
    """Wrap PEFT's functions, once."""
    for name, wrapper in WRAPPERS.items():
        original = getattr(peft_hotswap, name)
        if not isinstance(original, functools.partial):
            setattr(peft_hotswap, name, functools.wraps(original)(functools.partial(wrapper, original)))


def _configs_compatible(original: Any, config0: Any, config1: Any) -> None:
    original(config0.saved_config() if isinstance(config0, DudeConfig) else config0, config1)


def _load_weights(original: Any, model_id: str, *args: Any, **kwargs: Any) -> Any:
    folder = Path(model_id, kwargs.get("subfolder") or "")
    if (folder / CONFIG_NAME).is_file():
        expected = DudeConfig.from_pretrained(str(folder)).weights_sha256
        if expected is not None and sha256(folder / WEIGHTS_NAME) != expected:
            raise DudeError(f"{folder / WEIGHTS_NAME}: its SHA-256 differs from dude_config.json's: fetch it again")
    return original(model_id, *args, **kwargs)


def _prepare(original: Any, model: nn.Module, **kwargs: Any) -> None:
    if any(hasattr(module, "lora_dude") for module in model.modules()):
        raise DudeError(
            "prepare_model_for_compiled_hotswap pads LoRA factors, which a DuDe adapter cannot be: adapters of one "
            "rank can be swapped in a compiled model without it"
        )
    original(model, **kwargs)


def _from_state_dict(
    original: Any, model: Any, state_dict: dict[str, Tensor], adapter_name: str, config: Any, **kwargs: Any
) -> None:
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    current = getattr(inner, "peft_config", {}).get(adapter_name)
    if not isinstance(current, DudeConfig):
        original(model=model, state_dict=state_dict, adapter_name=adapter_name, config=config, **kwargs)
        return
    named = re.compile(rf"\.(lora_\w+)\.{re.escape(adapter_name)}(?=\.|$)")
    swap(inner, {named.sub(r".\1", key): tensor for key, tensor in state_dict.items()}, adapter_name, config)


@torch.no_grad()
def swap(model: nn.Module, state: Mapping[str, Tensor], adapter_name: str, config: Any) -> None:
    """Put the adapter of a file into the layers of `adapter_name`; everything is checked before a value changes.

    Args:
        model: the `PeftModel`.
        state: the file's entries.
        adapter_name: of a DuDe adapter of axis `"out"` in the model.
        config: the stock config beside the file (rank 2r), with the same targets.

    Raises:
        DudeError: merged, an entry that is missing or foreign, or one that does not fit the base.
    """
    configs: Any = model.peft_config
    current: DudeConfig = configs[adapter_name]
    ranks, axis = _halved(config), current.magnitude_axis
    new_config = SimpleNamespace(**ranks, use_rslora=config.use_rslora)
    layers = dude_layers(model, adapter_name)
    expected: dict[str, Any] = {}
    scales: dict[str, tuple[int, float, float]] = {}
    for name, module in layers.items():
        if isinstance(module, DudeExperts):
            raise DudeError(
                "hotswap_adapter does not swap adapters on experts: load_adapter under another name instead"
            )
        if adapter_name in module.merged_adapters:
            raise DudeError(f"adapter '{adapter_name}' is merged into '{name}': call unmerge_adapter() before swapping")
        scales[name] = rank_and_scaling(new_config, name)
        key = name if name.startswith(checkpoint.PEFT_PREFIX) else checkpoint.PEFT_PREFIX + name
        r, _, scaling = scales[name]
        expected[key] = Target(name, weight_shape(module.get_base_layer(), name), r, scaling)
    copies = {key: model.get_parameter(name) for key, name in saved_parameters(model, adapter_name).items()}
    parts = checkpoint.layer_parts(state, expected, axis, copies)
    saved = {key: checkpoint.checked(state, key, tensor.shape, tensor.dtype) for key, tensor in copies.items()}
    inits = {}
    for name, module in layers.items():
        with with_values(module.get_base_layer()):
            like = module.lora_dude[adapter_name].lora_A0
            A0, B0 = (parts[name][part].to(like) for part in (checkpoint.A0, checkpoint.B0))
            inits[name] = init_from_factors(dense_weight(module.get_base_layer(), name), A0, B0, axis)
        checkpoint.check_same_base(inits[name], name, scales[name][2], axis, current.init_variant)
    for name, module in layers.items():
        r, alpha, scaling = scales[name]
        _fill(module, adapter_name, parts[name], inits[name], r)
        module.r[adapter_name], module.lora_alpha[adapter_name], module.scaling[adapter_name] = r, alpha, scaling
    for key, parameter in copies.items():
        parameter.copy_(saved[key])
    for option, value in ranks.items():
        setattr(current, option, value)


def _halved(config: Any) -> dict[str, Any]:
    """Return the options of rank and alpha of a DuDe adapter from its stock config: the inverse of `saved_config`."""
    factor = 2**0.5 if config.use_rslora else 2
    return {
        "r": config.r // 2,
        "lora_alpha": config.lora_alpha / factor,
        "rank_pattern": {name: rank // 2 for name, rank in config.rank_pattern.items()},
        "alpha_pattern": {name: alpha / factor for name, alpha in config.alpha_pattern.items()},
    }


def _fill(module: Any, adapter: str, parts: Mapping[str, Tensor], init: Any, r: int) -> None:
    A, B, frozen = module.lora_A[adapter], module.lora_B[adapter], module.lora_dude[adapter]
    values = [(A.weight, parts[checkpoint.A]), (B.weight, parts[checkpoint.B])]
    values += [
        (module.lora_magnitude_vector[adapter].weight, parts[checkpoint.M]),
        *zip(frozen.init, init, strict=True),
    ]
    for parameter, value in values:
        if parameter.shape == value.shape:
            parameter.copy_(value)
        else:  # another rank: new storage, for which a compiled model compiles again
            parameter.data = value.to(parameter).contiguous()
            parameter.grad = None
    A.out_features = B.in_features = r
    frozen.train(frozen.training)  # drops what was cached


WRAPPERS: dict[str, Any] = {
    "check_hotswap_configs_compatible": _configs_compatible,
    "load_peft_weights": _load_weights,
    "prepare_model_for_compiled_hotswap": _prepare,
    "hotswap_adapter_from_state_dict": _from_state_dict,
}
