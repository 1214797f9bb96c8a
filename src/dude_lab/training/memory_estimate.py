"""How much memory a run will take: a sum of what is known exactly, and a rough count of activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run_plan import Plan

ACTIVATIONS_PER_LAYER = (
    34  # values of width `hidden_size` kept for each token and layer (Korthikanti et al. 2022, Eq. 1)
)
ATTENTION_MAPS = 5 / 2  # and for each head and pair of tokens, where attention is not fused
PYTHON_AND_TORCH = 600 * 2**20  # the process itself, measured


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, by what they are for.

    Attributes:
        weights: the base model.
        adapter: what is trained and what a method keeps beside it.
        optimizer: gradients and Adam's two moments.
        activations: one batch of the longest examples, kept for the backward; rough.
        process: Python and the libraries; on a GPU, nothing.
        available: what the device has free now.
    """

    weights: int
    adapter: int
    optimizer: int
    activations: int
    process: int
    available: int

    @property
    def total(self) -> int:
        """All of it, bytes."""
        return self.weights + self.adapter + self.optimizer + self.activations + self.process


def estimate(plan: Plan) -> MemoryEstimate:
    """The estimate for a plan whose model, examples and targets are known."""
    train, base, part = plan.settings.train, plan.base, plan.part
    width = base.dtype.itemsize
    adapter_width = width if plan.full else 4
    config = base.config.get_text_config()
    length = min(plan.train.longest, plan.train.max_length)
    tokens = train.batch_size // plan.processes * length
    hidden, layers = config.hidden_size, config.num_hidden_layers
    heads = getattr(config, "num_attention_heads", 1)

    one_layer = tokens * hidden * ACTIVATIONS_PER_LAYER / 2 * width
    if getattr(base.config, "_attn_implementation", None) == "eager":
        one_layer += ATTENTION_MAPS * heads * tokens * length * width
    kept = one_layer + layers * tokens * hidden * width if train.gradient_checkpointing else layers * one_layer
    return MemoryEstimate(
        weights=part.total * width,
        adapter=0 if plan.full else (part.trainable + part.kept) * adapter_width,
        optimizer=part.trainable * adapter_width * 3,
        activations=int(kept),
        process=PYTHON_AND_TORCH if base.device == "cpu" else 0,
        available=free_memory(base.device),
    )


def free_memory(device: str) -> int:
    """Bytes that the device has free."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    return psutil.virtual_memory().available


def out_of_memory(plan: Plan) -> str:
    """What to try when a device's memory was not enough, the cheapest first, with the numbers of this run."""
    import torch

    train = plan.settings.train
    held = torch.cuda.max_memory_allocated() if plan.base.device == "cuda" else 0
    has = torch.cuda.mem_get_info()[1] if plan.base.device == "cuda" else free_memory(plan.base.device)
    length = min(plan.train.longest, plan.train.max_length)
    advice = []
    if train.batch_size > 1:
        half = train.batch_size // 2
        twice = 2 * train.gradient_accumulation
        advice.append(
            f"train.batch_size={half} train.gradient_accumulation={twice} (the same steps, in smaller pieces)"
        )
    if not train.gradient_checkpointing:
        advice.append("train.gradient_checkpointing=true (about a third slower, the same result)")
    advice.append(
        f"train.max_length={max(2, length // 2)} (drops the longest examples; the longest has {length} tokens)"
    )
    if plan.base.dtype is torch.float32 and plan.base.device == "cuda" and not plan.full:
        advice.append("model.dtype=bfloat16 (half the size of the weights)")
    numbered = "; ".join(f"{i}. {text}" for i, text in enumerate(advice, 1))
    return (
        f"out of memory with batches of {train.batch_size} x {length} tokens: {held / 2**30:.1f} GiB held of "
        f"{has / 2**30:.1f} GiB, the estimate was {plan.memory.total / 2**30:.1f} GiB. Try, in this order: {numbered}."
    )
