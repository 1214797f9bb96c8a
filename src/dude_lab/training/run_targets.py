"""How much a method trains of a model: found without weights, checked by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError
from dude_peft.targets import Target, Targets

from ..methods import METHODS, MethodSettings, TargetSettings, build

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrainablePart:
    """What a method trains of a model.

    Attributes:
        targets: the adapted modules, r being 0 where a method has no rank; empty where the whole model is trained.
        sizes: the number of values trained in each of them.
        trainable: number of trained values in all, `modules_to_save` included.
        total: number of values in the base model.
        kept: number of float32 values that the method keeps frozen beside the base model.
        notes: on modules that `all-linear` leaves out.
    """

    targets: list[Target]
    sizes: list[int]
    trainable: int
    total: int
    kept: int = 0
    notes: list[str] = field(default_factory=list)


def trainable_part(model: nn.Module, settings: MethodSettings) -> TrainablePart:
    """Find what would be trained. `model` may be (and had better be) on the meta device.

    Raises:
        DudeError: a target that matches no module (with the nearest names), a module that cannot take an adapter, a
            rank above min(d, k) (with the module), a shape that the method cannot take, or a target on the output
            layer.
    """
    total = sum(p.numel() for p in model.parameters())
    if not isinstance(settings, TargetSettings):
        return TrainablePart([], [], total, total)
    method = METHODS[settings.name]
    targets, notes = _find_targets(model, settings)
    output_layer = getattr(model, "get_output_embeddings", lambda: None)()
    modules = dict(model.named_modules())
    for target in targets:
        if modules[target.name] is output_layer:
            raise DudeError(
                f"target_modules matches the output layer '{target.name}', whose adapter the trainer's loss would not "
                "see. Remove it from target_modules, or name it in modules_to_save to train it whole."
            )
        if not method.conv1d and type(modules[target.name]).__name__ == "Conv1D":
            raise DudeError(
                f"module '{target.name}' is a Conv1D, and method '{method.name}' takes nn.Linear alone. Remove it from "
                "target_modules, or choose another method (`dude methods`)."
            )
        method.check(settings, target)
    sizes = [method.count(settings, target) for target in targets]
    saved = tuple(settings.modules_to_save or ())
    whole = [module for name, module in modules.items() if name.endswith(saved)]  # PEFT's rule, "norm" in "layernorm"
    trainable = sum(sizes) + sum(p.numel() for m in whole for p in m.parameters())
    return TrainablePart(targets, sizes, trainable, total, method.frozen(settings, targets), notes)


def _find_targets(model: nn.Module, settings: TargetSettings) -> Targets:
    """PEFT matches names alike for every method, so a LoRA on the same modules finds them, and checks a rank."""
    from peft import LoraConfig

    from dude_peft.targets import find_targets

    config = build(settings)
    if isinstance(config, LoraConfig):
        return find_targets(model, config)
    keys = {"task_type": "CAUSAL_LM", **settings.targeting()}
    if (pattern := getattr(settings, "rank_pattern", None)) is not None:
        return find_targets(model, LoraConfig(**keys, r=settings.r, rank_pattern=dict(pattern)))  # type: ignore[attr-defined]
    size = getattr(settings, "r", None) or 0
    found = find_targets(model, LoraConfig(**keys, r=1))
    return found._replace(modules=[t._replace(r=size) for t in found.modules])
