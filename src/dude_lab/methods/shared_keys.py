"""Keys that several methods of the registry share: what differs from the fields of their PEFT config classes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator

from .method import AS_PEFT, check_patterns


def _ranks(value: dict[str, int]) -> dict[str, int]:
    check_patterns("rank_pattern", value)
    if low := {name: rank for name, rank in value.items() if rank < 1}:
        raise ValueError(f"ranks must be 1 or more, and {low} are not")
    return value


def _alphas(value: dict[str, float]) -> dict[str, float]:
    check_patterns("alpha_pattern", value)
    if low := {name: alpha for name, alpha in value.items() if alpha <= 0}:
        raise ValueError(f"values must be above 0, and {low} are not")
    return value


def _parameters(value: list[str] | None) -> list[str] | None:
    if value == []:
        raise ValueError("an empty list: leave the key out, or name at least one parameter")
    return value


PROBABILITY = {"ge": 0, "lt": 1}
BITSANDBYTES = ("nf4", "int8")
DROPOUT = {**PROBABILITY, "description": "dropout probability of the update's input."}
ALPHA = {
    "type": float | None,
    "default": None,
    "gt": 0,
    "description": "scaling of the update, lora_alpha / r. Equal to the rank of each module (a scaling of 1) if null.",
}
# Of an update of a (d, k) weight that has a rank, at most min(d, k): checked against the modules' shapes by `targets`.
RANK: dict[str, Any] = {
    "r": {"default": 16, "ge": 1, "description": "rank of the update."},
    "rank_pattern": {
        "type": Annotated[dict[str, int], AfterValidator(_ranks)],
        "default_factory": dict,
        "description": "module name or regular expression -> rank, where it differs from `r`.",
    },
}
LORA = {
    **RANK,
    "lora_alpha": ALPHA,
    "lora_dropout": DROPOUT,
    "use_rslora": {"description": "scale by lora_alpha / sqrt(r)."},
    "alpha_pattern": {
        "type": Annotated[dict[str, float], AfterValidator(_alphas)],
        "default_factory": dict,
        "description": "module name or regular expression -> alpha, where it differs from `lora_alpha`.",
    },
}
EXPERTS = {
    "target_parameters": {
        "type": Annotated[list[str] | None, AfterValidator(_parameters)],
        "description": "experts of a mixture to adapt beside the modules: the last names of their parameters of three "
        "dimensions, for instance [experts.gate_up_proj, experts.down_proj]; alone with `target_modules: []`.",
    }
}
DUDE = {**LORA, **EXPERTS, "magnitude_axis": AS_PEFT, "detach_norm": AS_PEFT, "svd": AS_PEFT, "svd_seed": AS_PEFT}


def from_run_seed(settings: Any, seed: int) -> dict[str, Any]:
    """Draw random singular vectors from the run's seed: the `derived` of a method that has them."""
    return {"svd_seed": seed}
