"""Rivals that PEFT computes: VeRA, OFT, KronA (as LoKr), DeLoRA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from dude_peft.errors import DudeError
from dude_peft.targets import Target

from .method import Method, RankSettings, TargetSettings

if TYPE_CHECKING:
    from peft import PeftConfig

EVERY_RANK = 2**20  # LoKr decomposes its second factor below half of its larger side; no side is as large as this


class VeraSettings(TargetSettings):
    """Keys of `peft.VeraConfig`. The rank may be above min(d, k): r values are trained, and no (d, r) matrix is.

    Attributes:
        r: number of shared random directions.
        vera_dropout: dropout probability of the update's input.
        d_initial: initial value of the trained scale of each direction.
        projection_prng_key: seed of the random projections. The run's seed if null.
    """

    r: int = Field(default=256, ge=1)
    vera_dropout: float = Field(default=0.0, ge=0, lt=1)
    d_initial: float = 0.1
    projection_prng_key: int | None = Field(default=None, ge=0)  # None: the run's seed


def _vera(settings: VeraSettings, seed: int) -> PeftConfig:
    from peft import VeraConfig

    key = settings.projection_prng_key
    return VeraConfig(
        task_type="CAUSAL_LM",
        **settings.targeting(),
        r=settings.r,
        vera_dropout=settings.vera_dropout,
        d_initial=settings.d_initial,
        projection_prng_key=seed if key is None else key,
        save_projection=True,  # another torch may draw other numbers from the same key
    )


def vera_count(settings: VeraSettings, target: Target) -> int:
    """One scale for each output and one for each of r random directions: d + r."""
    return target.shape[0] + settings.r


def vera_kept(settings: VeraSettings, targets: Sequence[Target]) -> int:
    """The random A and B that all modules share, cut from the largest: r (max d + max k), once."""
    return settings.r * sum(max(target.shape[side] for target in targets) for side in (0, 1))


class OftSettings(TargetSettings):
    """Keys of `peft.OFTConfig`. The size is that of the rotated blocks, not a rank.

    `use_cayley_neumann` is OFTv2's series of five terms in place of the matrix inverse of the Cayley transform.

    Attributes:
        oft_block_size: side of the rotated blocks; must divide the inputs of every target.
        use_cayley_neumann: approximate the inverse in the Cayley transform by a series of five terms (OFTv2).
        module_dropout: probability of dropping a module's update in a step.
    """

    oft_block_size: int = Field(default=32, ge=2)
    use_cayley_neumann: bool = True
    module_dropout: float = Field(default=0.0, ge=0, lt=1)


def _oft(settings: OftSettings, seed: int) -> PeftConfig:
    from peft import OFTConfig

    return OFTConfig(
        task_type="CAUSAL_LM",
        **settings.targeting(),
        oft_block_size=settings.oft_block_size,
        use_cayley_neumann=settings.use_cayley_neumann,
        module_dropout=settings.module_dropout,
    )


def oft_count(settings: OftSettings, target: Target) -> int:
    """k / b skew-symmetric blocks of b (b - 1) / 2 values over the k inputs: k (b - 1) / 2."""
    b = settings.oft_block_size
    return target.shape[1] // b * (b * (b - 1) // 2)


def oft_check(settings: OftSettings, target: Target) -> None:
    """The blocks must divide the inputs; PEFT takes another size than asked for where they do not.

    Raises:
        DudeError: names the module and the block sizes next to the one given.
    """
    b, k = settings.oft_block_size, target.shape[1]
    if k % b:
        fitting = sorted((n for n in range(2, k + 1) if k % n == 0), key=lambda n: abs(n - b))[:3]
        raise DudeError(
            f"method.oft_block_size: {b} does not divide the {k} inputs of module '{target.name}'. Choose one that "
            f"divides those of every target, for instance {' or '.join(map(str, sorted(fitting)))}."
        )


class KronaSettings(TargetSettings):
    """Keys of `peft.LoKrConfig`. As it stands, W0 + A (x) B with two dense factors: KronA.

    `decompose_factor` is the side of A, or the largest divisor below it (-1: near the square root of each side of the
    weight). With `r`, B is itself a product of rank r where that is smaller: LoKr of LyCORIS, arXiv 2309.14859.

    Attributes:
        r: rank of the second factor. A dense factor if null.
        decompose_factor: side of the first factor, or its largest divisor below that. -1: near the square root.
        module_dropout: probability of dropping a module's update in a step.
    """

    r: int | None = Field(default=None, ge=1)
    decompose_factor: int = Field(default=-1, ge=-1)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)


def _krona(settings: KronaSettings, seed: int) -> PeftConfig:
    from peft import LoKrConfig

    r = settings.r or EVERY_RANK
    return LoKrConfig(
        task_type="CAUSAL_LM",
        **settings.targeting(),
        r=r,
        alpha=r,  # a scale of 1
        decompose_factor=settings.decompose_factor,
        module_dropout=settings.module_dropout,
    )


def krona_count(settings: KronaSettings, target: Target) -> int:
    """A (a, c) and B (d/a, k/c): a c + d k / (a c); with a low-rank B, a c + r (d/a + k/c)."""
    from peft.tuners.lokr.layer import factorization

    (a, b_rows), (c, b_columns) = (factorization(side, settings.decompose_factor) for side in target.shape)
    r = settings.r or EVERY_RANK
    low_rank = r < max(b_rows, b_columns) / 2
    return a * c + (r * (b_rows + b_columns) if low_rank else b_rows * b_columns)


class DeloraSettings(RankSettings):
    """Keys of `peft.DeloraConfig`.

    Attributes:
        delora_lambda: initial strength of the update.
        module_dropout: probability of dropping a module's update in a step.
    """

    delora_lambda: float = Field(default=15.0, gt=0)
    module_dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _not_its_own_norm(self) -> DeloraSettings:
        taken = [name for name in self.modules_to_save or () if "delora_w_norm".endswith(name)]
        if taken:
            raise ValueError(
                f"modules_to_save: {taken[0]!r} is also the end of a tensor of DeLoRA's own, and PEFT takes that too. "
                f"Write more of the module's name, for instance model.{taken[0]}"
            )
        return self


def _delora(settings: DeloraSettings, seed: int) -> PeftConfig:
    from peft import DeloraConfig

    return DeloraConfig(
        task_type="CAUSAL_LM",
        **settings.targeting(),
        r=settings.r,
        rank_pattern=dict(settings.rank_pattern),
        delora_lambda=settings.delora_lambda,  # type: ignore[arg-type]  # annotated int, used as a float
        module_dropout=settings.module_dropout,
    )


def delora_count(settings: DeloraSettings, target: Target) -> int:
    """A (r, k), B (d, r) and one strength lambda: r (d + k) + 1."""
    return target.r * sum(target.shape) + 1


def delora_kept(settings: DeloraSettings, targets: Sequence[Target]) -> int:
    """The norms of the columns of W0: k for each module."""
    return sum(target.shape[1] for target in targets)


ENTRIES = (
    Method(
        "vera",
        "VeRA",
        "VeRA: Vector-based Random Matrix Adaptation, arXiv 2310.11454 (PEFT)",
        VeraSettings,
        _vera,
        "random, shared",
        vera_count,
        vera_kept,
    ),
    Method(
        "oft",
        "OFT",
        "Controlling Text-to-Image Diffusion by Orthogonal Finetuning, arXiv 2306.07280; as in Orthogonal Finetuning "
        "Made Scalable, arXiv 2506.19847 (PEFT)",
        OftSettings,
        _oft,
        "identity",
        oft_count,
        check=oft_check,
    ),
    Method(
        "krona",
        "KronA",
        "KronA: Parameter Efficient Tuning with Kronecker Adapter, arXiv 2212.10650 (PEFT's LoKr)",
        KronaSettings,
        _krona,
        "kaiming",
        krona_count,
        conv1d=False,
    ),
    Method(
        "delora",
        "DeLoRA",
        "DeLoRA: Decoupling Angles and Strength in Low-rank Adaptation, arXiv 2503.18225 (PEFT)",
        DeloraSettings,
        _delora,
        "kaiming",
        delora_count,
        delora_kept,
        conv1d=False,
    ),
)
