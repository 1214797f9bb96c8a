"""DuDe, LoRA and the starts and variants of LoRA that `LoraConfig` knows; and full fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from dude_peft.targets import Target

from .method import Method, MethodSettings, RankSettings, check_patterns

if TYPE_CHECKING:
    from peft import PeftConfig


class FullSettings(MethodSettings):
    """Full fine-tuning: every parameter of the model is trained, so there is nothing to choose."""


class LoraSettings(RankSettings):
    """Keys that LoRA and its variants share; names and meanings are those of `peft.LoraConfig`.

    Attributes:
        lora_alpha: scaling of the update, lora_alpha / r. Equal to the rank of each module (a scaling of 1) if null.
        lora_dropout: dropout probability of the update's input.
        use_rslora: scale by lora_alpha / sqrt(r).
        alpha_pattern: module name or regular expression -> alpha, where it differs from `lora_alpha`.
    """

    lora_alpha: float | None = Field(default=None, gt=0)  # None: equal to r, a scale of 1
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    use_rslora: bool = False
    alpha_pattern: dict[str, float] = Field(default_factory=dict)

    @field_validator("alpha_pattern")
    @classmethod
    def _positive_alphas(cls, value: dict[str, float]) -> dict[str, float]:
        check_patterns("alpha_pattern", value)
        if low := {name: alpha for name, alpha in value.items() if alpha <= 0}:
            raise ValueError(f"values must be above 0, and {low} are not")
        return value


class DudeSettings(LoraSettings):
    """LoRA's keys and DuDe's own; see `DudeConfig`.

    Attributes:
        magnitude_axis: `out`, one magnitude per output, or `in`, one per input.
        detach_norm: treat ||V||_c as a constant in the gradient (DoRA's rule) instead of the exact Eq. 9.
        svd: how the top singular triplets are computed.
        svd_seed: seed of the start block of the Krylov method.
    """

    magnitude_axis: Literal["out", "in"] = "out"
    detach_norm: bool = False
    svd: Literal["krylov", "exact"] = "krylov"
    svd_seed: int = 0


def _shared(settings: LoraSettings) -> dict[str, Any]:
    """The arguments that `LoraConfig` and `DudeConfig` have in common.

    Without `lora_alpha` the scale is 1 in every module, those with a rank of their own included.
    """
    plain = settings.lora_alpha is None
    return {
        "task_type": "CAUSAL_LM",
        **settings.targeting(),
        "r": settings.r,
        "lora_alpha": settings.r if plain else settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "use_rslora": settings.use_rslora,
        "rank_pattern": dict(settings.rank_pattern),
        "alpha_pattern": {**(settings.rank_pattern if plain else {}), **settings.alpha_pattern},
    }


def _lora(**fixed: Any) -> Callable[[LoraSettings, int], PeftConfig]:
    def config(settings: LoraSettings, seed: int) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(**_shared(settings), **fixed)

    return config


def _dude(settings: DudeSettings, seed: int) -> PeftConfig:
    from dude_peft import DudeConfig

    return DudeConfig(
        **_shared(settings),
        init_variant=settings.name,  # type: ignore[arg-type]
        magnitude_axis=settings.magnitude_axis,
        detach_norm=settings.detach_norm,
        svd=settings.svd,
        svd_seed=settings.svd_seed,
    )


def lora_count(settings: LoraSettings, target: Target) -> int:
    """A (r, k) and B (d, r): r (d + k)."""
    return target.r * sum(target.shape)


def dora_count(settings: LoraSettings, target: Target) -> int:
    """LoRA's and one magnitude for each output: r (d + k) + d."""
    return lora_count(settings, target) + target.shape[0]


def dude_count(settings: DudeSettings, target: Target) -> int:
    """LoRA's and one magnitude for each output (axis `out`) or input (`in`): r (d + k) + d, or + k."""
    return lora_count(settings, target) + target.shape[0 if settings.magnitude_axis == "out" else 1]


def dude_kept(settings: DudeSettings, targets: Sequence[Target]) -> int:
    """A0, B0, n0, P0: r (2d + k) + d of a (d, k) weight; for axis `in` d and k change places."""
    kept = 0
    for (d, k), r in ((target.shape, target.r) for target in targets):
        d, k = (d, k) if settings.magnitude_axis == "out" else (k, d)
        kept += r * (2 * d + k) + d
    return kept


def full_count(settings: FullSettings, target: Target) -> int:
    """The whole weight: d k."""
    return target.shape[0] * target.shape[1]


_DUDE = "Dual Decomposition of Weights and Singular Value Low Rank Adaptation, arXiv 2505.14367"
_LORA = "LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685 (PEFT)"
_DORA = "DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv 2402.09353 (PEFT)"
_PISSA = (
    "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models, arXiv 2404.02948 (PEFT)"
)
_OLORA = "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, arXiv 2406.01775 (PEFT)"

ENTRIES = (
    Method("dude", "DuDe", _DUDE, DudeSettings, _dude, "svd", dude_count, dude_kept),
    Method("dude_a", "DuDe-A", _DUDE, DudeSettings, _dude, "svd", dude_count, dude_kept),
    Method("dude_b", "DuDe-B", _DUDE, DudeSettings, _dude, "svd", dude_count, dude_kept),
    Method("lora", "LoRA", _LORA, LoraSettings, _lora(), "kaiming", lora_count),
    Method("dora", "DoRA", _DORA, LoraSettings, _lora(use_dora=True), "kaiming", dora_count),
    # The exact SVD: PEFT's fast one (pissa_niter_k) is unseeded and its adapters reload wrongly.
    Method(
        "pissa",
        "PiSSA",
        _PISSA,
        LoraSettings,
        _lora(init_lora_weights="pissa"),
        "svd",
        lora_count,
        overwrites_base=True,
    ),
    Method(
        "olora",
        "OLoRA",
        _OLORA,
        LoraSettings,
        _lora(init_lora_weights="olora"),
        "qr",
        lora_count,
        overwrites_base=True,
    ),
    Method(
        "full",
        "Full fine-tuning",
        "every parameter of the model (transformers)",
        FullSettings,
        None,
        "none",
        full_count,
    ),
)
