"""The registry of methods. To add one that PEFT has: an entry here, with the formula of its count, and a test row.

The entry of a method of the project, whose config, layer and model are in `dude_peft.baselines`, is in `own_methods`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from dude_peft.errors import DudeError

from .method import AS_PEFT, Method
from .own_methods import OWN_METHODS
from .shared_keys import ALPHA, BITSANDBYTES, DROPOUT, DUDE, EXPERTS, LORA, PROBABILITY, RANK, from_run_seed

if TYPE_CHECKING:
    from dude_peft.targets import Target

# The best rate of PiSSA and DuDe is a third to a tenth of LoRA's in both studies, because B does not begin at zero.
SVD_LEARNING_RATE = 5e-5

# --- LoRA and its variants ------------------------------------------------------------------------------------------


def lora_count(settings: Any, target: Target) -> int:
    """A (r, k) and B (d, r): r (d + k)."""
    return target.r * sum(target.shape)


def lora_check(settings: Any, target: Target) -> None:
    """Reject what PEFT's layer for experts does not have."""
    if target.experts and settings.lora_dropout:
        raise DudeError(
            f"lora_dropout: {settings.lora_dropout:g}, and PEFT's LoRA has no dropout on experts ('{target.name}'). "
            "Set it to 0, or leave target_parameters out."
        )


def dora_count(settings: Any, target: Target) -> int:
    """LoRA's and one magnitude for each output: r (d + k) + d."""
    return lora_count(settings, target) + target.shape[0]


def _lora_scale(settings: Any, seed: int) -> dict[str, Any]:
    """Without `lora_alpha` the scale is 1 in every module, those in `rank_pattern` included."""
    if settings.lora_alpha is not None:
        return {}
    return {"lora_alpha": settings.r, "alpha_pattern": {**settings.rank_pattern, **settings.alpha_pattern}}


_LORA = "LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685 (PEFT)"
_DORA = "DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv 2402.09353 (PEFT)"
_PISSA = (
    "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language Models, arXiv 2404.02948 (PEFT)"
)
_OLORA = "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models, arXiv 2406.01775 (PEFT)"


def _variant(
    name: str, title: str, source: str, init: str, count: Any, quantizations: tuple[str, ...], **fixed: Any
) -> Method:
    return Method(
        name,
        title,
        source,
        "peft.LoraConfig",
        init,
        count,
        {**LORA, **EXPERTS} if name == "lora" else LORA,
        fixed,
        _lora_scale,
        check=lora_check,
        overwrites_base=not quantizations,
        quantizations=quantizations,
    )


LORA_METHODS = (
    _variant("lora", "LoRA", _LORA, "kaiming", lora_count, BITSANDBYTES),
    _variant("dora", "DoRA", _DORA, "kaiming", dora_count, ("nf4",), use_dora=True),
    # The exact SVD: PEFT's fast one (pissa_niter_k) is unseeded and its adapters reload wrongly.
    replace(
        _variant("pissa", "PiSSA", _PISSA, "svd", lora_count, (), init_lora_weights="pissa"),
        learning_rate=SVD_LEARNING_RATE,
    ),
    _variant("olora", "OLoRA", _OLORA, "qr", lora_count, (), init_lora_weights="olora"),
)


CONTROL = "control of an ablation: random singular vectors, the singular values of the weight"


def shifted_lora_frozen(settings: Any, targets: Sequence[Target]) -> int:
    """A0 (r, k) and B0 (d, r): r (d + k) for each module."""
    return sum(target.r * sum(target.shape) for target in targets)


PISSA_RANDOM = Method(
    "pissa_random",
    "PiSSA, random vectors",
    f"PiSSA, arXiv 2404.02948; {CONTROL}",
    "dude_peft.baselines.shifted_lora.ShiftedLoraConfig",
    "random, svd values",
    lora_count,
    keys={**RANK, "lora_alpha": ALPHA, "lora_dropout": DROPOUT, "svd": AS_PEFT},
    fixed={"vectors": "random"},
    derived=from_run_seed,
    frozen=shifted_lora_frozen,
    learning_rate=SVD_LEARNING_RATE,
)


# --- DuDe -----------------------------------------------------------------------------------------------------------


def dude_count(settings: Any, target: Target) -> int:
    """LoRA's and one magnitude for each output (axis `out`) or input (`in`): r (d + k) + d, or + k."""
    return lora_count(settings, target) + target.shape[0 if settings.magnitude_axis == "out" else 1]


