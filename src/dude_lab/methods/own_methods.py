"""The entries of the methods whose layers are in `dude_peft.baselines`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError

from .method import AS_PEFT, Method
from .shared_keys import ALPHA, DROPOUT, RANK

if TYPE_CHECKING:
    from dude_peft.targets import Target


def lora_xs_count(settings: Any, target: Target) -> int:
    """R: r^2."""
    return target.r**2


def lora_xs_frozen(settings: Any, targets: Sequence[Target]) -> int:
    """S_r V_r^T (r, k) and U_r (d, r): r (d + k) for each module."""
    return sum(target.r * sum(target.shape) for target in targets)


LORA_XS = Method(
    "lora_xs",
    "LoRA-XS",
    "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters, arXiv 2405.17604",
    "dude_peft.baselines.lora_xs.LoraXsConfig",
    "svd",
    lora_xs_count,
    keys={
        **RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": DROPOUT,
        "init_std": {"ge": 0},
        "svd": AS_PEFT,
        "svd_seed": AS_PEFT,
    },
    frozen=lora_xs_frozen,
)


def svft_count(settings: Any, target: Target) -> int:
    """2 o + 1 diagonals of M (p, p), p = min(d, k), o = off_diag: p (2 o + 1) - o (o + 1)."""
    p, o = min(target.shape), settings.off_diag
    return p * (2 * o + 1) - o * (o + 1)


def svft_frozen(settings: Any, targets: Sequence[Target]) -> int:
    """U (d, p) and V (k, p), p = min(d, k): p (d + k) for each module, more than the weight itself."""
    return sum(min(target.shape) * sum(target.shape) for target in targets)


def svft_check(settings: Any, target: Target) -> None:
    """Check that M has as many diagonals: min(d, k) - 1 on each side.

    Raises:
        DudeError: names the module and the limit.
    """
    if settings.off_diag >= min(target.shape):
        raise DudeError(
            f"method.off_diag: {settings.off_diag}, and module '{target.name}' of shape {target.shape} has only "
            f"{min(target.shape) - 1} diagonals on each side. Lower it."
        )


SVFT = Method(
    "svft",
    "SVFT",
    "SVFT: Parameter-Efficient Fine-Tuning with Singular Vectors, arXiv 2405.19597",
    "dude_peft.baselines.svft.SvftConfig",
    "svd",
    svft_count,
    keys={"off_diag": {"ge": 0}},
    frozen=svft_frozen,
    check=svft_check,
)


def bitfit_count(settings: Any, target: Target) -> int:
    """One bias for each output: d."""
    return target.shape[0]


# The paper trains the biases that a model has; a Llama has none, so a target without a bias gets one of zeros.
BITFIT = Method(
    "bitfit",
    "BitFit",
    "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models, arXiv 2106.10199",
    "dude_peft.baselines.bitfit.BitfitConfig",
    "zero",
    bitfit_count,
)


def adapter_count(settings: Any, target: Target) -> int:
    """W_down (r, d), b_down (r,), W_up (d, r), b_up (d,): 2 d r + d + r."""
    d, r = target.shape[0], settings.r
    return 2 * d * r + d + r


# The paper adapts the two projections before the residual sums: `o_proj` and `down_proj` in today's models.
ADAPTER = Method(
    "adapter",
    "Adapter",
    "Parameter-Efficient Transfer Learning for NLP, arXiv 1902.00751",
    "dude_peft.baselines.bottleneck.BottleneckConfig",
    "zero",
    adapter_count,
    keys={
        "target_modules": {"default_factory": lambda: ["o_proj", "down_proj"]},
        "r": {"ge": 1, "description": "width of the bottleneck."},
    },
    merges=False,
)

OWN_METHODS = (LORA_XS, SVFT, BITFIT, ADAPTER)
