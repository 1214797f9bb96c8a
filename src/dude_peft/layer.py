"""The state of one DuDe adapter on one linear layer, and its calls into `compose`.

DuDe inside one of PEFT's LoRA layers: its state, its forward, merging and unmerging.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear, LoraVariant
from torch import Tensor, nn

from . import autograd, functional
from .autograd import ComposedLinear
from .base_weight import FullPrecision, check_finite, dense_weight, is_plain, onloaded
from .cache import Kept
from .config import DudeConfig
from .errors import DudeError
from .functional import Composition, Factors, MagnitudeAxis
from .svd import SvdMethod, Variant, cached_triplets, initial_factors, module_seed
from .targets import check_rank


class Start(NamedTuple):
    """Where one adapter starts on one layer: A0 (r, k), B0 (d, r), n0 and P0 as in `compose`; float32 or wider."""

    A0: Tensor
    B0: Tensor
    n0: Tensor
    P0: Tensor


def decompose_start(
    weight: Tensor, name: str, r: int, scaling: float, variant: Variant, axis: MagnitudeAxis, svd: SvdMethod, seed: int
) -> Start:
    """The start of `weight` (d, k) for module `name` (Eq. 3, 5, 6, 10, 11).

    Raises:
        DudeError: r above min(d, k), weights that are not finite or not there (meta device).
    """
    check_rank(name, tuple(weight.shape), r)
    check_finite(name, weight)
    triplets = cached_triplets(weight, r, method=svd, seed=module_seed(name, seed))
    return start_from(weight, *initial_factors(triplets, scaling, variant), axis)


def start_from(weight: Tensor, A0: Tensor, B0: Tensor, axis: MagnitudeAxis) -> Start:
    """The start with given factors: what follows from the weight (d, k) alone is computed, nothing is decomposed."""
    return Start(A0, B0, functional.weight_norm(weight, axis), functional.start_product(weight, A0, B0, axis))


class Magnitude(FullPrecision):
    """The trainable magnitude m, (d,) or (k,): float32, whatever the base's dtype, and at its start n0 itself."""

    def __init__(self, n0: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(n0.clone())


Trained = tuple[Tensor, Tensor, Tensor]  # dA, dB and the magnitude

# While training, dA W0^T rides on the base layer's product where the input has up to this share of the outputs as rows.
# It costs a copy of the input and saves a thin product, for which a CPU packs the whole weight: at d = k = 2048 and
# r = 16 4.2 ms, against 2 ms for the rows and 0.3 ms (256 tokens) to 1.1 ms (1024) for the copy.
JOIN = 0.5


def is_recomputing() -> bool:
    """Whether a backward is under way: then a forward is that of checkpointing, which must give the same bits."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


class State(NamedTuple):
    """What a forward needs of where the parameters stand.

    Attributes:
        now: for the backward; None outside of training.
        ready: what the input is multiplied by.
        whole: W' (d, k) itself, where it is kept (`dense.keeps`).
    """

    now: Composition | None
    ready: Factors
    whole: Tensor | None = None


def check_whole(tensors: Iterable[Any]) -> None:
    """Refuse parts of a layer that were sharded after the adapter was added, as long as they are not gathered.

    Raises:
        DudeError: flat parameters of FSDP1, DTensors of tensor parallelism. FSDP2 gathers a layer before its forward.
    """
    for tensor in tensors:
        if tensor is None or (type(tensor) is nn.Parameter and not hasattr(tensor, "_fsdp_flattened")):
            continue
        if hasattr(tensor, "_fsdp_flattened") or getattr(tensor._base, "_is_flat_param", False):
            raise DudeError(
                "the model is wrapped in FSDP1, whose flat parameters hold DuDe's frozen and trained parts together. "
                "Use FSDP2: fully_shard, or fsdp_version: 2 in accelerate's configuration"
            )
        if hasattr(tensor, "full_tensor"):
            raise DudeError(
                "a weight of the layer is a DTensor (tensor parallelism), which DuDe's norm over a whole row or column "
                "does not support. Shard with FSDP2 (fully_shard) alone"
            )


START_NAMES = tuple(f"lora_{name}" for name in Start._fields)


class FrozenStart(FullPrecision):
    """The frozen start of one adapter and the two choices that its formulas depend on.

    Parameters rather than buffers, because sharding, checkpoints and reference copies all walk over parameters.

    Args:
        start: A0 (r, k), B0 (d, r), n0 and P0.
        axis: of the magnitude.
        detach_norm: leave the norm out of the gradient.
    """

    def __init__(self, start: Start, axis: MagnitudeAxis, detach_norm: bool) -> None:
        super().__init__()
        self.lora_A0, self.lora_B0, self.lora_n0, self.lora_P0 = (nn.Parameter(t, requires_grad=False) for t in start)
        self.axis, self.detach_norm = axis, detach_norm
        self._kept: Kept[State] = Kept()
        self._checked = False  # whether a forward has been seen since the mode was set: see `check_whole`
        self._joined = False  # whether the latest forward had one product, which may round otherwise than two

    @property
    def start(self) -> Start:
        """The four frozen parameters."""
        held: Any = self._parameters  # a module's own attributes are slow to look up
        return Start(*(held[name] for name in START_NAMES))

    def train(self, mode: bool = True) -> FrozenStart:
        """As every module's; what was kept is dropped."""
        self._kept.drop()
        self._checked = False
        return super().train(mode)

    def compose(self, dA: Tensor, dB: Tensor, magnitude: Tensor, weight: Tensor, scaling: float) -> Composition:
        """Where the parameters stand: see `compose.composition`."""
        return functional.composition(dA, dB, magnitude, self.start, weight, scaling, self.axis, self.detach_norm)

    def forward(
        self, x: Tensor, x_update: Tensor, y0: Tensor | None, trained: Trained, base: nn.Module, scaling: float
    ) -> Tensor:
        """y = x W'^T + b (..., d).

        Args:
            x: (..., k), and x_update: the same after dropout, in the dtype of y0 where that is given.
            y0: (..., d), the base layer's own output, or what other adapters made of it. None where `base` is
                `is_plain` and no other adapter is active: its product, and its gradient, are then computed here.
            trained: dA, dB and the magnitude. scaling: s, as in `compose`.
            base: the linear layer of W0 and b.
        """
        if not (self._checked or torch.compiler.is_compiling()):
            check_whole((*trained, *self._parameters.values(), base.weight))
            self._checked = True
        forward = self._forward_out if self.axis == "out" else self._forward_in
        return forward(x, x_update, y0, trained, base, scaling)

    def from_kept(self, x: Tensor, trained: Trained, base: Any, scaling: float) -> Tensor | None:
        """y (..., d) without a gradient or dropout from what is kept, in a few calls; None where `forward` is to do it.

        Args:
            x: (..., k). trained: dA, dB and the magnitude. scaling: s. base: a layer that `is_plain`.
        """
        if self.axis != "out" or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type):
            return None
        weight = dense_weight(base)
        key = (scaling, x.dtype, torch.is_inference_mode_enabled())
        state = self._kept.get(trained, (*self.start, weight), key, self.training)
        if state is None:
            return None
        if state.whole is not None:
            return F.linear(x, state.whole, base.bias)
        (d, k), (Ah, outer, gain) = weight.shape, state.ready
        flat = x.reshape(-1, k)
        if autograd.pays(flat.shape[0], d, k, Ah.shape[0] // 2, False) and self._is_exact(x.dtype, weight):
            return None
        y0 = base.forward(flat)  # has no hooks
        return functional.output(y0, base.bias, gain, F.linear(flat, Ah), outer, own=True).view(*x.shape[:-1], d)

    def _forward_out(
        self, x: Tensor, x_update: Tensor, y0: Tensor | None, trained: Trained, base: Any, scaling: float
    ) -> Tensor:
        weight, shape = dense_weight(base), (*x.shape[:-1], -1)
        reaching = (x, *trained) if y0 is None else (x, y0, *trained)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in reaching)
        if y0 is None and x_update is x and self._is_exact(x.dtype, weight):
            (d, k), flat = weight.shape, x.reshape(-1, x.shape[-1])
            if autograd.pays(flat.shape[0], d, k, self.lora_A0.shape[0], self.training or learns):
                return self._forward_dense(flat, trained, base, weight, scaling, learns).view(shape)
        own = None
        if y0 is None:
            with torch.no_grad():
                own, (now, ready, _) = self._own_product(x, trained, base, weight, scaling, learns)
        else:
            now, ready, _ = self._state(trained, weight, scaling, y0.dtype, learns)
            y0 = y0.reshape(-1, y0.shape[-1])
        dtype = ready.Ah.dtype
        dropped = None if x_update is x else x_update.to(dtype).reshape(-1, x.shape[-1])
        x = x.to(dtype).reshape(-1, x.shape[-1])
        bias = None if base.bias is None else base.bias.to(dtype)
        if learns:
            y = ComposedLinear.apply(x, dropped, y0, *trained, own, now, ready, weight, bias, scaling, self.detach_norm)
            return y.view(shape)
        with functional.without_autocast(x.device):
            inner = F.linear(x if dropped is None else dropped, ready.Ah)
            given, biased = (cast(Tensor, y0), True) if own is None else own
            y = functional.output(given, bias, ready.gain, inner, ready.outer, own=own is not None, biased=biased)
        return y.view(shape)

    def _is_exact(self, dtype: torch.dtype, weight: Tensor) -> bool:
        """Whether the layer may go through its whole weight: in one dtype, not a half one, and not compiled."""
        if torch.compiler.is_compiling() or torch.is_autocast_enabled(weight.device.type) or dtype in functional.HALF:
            return False
        return weight.device.type == "cpu" and dtype == weight.dtype == self.lora_A0.dtype

    def _forward_dense(
        self, x: Tensor, trained: Trained, base: Any, weight: Tensor, scaling: float, learns: bool
    ) -> Tensor:
        """y (n, d) through the whole weight (`dense`), for x (n, k)."""
        with torch.no_grad():
            now, ready, whole = self._state(trained, weight, scaling, x.dtype, learns)
            if whole is None:
                whole = autograd.whole_weight(weight, ready)
        if not learns:
            return F.linear(x, whole, base.bias)
        return autograd.DenseLinear.apply(x, *trained, now, whole, weight, base.bias, scaling, self.detach_norm)

    def _own_product(
        self, x: Tensor, trained: Trained, base: nn.Module, weight: Tensor, scaling: float, learns: bool
    ) -> tuple[tuple[Tensor, bool], State]:
        """x W0^T (n, d) and whether the bias is in it, and the state; in training from one product, where it pays."""
        mixed = torch.is_autocast_enabled(x.device.type)
        state = None if mixed else self._kept_state(trained, weight, scaling, x.dtype, learns)
        flat = x.reshape(-1, x.shape[-1])
        may_join = self.training and not mixed and x.dtype == weight.dtype
        may_join = may_join and flat.shape[0] <= JOIN * weight.shape[0]
        if not is_recomputing():
            self._joined = may_join and state is None
        if may_join and self._joined:
            given, product = functional.output_and_difference_product(flat, trained[0], weight, self.lora_A0.dtype)
            return (given, False), self._new_state(trained, weight, scaling, x.dtype, learns, product)
        given = base(x)
        if state is None:
            state = self._state(trained, weight, scaling, given.dtype, learns)
        return (given.view(-1, given.shape[-1]), True), state

    def _forward_in(
        self, x: Tensor, x_update: Tensor, y0: Tensor | None, trained: Trained, base: Any, scaling: float
    ) -> Tensor:
        weight = dense_weight(base)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in trained)
        one_product = y0 is None and isinstance(base, nn.Linear) and x.dtype not in functional.HALF
        one_product = one_product and not torch.is_autocast_enabled(x.device.type)
        if y0 is None and not one_product:
            y0 = base(x)
        dtype = x.dtype if y0 is None else y0.dtype
        _, (Ah, outer, gain), _ = self._state(trained, weight, scaling, dtype, learns)
        whole, x = x_update is x, x.to(dtype)
        x_update = x if whole else x_update.to(dtype)
        if y0 is None:
            return functional.scaled_input_product(x, x_update, weight, base.bias, gain, Ah, outer)
        return functional.scaled_input_output(y0, x, x_update, weight.to(dtype), gain, Ah, outer)

    def _state(self, trained: Trained, weight: Tensor, scaling: float, dtype: torch.dtype, learns: bool) -> State:
        kept = self._kept_state(trained, weight, scaling, dtype, learns)
        return self._new_state(trained, weight, scaling, dtype, learns) if kept is None else kept

    def _kept_state(
        self, trained: Trained, weight: Tensor, scaling: float, dtype: torch.dtype, learns: bool
    ) -> State | None:
        # Axis "in" has autograd's gradient, through the norm.
        if torch.compiler.is_compiling() or (learns and self.axis == "in"):
            return None
        # What inference mode computes, a training step could not save for its backward.
        key = (scaling, dtype, torch.is_inference_mode_enabled())
        state = self._kept.get(trained, (*self.start, weight), key, self.training)
        return None if state is None or (learns and state.now is None) else state

    def _new_state(
        self,
        trained: Trained,
        weight: Tensor,
        scaling: float,
        dtype: torch.dtype,
        learns: bool,
        product: Tensor | None = None,
    ) -> State:
        by_autograd = learns and self.axis == "in"
        start, axis = self.start, self.axis
        with torch.set_grad_enabled(by_autograd):
            now = functional.composition(*trained, start, weight, scaling, axis, self.detach_norm, product)
            ready = functional.forward_factors(now, scaling, axis, dtype)
            keeps = not (learns or self.training) and axis == "out" and autograd.keeps(weight.numel())
            whole = autograd.whole_weight(weight, ready) if keeps and self._is_exact(dtype, weight) else None
        state = State(now if learns else None, ready, whole)
        if not (by_autograd or torch.compiler.is_compiling()):
            self._kept.put(
                state, trained, (*start, weight), (scaling, dtype, torch.is_inference_mode_enabled()), self.training
            )
        return state

    def extra_repr(self) -> str:
        """Shapes and choices, as `print(model)` shows them."""
        return f"r={self.lora_A0.shape[0]}, axis={self.axis!r}, detach_norm={self.detach_norm}"


