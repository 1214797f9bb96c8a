"""Rivals whose layers are in `dude_peft.baselines`: LoRA-XS, SVFT, BitFit, the bottleneck adapter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dude_peft.errors import DudeError
from dude_peft.targets import Target

from .method import Method, RankSettings, TargetSettings

if TYPE_CHECKING:
    from peft import PeftConfig


class LoraXsSettings(RankSettings):
    """LoRA-XS: W0 + s U_r R S_r V_r^T with only R (r, r) trained.

    R is drawn from a normal distribution of standard deviation `init_std`, the paper's 1e-5; 0 starts as W0 exactly.

    Attributes:
        lora_alpha: scaling of the update, lora_alpha / r. Equal to the rank (a scaling of 1) if null.
        lora_dropout: dropout probability of the update's input.
        init_std: standard deviation of R's initialisation.
        svd: how the top singular triplets are computed.
        svd_seed: seed of the start block of the Krylov method.
    """

    lora_alpha: float | None = Field(default=None, gt=0)  # None: equal to r, a scale of 1
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    init_std: float = Field(default=1e-5, ge=0)
    svd: Literal["krylov", "exact"] = "krylov"
    svd_seed: int = 0


def _lora_xs(settings: LoraXsSettings, seed: int) -> PeftConfig:
    from dude_peft.baselines.lora_xs import LoraXsConfig

    return LoraXsConfig(
        task_type="CAUSAL_LM",
        **settings.targeting(),
        r=settings.r,
        rank_pattern=dict(settings.rank_pattern),
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        init_std=settings.init_std,
        svd=settings.svd,
        svd_seed=settings.svd_seed,
    )


def lora_xs_count(settings: LoraXsSettings, target: Target) -> int:
    """R: r^2."""
    return target.r**2


def lora_xs_kept(settings: LoraXsSettings, targets: Sequence[Target]) -> int:
    """S_r V_r^T (r, k) and U_r (d, r): r (d + k) for each module."""
    return sum(target.r * sum(target.shape) for target in targets)


class SvftSettings(TargetSettings):
    """SVFT: W0 + U M V^T over all singular vectors, with the main diagonal of M trained and `off_diag` on each side.

    `off_diag: 0` is SVFT-plain, more is SVFT-banded.

    Attributes:
        off_diag: diagonals of M that are trained on each side of the main diagonal.
    """

    off_diag: int = Field(default=0, ge=0)


def _svft(settings: SvftSettings, seed: int) -> PeftConfig:
    from dude_peft.baselines.svft import SvftConfig

    return SvftConfig(task_type="CAUSAL_LM", **settings.targeting(), off_diag=settings.off_diag)


def svft_count(settings: SvftSettings, target: Target) -> int:
    """2 o + 1 diagonals of M (p, p), p = min(d, k), o = off_diag: p (2 o + 1) - o (o + 1)."""
    p, o = min(target.shape), settings.off_diag
    return p * (2 * o + 1) - o * (o + 1)


def svft_kept(settings: SvftSettings, targets: Sequence[Target]) -> int:
    """U (d, p) and V (k, p), p = min(d, k): p (d + k) for each module, more than the weight itself."""
    return sum(min(target.shape) * sum(target.shape) for target in targets)


def svft_check(settings: SvftSettings, target: Target) -> None:
    """M has min(d, k) - 1 diagonals on each side.

    Raises:
        DudeError: names the module and the limit.
    """
    if settings.off_diag >= min(target.shape):
        raise DudeError(
            f"method.off_diag: {settings.off_diag}, and module '{target.name}' of shape {target.shape} has only "
            f"{min(target.shape) - 1} diagonals on each side. Lower it."
        )


class BitfitSettings(TargetSettings):
    """BitFit: only the biases of the target layers are trained, and a layer without one is given one of zeros.

    The paper trains the biases that a model has; a Llama has none.
    """


def _bitfit(settings: BitfitSettings, seed: int) -> PeftConfig:
    from dude_peft.baselines.bitfit import BitfitConfig

    return BitfitConfig(task_type="CAUSAL_LM", **settings.targeting())


def bitfit_count(settings: BitfitSettings, target: Target) -> int:
    """One bias for each output: d."""
    return target.shape[0]


class AdapterSettings(TargetSettings):
    """Houlsby's bottleneck adapter, y + W_up gelu(W_down y + b_down) + b_up, on the output y of each target.

    The paper's places are the two projections before the residual sums, which `o_proj` and `down_proj` are in the
    models of today; `r` is the width of the bottleneck.

    Attributes:
        r: width of the bottleneck.
    """

    target_modules: list[str] | str = Field(default_factory=lambda: ["o_proj", "down_proj"])
    r: int = Field(default=64, ge=1)


def _adapter(settings: AdapterSettings, seed: int) -> PeftConfig:
    from dude_peft.baselines.bottleneck import BottleneckConfig

    return BottleneckConfig(task_type="CAUSAL_LM", **settings.targeting(), r=settings.r)


def adapter_count(settings: AdapterSettings, target: Target) -> int:
    """W_down (r, d), b_down (r,), W_up (d, r), b_up (d,): 2 d r + d + r."""
    d, r = target.shape[0], settings.r
    return 2 * d * r + d + r


ENTRIES = (
    Method(
        "lora_xs",
        "LoRA-XS",
        "LoRA-XS: Low-Rank Adaptation with Extremely Small Number of Parameters, arXiv 2405.17604",
        LoraXsSettings,
        _lora_xs,
        "svd",
        lora_xs_count,
        lora_xs_kept,
    ),
    Method(
        "svft",
        "SVFT",
        "SVFT: Parameter-Efficient Fine-Tuning with Singular Vectors, arXiv 2405.19597",
        SvftSettings,
        _svft,
        "svd",
        svft_count,
        svft_kept,
        svft_check,
    ),
    Method(
        "bitfit",
        "BitFit",
        "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models, arXiv 2106.10199",
        BitfitSettings,
        _bitfit,
        "zero",
        bitfit_count,
    ),
    Method(
        "adapter",
        "Adapter",
        "Parameter-Efficient Transfer Learning for NLP, arXiv 1902.00751",
        AdapterSettings,
        _adapter,
        "zero",
        adapter_count,
        merges=False,
    ),
)
