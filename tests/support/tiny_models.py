"""Tiny models for the tests, built from their configs with seeded random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dude_peft import DudeConfig

VOCAB = 61


def llama(dtype: torch.dtype = torch.float32, bias: bool = True, layers: int = 2) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_bias=bias,
        mlp_bias=bias,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    return give_biases(LlamaForCausalLM(config)).to(dtype).eval()


def gpt2(dtype: torch.dtype = torch.float32) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=48, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1
    )
    return give_biases(GPT2LMHeadModel(config)).to(dtype).eval()


def phi3(dtype: torch.dtype = torch.float32) -> Any:
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    return Phi3ForCausalLM(config).to(dtype).eval()


def qwen2(dtype: torch.dtype = torch.float32) -> Any:
    """Biases on q, k and v alone."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return give_biases(Qwen2ForCausalLM(config)).to(dtype).eval()


def mini(dtype: torch.dtype = torch.float32) -> Any:
    """The embedded model: trained weights, whose spectrum a random start does not have."""
    from transformers import AutoModelForCausalLM

    from dude_lab.mini import model_dir

    return AutoModelForCausalLM.from_pretrained(Path(model_dir()), dtype=dtype).eval()


def mixture(kind: str, dtype: torch.dtype = torch.float32, implementation: str | None = "eager", **sizes: int) -> Any:
    """A mixture of four experts, two for each token, with the given implementation of its experts."""
    from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

    torch.manual_seed(0)
    common = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "num_experts_per_tok": 2,
        **sizes,
    }
    config = {
        "mixtral": lambda: MixtralConfig(**common, num_local_experts=4),
        "qwen2_moe": lambda: Qwen2MoeConfig(
            **common, num_experts=4, moe_intermediate_size=32, shared_expert_intermediate_size=40
        ),
        "qwen3_moe": lambda: Qwen3MoeConfig(**common, num_experts=4, moe_intermediate_size=32, head_dim=12),
        "gpt_oss": lambda: GptOssConfig(**common, num_local_experts=4, head_dim=12),
    }[kind]()
    model = AutoModelForCausalLM.from_config(config, experts_implementation=implementation)
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "sinks")):
            nn.init.normal_(parameter, std=0.3)
    return model.to(dtype).eval()


MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
FAMILIES = {"llama": llama, "gpt2": gpt2, "phi3": phi3, "qwen2": qwen2, "mini": mini}
TARGETS = {
    "llama": "all-linear",
    "gpt2": ["c_attn", "c_fc", "mlp.c_proj"],
    "phi3": ["qkv_proj", "gate_up_proj"],
    "qwen2": ["q_proj", "v_proj"],
    "mini": ["q_proj", "v_proj"],
}


def give_biases(model: nn.Module) -> nn.Module:
    """Biases away from the zero that they are made with: a bias of zero hides a bias that is scaled."""
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            nn.init.normal_(parameter, std=0.3)
    return model


def config_for(family: str, **options: Any) -> DudeConfig:
    options = {"r": 4, "target_modules": TARGETS[family], "task_type": "CAUSAL_LM", **options}
    return DudeConfig(**options)


def tokens(batch: int = 2, length: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def logits(model: Any, ids: torch.Tensor | None = None) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens() if ids is None else ids).logits


def move(model: nn.Module, size: float = 0.02, seed: int = 0, adapter: str = "default") -> None:
    """Move dA, dB and m of an adapter at random: `size` of the typical entry of A0, B0 and n0."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if adapter not in getattr(module, "lora_dude", {}):
            continue
        start = module.lora_dude[adapter]
        A, B, m = (getattr(module, name)[adapter] for name in ("lora_A", "lora_B", "lora_magnitude_vector"))
        stacks = list(start) if isinstance(start, nn.ModuleDict) else [None]  # of experts
        for stack in stacks:
            one = (start, A, B, m) if stack is None else [found[stack] for found in (start, A, B, m)]
            pairs = ((one[1], one[0].lora_A0), (one[2], one[0].lora_B0), (one[3], one[0].lora_n0))
            for holder, scale in pairs:
                noise = torch.randn(holder.weight.shape, generator=generator, dtype=torch.float64)
                with torch.no_grad():
                    holder.weight += (size * noise * scale.double().square().mean().sqrt()).to(holder.weight.dtype)


def dude_layers(model: nn.Module, adapter: str = "default") -> dict[str, Any]:
    return {n: m for n, m in model.named_modules() if adapter in getattr(m, "lora_dude", {})}
