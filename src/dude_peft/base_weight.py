"""The linear layers that can be adapted: their weight, its checks, and its device."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .errors import DudeError

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def dense_weight(layer: nn.Module, name: str = "") -> Tensor:
    """Return the weight of a linear layer as (d, k) = (out_features, in_features): a view, never a copy.

    Raises:
        DudeError: not a linear layer, a quantised one, or one without values; names the module.
    """
    weight = getattr(layer, "weight", None)
    kind = type(layer).__name__
    if not isinstance(layer, nn.Linear | Conv1D) or not isinstance(weight, Tensor) or weight.ndim != 2:
        raise DudeError(
            f"module '{name}' is a {kind}: DuDe adapts nn.Linear and Conv1D. Leave it out of target_modules"
        )
    if weight.dtype not in FLOATS:
        raise DudeError(
            f"module '{name}' ({kind}) holds {weight.dtype} weights: DuDe decomposes float32, bfloat16 and float16. "
            "Load the base model without quantisation"
        )
    return weight.T if isinstance(layer, Conv1D) else weight


def onloaded(layer: nn.Module) -> Any:
    """Return a context in which a layer that accelerate offloads has its weight on its execution device.

    Between its forwards such a layer has none. For every other layer the context does nothing.
    """
    weight = layer._parameters.get("weight")
    if weight is None or not weight.is_meta or not hasattr(layer, "_hf_hook"):
        return contextlib.nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(layer)


def is_plain(layer: nn.Module) -> bool:
    """Return whether `layer` computes x W^T + b with frozen W and b, without hooks or another forward.

    Its backward is then one product, which `ComposedLinear` computes together with r rows of Eq. 9.
    """
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    own_forward = type(layer) not in (nn.Linear, Conv1D) or "forward" in layer.__dict__
    return not (hooked or own_forward or any(p is not None and p.requires_grad for p in layer._parameters.values()))


def check_finite(name: str, weight: Tensor) -> None:
    """Reject a non-finite weight (d, k).

    Raises:
        DudeError: values that are not there (meta device) or not finite; names the module.
    """
    check_present(name, weight)
    if not torch.isfinite(weight).all():
        raise DudeError(
            f"module '{name}' has {int((~torch.isfinite(weight)).sum())} weights that are not finite (NaN or inf), so "
            "it has no singular values. Check the base model's file, or leave the module out of target_modules"
        )


def check_present(name: str, weight: Tensor) -> None:
    """Reject a weight on the meta device.

    Raises:
        DudeError: names the module.
    """
    if weight.is_meta:
        raise DudeError(
            f"module '{name}' has no values (meta device): load the base model's weights first. A model that "
            "accelerate offloads works where each linear layer has its own hook, as cpu_offload, disk_offload and "
            "device_map give it"
        )


class FullPrecision(nn.Module):
    """A module whose parameters follow the model's device and never go below float32.

    `model.to(torch.bfloat16)` or `.half()` after the adapter was added would round n0, P0 and the magnitude
    separately, and m / ||V|| would no longer be 1 at the initialisation.
    """

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def moved(tensor: Tensor) -> Tensor:
            new = cast(Tensor, fn(tensor))
            narrower = new.is_floating_point() and new.element_size() < 4 <= tensor.element_size()
            return tensor.to(new.device) if narrower else new

        return super()._apply(moved, recurse)