TRAINED_NAMES = ("lora_A", "lora_B", "lora_magnitude_vector")


def trained_parameters(module: Any, adapter: str) -> Trained:
    """dA (r, k), dB (d, r) and the magnitude of `adapter` on PEFT's layer `module`."""
    return module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.lora_magnitude_vector[adapter].weight


def apply(module: Any, adapter: str, x: Tensor, dropped: Tensor, y0: Tensor | None) -> Tensor:
    """`FrozenStart.forward` of `adapter` on PEFT's layer `module`."""
    trained, base = trained_parameters(module, adapter), module.get_base_layer()
    if base.weight.is_meta:  # between the forwards of a layer that is offloaded
        with onloaded(base):
            return module.lora_dude[adapter](x, dropped, y0, trained, base, module.scaling[adapter])
    return module.lora_dude[adapter](x, dropped, y0, trained, base, module.scaling[adapter])


class DudeLinear(Linear):
    """PEFT's LoRA layer with a short way for its commonest state: one DuDe adapter, active and not merged, on a base
    that `is_plain`. The base's product is then made together with the adapter's; every other state goes PEFT's way.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """y (..., d) for x (..., k)."""
        if not (args or kwargs or self.training or torch.is_grad_enabled()):
            y = self._from_kept(x)
            if y is not None:
                return y
        active = self.active_adapters
        if len(active) == 1 and not (args or kwargs or self.disable_adapters or self.merged_adapters):
            adapter = active[0]
            if adapter in getattr(self, "lora_dude", ()) and is_plain(self.base_layer):
                return apply(self, adapter, x, self.lora_dropout[adapter](x), None)
        return super().forward(x, *args, **kwargs)

    def _from_kept(self, x: Tensor) -> Tensor | None:
        """y (..., d) from what is kept in eval mode, or None where the layer is to go the whole way.

        For a step of generation, where looking up modules and parameters by their names as attributes took several
        times as long as the products: here they are read from the tables that these look-ups end in.
        """
        held: Any = self.__dict__
        active, modules = held["_active_adapter"], held["_modules"]
        adapter = active if isinstance(active, str) else active[0] if len(active) == 1 else None
        start = modules["lora_dude"]._modules.get(adapter)
        if start is None or held["_disable_adapters"] or held["merged_adapters"]:
            return None
        base = modules["base_layer"]
        if modules["lora_dropout"]._modules[adapter].training or not is_plain(base):
            return None
        trained = tuple(modules[name]._modules[adapter]._parameters["weight"] for name in TRAINED_NAMES)
        return start.from_kept(x, trained, base, held["scaling"][adapter])


class DudeVariant(LoraVariant):
    """How PEFT's LoRA layer computes, merges and unmerges a DuDe adapter (Eq. 7).

    Several active adapters compose in order for axis `"out"`, as PEFT's DoRA does: each scales what it is given. For
    axis `"in"` they add.
    """

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Nothing: `attach` makes the whole state at once, after PEFT has built its layer."""

    @staticmethod
    def attach(module: Any, adapter_name: str, start: Start, config: DudeConfig) -> None:
        """Turn the LoRA adapter `adapter_name` of PEFT's layer into a DuDe adapter at its start."""
        for parameter in (module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight):
            nn.init.zeros_(parameter)  # the differences
        if not hasattr(module, "lora_dude"):
            module.lora_dude = nn.ModuleDict()
            # Not among the adapter_layer_names, so that PEFT moves and deletes the start but never trains it.
            module.other_param_names = (*module.other_param_names, "lora_dude")
        module.lora_dude[adapter_name] = FrozenStart(start, config.magnitude_axis, config.detach_norm)
        module.lora_magnitude_vector[adapter_name] = Magnitude(start.n0)
        module.lora_variant[adapter_name] = DudeVariant()
        if type(module) is Linear:
            module.__class__ = DudeLinear

    @staticmethod
    def _compose(module: Any, adapter: str, weight: Tensor) -> functional.Composition:
        return module.lora_dude[adapter].compose(*trained_parameters(module, adapter), weight, module.scaling[adapter])

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """y (..., d) from the layer's input x (..., k) and the base layer's own output `result` (..., d)."""
        x = x.to(result.dtype)
        dropped = module.lora_dropout[active_adapter](x)
        return apply(module, active_adapter, x, dropped, result)

    @staticmethod
    @torch.no_grad()
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The merged weight in the base layer's own layout; the base's bits are kept for `unmerge`."""
        base = module.get_base_layer()
        if module.merged_adapters:
            with module._unmerged_base_weight() as unmerged:
                W0 = unmerged.T if module.fan_in_fan_out else unmerged
                now = DudeVariant._compose(module, active_adapter, W0)
        else:
            W0 = dense_weight(base)
            now = DudeVariant._compose(module, active_adapter, W0)
        current, scaling, axis = (
            dense_weight(base),
            module.scaling[active_adapter],
            module.lora_dude[active_adapter].axis,
        )
        if axis == "out" or not module.merged_adapters:
            merged = functional.merged_weight(current, now.gain, now.Ah, now.Bt, scaling, axis)
        else:
            own = functional.merged_weight(W0.float(), now.gain, now.Ah, now.Bt, scaling, axis) - W0.float()
            merged = (current.float() + own).to(current.dtype)
        # Dividing back would change base bits, and W0 is never given up: its storage stays here until unmerge.
        module._cache_store(f"{active_adapter}-unmerged", base.weight.data)
        return merged.T.contiguous() if module.fan_in_fan_out else merged

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Like `merge_safe`, put in place."""
        orig_weight.data = DudeVariant.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """The weight as it was before the merge, bit for bit."""
        return module._cache_pop(f"{active_adapter}-unmerged").to(orig_weight.device)

    def supports_lora_conversion(self) -> bool:
        """No: the magnitude makes W' - W0 a matrix of full rank."""
        return False