def dude_frozen(settings: Any, targets: Sequence[Target]) -> int:
    """A0, B0, n0, P0: r (2d + k) + d of a (d, k) weight; for axis `in` d and k change places."""
    frozen = 0
    for target in targets:
        d, k = target.shape if settings.magnitude_axis == "out" else target.shape[::-1]
        frozen += target.weights * (target.r * (2 * d + k) + d)
    return frozen


_DUDE = "Dual Decomposition of Weights and Singular Value Low Rank Adaptation, arXiv 2505.14367"
DUDE_METHODS = tuple(
    Method(
        name,
        title,
        _DUDE,
        "dude_peft.DudeConfig",
        "svd",
        dude_count,
        DUDE,
        {"init_variant": name},
        _lora_scale,
        frozen=dude_frozen,
        quantizations=BITSANDBYTES,
        learning_rate=SVD_LEARNING_RATE,
    )
    for name, title in (("dude", "DuDe"), ("dude_a", "DuDe-A"), ("dude_b", "DuDe-B"))
)


def _random_dude(settings: Any, seed: int) -> dict[str, Any]:
    return _lora_scale(settings, seed) | from_run_seed(settings, seed)


DUDE_RANDOM = Method(
    "dude_random",
    "DuDe, random vectors",
    f"{_DUDE}; {CONTROL}",
    "dude_peft.DudeConfig",
    "random, svd values",
    dude_count,
    {key: value for key, value in DUDE.items() if key != "svd_seed"},
    {"init_variant": "random"},
    _random_dude,
    frozen=dude_frozen,
    quantizations=BITSANDBYTES,
    learning_rate=SVD_LEARNING_RATE,
)


# --- full fine-tuning -----------------------------------------------------------------------------------------------


def full_count(settings: Any, target: Target) -> int:
    """The whole weight: d k."""
    return target.shape[0] * target.shape[1]


FULL = Method(
    "full",
    "Full fine-tuning",
    "every parameter of the model (transformers)",
    None,
    "none",
    full_count,
    learning_rate=2e-5,
)


# --- VeRA -----------------------------------------------------------------------------------------------------------


def vera_count(settings: Any, target: Target) -> int:
    """One scale for each output and one for each of r random directions: d + r."""
    return target.shape[0] + settings.r


def vera_frozen(settings: Any, targets: Sequence[Target]) -> int:
    """The random A and B that all modules share, cut from the largest: r (max d + max k), once."""
    return settings.r * sum(max(target.shape[side] for target in targets) for side in (0, 1))


def _vera_seed(settings: Any, seed: int) -> dict[str, Any]:
    key = settings.projection_prng_key
    return {"projection_prng_key": seed if key is None else key}


VERA = Method(
    "vera",
    "VeRA",
    "VeRA: Vector-based Random Matrix Adaptation, arXiv 2310.11454 (PEFT)",
    "peft.VeraConfig",
    "random, shared",
    vera_count,
    keys={
        # It may be above min(d, k): r values are trained, and no (d, r) matrix is.
        "r": {"ge": 1, "description": "number of random directions, shared by all modules."},
        "vera_dropout": DROPOUT,
        "d_initial": {"description": "initial value of the trained scale of each direction."},
        "projection_prng_key": {
            "type": int | None,
            "default": None,
            "ge": 0,
            "description": "seed of the random projections. The run's seed if null.",
        },
    },
    fixed={"save_projection": True},  # another torch may draw other numbers from the same key
    derived=_vera_seed,
    frozen=vera_frozen,
)


# --- OFT ------------------------------------------------------------------------------------------------------------


def oft_count(settings: Any, target: Target) -> int:
    """k / b skew-symmetric blocks of b (b - 1) / 2 values over the k inputs: k (b - 1) / 2."""
    b = settings.oft_block_size
    return target.shape[1] // b * (b * (b - 1) // 2)


def oft_check(settings: Any, target: Target) -> None:
    """Check that the blocks divide the inputs; where they do not, PEFT silently takes another size.

    Raises:
        DudeError: names the module and the closest block sizes.
    """
    b, k = settings.oft_block_size, target.shape[1]
    if k % b:
        fitting = sorted((n for n in range(2, k + 1) if k % n == 0), key=lambda n: abs(n - b))[:3]
        raise DudeError(
            f"method.oft_block_size: {b} does not divide the {k} inputs of module '{target.name}'. Choose one that "
            f"divides those of every target, for instance {' or '.join(map(str, sorted(fitting)))}."
        )


