"""Load a model's weights only if files and architecture agree: no missing, unexpected or mismatched tensor.

transformers initialises missing tensors at random and drops unexpected ones, both with a warning. Here both are errors,
at loading (`load_weights`) and, for a local folder, before it (`check_weights`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError, shorten
from dude_peft.files import weight_files

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

SHOWN = 4  # tensors that a message names
# Buffers that older versions of transformers saved and later ones compute.
COMPUTED = re.compile(r"(^|\.)(masked_bias|rotary_emb\.inv_freq|position_ids)$")


def load_weights(source: str | Path, **options: Any) -> PreTrainedModel:
    """Call `AutoModelForCausalLM.from_pretrained` and check that files and architecture agree.

    Args:
        source: a folder or a name on the hub.
        options: of `from_pretrained`.

    Raises:
        DudeError: names missing or unexpected tensors and those of another shape.
        OSError, ValueError, RuntimeError, SafetensorError: as `from_pretrained`.
    """
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        source, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    if wrong := describe(info):
        raise DudeError(wrong)
    return model


def check_weights(
    folder: Path, config: PretrainedConfig, architecture: type[PreTrainedModel], dtype: torch.dtype
) -> str | None:
    """Compare the headers of a folder's safetensors files with the architecture; no weight is read.

    transformers loads meta tensors of the shapes in the headers, so its own renaming, merging and tying apply. What
    cannot be loaded in this way (quantised weights, files with other names, a model whose code fails on meta tensors)
    is left to `load_weights`.

    Returns:
        Why they were not compared; None if they were.

    Raises:
        DudeError: names missing or unexpected tensors and those of another shape; or a damaged file.
    """
    from transformers.utils import logging

    files = weight_files(folder)
    renamed = getattr(config, "transformers_weights", None) or getattr(config, "quantization_config", None)
    if not files or renamed is not None:
        return "they are quantised or under other names"
    shapes = read_headers(files)
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # our own message follows
    try:
        _, info = architecture.from_pretrained(
            None, config=config, state_dict=shapes, dtype=dtype, device_map={"": "meta"},
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:
        # Tensors that are merged on loading and do not fit together; anything else says nothing about the file.
        if "conversion of the weights" in str(error) and (gaps := _gaps(shapes)):
            raise DudeError(describe({"missing_keys": gaps})) from None
        return f"loading the shapes alone raises {type(error).__name__}: {shorten(error, 200)}"
    finally:
        logging.set_verbosity(verbosity)
    if wrong := describe(info):
        raise DudeError(wrong)
    return None


def read_headers(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """Return meta tensors with the shapes in the headers of safetensors files.

    Raises:
        DudeError: a file is truncated or not a safetensors file.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, torch.Tensor] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as header:
                for name in header.keys():  # noqa: SIM118 - not a mapping
                    shapes[name] = torch.empty(header.get_slice(name).get_shape(), device="meta")
        except (SafetensorError, OSError, RuntimeError) as error:  # RuntimeError: torch cannot open the file
            raise DudeError(f"{file}: not a complete safetensors file ({error}). Copy it again.") from None
    return shapes


def describe(info: Mapping[str, Collection[Any]]) -> str:
    """Return what is wrong according to transformers' loading info, with the remedy; empty if nothing is."""
    missing = sorted(info.get("missing_keys", ()))
    unexpected = sorted(name for name in info.get("unexpected_keys", ()) if not COMPUTED.search(name))
    mismatched = sorted(info.get("mismatched_keys", ()))
    parts = []
    if missing:
        parts.append(f"{_count(missing)} of the architecture missing from the weights ({_some(missing)})")
    if unexpected:
        parts.append(f"{_count(unexpected)} of the weights without a place in the architecture ({_some(unexpected)})")
    if mismatched:
        shown = [f"{name}: {tuple(there)} in the file, {tuple(here)} by the config" for name, there, here in mismatched]
        parts.append(f"{_count(mismatched)} of another shape ({_some(shown)})")
    if not parts:
        return ""
    return f"{'; '.join(parts)}. Weights and config.json are incomplete or of two models: copy the folder again."


def _gaps(names: Iterable[str]) -> list[str]:
    """Return the tensors that a numbered module (an expert) lacks and its neighbours have."""
    numbered = re.compile(r"(.*\.\d+\..*)\.(\d+)\.(.+)")
    found: dict[str, set[tuple[str, str]]] = {}
    for name in names:
        if match := numbered.fullmatch(name):
            found.setdefault(match[1], set()).add((match[2], match[3]))
    return [
        f"{head}.{number}.{tail}"
        for head, present in found.items()
        for number in {number for number, _ in present}
        for tail in {tail for _, tail in present}
        if (number, tail) not in present
    ]


def _count(names: Collection[Any]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _some(names: Collection[str]) -> str:
    shown = [shorten(name) for name in list(names)[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
