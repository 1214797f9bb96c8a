"""The saved form of a DuDe adapter: for axis `"out"` a stock DoRA adapter of rank 2r, without loss.

    lora_A.weight = [dA; A0] (2r, k)     lora_B.weight = [B0 + dB, dB] (d, 2r)     lora_magnitude_vector.weight = m (d,)

dA, dB, A0 and m are stored as they are; B0 is recovered by `svd.recover_b0`. For axis `"in"` and for experts, which no
stock layer computes, the parts are written one by one; those of experts have the name of the stack after that of the
part, `lora_A.gate.weight` (E, r, k).

`load_adapter`: a saved DuDe adapter on its base model, with DuDe's layer.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .base_weight import FLOATS, dense_weight, weight_shape, with_values
from .config import WEIGHTS_NAME, DudeConfig, find_adapter_file
from .errors import DudeError, shorten
from .experts import DudeExperts, from_factors
from .files import public_name, sha256
from .functional import MagnitudeAxis, factors
from .layer import Init, init_from_factors
from .svd import Variant, recover_b0
from .targets import Target, plan, saved_modules

A, B, M = "lora_A{}.weight", "lora_B{}.weight", "lora_magnitude_vector{}.weight"
A0, B0, P0 = "lora_dude{}.lora_A0", "lora_dude{}.lora_B0", "lora_dude{}.lora_P0"
PEFT_PREFIX = "base_model.model."

Parts = Mapping[
    str, Tensor
]  # the parameters of a layer: A (r, k) and B (d, r), the differences, M, A0 (r, k), B0 (d, r)
# What `load_adapter` passes to `DudeModel` in place of a decomposition, by module name and checked: between them stands
# PEFT, which passes on a config and no arguments.
LOADED: ContextVar[Mapping[str, Parts] | None] = ContextVar("dude_loaded", default=None)


def to_stored(state: Mapping[str, Tensor], axis: MagnitudeAxis, infix: str = "") -> dict[str, Tensor]:
    """Return the entries of one adapter's state dict in the form of the file.

    Args:
        state: the adapter's parameters by name, the adapter's name in them as `infix` (`".default"`).
        axis: of its magnitude.

    Raises:
        DudeError: parameters without values, as FSDP1 and DeepSpeed ZeRO-3 leave them in a process.
    """
    state = {name: full_tensor(tensor) for name, tensor in state.items()}
    marker = re.compile(rf"(.+)\.lora_dude{re.escape(infix)}(\.\w+)?\.lora_A0")
    places = [(match[1], match[2] or "") for key in state if (match := marker.fullmatch(key))]
    layers = {layer for layer, _ in places}
    result = {k: v for k, v in state.items() if not any(k.startswith(f"{layer}.lora_") for layer in layers)}
    for layer, stack in places:
        key = {part: f"{layer}.{part.format(infix + stack)}" for part in (A, B, M, A0, B0)}
        if any(name not in state or state[name].numel() == 0 for name in key.values()):
            raise DudeError(
                f"the adapter's parameters of '{layer}' have no values in this process, so they cannot be saved: "
                "FSDP1 and DeepSpeed ZeRO-3 shard them. Use FSDP2, or gather them first "
                "(deepspeed.zero.GatheredParameters, FullyShardedDataParallel.summon_full_params)"
            )
        if axis == "out" and not stack:
            Ah, Bt = factors(*(state[key[part]] for part in (A, B, A0, B0)))
            result |= {key[A]: Ah, key[B]: Bt.T.contiguous(), key[M]: state[key[M]]}
        else:
            result |= {key[part]: state[key[part]] for part in key}
    return result


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor; one that FSDP2 shards is gathered, for which every process has to call this."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def entry_name(key: str, part: str, stack: str = "") -> str:
    """Return the name of the entry of a part, of a layer `key` or of a stack `key`, whose last name is `stack`."""
    return f"{key.removesuffix(f'.{stack}')}.{part.format(f'.{stack}')}" if stack else f"{key}.{part.format('')}"


def entry_names(state: Mapping[str, Tensor], key: str, axis: MagnitudeAxis, stack: str = "") -> dict[str, str]:
    """Return the names of the entries of `key` in a file, by part. The magnitude's may lack `.weight`, as in PEFT."""
    parts = (A, B, M) if axis == "out" and not stack else (A, B, M, A0, B0)
    names = {part: entry_name(key, part, stack) for part in parts}
    if names[M] not in state and names[M].removesuffix(".weight") in state:
        names[M] = names[M].removesuffix(".weight")
    return names


