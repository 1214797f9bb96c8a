"""The weights that can be adapted: of linear layers, dense or quantised, and of experts; their checks, their device."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from .errors import DudeError

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Quantization(NamedTuple):
    """How the weight of a quantised layer is read.

    Attributes:
        name: of the format, for messages.
        dequantize: layer -> its weight (d, k), a new tensor.
        plain_on: devices where the layer's backward is G W with that weight, so that it `is_plain`.
        dense_on: devices where its forward is x W^T + b with that weight, bit for bit.
    """

    name: str
    dequantize: Callable[[Any], Tensor]
    plain_on: tuple[str, ...] = ()
    dense_on: tuple[str, ...] = ()


def _bnb_4bit(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    data, state = layer.weight.data, layer.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):  # the layout of the AVX512 kernel: unpack a copy
        from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

        data, state = _convert_weight_packed_for_cpu_inverse(data.clone(), copy.copy(state))
    return dequantize_4bit(data, state)


def _bnb_8bit(layer: Any) -> Tensor:
    """W = CB * SCB / 127, one scale for each output. Once the layer was called, `state` has them."""
    weight, state = layer.weight, layer.state
    codes = weight.data if state.CB is None else state.CB
    scales = weight.SCB if getattr(weight, "SCB", None) is not None else state.SCB
    return codes.to(scales.dtype) * (scales.view(-1, 1) / 127)


def _by_its_own_method(layer: Any) -> Tensor:
    return layer.weight.dequantize()


def quantization(layer: nn.Module) -> Quantization | None:
    """Return how the weight of `layer` is dequantised, or None where it is not quantised in a supported format.

    Classes are recognised by name: none of these libraries is imported for a model that does not use it.
    """
    weight = layer._parameters.get("weight")
    if type(layer) in (nn.Linear, Conv1D) and type(weight) in (nn.Parameter, Tensor):
        return None
    for kind in type(layer).__mro__:
        if found := _QUANTIZED_LAYERS.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}"):
            return found
    package = type(weight).__module__
    return next((found for prefix, found in _QUANTIZED_TENSORS.items() if package.startswith(prefix)), None)


_QUANTIZED_LAYERS = {
    # On a GPU bitsandbytes has a fused forward for up to 4 to 1536 tokens, by version, GPU and shape.
    "bitsandbytes.Linear4bit": Quantization("bitsandbytes, 4 bits", _bnb_4bit, ("cpu", "cuda"), ("cpu",)),
    "bitsandbytes.Linear8bitLt": Quantization("bitsandbytes, 8 bits", _bnb_8bit),
}
_QUANTIZED_TENSORS = {
    "torchao.": Quantization("torchao", _by_its_own_method),
    "optimum.quanto.": Quantization("quanto", _by_its_own_method),
}


def is_partitioned(weight: Any) -> bool:
    """Return whether DeepSpeed's ZeRO-3 has divided the values of a parameter among the processes."""
    return hasattr(weight, "ds_shape") and weight.numel() != weight.ds_numel


def weight_shape(layer: nn.Module, name: str = "") -> tuple[int, int]:
    """Return (d, k) = (out_features, in_features) of a linear layer; reads no values.

    Raises:
        DudeError: not a linear layer, or one quantised in a format that is not supported; names the module.
    """
    weight = getattr(layer, "weight", None)
    kind = type(layer).__name__
    if isinstance(layer, nn.Linear) and quantization(layer) is not None:
        return layer.out_features, layer.in_features
    shape: Any = getattr(weight, "ds_shape" if is_partitioned(weight) else "shape", ())
    if not isinstance(layer, nn.Linear | Conv1D) or not isinstance(weight, Tensor) or len(shape) != 2:
        raise DudeError(
            f"module '{name}' is a {kind}: DuDe adapts nn.Linear and Conv1D. Leave it out of target_modules"
        )
    if weight.dtype not in FLOATS:
        raise DudeError(
            f"module '{name}' ({kind}) holds {weight.dtype} weights: DuDe decomposes float32, bfloat16 and float16, "
            "and bases quantised by bitsandbytes, torchao or quanto. Load the base model in one of them"
        )
    d, k = shape
    return (k, d) if isinstance(layer, Conv1D) else (d, k)


