"""DuDe on the experts of a mixture: parameters of three dimensions, one weight for each expert.

transformers gives its experts one contract: `gate_up_proj` (or `up_proj`), `down_proj`, biases, `is_transposed`,
`has_gate`, `_apply_gate`. `DudeExperts` stands in place of such a module, sorts the tokens by expert, and computes each
expert's products with DuDe's layer on the view W[e] (d, k). A stack is one matrix of all experts, (E, d, k); gate and
up are two, whether their outputs are concatenated or interleaved.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import check_adapters_to_merge
from torch import Tensor, nn

from . import functional
from .autograd import ComposedLinear
from .base_weight import check_present, stacks_of
from .cache import FactorCache
from .config import DudeConfig
from .functional import Composition, Factors, MagnitudeAxis
from .layer import DudeAdapter, Init, Magnitude, Trained, check_whole, init_from_factors, init_from_svd, merged_onto


def expert_name(layer: str, expert: int, stack: str) -> str:
    """Return a name for one expert's matrix, from which its seed is derived and which messages show."""
    return f"{layer}.{expert}.{stack}"


def decomposed(weight: Tensor, layer: str, stack: str, r: int, scaling: float, config: DudeConfig) -> Init:
    """Decompose the weights (E, d, k) of a stack, one by one, and return the initial values of all, (E, ...).

    Raises:
        DudeError: see `layer.init_from_svd`; names the expert.
    """
    check_present(f"{layer}.{stack}", weight)
    options = config.init_variant, config.magnitude_axis, config.svd, config.svd_seed, config.factors
    inits = [
        init_from_svd(W, expert_name(layer, e, stack), r, scaling, *options) for e, W in enumerate(weight.unbind())
    ]
    return Init(*map(torch.stack, zip(*inits, strict=True)))


def from_factors(weight: Tensor, A0: Tensor, B0: Tensor, axis: MagnitudeAxis) -> Init:
    """Return the initial values of a stack (E, d, k) for the factors (E, r, k), (E, d, r) of a saved adapter."""
    by_expert = zip(*(values.unbind() for values in (weight, A0, B0)), strict=True)
    inits = [init_from_factors(W, A, B, axis) for W, A, B in by_expert]
    return Init(*map(torch.stack, zip(*inits, strict=True)))