def refuse_foreign(state: Iterable[str], allowed: Iterable[str]) -> None:
    """Refuse entries that belong to no part of the adapter: PEFT would copy them over the base model's parameters.

    Raises:
        DudeError: names them.
    """
    foreign = sorted(set(state) - set(allowed))
    if foreign:
        shown = ", ".join(f"'{shorten(key)}'" for key in foreign[:3])
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise DudeError(
            f"the adapter's entries {shown}{more} belong to no module that its config names in target_modules or "
            "modules_to_save: they would overwrite the base model. Load the base model that the adapter was trained "
            "on, or save the adapter again without them (save_embedding_layers=False)"
        )


def embedding_entries(model: nn.Module, state: Mapping[str, Tensor], saved: Iterable[str]) -> dict[str, Tensor]:
    """Return the weight behind each entry of the embeddings in a file, which has them where the vocabulary was resized.

    Warns where the file's values are not the model's, as PEFT copies them over the base model's.

    Args:
        model: with or without the adapter.
        state: the file's entries.
        saved: the names of the entries of `modules_to_save`, which are left out.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    embeddings = [getattr(base, name, lambda: None)() for name in ("get_input_embeddings", "get_output_embeddings")]
    found = {}
    for name, module in base.named_modules(remove_duplicate=False):
        original = getattr(module, "original_module", module)  # of a wrapper of modules_to_save
        weight = getattr(original, "weight", None)
        if not isinstance(weight, Tensor) or not any(module is one for one in embeddings):
            continue
        for entry in ("weight", "original_module.weight", "modules_to_save.weight"):
            key = f"{PEFT_PREFIX}{name}.{entry}"
            if key not in state or key in saved:
                continue
            found[key] = weight
            values = checked(state, key, tuple(weight.shape), weight.dtype).to(weight)
            if not entry.startswith("modules_to_save") and not torch.equal(values, weight):
                warnings.warn(
                    "the adapter was saved with the embeddings of its base model, as PEFT does for a resized "
                    f"vocabulary: '{key}' replaces those of this base model",
                    stacklevel=2,
                )
    return found


def checked(
    state: Mapping[str, Tensor], key: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32, what: str = ""
) -> Tensor:
    """Return the entry `key` of a file, checked.

    Args:
        state: the file's entries.
        key: of the entry.
        shape: that it must have.
        dtype: one of a floating type stands for all of them.
        what: follows the shape in the message.

    Raises:
        DudeError: it is missing, has another shape or type, or values that are not finite.
    """
    if key not in state:
        raise DudeError(f"the adapter has no entry '{key}': it is truncated, or made for other modules")
    tensor, allowed = state[key], FLOATS if dtype.is_floating_point else (dtype,)
    if tuple(tensor.shape) != tuple(shape):
        raise DudeError(
            f"the adapter does not fit the base model: its entry '{key}' has shape {tuple(tensor.shape)}, expected "
            f"{tuple(shape)}{what}. Load the base model that the adapter was trained on"
        )
    if tensor.dtype not in allowed:
        types = ", ".join(map(str, allowed))
        raise DudeError(f"the adapter's entry '{key}' is of type {tensor.dtype}, not {types}: save it in that type")
    if dtype.is_floating_point and not torch.isfinite(tensor).all():
        raise DudeError(f"the adapter's entry '{key}' has values that are not finite: the file is damaged")
    return tensor


def split(stored: Parts) -> Parts:
    """Return the parts A, B (the differences), M, A0, B0 of a layer from its entries: the inverse of `to_stored`.

    A0 and B0, which become parameters, are copies: a loaded tensor lies in the memory of the file, unaligned, where
    products may round differently.
    """
    if A0 in stored:
        return {**stored, **{part: stored[part].clone() for part in (A0, B0)}}
    wide = torch.float64 if stored[A].dtype == torch.float64 else torch.float32
    dA, first = stored[A].to(wide).chunk(2)
    total, dB = stored[B].to(wide).chunk(2, dim=1)
    return {A: dA, B: dB, M: stored[M], A0: first.clone(), B0: recover_b0(total, dB)}


def check_same_base(init: Any, layer: str, scaling: float, axis: MagnitudeAxis, variant: Variant = "dude") -> None:
    """Check that the initial directions are this weight's: A0 W0^T = s A0 A0^T B0^T for the base they come from.

    Catches another base of the same shapes. A quantised or lightly fine-tuned one passes. Of a stack, each expert.
    Random initial directions (`random`) say nothing about a base; there only the values are checked.

    Raises:
        DudeError: the directions have nothing to do with the weight.
    """
    if not all(bool(torch.isfinite(t).all()) for t in init):
        raise DudeError(
            f"the initialisation of '{layer}' has values that are not finite: the base model's weight has NaN or "
            f"infinity, or the adapter's factors are out of range for it. Check the base model's file"
        )
    if init[0].ndim == 3:
        for expert, one in enumerate(zip(*(values.unbind() for values in init), strict=True)):
            name = f"{layer}' of expert {expert} in '{layer.rpartition('.')[0]}"
            check_same_base(Init(*one), name, scaling, axis, variant)
        return
    if variant == "random":
        return
    A0, B0, _, P0 = init
    S0 = scaling * ((A0 @ A0.T) @ B0.T if axis == "out" else (B0.T @ B0) @ A0)
    error = float((P0 - S0).norm() / S0.norm().clamp_min(torch.finfo(S0.dtype).tiny))
    if not error <= 0.5:  # NaN is no agreement
        raise DudeError(
            f"the adapter was made for another base model: the initial factors of '{layer}' are {error:.0%} "
            "away from its weight's singular directions (0% for the right base, a few for a quantised one). Load the "
            "base model that it was trained on"
        )


def layer_parts(
    state: Mapping[str, Tensor],
    layers: Mapping[str, Target],
    axis: MagnitudeAxis,
    saved: Iterable[str],
) -> dict[str, Parts]:
    """Return the parts of every layer in a file by the layer's name, each entry checked. The one check of a file.

    Args:
        state: the file's entries.
        layers: by their name in the file.
        axis: of the magnitude.
        saved: the names of the entries of `modules_to_save`.

    Raises:
        DudeError: an entry is missing, does not fit, is not finite, or belongs neither to a layer nor to `saved`.
    """
    names = {key: entry_names(state, key, axis, target.stack) for key, target in layers.items()}
    refuse_foreign(state, {*saved, *(name for entries in names.values() for name in entries.values())})
    found = {}
    for key, target in layers.items():
        (d, k), r, E = target.shape, target.r, (target.experts,) if target.experts else ()
        stored_rank = r if A0 in names[key] else 2 * r
        shapes = {A: (stored_rank, k), B: (d, stored_rank), M: (d,) if axis == "out" else (k,), A0: (r, k), B0: (d, r)}
        what = f" for a weight of shape {(d, k)} and r={r}" + (f" of {target.experts} experts" if E else "")
        stored = {part: checked(state, entry, (*E, *shapes[part]), what=what) for part, entry in names[key].items()}
        found[target.name] = split(stored)
    return found


def parameters(parts: Parts, key: str, names: Iterable[str] = (A, B, M), stack: str = "") -> dict[str, Tensor]:
    """Return the parts `names` of `key` as entries of a state dict without the adapter's name."""
    return {entry_name(key, name, stack): parts[name] for name in names}


