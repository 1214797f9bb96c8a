"""`load_adapter`: a saved DuDe adapter on its base model, with the fast layer, ready to be used or trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from . import stored
from .adapter import plan, saved_modules
from .config import WEIGHTS_NAME, DudeConfig, find_adapter_file
from .errors import DudeError, shorten
from .files import public_name, sha256


def load_adapter(
    model: nn.Module,
    adapter: str | Path,
    adapter_name: str = "default",
    *,
    is_trainable: bool = False,
    subfolder: str | None = None,
    **hub: Any,
) -> PeftModel:
    """Put a saved DuDe adapter on `model`. Nothing is decomposed: the start is in the file, bit for bit.

    Stock PEFT loads the same folder with `PeftModel.from_pretrained`, as a DoRA adapter of rank 2r; this gives DuDe's
    own layer, in which training goes on where it stopped.

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
    state = _read(path, config.weights_sha256)
    try:
        config.saved_factors = _factors_by_module(model, state, config)
    except DudeError as error:
        raise DudeError(f"{path}: {error}") from None
    config.inference_mode = not is_trainable
    if config.base_model_name_or_path == public_name(model.__dict__.get("name_or_path")):
        config.base_model_name_or_path = None  # PEFT fills it in, and would warn that the saved name is not the path
    try:
        if isinstance(model, PeftModel):
            if adapter_name in model.peft_config:
                raise DudeError(f"the model has an adapter named '{adapter_name}': give another adapter_name")
            model.add_adapter(adapter_name, config)
            peft_model = model
        else:
            peft_model = get_peft_model(model, config, adapter_name=adapter_name)
    finally:
        config.saved_factors = None
    set_peft_model_state_dict(peft_model, state, adapter_name=adapter_name)
    if is_trainable:
        peft_model.set_requires_grad(adapter_name)
    else:
        peft_model.set_requires_grad(adapter_name, requires_grad=False)
        peft_model.eval()
    return peft_model


def _read(path: Path, expected_hash: str | None) -> dict[str, Tensor]:
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


def _factors_by_module(
    model: nn.Module, state: dict[str, Tensor], config: DudeConfig
) -> dict[str, tuple[Tensor, Tensor]]:
    """A0 and B0 for each module that the config targets; every entry is checked before anything is changed."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    axis = config.magnitude_axis
    targets = plan(base, config)
    known = {stored.PEFT_PREFIX + target.name for target in targets}
    for key in stored.stored_layers(state):
        if key not in known:
            raise DudeError(
                f"its entry '{shorten(key)}' belongs to no module of the base model: load the base it was trained on"
            )
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    allowed: set[str] = set()
    for target in targets:
        key = stored.PEFT_PREFIX + target.name
        parts = stored.split(state, key, axis)
        stored.check_shapes(parts, target.name, torch.empty(target.shape, device="meta"), target.r, axis)
        factors[target.name] = (parts[stored.A0], parts[stored.B0])
        allowed.update(stored.entry_names(state, key, axis).values())
    for name, module in saved_modules(base, config).items():
        for entry, tensor in module.state_dict().items():
            key = f"{stored.PEFT_PREFIX}{name}.{entry}"
            stored.check_saved(state, key, tensor)
            allowed.add(key)
    stored.refuse_foreign(state, allowed)
    return factors