def dense_weight(layer: nn.Module, name: str = "") -> Tensor:
    """Return the weight of a linear layer as (d, k): a view, or a new tensor where the layer is quantised.

    Raises:
        DudeError: as `weight_shape`; a weight that ZeRO-3 partitions and has not gathered.
    """
    quantized = quantization(layer)
    if quantized is not None:
        with torch.no_grad():
            return quantized.dequantize(layer).detach()
    weight_shape(layer, name)
    weight = cast(Tensor, layer.weight)
    if is_partitioned(weight):
        where = f"module '{name}'" if name else f"a {type(layer).__name__}"
        raise DudeError(
            f"the weight of {where} is divided among processes by DeepSpeed's ZeRO-3: train through its engine, and to "
            "merge, save the adapter and load it on the base model in one process"
        )
    return weight.T if isinstance(layer, Conv1D) else weight


class DenseLinear(nn.Linear):
    """A frozen linear layer in place of a quantised one, for any dtype of its input, as quantised layers are."""

    def __init__(self, layer: nn.Linear, weight: Tensor) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        self.weight = nn.Parameter(weight, requires_grad=False)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(weight.dtype), requires_grad=False)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b (..., d) in the dtype of x (..., k)."""
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias).to(x.dtype)


def record_dense_layers(model: nn.Module) -> None:
    """Let the config of a transformers model say which of its layers are no longer quantised, so that it can be saved.

    Where none is left the model is an ordinary one again.
    """
    dense = [name for name, module in model.named_modules() if type(module) is DenseLinear]
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if not dense or quantizer is None:
        return
    if not any(quantization(module) for module in model.modules()):
        quantizer.remove_quantization_config(model)
        for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
            if hasattr(model, flag):
                setattr(model, flag, False)
        return
    config: Any = cast(Any, model).config.quantization_config
    option = "llm_int8_skip_modules" if hasattr(config, "llm_int8_skip_modules") else "modules_to_not_convert"
    setattr(config, option, [*dict.fromkeys([*(quantizer.modules_to_not_convert or ()), *dense])])


def onloaded(layer: nn.Module) -> Any:
    """Return a context in which a layer that accelerate offloads has its weight on its execution device.

    Between its forwards such a layer has none. For every other layer the context does nothing.
    """
    weight = layer._parameters.get("weight")
    if weight is None or not weight.is_meta or not hasattr(layer, "_hf_hook"):
        return contextlib.nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(layer)


def with_values(layer: nn.Module) -> Any:
    """Return a context in which a layer has its weight, as `onloaded`, also where ZeRO-3 partitions it; then
    collective."""
    weight = layer._parameters.get("weight")
    if not is_partitioned(weight):
        return onloaded(layer)
    import deepspeed

    return deepspeed.zero.GatheredParameters([weight])


def is_plain(layer: nn.Module, x: Tensor) -> bool:
    """Return whether `layer` computes x W^T + b with frozen W and b, without hooks or another forward.

    Its backward is then one product, which `ComposedLinear` computes together with r rows of Eq. 9. So does a layer of
    4 bits, whose own backward is that product with the dequantised weight.
    """
    hooked = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    if (
        hooked
        or "forward" in layer.__dict__
        or any(p is not None and p.requires_grad for p in layer._parameters.values())
    ):
        return False
    quantized = quantization(layer)
    if quantized is None:
        return type(layer) in (nn.Linear, Conv1D)
    return x.device.type in quantized.plain_on and getattr(layer, "compute_dtype", None) in (None, x.dtype)


def multiplies_dense(layer: nn.Module, x: Tensor) -> bool:
    """Return whether a quantised layer's forward with a gradient is the product with its dequantised weight."""
    quantized = quantization(layer)
    return quantized is not None and x.device.type in quantized.dense_on