def from_stored(
    state: Mapping[str, Tensor], layers: Mapping[str, Any], config: Any, adapter_name: str, saved: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Return a file's entries as the parameters of the layers with the adapter, each one checked.

    Args:
        state: the file's entries.
        layers: PEFT's LoRA layers with the adapter, by module name.
        config: the adapter's `DudeConfig`.
        adapter_name: its name in the layers.
        saved: the names of the entries of `modules_to_save`, which are returned as they are.

    Raises:
        DudeError: see `layer_parts`; initial factors of another base.
    """
    axis = config.magnitude_axis
    places = {target.name: target for target in adapted_targets(layers, adapter_name)}
    keys = {
        name: name if entry_name(name, A, target.stack) in state else PEFT_PREFIX + name
        for name, target in places.items()
    }
    result = {key: state[key] for key in saved if key in state}
    expected = {keys[name]: target for name, target in places.items()}
    for name, parts in layer_parts(state, expected, axis, result).items():
        target = places[name]
        module = layers[target.layer]
        frozen = module.lora_dude[adapter_name]
        frozen = frozen[target.stack] if target.experts else frozen
        A0_current, B0_current = full_tensor(frozen.lora_A0), full_tensor(frozen.lora_B0)
        result |= parameters(parts, keys[name], stack=target.stack)
        if torch.equal(parts[A0].to(A0_current), A0_current) and torch.equal(parts[B0].to(B0_current), B0_current):
            continue  # a checkpoint of this adapter: its initial values are in place
        A0_new, B0_new = parts[A0].to(A0_current), parts[B0].to(B0_current)
        with with_values(module.get_base_layer()):
            if target.experts:
                stack = module.stacks[target.stack]
                weight = stack.weight(full_tensor(getattr(module.get_base_layer(), stack.parameter).detach()))
                init = from_factors(weight, A0_new, B0_new, axis)
            else:
                weight = full_tensor(dense_weight(module.get_base_layer(), name))
                init = init_from_factors(weight, A0_new, B0_new, axis)
        check_same_base(init, name, target.scaling, axis, config.init_variant)
        result |= parameters({**parts, P0: init.P0}, keys[name], (A0, B0, P0), target.stack)
    return result


def adapted_targets(layers: Mapping[str, Any], adapter: str) -> Iterator[Target]:
    """Yield the weights that `adapter` is on, of PEFT's layers by module name."""
    for name, module in layers.items():
        base = module.get_base_layer()
        if not isinstance(module, DudeExperts):
            yield Target(name, weight_shape(base, name), module.r[adapter], module.scaling[adapter])
            continue
        for stack, r in module.stack_ranks[adapter].items():
            parameter = getattr(base, module.stacks[stack].parameter)
            shape, scaling = module.stacks[stack].shape(parameter), module.stack_scaling(adapter, stack)
            yield Target(f"{name}.{stack}", shape, r, scaling, len(parameter))


def load_adapter(
    model: nn.Module,
    adapter: str | Path,
    adapter_name: str = "default",
    *,
    is_trainable: bool = False,
    subfolder: str | None = None,
    **hub: Any,
) -> PeftModel:
    """Put a saved DuDe adapter on `model`. Nothing is decomposed: the initial values are in the file, bit for bit.

    Stock PEFT loads the same folder with `PeftModel.from_pretrained`, as a DoRA adapter of rank 2r; this gives DuDe's
    layer, in which training can be resumed.

    Args:
        model: the base model, or a `PeftModel` to which the adapter is added.
        adapter: a folder written by `save_pretrained`, or a hub repository.
        adapter_name: its name in the model.
        is_trainable: leave its parameters trainable and the model's mode as it is; otherwise freeze and `eval()`.
        subfolder: of `adapter`, for an adapter that was not saved under the name "default".
        **hub: passed to `hf_hub_download` (revision, token, cache_dir, local_files_only, ...).

    Raises:
        DudeError: not a DuDe adapter, truncated or altered, or made for another base; the model is left as it was.
    """
    adapter = str(adapter)
    config = DudeConfig.from_pretrained(adapter, subfolder=subfolder, **hub)
    path = find_adapter_file(adapter, WEIGHTS_NAME, subfolder, **hub)
    state = read_weights(path, config.weights_sha256)
    try:
        parts, entries = checked_parts(model, state, config)
    except DudeError as error:
        raise DudeError(f"{path}: {error}") from None
    config.inference_mode = not is_trainable
    if config.base_model_name_or_path == public_name(model.__dict__.get("name_or_path")):
        config.base_model_name_or_path = None  # PEFT fills it in, and would warn that the saved name is not the path
    token = LOADED.set(parts)
    try:
        if isinstance(model, PeftModel):
            if adapter_name in model.peft_config:
                raise DudeError(f"the model has an adapter named '{adapter_name}': give another adapter_name")
            model.add_adapter(adapter_name, config)
            peft_model = model
        else:
            peft_model = get_peft_model(model, config, adapter_name=adapter_name)
        set_peft_model_state_dict(peft_model, entries, adapter_name=adapter_name)
    finally:
        LOADED.reset(token)
    if is_trainable:
        peft_model.set_requires_grad(adapter_name)
    else:
        peft_model.set_requires_grad(adapter_name, requires_grad=False)
        peft_model.eval()
    return peft_model


def read_weights(path: Path, expected_hash: str | None) -> dict[str, Tensor]:
    """Read the entries of an adapter's file.

    Raises:
        DudeError: it cannot be read, or its SHA-256 is not the expected one.
    """
    try:
        state = load_file(path)
        actual_hash = None if expected_hash is None else sha256(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: torch cannot open the file
        raise DudeError(
            f"{path}: not a readable safetensors file ({shorten(error)}): fetch or save the adapter again"
        ) from None
    if expected_hash is not None and actual_hash != expected_hash:
        raise DudeError(
            f"{path}: the file is not the one that dude_config.json was written with (its SHA-256 differs). Fetch the "
            "adapter again; if you changed it on purpose, remove weights_sha256 from dude_config.json"
        )
    return state


def checked_parts(
    model: nn.Module, state: dict[str, Tensor], config: DudeConfig
) -> tuple[dict[str, Parts], dict[str, Tensor]]:
    """Check a file against `model`, and return its layers' parts by module name and the entries that PEFT copies."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = {PEFT_PREFIX + target.name: target for target in plan(base, config)}
    saved = {
        f"{PEFT_PREFIX}{name}.{entry}": tensor
        for name, module in saved_modules(base, config).items()
        for entry, tensor in module.state_dict().items()
    }
    saved |= embedding_entries(model, state, saved)
    found = layer_parts(state, layers, config.magnitude_axis, saved)
    entries = {key: checked(state, key, tensor.shape, tensor.dtype) for key, tensor in saved.items()}
    for key, target in layers.items():
        entries |= parameters(found[target.name], key, stack=target.stack)
    return found, entries