OFT = Method(
    "oft",
    "OFT",
    "Controlling Text-to-Image Diffusion by Orthogonal Finetuning, arXiv 2306.07280; as in Orthogonal Finetuning "
    "Made Scalable, arXiv 2506.19847 (PEFT)",
    "peft.OFTConfig",
    "identity",
    oft_count,
    keys={
        "oft_block_size": {
            "default": 32,
            "ge": 2,
            "description": "side of the rotated blocks, not a rank; must divide the inputs of every target.",
        },
        "use_cayley_neumann": {
            "default": True,
            "description": "approximate the inverse in the Cayley transform by a series of five terms (OFTv2).",
        },
        "module_dropout": PROBABILITY,
    },
    check=oft_check,
)


# --- KronA ----------------------------------------------------------------------------------------------------------

EVERY_RANK = 2**20  # LoKr decomposes its second factor below half of its larger side; no side is as large as this


def krona_count(settings: Any, target: Target) -> int:
    """A (a, c) and B (d/a, k/c): a c + d k / (a c); with a low-rank B, a c + r (d/a + k/c)."""
    from peft.tuners.lokr.layer import factorization

    (a, b_rows), (c, b_columns) = (factorization(side, settings.decompose_factor) for side in target.shape)
    r = settings.r or EVERY_RANK
    low_rank = r < max(b_rows, b_columns) / 2
    return a * c + (r * (b_rows + b_columns) if low_rank else b_rows * b_columns)


def _krona_rank(settings: Any, seed: int) -> dict[str, Any]:
    r = settings.r or EVERY_RANK
    return {"r": r, "alpha": r}  # a scale of 1


# W0 + A (x) B with two dense factors: KronA. With `r`, B is a product of rank r where that is smaller: LoKr of LyCORIS,
# arXiv 2309.14859.
KRONA = Method(
    "krona",
    "KronA",
    "KronA: Parameter Efficient Tuning with Kronecker Adapter, arXiv 2212.10650 (PEFT's LoKr)",
    "peft.LoKrConfig",
    "kaiming",
    krona_count,
    keys={
        "r": {
            "type": int | None,
            "default": None,
            "ge": 1,
            "description": "rank of the second factor. A dense factor if null.",
        },
        "decompose_factor": {
            "ge": -1,
            "description": "side of the first factor, or its largest divisor below that. -1: close to the square root.",
        },
        "module_dropout": PROBABILITY,
    },
    derived=_krona_rank,
    conv1d=False,
)


# --- DeLoRA ---------------------------------------------------------------------------------------------------------


def delora_count(settings: Any, target: Target) -> int:
    """A (r, k), B (d, r) and one strength lambda: r (d + k) + 1."""
    return target.r * sum(target.shape) + 1


def delora_frozen(settings: Any, targets: Sequence[Target]) -> int:
    """The norms of the columns of W0: k for each module."""
    return sum(target.shape[1] for target in targets)


def _not_the_norm(value: list[str] | None) -> list[str] | None:
    if taken := [name for name in value or () if "delora_w_norm".endswith(name)]:
        raise ValueError(
            f"{taken[0]!r} is also the end of the name of a tensor of DeLoRA, which PEFT would save as well. "
            f"Write more of the module's name, for instance model.{taken[0]}"
        )
    return value


DELORA = Method(
    "delora",
    "DeLoRA",
    "DeLoRA: Decoupling Angles and Strength in Low-rank Adaptation, arXiv 2503.18225 (PEFT)",
    "peft.DeloraConfig",
    "kaiming",
    delora_count,
    keys={
        "modules_to_save": {"type": Annotated[list[str] | None, AfterValidator(_not_the_norm)]},
        **RANK,
        # Annotated int in PEFT, used as a float.
        "delora_lambda": {"type": float, "default": 15.0, "gt": 0, "description": "initial strength of the update."},
        "module_dropout": PROBABILITY,
    },
    frozen=delora_frozen,
    conv1d=False,
)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *DUDE_METHODS,
        DUDE_RANDOM,
        *LORA_METHODS,
        PISSA_RANDOM,
        FULL,
        VERA,
        OFT,
        KRONA,
        DELORA,
        *OWN_METHODS,
    )
}
"""Name -> method, in the order of `dude methods`."""
