"""Which linear layers of a model can take an adapter, and why the others cannot.

Everything here reads modules, names and shapes; nothing is changed, and a model on the meta device will do.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .base_weight import FLOATS, quantization
from .errors import DudeError, shorten
from .expressions import layer_pattern

LINEAR = (nn.Linear, Conv1D)
LINEAR_FORWARDS = frozenset(kind.forward for kind in LINEAR)


def check_unsharded(model: nn.Module) -> None:
    """Refuse a model whose weights are divided among processes already.

    Raises:
        DudeError: FSDP1 around or inside the model, tensor parallelism of transformers, or DTensors as weights.
    """
    order = (
        "DuDe decomposes the whole weight. Add or load the adapter first and shard the model with FSDP2 (fully_shard) "
        "afterwards; FSDP1 and tensor parallelism are not supported"
    )
    for name, module in model.named_modules():
        if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
            raise DudeError(f"module '{name or 'model'}' is sharded over processes (FSDP1). {order}")
        for key, parameter in module._parameters.items():
            if hasattr(parameter, "full_tensor") or type(parameter).__name__ in ("DTensor", "FlatParameter"):
                full = f"{name}.{key}" if name else key
                raise DudeError(
                    f"parameter '{full}' is sharded over processes (a {type(parameter).__name__} of FSDP or tensor "
                    f"parallelism). {order}"
                )
    size = getattr(model, "_tp_size", None)
    if size and size > 1:
        raise DudeError(
            f"the model is divided among {size} processes by tensor parallelism (tp_plan), which DuDe's norm over a "
            "whole row or column of a weight does not support. Load it without tp_plan"
        )


def expert_names(model: nn.Module) -> set[str]:
    """Return the last names of modules that PEFT reads as the fused experts or the router of this kind of model.

    From transformers 5 on the experts of some architectures are one parameter of three dimensions. PEFT then takes
    `gate_proj`, `w1` and the like in `target_modules` for that parameter, wherever in the model they stand.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type is None:
        return set()
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # a PEFT without this reading
        return set()
    taken = set()
    for last in {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, LINEAR)}:
        config = LoraConfig(target_modules=[last])
        try:
            convert_peft_config_for_transformers(config, model=model, conversions=None)
        except ValueError:  # one of several names that are fused into one parameter
            taken.add(last)
        else:
            if last not in (config.target_modules or ()):
                taken.add(last)
    return taken


def expert_parts(model: nn.Module) -> list[str]:
    """Return the names of parameters of three dimensions (experts) and routers, with `*` for the layer's number."""
    names: dict[str, None] = {}
    for block_name, block in model.named_modules():
        children = dict(block.named_children())
        experts = [name for name, child in children.items() if _is_fused(child)]
        for name in experts:
            for key, parameter in children[name]._parameters.items():
                if parameter is not None and parameter.ndim == 3:
                    names[layer_pattern(f"{block_name}.{name}.{key}".lstrip("."))] = None
        for name, child in children.items() if experts else ():
            if _is_router(child):
                names[layer_pattern(f"{block_name}.{name}".lstrip("."))] = None
    return list(names)


def _is_fused(module: nn.Module) -> bool:
    return any(p is not None and p.ndim == 3 for p in module._parameters.values())


