"""How much a method trains of a model: found without weights, checked by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DudeError
from ..methods import METHODS, DudeSettings, LoraSettings, MethodSettings, build
from ..targets import Target

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrainablePart:
    """What a method trains of a model.

    Attributes:
        targets: the adapted modules; empty where the whole model is trained.
        sizes: the number of values trained in each of them.
        trainable: number of trained values in all, `modules_to_save` included.
        total: number of values in the base model.
    """

    targets: list[Target]
    sizes: list[int]
    trainable: int
    total: int


def trainable_part(model: nn.Module, settings: MethodSettings) -> TrainablePart:
    """Find what would be trained. `model` may be (and had better be) on the meta device.

    Raises:
        DudeError: a target that matches no module (with the nearest names), a module that cannot take an adapter, a
            rank above min(d, k) (with the module), or a target on the output layer.
    """
    total = sum(p.numel() for p in model.parameters())
    if not isinstance(settings, LoraSettings):
        return TrainablePart([], [], total, total)
    from ..adapter import plan

    targets = plan(model, build(settings))
    output_layer = getattr(model, "get_output_embeddings", lambda: None)()
    modules = dict(model.named_modules())
    for target in targets:
        if modules[target.name] is output_layer:
            raise DudeError(
                f"target_modules matches the output layer '{target.name}', whose adapter the trainer's loss would not "
                "see. Remove it from target_modules, or name it in modules_to_save to train it whole."
            )
    sizes = [target.r * sum(target.shape) + _magnitudes(settings, *target.shape) for target in targets]
    saved = tuple(settings.modules_to_save or ())
    whole = [module for name, module in modules.items() if name.endswith(saved)]  # PEFT's rule, "norm" in "layernorm"
    return TrainablePart(targets, sizes, sum(sizes) + sum(p.numel() for m in whole for p in m.parameters()), total)


def _magnitudes(settings: LoraSettings, d: int, k: int) -> int:
    if not METHODS[settings.name].magnitude:
        return 0
    return k if isinstance(settings, DudeSettings) and settings.magnitude_axis == "in" else d
