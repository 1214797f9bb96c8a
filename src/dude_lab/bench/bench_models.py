"""The models that are measured: the embedded one, and Llamas with random weights."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from dude_peft import DudeConfig

from .bench_plan import Plan, too_long
from .bench_results import BASELINE, DORA, DUDE, HAND
from .layer_time import move
from .lora_by_hand import put_on

RANK = 16
ALL, Q_AND_V = "all-linear", ("q_proj", "v_proj")


@dataclass(frozen=True)
class Model:
    """`mini`, or a Llama of `layers` layers: hidden size, size of the MLP, heads for keys and values."""

    name: str
    hidden: int = 0
    mlp: int = 0
    layers: int = 0
    heads: int = 16
    kv_heads: int = 16
    vocabulary: int = 2048

    @property
    def entries(self) -> int:
        """Return the number of adapted weights; 0 for `mini`."""
        attention = 2 * self.hidden**2 * (1 + self.kv_heads / self.heads)
        return int(self.layers * (attention + 3 * self.hidden * self.mlp))

    def left_out(self, tokens: int, dtype: torch.dtype, plan: Plan) -> str:
        """Return why a step of `tokens` tokens is not measured, or an empty string; see `too_long`."""
        return too_long(self.entries or 3_000_000, tokens, dtype, plan)


MINI = Model("mini")
LLAMA = Model("Llama 1024", 1024, 2816, 4)
ONE_LAYER = Model("1 layer of 1024", 1024, 2816, 1)
SEVEN = Model("2 layers of 7B", 4096, 11008, 2, 32, 8)
SMOL = Model("SmolLM2-135M", 576, 1536, 30, 9, 3, 49152)
TINY = Model("Llama 32", 32, 64, 1, 2, 2)


def models(plan: Plan) -> list[tuple[Model, torch.dtype]]:
    """Return a Llama and the embedded model in float32; on a GPU bfloat16 and the layers of a 7B model too."""
    if plan.tiny:
        return [(TINY, torch.float32)]
    found = [(LLAMA, torch.float32), (MINI, torch.float32)]
    return [*found, (LLAMA, torch.bfloat16), (SEVEN, torch.bfloat16)] if plan.device == "cuda" else found


def base_model(model: Model, dtype: torch.dtype, device: str) -> Any:
    """Return the frozen model with the same weights each time."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    from ..mini import model_dir

    if model is MINI:
        return AutoModelForCausalLM.from_pretrained(model_dir(), dtype=dtype).to(device)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=model.vocabulary,
        hidden_size=model.hidden,
        intermediate_size=model.mlp,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        tie_word_embeddings=model is SMOL,
    )
    return LlamaForCausalLM(config).to(device, dtype)


def adapted(model: Model, method: str, dtype: torch.dtype, device: str, targets: Any = ALL) -> Any:
    """Return the model with one method, its parameters moved a little from their initial values."""
    base = base_model(model, dtype, device)
    if method == HAND:
        made: Any = put_on(base, RANK, None if targets == ALL else targets)
    else:
        asked = targets if targets == ALL else list(targets)
        shared: dict[str, Any] = {"r": min(RANK, model.hidden or RANK), "target_modules": asked}
        shared["task_type"] = "CAUSAL_LM"
        config = DudeConfig(**shared) if method == DUDE else LoraConfig(**shared, use_dora=method == DORA)
        made = get_peft_model(base, config)
    move(made, 1e-4)
    return made.train()


METHODS = (BASELINE, DORA, HAND, DUDE)


def release() -> None:
    """Free reference cycles, so that one model's memory is not counted as another's."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
