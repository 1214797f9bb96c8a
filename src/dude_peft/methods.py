"""Every fine-tuning method of the comparison, by name.

A method is one entry in `METHODS`: the keys that its `method:` section allows (a `Settings` class), and a function that
turns those settings into a PEFT config. To add a rival, write the class only if it has keys of its own, and add one
`Method(...)` at the end of this file.

The functions import PEFT when they are called, so that a config can be checked without importing torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from .errors import DudeError, did_you_mean
from .settings import Settings, parse

if TYPE_CHECKING:
    from peft import PeftConfig


class MethodSettings(Settings):
    """What the `method:` section of every method has: its name."""

    name: str


class FullSettings(MethodSettings):
    """Full fine-tuning: every parameter of the model is trained, so there is nothing to choose."""


class LoraSettings(MethodSettings):
    """Keys that all low-rank methods share; names and meanings are those of `peft.LoraConfig`.

    Ranks are checked against the shapes of the model's modules by `targets`, before any weight is loaded.
    """

    r: int = Field(default=16, ge=1)
    lora_alpha: float | None = Field(default=None, gt=0)  # None: equal to r, a scale of 1
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | str = "all-linear"
    use_rslora: bool = False
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    layers_to_transform: list[int] | int | None = None
    modules_to_save: list[str] | None = None

    @field_validator("target_modules")
    @classmethod
    def _not_empty(cls, value: list[str] | str) -> list[str] | str:
        if not value:
            raise ValueError("name at least one module, for instance [q_proj, v_proj], or write all-linear")
        return value

    @field_validator("rank_pattern")
    @classmethod
    def _positive_ranks(cls, value: dict[str, int]) -> dict[str, int]:
        if low := {name: rank for name, rank in value.items() if rank < 1}:
            raise ValueError(f"ranks must be 1 or more, and {low} are not")
        return value


class DudeSettings(LoraSettings):
    """LoRA's keys and DuDe's own; see `DudeConfig`."""

    magnitude_axis: Literal["out", "in"] = "out"
    detach_norm: bool = False
    svd: Literal["krylov", "exact"] = "krylov"
    svd_seed: int = 0


@dataclass(frozen=True)
class Method:
    """One entry of the comparison.

    Attributes:
        name: what `method: {name: ...}` says.
        title: how tables and legends write it.
        settings: the keys that its section allows.
        config: settings -> PEFT config; None for full fine-tuning.
        init: what the adapter starts from, for the record of a run.
        magnitude: whether it trains one magnitude for each output (or, with `magnitude_axis: in`, each input).
        overwrites_base: whether PEFT changes the base weights at the start, so that the adapter alone is no use on the
            original base and has to be saved as a difference.
    """

    name: str
    title: str
    settings: type[MethodSettings]
    config: Callable[[Any], PeftConfig] | None
    init: str
    magnitude: bool = False
    overwrites_base: bool = False


def _shared(settings: LoraSettings) -> dict[str, Any]:
    """The arguments that `LoraConfig` and `DudeConfig` have in common.

    Without `lora_alpha` the scale is 1 in every module, those with a rank of their own included.
    """
    plain = settings.lora_alpha is None
    return {
        "task_type": "CAUSAL_LM",
        "r": settings.r,
        "lora_alpha": settings.r if plain else settings.lora_alpha,
        "lora_dropout": settings.lora_dropout,
        "target_modules": settings.target_modules,
        "use_rslora": settings.use_rslora,
        "rank_pattern": dict(settings.rank_pattern),
        "alpha_pattern": {**(settings.rank_pattern if plain else {}), **settings.alpha_pattern},
        "layers_to_transform": settings.layers_to_transform,
        "modules_to_save": settings.modules_to_save,
    }


def _lora(**fixed: Any) -> Callable[[LoraSettings], PeftConfig]:
    def config(settings: LoraSettings) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(**_shared(settings), **fixed)

    return config


def _dude(settings: DudeSettings) -> PeftConfig:
    from . import DudeConfig

    return DudeConfig(
        **_shared(settings),
        init_variant=settings.name,  # type: ignore[arg-type]
        magnitude_axis=settings.magnitude_axis,
        detach_norm=settings.detach_norm,
        svd=settings.svd,
        svd_seed=settings.svd_seed,
    )


_ENTRIES = (
    Method("dude", "DuDe", DudeSettings, _dude, "svd", magnitude=True),
    Method("dude_a", "DuDe-A", DudeSettings, _dude, "svd", magnitude=True),
    Method("dude_b", "DuDe-B", DudeSettings, _dude, "svd", magnitude=True),
    Method("lora", "LoRA", LoraSettings, _lora(), "kaiming"),
    Method("dora", "DoRA", LoraSettings, _lora(use_dora=True), "kaiming", magnitude=True),
    # The exact SVD: PEFT's fast one (pissa_niter_k) is unseeded and its adapters reload wrongly.
    Method("pissa", "PiSSA", LoraSettings, _lora(init_lora_weights="pissa"), "svd", overwrites_base=True),
    Method("full", "Full fine-tuning", FullSettings, None, "none"),
)

METHODS: dict[str, Method] = {method.name: method for method in _ENTRIES}


def parse_method(raw: Any, source: str = "config") -> MethodSettings:
    """The settings of a `method:` section, which may be a name alone or a mapping.

    Raises:
        DudeError: unknown method, unknown key (saying which methods have it), or a value of the wrong kind.
    """
    if isinstance(raw, MethodSettings):
        return raw
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise DudeError(f"{source}: 'method' must be a name or a mapping with one, got {raw!r}. Known: {_names()}.")
    method = METHODS.get(raw["name"])
    if method is None:
        hint = did_you_mean(raw["name"], METHODS) or f" Known methods: {_names()}."
        raise DudeError(f"{source}: unknown method '{raw['name']}'.{hint}")
    for key in raw:
        if key not in method.settings.model_fields:
            owners = [m.name for m in METHODS.values() if key in m.settings.model_fields]
            if owners:
                raise DudeError(
                    f"{source}: method '{method.name}' has no key '{key}' (that is a key of {', '.join(owners)}). "
                    "Remove it, or choose one of those methods."
                )
    return parse(method.settings, raw, f"{source}: method")


def build(settings: MethodSettings) -> PeftConfig | None:
    """The PEFT config for `settings`, or None where the whole model is trained."""
    make = METHODS[settings.name].config
    return None if make is None else make(settings)


def _names() -> str:
    return ", ".join(METHODS)
