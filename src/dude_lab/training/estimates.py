"""Steps and memory of a run before it starts: one count for `dude train`, its dry run, and `dude reproduce`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config.run_settings import TrainSettings

if TYPE_CHECKING:
    from .run_plan import Plan

# Values of width `hidden_size` stored for each token and layer (Korthikanti et al. 2022, Eq. 1).
ACTIVATIONS_PER_LAYER = 34
ATTENTION_MAPS = 5 / 2  # and for each head and pair of tokens, if attention is not fused
# Of a weight: 4 bits, and an 8-bit scale for 64 of them, with a float32 for 256 scales; or 8 bits.
QUANTIZED_BYTES = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
PYTHON_AND_TORCH = 600 * 2**20  # the process itself, measured


def step_count(train: TrainSettings, examples: int) -> tuple[int, int]:
    """Return the optimizer's steps of a run on so many examples, and those of one epoch."""
    per_epoch = math.ceil(math.ceil(examples / train.batch_size) / train.gradient_accumulation)
    return train.steps or max(1, math.ceil((train.epochs or 1.0) * per_epoch)), per_epoch


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a model that decide the memory of training.

    Attributes:
        parameters: of the whole model.
        hidden, layers, vocabulary: as in its config.
        width: bytes of a weight.
        heads: attention heads, if the attention maps are stored (eager attention); else 0.
        weights: bytes of all weights; `parameters * width` if None.
    """

    parameters: int
    hidden: int
    layers: int
    vocabulary: int
    width: int
    heads: int = 0
    weights: int | None = None


def training_bytes(
    size: ModelSize, train: TrainSettings, *, trainable: int, frozen: int, full: bool, batch: int, length: int
) -> tuple[int, int, int, int]:
    """Return the bytes of weights, adapter, optimizer (gradients and two moments) and activations.

    Args:
        size: of the model.
        train: decides on gradient checkpointing.
        trainable, frozen: values that the method trains, and that it stores in float32 beside the base model.
        full: whether the model itself is trained.
        batch, length: sequences of a forward in one process, and the tokens of the longest.
    """
    tokens = batch * length
    adapter_width = size.width if full else 4
    one_layer = tokens * size.hidden * ACTIVATIONS_PER_LAYER / 2 * size.width
    one_layer += ATTENTION_MAPS * size.heads * tokens * length * size.width
    layers = size.layers * one_layer
    if train.gradient_checkpointing:
        layers = one_layer + size.layers * tokens * size.hidden * size.width
    logits = 2 * 4 * tokens * size.vocabulary  # and their gradient, in float32
    adapter = 0 if full else (trainable + frozen) * adapter_width
    weights = size.parameters * size.width if size.weights is None else size.weights
    return weights, adapter, 3 * trainable * adapter_width, int(layers + logits)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes, by what they are for.

    Attributes:
        weights: the base model.
        adapter: what is trained, and what a method stores beside it.
        optimizer: gradients and Adam's two moments.
        activations: of one batch of the longest examples, for the backward; rough.
        process: Python and the libraries; on a GPU, nothing.
        available: free memory of the device.
    """

    weights: int
    adapter: int
    optimizer: int
    activations: int
    process: int
    available: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.adapter + self.optimizer + self.activations + self.process


def estimate(plan: Plan) -> MemoryEstimate:
    """Return the estimate for a plan whose model, examples and targets are known."""
    train, base, part = plan.settings.train, plan.base, plan.part
    config = base.config.get_text_config()
    eager = getattr(base.config, "_attn_implementation", None) == "eager"
    heads = getattr(config, "num_attention_heads", 1) if eager else 0
    vocabulary = getattr(config, "vocab_size", None) or len(base.tokenizer)
    width = base.dtype.itemsize
    size = ModelSize(part.total, config.hidden_size, config.num_hidden_layers, vocabulary, width, heads)
    if plan.settings.model.quantization is not None:
        narrow = QUANTIZED_BYTES[plan.settings.model.quantization]
        size = replace(size, weights=int(part.linear * narrow + (part.total - part.linear) * width))
    needed = training_bytes(
        size,
        train,
        trainable=part.trainable,
        frozen=part.frozen,
        full=plan.full,
        batch=train.batch_size // plan.processes,
        length=plan.train.max_length if plan.train.packed else min(plan.train.longest, plan.train.max_length),
    )
    process = PYTHON_AND_TORCH if base.device == "cpu" else 0
    return MemoryEstimate(*needed, process=process, available=free_memory(base.device))


def free_memory(device: str) -> int:
    """Return the free bytes of a device."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    return psutil.virtual_memory().available


def out_of_memory(plan: Plan) -> str:
    """Return the message for an exhausted device: what to change, the cheapest first, with the numbers of this run."""
    import torch

    train = plan.settings.train
    used = torch.cuda.max_memory_allocated() if plan.base.device == "cuda" else 0
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
        f"out of memory with batches of {train.batch_size} x {length} tokens: {used / 2**30:.1f} GiB in use of "
        f"{has / 2**30:.1f} GiB, the estimate was {plan.memory.total / 2**30:.1f} GiB. Try, in this order: {numbered}."
    )