class Stacked(nn.Module):
    """A trained parameter of a stack, (E, r, k) or (E, d, r)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class Matrix(NamedTuple):
    """One matrix of one expert, and what an adapter trains on it.

    Attributes:
        expert: its number.
        weight: W[e] (d, k), a view.
        bias: (d,) or None.
        trained: dA (r, k), dB (d, r) and the magnitude of the expert.
        scaling: s.
        parameter: the base's parameter of three dimensions.
        stacked: the trained parameters of all experts.
        composed: composition and factors where they were computed for all experts at once, else None.
    """

    expert: int
    weight: Tensor
    bias: Tensor | None
    trained: Trained
    scaling: float
    parameter: Tensor
    stacked: Trained
    composed: tuple[Composition, Factors] | None = None


@dataclass
class StackValues:
    """What an adapter trains on one stack, in one forward.

    Attributes:
        stacked: dA (E, r, k), dB (E, d, r) and the magnitude.
        by_expert: the same, unbound: one backward for all experts, where `parameter[e]` would add E whole tensors.
        at_once: whether compositions are computed for all experts at once.
        composed: these, by expert.
    """

    stacked: Trained
    by_expert: tuple[Sequence[Tensor], ...]
    at_once: bool
    composed: list[tuple[Composition, Factors]] | None = None


Values = Mapping[tuple[str, str], StackValues]  # by adapter and stack


class StackAdapter(DudeAdapter):
    """The frozen initial values of one adapter on one stack, (E, r, k), (E, d, r), ..., and its forward by expert."""

    def __init__(self, init: Init, config: DudeConfig) -> None:
        super().__init__(init, config.magnitude_axis, config.detach_norm)
        self._by_expert: dict[int, FactorCache] = {}

    def train(self, mode: bool = True) -> StackAdapter:
        """Set the mode and empty the caches."""
        self._by_expert = {}
        super().train(mode)
        return self

    def forward(  # type: ignore[override]
        self, x: Tensor, x_update: Tensor, y: Tensor, attached: bool, matrix: Matrix
    ) -> Tensor:
        """Return y (n, d) of one expert: `layer.DudeAdapter.forward` on W[e], without its paths for narrow layers.

        Args:
            x, x_update: (n, k), the input, and the input after dropout.
            y: (n, d), the output of the base or of earlier adapters. It is overwritten unless `attached`.
            attached: whether autograd computes the gradient of `y`; otherwise it is computed here.
            matrix: of the expert.
        """
        dropped = None if x_update is x else x_update.to(y.dtype)
        x, bias = x.to(y.dtype), None if matrix.bias is None else matrix.bias.to(y.dtype)
        learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, *matrix.trained))
        if learns:
            self._cache, self._by_expert = None, {}
        if learns and self.axis == "out":
            with torch.no_grad():
                composition, factors = matrix.composed or self._compose_expert(matrix, y.dtype)
            sources = (y, None) if attached else (None, (y,))
            output: Tensor = ComposedLinear.apply(
                x, dropped, sources[0], *matrix.trained, sources[1], composition, factors, matrix.weight, bias,
                matrix.scaling, self.detach_norm,
            )  # fmt: skip
            return output
        factors = self._compose_expert(matrix, y.dtype)[1] if learns else self._cached_factors(matrix, y.dtype)
        x_update = x if dropped is None else dropped
        with functional.without_autocast(x.device):
            if self.axis == "in":
                W = matrix.weight.to(y.dtype)
                return functional.scaled_input_output(y, x, x_update, W, factors.gain, factors.Ah, factors.outer)
            inner = F.linear(x_update, factors.Ah)
            return functional.output(y, bias, factors.gain, inner, factors.outer, in_place=not attached)

    def _compose_expert(self, matrix: Matrix, dtype: torch.dtype) -> tuple[Composition, Factors]:
        init = Init(*(values[matrix.expert] for values in self.init))
        s = matrix.scaling
        composed = functional.composition(*matrix.trained, init, matrix.weight, s, self.axis, self.detach_norm)
        return composed, functional.forward_factors(composed, s, self.axis, dtype)

    def compose_all(
        self, stacked: Trained, weight: Tensor, scaling: float, dtype: torch.dtype
    ) -> list[tuple[Composition, Factors]]:
        """Return composition and factors of every expert without a graph, from one batched computation.

        Args:
            stacked: the trained parameters of all experts.
            weight: (E, d, k).
            scaling: s.
            dtype: of the factors.
        """
        with torch.no_grad():
            composed = functional.composition(*stacked, self.init, weight, scaling, self.axis, self.detach_norm)
            factors = functional.forward_factors(composed, scaling, self.axis, dtype)
        one = zip(*(values.unbind() for values in composed), strict=True)
        other = zip(*(values.unbind() for values in factors), strict=True)
        return [(Composition(*c), Factors(*f)) for c, f in zip(one, other, strict=True)]

    def _cached_factors(self, matrix: Matrix, dtype: torch.dtype) -> Factors:
        """Return the factors of an expert without a graph, in eval mode from the cache if it has them."""
        cache = None if self._cache is None else self._by_expert.setdefault(matrix.expert, FactorCache())
        key, sources = (matrix.scaling, dtype), (matrix.stacked, self.init, matrix.parameter)
        if cache is not None and (cached := cache.get(key, *sources)) is not None:
            return cached
        with torch.no_grad():
            _, factors = self._compose_expert(matrix, dtype)
        if cache is not None:
            cache.put(key, *sources, factors)
        return factors

    def extra_repr(self) -> str:
        """Show shape and options in `print(model)`."""
        E, r, _ = self.lora_A0.shape
        return f"experts={E}, r={r}, axis={self.axis!r}, detach_norm={self.detach_norm}"


class DudeExperts(nn.Module, LoraLayer):
    """A layer of PEFT around the experts of a mixture.

    Where no adapter is active, or one is merged, the experts' own forward runs. Otherwise each expert's tokens are
    multiplied as transformers' eager implementation does, in its order, so that an adapter at its initialisation
    returns the bits of that implementation; the others (grouped_mm, batched_mm) sum in another order.

    Experts without a token get a gradient of zero, so that every parameter has one in every step.
    """

    if TYPE_CHECKING:  # PEFT's attributes

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, experts: nn.Module, name: str) -> None:
        super().__init__()
        self.stacks = stacks_of(experts, name)
        LoraLayer.__init__(self, experts)
        self.lora_dude: Any = nn.ModuleDict()
        self.stack_ranks: dict[str, dict[str, int]] = {}
        self.stack_ratios: dict[str, dict[str, float]] = {}  # the scaling of each stack over that of the layer
        self.other_param_names: tuple[str, ...] = (
            *LoraLayer.other_param_names,
            "lora_dude",
            "stack_ranks",
            "stack_ratios",
        )
        self.train(experts.training)

    def _get_in_out_features(self, module: nn.Module) -> tuple[None, None]:
        return None, None

    def add(self, adapter: str, sizes: Mapping[str, tuple[int, float]], config: DudeConfig) -> None:
        """Add the trained parameters of an adapter, zeros; `attach` follows, after PEFT's own work.

        Args:
            adapter: its name.
            sizes: r and s by stack.
            config: of the adapter.
        """
        p = config.lora_dropout
        self.lora_dropout[adapter] = nn.Dropout(p) if p > 0 else nn.Identity()
        self.lora_dropout[adapter].train(self.training)
        # PEFT has one rank and one scaling a layer, which it may change: those of the first stack.
        self.r[adapter], self.scaling[adapter] = next(iter(sizes.values()))
        self.lora_alpha[adapter] = self.scaling[adapter] * self.r[adapter]
        self.stack_ranks[adapter] = {name: r for name, (r, _) in sizes.items()}
        self.stack_ratios[adapter] = {name: s / self.scaling[adapter] for name, (_, s) in sizes.items()}
        self.lora_A[adapter], self.lora_B[adapter] = nn.ModuleDict(), nn.ModuleDict()
        for name, (r, _) in sizes.items():
            parameter = getattr(self.base_layer, self.stacks[name].parameter)
            (d, k), E = self.stacks[name].shape(parameter), len(parameter)
            like = parameter.detach().new_empty(
                0, dtype=torch.float64 if parameter.dtype == torch.float64 else torch.float32
            )
            self.lora_A[adapter][name] = Stacked(like.new_zeros(E, r, k))
            self.lora_B[adapter][name] = Stacked(like.new_zeros(E, d, r))

    def attach(self, adapter: str, inits: Mapping[str, Init], config: DudeConfig) -> None:
        """Give the adapter its initial values, by stack."""
        learns = next(self.lora_A[adapter].parameters()).requires_grad
        self.lora_dude[adapter] = nn.ModuleDict({name: StackAdapter(init, config) for name, init in inits.items()})
        self.lora_dude[adapter].train(self.training)
        self.lora_magnitude_vector[adapter] = nn.ModuleDict({name: Magnitude(init.n0) for name, init in inits.items()})
        self.lora_magnitude_vector[adapter].requires_grad_(learns)

    def trained(self, adapter: str, stack: str) -> Trained:
        """Return dA (E, r, k), dB (E, d, r) and the magnitude, (E, d) or (E, k)."""
        A, B, m = self.lora_A[adapter][stack], self.lora_B[adapter][stack], self.lora_magnitude_vector[adapter][stack]
        return A.weight, B.weight, m.weight

    def stack_scaling(self, adapter: str, stack: str) -> float:
        """Return s of a stack."""
        return self.scaling[adapter] * self.stack_ratios[adapter][stack]

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Return the sum (n, k) of the experts' outputs for hidden_states (n, k) and the router's choice (n, top_k)."""
        adapters = [name for name in self.active_adapters if name in self.lora_dude]
        if self.disable_adapters and self.merged:
            self.unmerge()
        if self.disable_adapters or self.merged or not adapters:
            result: Tensor = self.base_layer(hidden_states, top_k_index, top_k_weights)
            return result
        self._check_whole(adapters)
        experts, n = self.base_layer, len(hidden_states)
        # In the order of transformers' eager implementation: by expert, by place in the top k, by token.
        chosen = top_k_index.T.reshape(-1)
        order = chosen.argsort(stable=True)
        token = order % n
        counts = torch.bincount(chosen, minlength=experts.num_experts).tolist()
        weights = top_k_weights.T.reshape(-1)[order]
        # In training most experts have tokens. Their norms are then one batched product instead of E.
        at_once = torch.is_grad_enabled() and 2 * sum(map(bool, counts)) >= len(counts)
        values = self._values(adapters, at_once)
        outputs = []
        for expert, x in enumerate(hidden_states[token].split(counts)):
            if counts[expert]:
                outputs.append(self._expert(expert, x, adapters, values))
        weighted = torch.cat(outputs) * weights[:, None]
        return torch.zeros_like(hidden_states).index_add_(0, token, weighted.to(hidden_states.dtype))

    def _expert(self, expert: int, x: Tensor, adapters: Sequence[str], values: Values) -> Tensor:
        """Return the output (n, k) of one expert for its tokens x (n, k)."""
        experts = self.base_layer
        inner = self._product(expert, x, "gate_up_proj" if experts.has_gate else "up_proj", adapters, values)
        inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
        output = self._product(expert, inner, "down_proj", adapters, values)
        if getattr(experts, "has_post_expert_norm", False):
            output = experts.post_expert_norm(output)
        return output

    def _product(self, expert: int, x: Tensor, parameter: str, adapters: Sequence[str], values: Values) -> Tensor:
        """Return x W'^T + b (n, D) of one expert for all matrices of `parameter`, joined as the experts have them."""
        experts = self.base_layer
        weight, bias = getattr(experts, parameter), getattr(experts, f"{parameter}_bias", None)
        stacks = [stack for stack in self.stacks.values() if stack.parameter == parameter]
        adapters = [name for name in adapters if stacks[0].name in self.lora_dude[name]]
        frozen = not (weight.requires_grad or (bias is not None and bias.requires_grad))
        attached = not (adapters and frozen) or self.lora_dude[adapters[0]][stacks[0].name].axis == "in"
        with torch.set_grad_enabled(torch.is_grad_enabled() and attached):
            y = _base_product(x, weight[expert], None if bias is None else bias[expert], stacks[0].transposed)
        if not adapters:
            return y
        results = []
        for stack in stacks:
            result, linked = stack.outputs(y), attached
            result = result if attached else result.contiguous()
            W = stack.weight(weight.detach())
            b = None if bias is None else stack.outputs(bias[expert])
            for name in adapters:
                adapter, found, s = (
                    self.lora_dude[name][stack.name],
                    values[name, stack.name],
                    self.stack_scaling(name, stack.name),
                )
                if found.at_once and found.composed is None and adapter.axis == "out":
                    found.composed = adapter.compose_all(found.stacked, W, s, y.dtype)
                composed = None if found.composed is None else found.composed[expert]
                dA, dB, m = (one[expert] for one in found.by_expert)
                matrix = Matrix(expert, W[expert], b, (dA, dB, m), s, weight, found.stacked, composed)
                result, linked = adapter(x, self.lora_dropout[name](x), result, linked, matrix), True
            results.append(result)
        if len(results) == 1:
            return results[0]
        return torch.stack(results, dim=-1).flatten(-2) if stacks[0].interleaved else torch.cat(results, dim=-1)

    def _values(self, adapters: Sequence[str], at_once: bool) -> Values:
        """Return what each adapter trains, by adapter and stack."""
        found = {}
        for name in adapters:
            for stack in self.lora_dude[name]:
                stacked = self.trained(name, stack)
                found[name, stack] = StackValues(stacked, tuple(one.unbind() for one in stacked), at_once)
        return found

    def _check_whole(self, adapters: Sequence[str]) -> None:
        for name in adapters:
            for stack, adapter in self.lora_dude[name].items():
                if not adapter._checked and not torch.compiler.is_compiling():
                    weight = getattr(self.base_layer, self.stacks[stack].parameter)
                    check_whole((*self.trained(name, stack), *adapter.init, weight))
                    adapter._checked = True

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put W' in place of the weights, rounded once to their dtype; their storage is stored for `unmerge`."""
        for adapter in check_adapters_to_merge(self, adapter_names):
            if adapter not in self.lora_dude:
                continue
            made = {name: self._merged(adapter, name) for name in self._parameters_of(adapter)}
            if safe_merge and not all(bool(torch.isfinite(values).all()) for values in made.values()):
                raise ValueError(f"NaNs detected in the merged weights. The adapter {adapter} seems to be broken")
            self._cache_store(f"{adapter}-unmerged", {name: getattr(self.base_layer, name).data for name in made})
            for name, values in made.items():
                getattr(self.base_layer, name).data = values
            self.merged_adapters.append(adapter)

    def unmerge(self) -> None:
        """Restore the weights from before the merge, bit for bit."""
        if not self.merged_adapters:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
        while self.merged_adapters:
            before = self._cache_pop(f"{self.merged_adapters.pop()}-unmerged")
            for name, values in before.items():
                parameter = getattr(self.base_layer, name)
                parameter.data = values.to(parameter)

    def _parameters_of(self, adapter: str) -> list[str]:
        return list(dict.fromkeys(self.stacks[stack].parameter for stack in self.lora_dude[adapter]))

    def _merged(self, adapter: str, parameter: str) -> Tensor:
        """Return the values of `parameter` with the adapter merged into what earlier adapters left."""
        current = getattr(self.base_layer, parameter).detach()
        original = self._original(parameter)
        made = current.clone()
        for name, one in self.lora_dude[adapter].items():
            stack = self.stacks[name]
            if stack.parameter != parameter:
                continue
            trained, scaling = self.trained(adapter, name), self.stack_scaling(adapter, name)
            for e, (W, W0, out) in enumerate(zip(*(stack.weight(t) for t in (current, original, made)), strict=True)):
                dA, dB, m = (values[e] for values in trained)
                matrix = Matrix(e, W0, None, (dA, dB, m), scaling, current, trained)
                composition, _ = one._compose_expert(matrix, W.dtype)
                out.copy_(merged_onto(W, W0 if self.merged_adapters else W, composition, scaling, one.axis))
        return made

    def _original(self, parameter: str) -> Tensor:
        """Return the values of `parameter` before any merge."""
        for adapter in self.merged_adapters:
            before = self._caches[f"{adapter}-unmerged"]
            if parameter in before:
                values: Tensor = before[parameter]
                return values
        return getattr(self.base_layer, parameter).detach()  # type: ignore[no-any-return]

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        """Return the experts, merged if asked."""
        if merge:
            self.merge(safe_merge=safe_merge, adapter_names=adapter_names)
        experts: nn.Module = self.base_layer
        return experts

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return False: the magnitude makes W' - W0 a matrix of full rank."""
        return False


def _base_product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """Return x W^T + b (n, D), computed as transformers' eager implementation does."""
    if not transposed:
        return F.linear(x, weight, bias)
    return x @ weight if bias is None else x @ weight + bias


def expert_layers(model: nn.Module, adapter: str) -> Iterator[tuple[str, DudeExperts]]:
    """Yield PEFT's layers around experts that have the DuDe adapter `adapter`, with their names."""
    for name, module in model.named_modules():
        if isinstance(module, DudeExperts) and adapter in module.lora_dude:
            yield name, module
