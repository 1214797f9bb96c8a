"""Write a plain LoRA adapter as GGUF, the format of llama.cpp, for the GGUF file of its base."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

# transformers' model type -> llama.cpp's architecture
ARCHITECTURES = {
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "phi3": "PHI3",
    "gemma2": "GEMMA2",
    "gemma3_text": "GEMMA3",
}
PREFIX = "base_model.model."


def check_gguf(config: PretrainedConfig) -> None:
    """Check that an adapter of this base can be written.

    Raises:
        DudeError: another architecture, or the package `gguf` is not installed.
    """
    if config.model_type not in ARCHITECTURES:
        raise DudeError(
            f"--as gguf-lora: bases of type {config.model_type} are not supported, only {', '.join(ARCHITECTURES)}. "
            "Use --as lora and llama.cpp's convert_lora_to_gguf.py."
        )
    if find_spec("gguf") is None:
        raise DudeError("--as gguf-lora needs the package gguf, which is not installed: pip install gguf")


def write_gguf_adapter(
    path: Path, state: Mapping[str, Tensor], config: PretrainedConfig, alpha: float, name: str
) -> None:
    """Write the entries of a LoRA adapter, in float32.

    llama.cpp rotates adjacent pairs of a head's features, transformers the first half with the second. So in a Llama's
    GGUF the outputs of the query and key projections are permuted, and the rows of B are permuted here likewise.

    Args:
        path: of the file.
        state: entries as in `adapter_model.safetensors`.
        config: of the base.
        alpha: lora_alpha; llama.cpp scales by alpha / r.
        name: of the adapter.

    Raises:
        DudeError: see `check_gguf`; a module that llama.cpp's file of this architecture does not have.
    """
    check_gguf(config)
    import gguf

    kind = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind], config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH[kind]])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    writer.add_name(name)
    for key in sorted(state):
        module, _, part = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        target = names.get_name(f"{module}.weight", try_suffixes=(".weight",)) if module else None
        if target is None or part not in ("A", "B"):
            raise DudeError(
                f"--as gguf-lora: llama.cpp's {kind} has no linear layer '{module or key}'. Leave it out of "
                "target_modules and modules_to_save, or export --as merged and convert that."
            )
        values = state[key].float()
        if kind == "LLAMA" and part == "B" and ".attn_q." in target:
            values = _adjacent_pairs(values, config.num_attention_heads)
        elif kind == "LLAMA" and part == "B" and ".attn_k." in target:
            values = _adjacent_pairs(values, config.num_key_value_heads)
        writer.add_tensor(f"{target}.lora_{part.lower()}", values.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _adjacent_pairs(rows: Any, heads: int) -> Any:
    """Return the rows (d, r) with each head's features i and i + half side by side."""
    d, r = rows.shape
    return rows.view(heads, 2, d // heads // 2, r).transpose(1, 2).reshape(d, r)