def _is_router(module: nn.Module) -> bool:
    """Return whether a module beside fused experts is a router: it has a weight of its own and no children."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim == 2 and not any(True for _ in module.children())


def unsuitable(model: nn.Module) -> dict[str, str]:
    """Return the linear modules that cannot take an adapter, with the reason: name -> reason."""
    modules = dict(model.named_modules())
    bases: dict[str, Any] = {}
    for name, module in modules.items():
        base = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
        if isinstance(base, LINEAR):
            bases[name] = base
    shared, places, fused = _shared_parameters(model), _places(model), expert_names(model)
    routers = {f"{n}." for n, m in modules.items() if any(_is_fused(child) for child in m.children())}
    found: dict[str, str] = {}
    for name, base in bases.items():
        parent_name, _, last = name.rpartition(".")
        weight = base._parameters.get("weight")
        if weight is not None and weight.dtype not in FLOATS and quantization(base) is None:
            continue  # quantised in a format that `weight_shape` rejects
        if isinstance(modules.get(parent_name), nn.MultiheadAttention):
            found[name] = "nn.MultiheadAttention reads its weight without calling it, so an adapter has no gradient"
        elif weight is None:
            found[name] = "its weight is computed from other parameters (parametrize, weight_norm or prune)"
        elif quantization(base) is None and not computes_linear(base):
            found[name] = f"{type(base).__name__} has a forward of its own, which is not x W^T + b"
        elif places[id(modules[name])] > 1:
            found[name] = "the same module stands in several places, and only one would be adapted"
        elif id(weight) in shared:
            others = ", ".join(f"'{other}'" for other in shared[id(weight)] if not other.startswith(f"{name}."))
            found[name] = f"its weight is shared with {shorten(others)}, which merging would change too"
        elif last in fused:
            found[name] = f"PEFT reads '{last}' as the fused experts or the router of this model"
        elif f"{parent_name}." in routers:
            found[name] = "it is a router or gate beside fused experts"
    return found


def computes_linear(layer: nn.Module) -> bool:
    """Return whether the forward of a linear layer's class is x W^T + b, by calling it on a small known weight."""
    kind = type(layer)
    if kind.forward in LINEAR_FORWARDS:
        return True
    inputs, outputs = 5, 6
    weight = torch.linspace(-1, 1, inputs * outputs, device="cpu").square().view(outputs, inputs)
    bias = torch.linspace(1, 2, outputs, device="cpu") if layer._parameters.get("bias") is not None else None
    x = torch.linspace(-2, 1, 3 * inputs, device="cpu").view(3, inputs)
    small_weight = nn.Parameter(weight.T.contiguous() if isinstance(layer, Conv1D) else weight, requires_grad=False)
    small = copy.copy(layer)
    small.__dict__["_parameters"] = {"weight": small_weight, "bias": None if bias is None else nn.Parameter(bias)}
    small.__dict__.update(in_features=inputs, out_features=outputs, nx=inputs, nf=outputs)
    try:
        with torch.no_grad():
            y = kind.forward(small, x)
        return torch.allclose(y, nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-5)
    except Exception:  # whatever a forward raises that expects something else
        return False


def _places(model: nn.Module) -> dict[int, int]:
    """Return for each module, by its id, in how many places of distinct modules it stands."""
    count: dict[int, int] = defaultdict(int)
    for module in model.modules():
        for child in module._modules.values():
            count[id(child)] += 1
    return count


def _shared_parameters(model: nn.Module) -> dict[int, list[str]]:
    """Return parameters, by their id, that have several names or overlap in memory, with all those names."""
    names: dict[int, list[str]] = defaultdict(list)
    tensors: dict[int, Tensor] = {}
    for prefix, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                names[id(parameter)].append(f"{prefix}.{key}".lstrip("."))
                tensors[id(parameter)] = parameter
    shared = {key: list(known) for key, known in names.items() if len(known) > 1}
    for group in _overlapping(tensors.values()):
        together = [name for parameter in group for name in names[id(parameter)]]
        for parameter in group:
            shared[id(parameter)] = together
    return shared


def _overlapping(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield groups of distinct tensors whose memory overlaps."""
    spans = []
    for tensor in tensors:
        if tensor.is_meta or not tensor.numel():
            continue
        try:
            begin = tensor.data_ptr()
        except RuntimeError:  # a subclass without storage
            continue
        if not begin:
            continue
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        spans.append((str(tensor.device), begin, begin + (last + 1) * tensor.element_size(), tensor))
    spans.sort(key=lambda span: span[:3])
    group: list[Tensor] = []
    device, end = "", 0
    for where, begin, stop, tensor in spans:
        if group and where == device and begin < end:
            group.append(tensor)
            end = max(end, stop)
            continue
        if len(group) > 1:
            yield group
        group, device, end = [tensor], where, stop
    if len(group) > 1:
        yield group


def left_out_notes(model: nn.Module, left_out: dict[str, str], adapted: Iterable[str] = ()) -> list[str]:
    """Return what `all-linear` leaves out: fused experts and routers, and unsuitable modules by reason.

    Args:
        model: the model.
        left_out: unsuitable modules, with the reason.
        adapted: parameters of experts that are adapted beside the linear layers.
    """
    notes, those = [], {layer_pattern(name) for name in adapted}
    if (parts := expert_parts(model)) and (left := [part for part in parts if part not in those]):
        shown = shorten(", ".join(left), 400)
        if those:
            notes.append(f"target_parameters leaves out {shown}")
        else:
            notes.append(
                f"all-linear leaves out the experts and the router: {shown}. To adapt the experts as well, name their "
                "parameters in target_parameters (methods dude, dude_a, dude_b and lora)"
            )
    by_reason: dict[str, dict[str, None]] = defaultdict(dict)
    for name, reason in left_out.items():
        if layer_pattern(name) not in parts:
            by_reason[reason][layer_pattern(name)] = None
    for reason, names in by_reason.items():
        notes.append(f"all-linear leaves out {shorten(', '.join(names), 400)}: {reason}")
    return notes