def base_product(layer: Any, x: Tensor, weight: Tensor | None) -> Tensor:
    """Return x W^T + b (..., d) of a layer that `is_plain`: its own call, or the product with `weight`.

    `weight` is that of a quantised layer that `multiplies_dense`, where a gradient is needed. Without one it may use a
    kernel of its own. With one, bitsandbytes computes the product with the dequantised weight too on a CPU, unless the
    weight was repacked for an AVX512 kernel in eval mode: that kernel has no gradient.
    """
    if weight is None:
        return layer(x)
    return F.linear(x, weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def check_finite(name: str, weight: Tensor) -> None:
    """Reject a non-finite weight (d, k).

    Raises:
        DudeError: values that are not there (meta device) or not finite; names the module.
    """
    check_present(name, weight)
    if weight.numel() == 0 or bool(torch.isfinite(weight.amax()) & torch.isfinite(weight.amin())):
        return  # NaN is the largest and the smallest; an eighth of the time of the count
    lost = sum(int((~torch.isfinite(part)).sum()) for part in weight.split(1024))  # in parts: it copies its input
    if lost:
        raise DudeError(
            f"module '{name}' has {lost} weights that are not finite (NaN or inf), so "
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


STACKS = ("gate", "up", "down")  # with `_proj`, PEFT would take their entries for those of transformers 4
CONTRACT = ("has_gate", "is_transposed", "down_proj", "_apply_gate")


class Stack(NamedTuple):
    """One matrix of all experts, as a part of a parameter of three dimensions.

    Attributes:
        name: `gate`, `up` or `down`.
        parameter: the name of the parameter.
        transposed: whether the parameter is (E, k, outputs) instead of (E, outputs, k).
        part: 0 for gate and 1 for up in `gate_up_proj`; None where the parameter has one matrix an expert.
        interleaved: whether the outputs of gate and up alternate.
    """

    name: str
    parameter: str
    transposed: bool = False
    part: int | None = None
    interleaved: bool = False

    def outputs(self, values: Tensor) -> Tensor:
        """Return this matrix's part of the parameter's outputs (..., D) as a view (..., d)."""
        if self.part is None:
            return values
        return values[..., self.part :: 2] if self.interleaved else values.chunk(2, dim=-1)[self.part]

    def weight(self, parameter: Tensor) -> Tensor:
        """Return the weights (E, d, k) of the parameter as a view."""
        by_input = parameter if self.transposed else parameter.transpose(1, 2)
        return self.outputs(by_input).transpose(1, 2)

    def shape(self, parameter: Tensor) -> tuple[int, int]:
        """Return (d, k); reads no values."""
        _, first, second = parameter.shape
        outputs, k = (second, first) if self.transposed else (first, second)
        return (outputs if self.part is None else outputs // 2), k


def stacks_of(experts: nn.Module, name: str) -> dict[str, Stack]:
    """Return the stacks of a module that follows transformers' contract, by name.

    Raises:
        DudeError: another kind of module, or experts that are divided among processes; names the module.
    """
    module: Any = experts
    if not all(hasattr(module, key) for key in CONTRACT):
        raise DudeError(
            f"target_parameters: '{name}' is a {type(module).__name__}: DuDe adapts experts in the form of "
            "transformers 5 (gate_up_proj or up_proj, down_proj, _apply_gate). Leave its parameters out"
        )
    if getattr(module, "_is_expert_parallel", False):
        raise DudeError(
            f"target_parameters: the experts of '{name}' are divided among processes (expert parallelism), which DuDe "
            "does not support. Load the model without it"
        )
    transposed, first = module.is_transposed, "gate_up_proj" if module.has_gate else "up_proj"
    gate, up, down = STACKS
    found = [Stack(down, "down_proj", transposed)]
    if module.has_gate:
        interleaved = not getattr(module, "is_concatenated", not transposed)
        found = [*(Stack(one, first, transposed, part, interleaved) for part, one in enumerate((gate, up))), *found]
    else:
        found = [Stack(up, first, transposed), *found]
    for stack in found:
        if is_partitioned(getattr(module, stack.parameter, None)):
            raise DudeError(
                f"target_parameters: '{name}.{stack.parameter}' is divided among processes by DeepSpeed's ZeRO-3, "
                "which DuDe supports for linear layers. Add the adapter first, and then call deepspeed.initialize"
            )
        if getattr(getattr(module, stack.parameter, None), "ndim", None) != 3:
            raise DudeError(f"target_parameters: '{name}.{stack.parameter}' is not a parameter of three dimensions")
    return {stack.name: stack for stack in found}
