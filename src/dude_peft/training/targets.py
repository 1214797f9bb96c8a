"""Which modules a method adapts, with their shapes and ranks: found on a model without weights, checked by name."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DudeError, nearest
from ..methods import METHODS, DudeSettings, LoraSettings, MethodSettings

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Target:
    """A weight of shape (d, k) = (out_features, in_features) that gets an adapter of rank `r`."""

    name: str
    d: int
    k: int
    r: int
    trainable: int


@dataclass(frozen=True)
class TrainablePart:
    """What a method trains of a model.

    Attributes:
        targets: the adapted modules; empty where the whole model is trained.
        trainable: number of trained values in all, `modules_to_save` included.
        total: number of values in the base model.
    """

    targets: list[Target]
    trainable: int
    total: int


def trainable_part(model: nn.Module, settings: MethodSettings) -> TrainablePart:
    """Find what would be trained; `model` may be (and had better be) on the meta device, and is changed.

    Args:
        model: the base model, thrown away afterwards: PEFT puts adapters into it.
        settings: the method's section.

    Raises:
        DudeError: a target that matches no module (with the nearest names), a module that cannot take an adapter, a
            rank above min(d, k) (with the module), or a target on the output layer.
    """
    total = sum(p.numel() for p in model.parameters())
    if not isinstance(settings, LoraSettings):
        return TrainablePart([], total, total)

    check_names(model, settings)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    output_layer = getattr(model, "get_output_embeddings", lambda: None)()
    output_name = next((name for name, module in model.named_modules() if module is output_layer), None)
    _inject(model, settings)

    targets = []
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A") or "default" not in module.r:  # type: ignore[operator]
            continue
        if name == output_name:
            raise DudeError(
                f"target_modules matches the output layer '{name}', whose adapter the trainer's loss would not see. "
                "Remove it from target_modules, or name it in modules_to_save to train it whole."
            )
        d, k = _matrix_shape(name, module, shapes)
        r = module.r["default"]  # type: ignore[index]
        if r > min(d, k):
            raise DudeError(
                f"method.r: rank {r} is above {min(d, k)}, the most that module '{name}' of shape ({d}, {k}) can have. "
                f"Lower r, or give this module its own: rank_pattern: {{{name.split('.')[-1]}: {min(d, k)}}}."
            )
        targets.append(Target(name, d, k, r, r * (d + k) + _magnitudes(settings, d, k)))

    matched = sum(t.trainable for t in targets)
    whole = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and ".modules_to_save." in f".{n}")
    return TrainablePart(targets, matched + whole, total)


def check_names(model: nn.Module, settings: LoraSettings) -> None:
    """Every target, module to save, and pattern must name at least one module.

    Raises:
        DudeError: naming all that match nothing, each with the nearest names.
    """
    names = [name for name, _ in model.named_modules() if name]
    wanted = settings.target_modules
    if isinstance(wanted, str) and wanted != "all-linear":
        try:
            pattern = re.compile(wanted)
        except re.error as error:
            raise DudeError(f"target_modules: '{wanted}' is not a regular expression: {error}.") from None
        if not any(pattern.fullmatch(name) for name in names):
            example = next((n for n in names if n.endswith("q_proj")), names[-1])
            raise DudeError(
                f"target_modules: the expression '{wanted}' matches no module{_suggest(wanted, names)}. It must match "
                f"the whole name, for instance '{example}'; a list of last names, [q_proj], is simpler."
            )
    elif not isinstance(wanted, str):
        _all_found("target_modules", wanted, names)
    _all_found("modules_to_save", settings.modules_to_save or [], names)
    for key in ("rank_pattern", "alpha_pattern"):
        for part in getattr(settings, key):
            if not any(re.match(rf"(.*\.)?({part})$", name) for name in names):
                raise DudeError(f"{key}: '{part}' matches no module{_suggest(part, names)}.")


def _all_found(key: str, wanted: list[str], names: list[str]) -> None:
    lost = [w for w in wanted if not any(n == w or n.endswith(f".{w}") for n in names)]
    if lost:
        told = "; ".join(f"'{w}' matches no module{_suggest(w, names)}" for w in lost)
        raise DudeError(f"{key}: {told}.")


def _suggest(wanted: str, names: list[str]) -> str:
    last = wanted.rsplit(".", 1)[-1]
    tails = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in names if not n.rsplit(".", 1)[-1].isdigit()))
    near = nearest(last, tails)
    if near:
        return f" (nearest: {', '.join(near)})"
    usual = sorted(t for t in tails if t.endswith(("proj", "attn", "fc", "dense")))
    return f" (the model has {', '.join(usual or tails[:8])})"


def _inject(model: nn.Module, settings: LoraSettings) -> None:
    """Let PEFT itself do the matching, with plain LoRA: on the meta device no weight can be decomposed."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.r,
        target_modules=settings.target_modules,
        rank_pattern=dict(settings.rank_pattern),
        layers_to_transform=settings.layers_to_transform,
        modules_to_save=settings.modules_to_save,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a Conv1D is turned round
            inject_adapter_in_model(config, model, low_cpu_mem_usage=True)
    except ValueError as error:
        extra = f" (layers_to_transform: {settings.layers_to_transform})" if settings.layers_to_transform else ""
        first = str(error).strip().splitlines()[0]
        raise DudeError(f"target_modules {settings.target_modules!r}{extra} cannot be adapted: {first}") from None


def _matrix_shape(name: str, module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """(d, k) of the weight; transformers' Conv1D keeps it as (k, d)."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    layer = getattr(module, "base_layer", None)
    if not isinstance(layer, nn.Linear | Conv1D):
        raise DudeError(
            f"target_modules matches '{name}', a {type(layer).__name__}. Adapters go on linear layers; to train this "
            "module whole, name it in modules_to_save."
        )
    shape = shapes[f"{name}.weight"]
    return (shape[1], shape[0]) if isinstance(layer, Conv1D) else (shape[0], shape[1])


def _magnitudes(settings: LoraSettings, d: int, k: int) -> int:
    if not METHODS[settings.name].magnitude:
        return 0
    return k if isinstance(settings, DudeSettings) and settings.magnitude_axis == "in" else d
