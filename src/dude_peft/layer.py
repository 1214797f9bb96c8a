"""DuDe inside PEFT's LoRA layer: initial values, parameters, forward, merging and unmerging."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear, LoraVariant
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import functional
from .autograd import ComposedLinear
from .base_weight import (
    DenseLinear,
    FullPrecision,
    base_product,
    check_finite,
    dense_weight,
    is_plain,
    multiplies_dense,
    onloaded,
    quantization,
)
from .cache import FactorCache, MicroStepCache
from .config import DudeConfig
from .errors import DudeError
from .functional import Composition, Factors, MagnitudeAxis
from .svd import (
    ONE_THREAD,
    SvdMethod,
    Variant,
    cached_triplets,
    find_triplets,
    initial_factors,
    module_seed,
    one_thread,
    random_vectors,
)

Trained = tuple[Tensor, Tensor, Tensor]  # dA (r, k), dB (d, r) and the magnitude (d,) or (k,)


class Init(NamedTuple):
    """The initial values of one adapter on one layer, in float32 or wider.

    A0 (r, k), B0 (d, r); n0 = ||W0||_c, (d,) or (k,); P0 = A0 W0^T (r, d) for axis `"out"`, B0^T W0 (r, k) for `"in"`.
    """

    A0: Tensor
    B0: Tensor
    n0: Tensor
    P0: Tensor


def init_from_svd(
    weight: Tensor,
    name: str,
    r: int,
    scaling: float,
    variant: Variant,
    axis: MagnitudeAxis,
    svd: SvdMethod,
    seed: int,
    folder: str | None = None,
) -> Init:
    """Decompose `weight` (d, k) of the module `name` (Eq. 3, 5, 6, 10, 11), or take the triplets that `folder` has.

    With the variant `random` only the singular values are those of the weight.

    Raises:
        DudeError: weights that are not finite or on the meta device, or not decomposed in `folder`.
    """
    check_finite(name, weight)
    options: Any = {"method": svd, "seed": module_seed(name, seed)}
    if folder is None:
        triplets = cached_triplets(weight, r, **options)
    elif (found := find_triplets(folder, weight, r, **options)) is not None:
        triplets = found
    else:
        raise DudeError(
            f"factors: {folder} has no decomposition of '{name}' of rank {r} or more, with svd={svd!r} and "
            f"svd_seed={seed}, of this weight. Decompose this checkpoint (decompose_checkpoint), or leave factors out"
        )
    if variant == "random":
        triplets = random_vectors(triplets, module_seed(name, seed))
    return init_from_factors(weight, *initial_factors(triplets, scaling, variant), axis)


def init_from_factors(weight: Tensor, A0: Tensor, B0: Tensor, axis: MagnitudeAxis) -> Init:
    """Compute n0 and P0 of `weight` (d, k) for the factors A0 (r, k) and B0 (d, r) of a saved adapter.

    On one CPU thread, as the decomposition, so that small weights give the same bits with any number of threads.
    """
    with one_thread(weight.numel() <= ONE_THREAD):
        return Init(A0, B0, functional.weight_norm(weight, axis), functional.init_product(weight, A0, B0, axis))


class Magnitude(FullPrecision):
    """The trainable magnitude m, (d,) or (k,): float32, whatever the base's dtype, initialised as n0."""

    def __init__(self, n0: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(n0.clone())


def check_whole(tensors: Iterable[Any]) -> None:
    """Reject parameters that were sharded after the adapter was added and are not gathered.

    Raises:
        DudeError: flat parameters of FSDP1, DTensors of tensor parallelism. FSDP2 gathers a layer before its forward.
    """
    for tensor in tensors:
        if tensor is None or (type(tensor) is nn.Parameter and not hasattr(tensor, "_fsdp_flattened")):
            continue
        if hasattr(tensor, "_fsdp_flattened") or getattr(tensor._base, "_is_flat_param", False):
            raise DudeError(
                "the model is wrapped in FSDP1, whose flat parameters mix DuDe's frozen and trained parts. "
                "Use FSDP2: fully_shard, or fsdp_version: 2 in accelerate's configuration"
            )
        if hasattr(tensor, "full_tensor"):
            raise DudeError(
                "a weight of the layer is a DTensor (tensor parallelism), which DuDe's norm over a whole row or column "
                "does not support. Shard with FSDP2 (fully_shard) alone"
            )


INIT_NAMES = tuple(f"lora_{name}" for name in Init._fields)


class DudeAdapter(FullPrecision):
    """The frozen initial values of one adapter, and its forward.

    The initial values are parameters rather than buffers, because sharding, checkpoints and reference copies all walk
    over parameters.

    Args:
        init: A0 (r, k), B0 (d, r), n0 and P0.
        axis: of the magnitude.
        detach_norm: leave the norm out of the gradient.
    """

    def __init__(self, init: Init, axis: MagnitudeAxis, detach_norm: bool) -> None:
        super().__init__()
        self.lora_A0, self.lora_B0, self.lora_n0, self.lora_P0 = (nn.Parameter(t, requires_grad=False) for t in init)
        self.axis, self.detach_norm = axis, detach_norm
        self._cache: FactorCache | None = None  # None: in training, and after a forward with a gradient
        self._micro_steps: MicroStepCache | None = None  # None: in eval, and until a gradient is accumulated
        self._checked = False  # whether `check_whole` has run since `train()` or `eval()`

    @property
    def init(self) -> Init:
        """Return the four frozen parameters."""
        # Attributes of a module are slow to look up. A replica of nn.DataParallel has tensors in place of parameters.
        parameters: Any = self._parameters or self.__dict__
        return Init(*(parameters[name] for name in INIT_NAMES))

    def train(self, mode: bool = True) -> DudeAdapter:
        """Set the mode and empty the caches, except that trainers call `train()` before each micro-step."""
        self._cache = None if mode else FactorCache()
        self._micro_steps = self._micro_steps if mode else None
        self._checked = False
        return super().train(mode)

    def compose(self, dA: Tensor, dB: Tensor, magnitude: Tensor, weight: Tensor, scaling: float) -> Composition:
        """Compute norm and gain for the given parameters: see `functional.composition`."""
        return functional.composition(dA, dB, magnitude, self.init, weight, scaling, self.axis, self.detach_norm)

    def forward(
        self, x: Tensor, x_update: Tensor, y0: Tensor | None, trained: Trained, base: Any, scaling: float
    ) -> Tensor:
        """Return y = x W'^T + b (..., d). This function alone picks how:

        | axis | when | what runs | why |
        |---|---|---|---|
        | out | a gradient is needed | `ComposedLinear` on y0; norm and factors cached in gradient accumulation on a \
CPU | Eq. 8, 9 by hand: 1.0 to 1.2 times a step of LoRA; autograd through the dense formula (PEFT's DoRA) 1.3 to 2.4. \
The cache: 0.94 of 8 micro-steps of 256 tokens, 1024 x 1024 |
        | out | no gradient | `functional.output` on y0; factors cached in eval | at one token the norm costs as much \
as the base layer's product |
        | out | no gradient or dropout; CPU, one dtype, not half; y0 is None; up to 1024 x 1024 in eval, else as many \
rows as `temporary_weight_pays` | one product with a temporary W', cached in eval up to 1024 x 1024 | scoring at \
width 576, r = 16: 0.85 of the time of the row above; r = 32: 0.75. The cache: 0.88 of 512 tokens, 0.93 of 1024, \
0.6 to 0.8 of one |
        | in | y0 is None, nn.Linear, one dtype, not half | one product with x * g | saves the second product with W0: \
0.6 of the time of the row below |
        | in | otherwise | `functional.scaled_input_output` on y0 | a small h survives the rounding of half precision |

        `dude bench layer`, `accumulate` and `score` have a row for each; the last one's are those in bfloat16.

        y0 is None where PEFT's loop over adapters is not needed (see `DudeLinear`). The base layer's output is then
        computed here, bit for bit its own call, and its gradient in `ComposedLinear`, where r rows of Eq. 9 join its
        product. Otherwise y0 and its gradient come from the base layer or from the adapters before this one.

        Args:
            x: (..., k).
            x_update: x after dropout; x itself without.
            y0: (..., d) or None.
            trained: dA (r, k), dB (d, r) and the magnitude.
            base: the linear layer of W0 and b.
            scaling: s.
        """
        quantized = quantization(base) is not None
        weight = dense_weight(base) if y0 is None and not quantized else None
        compiling = torch.compiler.is_compiling()
        if not (self._checked or compiling):
            check_whole((*trained, *self._parameters.values(), base.weight))
            self._checked = True
        inputs = (x, *trained) if y0 is None else (x, y0, *trained)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
        if learns:
            self._cache = None
        half = x.dtype in functional.HALF or torch.is_autocast_enabled(x.device.type)
        exact = weight is not None and not half and x.dtype == weight.dtype == self.lora_A0.dtype
        if self.axis == "in":
            if exact and isinstance(base, nn.Linear):
                return self._one_scaled_product(x, x_update, trained, base, scaling, learns)
            arguments = x, x_update, base(x) if y0 is None else y0, trained, base, scaling, learns
            if learns and quantized:  # computed again in the backward: no dense weight is saved
                return checkpoint(self._two_scaled_products, *arguments, use_reentrant=False, preserve_rng_state=False)
            return self._two_scaled_products(*arguments)
        evaluates = exact and not (learns or self.training or compiling) and x_update is x and x.device.type == "cpu"
        cache = self._cache
        if (
            evaluates
            and weight is not None
            and (
                (cache is not None and cache.holds_weight(trained, weight))
                or functional.temporary_weight_pays(x.numel() // x.shape[-1], *weight.shape)
            )
        ):
            factors = self._factors(trained, base, scaling, x.dtype)
            make = functional.temporary_weight if cache is None else cache.temporary_weight
            return F.linear(x, make(weight, factors), base.bias)
        return self._composed(x, x_update, y0, trained, base, learns, scaling)

    def _composed(
        self,
        x: Tensor,
        x_update: Tensor,
        y0: Tensor | None,
        trained: Trained,
        base: Any,
        learns: bool,
        scaling: float,
    ) -> Tensor:
        """Compute y by the first two rows of the table: with a gradient where it `learns`."""
        base_output = weight = None
        if learns and multiplies_dense(base, x):  # one reading for its product and the norm
            weight = dense_weight(base)
        if y0 is None:
            with torch.no_grad():
                base_output = base_product(base, x, weight)
        output: Any = base_output if y0 is None else y0
        dtype, (d, k) = output.dtype, (output.shape[-1], x.shape[-1])
        shape, output = output.shape, output.reshape(-1, d)
        dropped = None if x_update is x else x_update.to(dtype).reshape(-1, k)
        x = x.to(dtype).reshape(-1, k)
        bias = None if base.bias is None else base.bias.to(dtype)
        if learns:
            weight = dense_weight(base) if weight is None else weight
            composition, factors = self._training_factors(trained, base, weight, scaling, dtype)
            sources = (output, None) if base_output is None else (None, (output,))
            source = weight if quantization(base) is None else base
            y = ComposedLinear.apply(
                x, dropped, sources[0], *trained, sources[1], composition, factors, source, bias, scaling,
                self.detach_norm,
            )  # fmt: skip
            return y.view(shape)
        factors = self._factors(trained, base, scaling, dtype)
        with functional.without_autocast(x.device):
            inner = F.linear(x if dropped is None else dropped, factors.Ah)
            in_place = base_output is not None
            return functional.output(output, bias, factors.gain, inner, factors.outer, in_place=in_place).view(shape)

    def _one_scaled_product(
        self, x: Tensor, x_update: Tensor, trained: Trained, base: Any, scaling: float, learns: bool
    ) -> Tensor:
        Ah, outer, gain = self._factors(trained, base, scaling, x.dtype, learns)
        return functional.scaled_input_product(x, x_update, base.weight, base.bias, gain, Ah, outer)

    def _two_scaled_products(
        self, x: Tensor, x_update: Tensor, y0: Tensor, trained: Trained, base: Any, scaling: float, learns: bool
    ) -> Tensor:
        Ah, outer, gain = self._factors(trained, base, scaling, y0.dtype, learns)
        weight = dense_weight(base).to(y0.dtype)
        return functional.scaled_input_output(y0, x.to(y0.dtype), x_update.to(y0.dtype), weight, gain, Ah, outer)

    def _training_factors(
        self, trained: Trained, base: Any, weight: Tensor, scaling: float, dtype: torch.dtype
    ) -> tuple[Composition, Factors]:
        """Compute composition and factors without a graph.

        On a CPU they are cached from the first forward on that finds a `.grad`, which is gradient accumulation;
        otherwise nothing is compared or cached.
        """
        caches = self.training and base.weight.device.type == "cpu" and not torch.compiler.is_compiling()
        if caches and self._micro_steps is None and any(t.is_leaf and t.grad is not None for t in trained):
            self._micro_steps = MicroStepCache()
        cache, key, init = self._micro_steps if caches else None, (scaling, dtype), self.init
        if cache is not None and (cached := cache.get(key, trained, init, base.weight)) is not None:
            return cached
        with torch.no_grad():
            composition = self.compose(*trained, weight, scaling)
            factors = functional.forward_factors(composition, scaling, self.axis, dtype)
        if cache is not None:
            cache.put(key, trained, init, base.weight, composition, factors)
        return composition, factors

    def _factors(
        self, trained: Trained, base: Any, scaling: float, dtype: torch.dtype, learns: bool = False
    ) -> Factors:
        """Compute the factors of a forward, with a graph where `learns`, else from the cache if it has them."""
        cache = None if learns or torch.compiler.is_compiling() else self._cache
        key, init = (scaling, dtype), self.init
        if cache is not None and (cached := cache.get(key, trained, init, base.weight)) is not None:
            return cached
        with torch.set_grad_enabled(learns):
            composition = self.compose(*trained, dense_weight(base), scaling)
            factors = functional.forward_factors(composition, scaling, self.axis, dtype)
        if cache is not None:
            cache.put(key, trained, init, base.weight, factors)
        return factors

    def extra_repr(self) -> str:
        """Show shape and options in `print(model)`."""
        return f"r={self.lora_A0.shape[0]}, axis={self.axis!r}, detach_norm={self.detach_norm}"


def trained_parameters(module: Any, adapter: str) -> Trained:
    """Return dA (r, k), dB (d, r) and the magnitude of `adapter` in PEFT's layer `module`."""
    return module.lora_A[adapter].weight, module.lora_B[adapter].weight, module.lora_magnitude_vector[adapter].weight


def apply(module: Any, adapter: str, x: Tensor, x_update: Tensor, y0: Tensor | None) -> Tensor:
    """Call `DudeAdapter.forward` of `adapter` in PEFT's layer `module`."""
    trained, base = trained_parameters(module, adapter), module.get_base_layer()
    if base.weight.is_meta:  # between the forwards of a layer that is offloaded
        with onloaded(base):
            return module.lora_dude[adapter](x, x_update, y0, trained, base, module.scaling[adapter])
    return module.lora_dude[adapter](x, x_update, y0, trained, base, module.scaling[adapter])


class DudeLinear(Linear):
    """PEFT's LoRA layer, without PEFT's loop over adapters where one DuDe adapter is active, not merged, and the base
    layer `is_plain`. Every other state is PEFT's, which calls `DudeVariant.forward` for each adapter."""

    base_layer: Any
    _quantized: tuple[Any, ...] = ()  # the base layer, while a merged dense one stands in its place

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y (..., d) for x (..., k)."""
        active = self.active_adapters
        if len(active) == 1 and not (args or kwargs or self.disable_adapters or self.merged_adapters):
            adapter = active[0]
            if adapter in getattr(self, "lora_dude", ()) and is_plain(self.base_layer, x):
                return apply(self, adapter, x, self.lora_dropout[adapter](x), None)
        return super().forward(x, *args, **kwargs)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Merge as PEFT does. A quantised layer is replaced by a dense one: quantising W' would lose the adapter."""
        quantized = self.base_layer if quantization(self.base_layer) is not None else None
        if quantized is None or not check_adapters_to_merge(self, adapter_names):
            super().merge(safe_merge, adapter_names)
            return
        self.base_layer = DenseLinear(quantized, dense_weight(quantized))
        try:
            super().merge(safe_merge, adapter_names)
        except BaseException:
            self.base_layer = quantized
            raise
        self._quantized = (quantized,)  # in a tuple: no module of the model while it is merged

    def unmerge(self) -> None:
        """Unmerge as PEFT does; a quantised layer returns as it was."""
        super().unmerge()
        if self._quantized:
            (self.base_layer,), self._quantized = self._quantized, ()


def merged_onto(
    current: Tensor, weight: Tensor, composition: Composition, scaling: float, axis: MagnitudeAxis
) -> Tensor:
    """Return `current` (d, k), the weight W0 itself or what earlier adapters made of it, with an adapter merged.

    Args:
        current: the weight to merge into.
        weight: W0 (d, k); `current` itself if nothing is merged.
        composition: of the adapter on W0.
        scaling: s.
        axis: of the magnitude.
    """
    Ah, Bt, _, _, gain = composition
    if axis == "out" or current is weight:
        return functional.merged_weight(current, gain, Ah, Bt, scaling, axis)
    change = functional.weight_change(weight, gain, Ah, Bt, scaling, axis)
    return (current.to(change.dtype) + change).to(current.dtype)


class DudeVariant(LoraVariant):
    """How PEFT's LoRA layer computes, merges and unmerges a DuDe adapter (Eq. 7).

    Several active adapters compose in order for axis `"out"`, as PEFT's DoRA does: each scales the output of those
    before it. For axis `"in"` they add.
    """

    @staticmethod
    def init(module: Any, adapter_name: str, **kwargs: Any) -> None:
        """Do nothing: `attach` adds the state after PEFT has built its layer."""

    @staticmethod
    def attach(module: Any, adapter_name: str, init: Init, config: DudeConfig) -> None:
        """Turn the LoRA adapter `adapter_name` of PEFT's layer into a DuDe adapter with initial values `init`."""
        for parameter in (module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight):
            nn.init.zeros_(parameter)  # the differences
        if not hasattr(module, "lora_dude"):
            module.lora_dude = nn.ModuleDict()
            # Not among the adapter_layer_names, so that PEFT moves and deletes the frozen parameters but never trains
            # them.
            module.other_param_names = (*module.other_param_names, "lora_dude")
        module.lora_dude[adapter_name] = DudeAdapter(init, config.magnitude_axis, config.detach_norm)
        magnitude = Magnitude(init.n0)
        magnitude.requires_grad_(module.lora_A[adapter_name].weight.requires_grad)
        module.lora_magnitude_vector[adapter_name] = magnitude
        module.lora_variant[adapter_name] = DudeVariant()
        if type(module) is Linear or quantization(module.get_base_layer()) is not None:
            module.__class__ = DudeLinear

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any) -> Tensor:
        """Return y (..., d) from the layer's input x (..., k) and the output so far, `result` (..., d)."""
        x = x.to(result.dtype)
        return apply(module, active_adapter, x, module.lora_dropout[active_adapter](x), result)

    @staticmethod
    @torch.no_grad()
    def merge_safe(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return the merged weight in the base layer's layout; the base weight's storage is stored for `unmerge`."""
        base, adapter = module.get_base_layer(), module.lora_dude[active_adapter]
        trained, scaling = trained_parameters(module, active_adapter), module.scaling[active_adapter]
        current = W0 = dense_weight(base)
        if module.merged_adapters:
            with module._unmerged_base_weight() as unmerged:
                W0 = unmerged.T if module.fan_in_fan_out else unmerged
                composition = adapter.compose(*trained, W0, scaling)
        else:
            composition = adapter.compose(*trained, W0, scaling)
        merged = merged_onto(current, W0 if module.merged_adapters else current, composition, scaling, adapter.axis)
        # Dividing back would change base bits, so W0's storage stays here until unmerge.
        module._cache_store(f"{active_adapter}-unmerged", base.weight.data)
        return merged.T.contiguous() if module.fan_in_fan_out else merged

    @staticmethod
    def merge_unsafe(module: Any, active_adapter: str, orig_weight: Tensor) -> None:
        """Merge as `merge_safe`, in place."""
        orig_weight.data = DudeVariant.merge_safe(module, active_adapter, orig_weight)

    @staticmethod
    def unmerge(module: Any, active_adapter: str, orig_weight: Tensor) -> Tensor:
        """Return the weight from before the merge, bit for bit."""
        return module._cache_pop(f"{active_adapter}-unmerged").to(orig_weight)

    def supports_lora_conversion(self) -> bool:
        """Return False: the magnitude makes W' - W0 a matrix of full rank."""
        return False
