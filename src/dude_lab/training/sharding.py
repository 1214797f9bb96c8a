"""FSDP2 in a run: sharding, gathering to save, and the optimizer's state in the form that one process has.

A checkpoint does not depend on the number of processes, nor on whether the model was sharded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module, device: torch.device, count: int) -> None:
    """Shard a model, with its adapter, over `count` processes by `fully_shard`: each decoder layer, then the rest.

    Collective. The parameters of the model are replaced by DTensors; the optimizer has to be made afterwards.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    mesh = init_device_mesh(device.type, (count,))
    layers = set(getattr(base, "_no_split_modules", None) or ())
    for module in list(base.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(base, mesh=mesh)  # not the PeftModel: `generate` calls the base model


def reshard(model: nn.Module) -> None:
    """Free the gathered parameters that a forward without backward leaves in the outermost module.

    The next training step would otherwise use them after the optimizer has updated the shards, and saving in one
    process would free them in this one alone.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Return whether parameters of `model` are DTensors."""
    return any(isinstance(p, DTensor) for p in model.parameters())


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor's full value; collective for a DTensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def saved_parameters(model: nn.Module) -> list[tuple[dict[str, Any], str, nn.Parameter]]:
    """Return the trained parameters and those of adapters, each with the dictionary that has it and its key there."""
    places: list[tuple[dict[str, Any], str, nn.Parameter]] = []
    frozen: tuple[str, ...] = ()  # prefixes of frozen base layers inside adapters' layers
    adapted: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            adapted += (f"{name}.",)
            frozen += (f"{name}.base_layer.", f"{name}.original_module.")
        for key, parameter in module._parameters.items():
            full = f"{name}.{key}"
            of_adapter = full.startswith(adapted) and not full.startswith(frozen)
            if parameter is not None and (parameter.requires_grad or of_adapter):
                places.append((module._parameters, key, parameter))
    return places


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Return a context in which the trained parameters and those of adapters have their full values; collective.

    The frozen weights of the base stay sharded, so that one process can save the adapter, but not compute.
    """
    reshard(model)
    places = [place for place in saved_parameters(model) if isinstance(place[2], DTensor)]
    # Of `fully_shard`, for DTensors; PEFT loads the initial adapter to save the difference to it.
    hooks = [(module, module._load_state_dict_post_hooks) for module in model.modules()]
    seen: dict[int, nn.Parameter] = {}  # tied parameters stay tied
    for parameters, key, parameter in places:
        if id(parameter) not in seen:
            value = full_tensor(parameter).detach()
            seen[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
        parameters[key] = seen[id(parameter)]
    for module, own in hooks:
        module._load_state_dict_post_hooks = type(own)()
    try:
        yield
    finally:
        for module, own in hooks:
            module._load_state_dict_post_hooks = own
        for parameters, key, parameter in places:
            parameters[key] = parameter


def full_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """Return the state of an optimizer of sharded parameters as that of full ones; collective."""
    state = optimizer.state_dict()
    full = {
        index: {key: full_tensor(value) if isinstance(value, Tensor) else value for key, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": full}


def shard_optimizer_state(optimizer: Any) -> None:
    """Shard the state that was loaded into an optimizer of sharded parameters as these are."""
    for parameter, values in optimizer.state.items():
        if not isinstance(parameter, DTensor):
            continue
        for key, value in values.items():
            if isinstance(value, Tensor) and not isinstance(value, DTensor) and value.shape == parameter.shape:
                values[key] = distribute_tensor(
                    value, parameter.device_mesh, cast(Any, parameter.placements), src_data_rank=None
                )
