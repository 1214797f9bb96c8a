"""Convert a DuDe or DoRA adapter to a plain LoRA adapter of a chosen rank, with a stated error.

    W' - W0 = diag(h) V + s Bh Ah,   V = W0 + s Bh Ah,   h = m / ||V||_c - 1        (axis "in": V diag(h) + s Bh Ah)

has full rank because of the magnitude, but most of it lies in few directions. Its best approximation of rank R is its
truncated singular value decomposition (Eckart-Young), which servers load as an ordinary LoRA.

With the inputs' second moments q (k,) it is that of (W' - W0) diag(sqrt(q)), divided by sqrt(q) again: what is smallest
is then the error of the output for inputs with uncorrelated features, not that of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .base_weight import dense_weight, with_values
from .errors import DudeError
from .experts import DudeExperts
from .functional import gain_of_norm, weight_change
from .layer import trained_parameters
from .model import saved_parameters
from .svd import module_seed, top_singular_triplets

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM accepts as --max-lora-rank
TOLERANCE = 0.05
Progress = Callable[[int, int, str], None]
"""Called with the number of layers done, of all layers, and the name of the next one."""


@dataclass(frozen=True)
class LayerError:
    """How well a layer is approximated, in Frobenius norms, each column weighted by the root of its second moment.

    Attributes:
        change: ||W' - W0||.
        error: ||W' - W0 - B A||.
    """

    change: float
    error: float

    @property
    def relative(self) -> float:
        """The error as a share of the change; 0 where nothing changed."""
        return self.error / self.change if self.change else 0.0


class Approximation(NamedTuple):
    """The best U diag(S) Vh for a layer's change: U (d, r), S (r,), Vh (r, k), and its error."""

    U: Tensor
    S: Tensor
    Vh: Tensor
    left: LayerError

    def truncated(self, rank: int) -> LayerError:
        """Return the error at a smaller rank: the squares of the singular values left out add to that of the error."""
        added = float(self.S[rank:].double().square().sum())
        return LayerError(self.left.change, math.sqrt(self.left.error**2 + added))


@dataclass(frozen=True)
class LoraConversion:
    """A plain LoRA adapter and its errors.

    Attributes:
        config: of the LoRA adapter; its scaling is 1.
        state: its entries as in `adapter_model.safetensors`, in float32.
        layers: the error of each layer by module name.
    """

    config: LoraConfig
    state: dict[str, Tensor]
    layers: dict[str, LayerError]

    @property
    def rank(self) -> int:
        """The rank of every layer."""
        return int(self.config.r)

    @property
    def relative_error(self) -> float:
        """The error of all layers together as a share of the change, both as root of the sum of squares."""
        return _relative(self.layers.values())

    def save(self, folder: str | Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, which stock PEFT loads."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        self.config.save_pretrained(str(folder))


@torch.no_grad()
def to_lora(
    model: PeftModel,
    adapter_name: str = "default",
    *,
    rank: int | Literal["auto"] = "auto",
    tolerance: float = TOLERANCE,
    ranks: Sequence[int] = RANKS,
    moments: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> LoraConversion:
    """Return the plain LoRA adapter that is closest to a DuDe or DoRA adapter; the model is not changed.

    One layer's change is in memory at a time, in float32, as its dense weight is.

    Args:
        model: with the adapter, not merged.
        adapter_name: of the adapter.
        rank: of every layer, or `"auto"` for the smallest one of `ranks` with which `LoraConversion.relative_error`
            is at most `tolerance`.
        tolerance: of `"auto"`, above 0 and below 1.
        ranks: that `"auto"` chooses from.
        moments: of `input_moments`; None weighs all inputs alike.
        progress: called before each layer.

    Raises:
        DudeError: no such adapter, one that is merged, not of a linear layer, or that has no magnitude; a rank that is
            too large for every weight; a tolerance that the largest rank does not reach.
    """
    layers = _adapted_layers(model, adapter_name)
    limit = max(min(_shape(module)) for module in layers.values())
    if rank != "auto" and not 1 <= rank <= limit:
        raise DudeError(f"rank={rank}: give 1 to {limit}, the smaller side of the largest adapted weight, or 'auto'")
    if rank == "auto" and not 0 < tolerance < 1:
        raise DudeError(f"tolerance={tolerance}: give a share of the change, above 0 and below 1, such as {TOLERANCE}")
    choices = sorted(ranks) if rank == "auto" else [rank]
    done: dict[str, Approximation] = {}
    for attempt in (*choices[2:-1:2], choices[-1]):  # 32, 128, 320, 512: no decomposition is much larger than needed
        done = dict(_approximations(layers, adapter_name, attempt, moments or {}, progress))
        for chosen in (one for one in choices if one <= attempt):
            errors = {name: found.truncated(chosen) for name, found in done.items()}
            if rank != "auto" or _relative(errors.values()) <= tolerance:
                return _conversion(model, adapter_name, done, errors, chosen)
    left = _relative(found.truncated(choices[-1]) for found in done.values())
    raise DudeError(
        f"tolerance={tolerance}: a LoRA of rank {choices[-1]} leaves {left:.1%} "
        "of the change. Give a larger tolerance or a rank, or merge the adapter"
    )


@torch.no_grad()
def input_moments(
    model: PeftModel, batches: Iterable[Mapping[str, Tensor]], adapter_name: str = "default"
) -> dict[str, Tensor]:
    """Return the mean square (k,) of each input of every adapted layer, for `to_lora`.

    Args:
        model: with the adapter; a few dozen texts like those it is used on suffice.
        batches: arguments of its forward. With an `attention_mask` (batch, length), padding does not count.
        adapter_name: of the adapter.
    """
    layers = _adapted_layers(model, adapter_name)
    sums = {name: torch.zeros(_shape(module)[1], dtype=torch.float64, device="cpu") for name, module in layers.items()}
    counts = dict.fromkeys(layers, 0)
    mask: Tensor | None = None

    def hook(name: str) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def record(_: Any, arguments: tuple[Tensor, ...]) -> None:
            x = arguments[0]
            rows = x[mask.bool()] if mask is not None and mask.shape == x.shape[:-1] else x.flatten(0, -2)
            sums[name] += rows.double().square().sum(dim=0).cpu()
            counts[name] += len(rows)

        return record

    hooks = [module.register_forward_pre_hook(hook(name)) for name, module in layers.items()]
    training = model.training
    model.eval()
    try:
        for batch in batches:
            mask = batch.get("attention_mask")
            model(**batch)
    finally:
        model.train(training)
        for one in hooks:
            one.remove()
    return {name: sums[name] / counts[name] for name in layers if counts[name]}


def _adapted_layers(model: PeftModel, adapter_name: str) -> dict[str, Any]:
    if adapter_name not in getattr(model, "peft_config", {}):
        names = ", ".join(map(repr, getattr(model, "peft_config", {}))) or "none"
        raise DudeError(f"the model has no adapter {adapter_name!r}; it has {names}")
    layers = {
        name: module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer) and adapter_name in (*module.lora_A, *module.lora_embedding_A)
    }
    for name, module in layers.items():
        if isinstance(module, DudeExperts):
            raise DudeError(f"module '{name}' has experts, which no plain LoRA of one rank replaces: merge the adapter")
        if module.merged:
            raise DudeError(f"module '{name}' has a merged adapter: call unmerge_adapter() first")
        if adapter_name not in module.lora_A or not isinstance(module.lora_A[adapter_name], nn.Linear):
            raise DudeError(f"module '{name}' is a {type(module).__name__}: only linear layers can be converted")
        if adapter_name not in getattr(module, "lora_magnitude_vector", {}):
            raise DudeError(f"adapter {adapter_name!r} has no magnitude in '{name}': it is a plain LoRA already")
        if getattr(module.lora_B[adapter_name], "bias", None) is not None:
            raise DudeError(f"module '{name}' has an adapter with a bias of its own (lora_bias): merge it instead")
    if not layers:
        kind = type(model.peft_config[adapter_name]).__name__
        raise DudeError(f"adapter {adapter_name!r} ({kind}) has no LoRA layer: DuDe and DoRA adapters can be converted")
    return layers


def _shape(module: Any) -> tuple[int, int]:
    return module.out_features, module.in_features


def layer_change(module: Any, adapter_name: str) -> Tensor:
    """Return W' - W0 (d, k) of a DuDe or DoRA adapter in PEFT's layer `module`, in float32 or wider."""
    base, scaling = module.get_base_layer(), module.scaling[adapter_name]
    with with_values(base):
        weight = dense_weight(base)
        dA, dB, magnitude = trained_parameters(module, adapter_name)
        if adapter_name in getattr(module, "lora_dude", {}):
            adapter = module.lora_dude[adapter_name]
            Ah, Bt, _, _, gain = adapter.compose(dA, dB, magnitude, weight, scaling)
            return weight_change(weight, gain, Ah, Bt, scaling, adapter.axis)
        wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        update = (scaling * dB.to(wide)) @ dA.to(wide)
        V = weight.to(wide) + update
        squares = torch.cat([part.double().square().sum(dim=1) for part in V.split(256)])
        return update.addcmul_(V, gain_of_norm(magnitude.to(wide), squares)[:, None])


def _approximations(
    layers: Mapping[str, Any],
    adapter_name: str,
    rank: int,
    moments: Mapping[str, Tensor],
    progress: Progress | None,
) -> Iterator[tuple[str, Approximation]]:
    for number, (name, module) in enumerate(layers.items()):
        if progress is not None:
            progress(number, len(layers), name)
        change = layer_change(module, adapter_name)
        weights = _column_weights(moments[name]).to(change) if name in moments else None
        if weights is not None:
            change *= weights
        U, S, Vh = top_singular_triplets(change, min(rank, *change.shape), seed=module_seed(name))
        size = float(change.norm())
        error = float(change.addmm_(U * S, Vh, alpha=-1).norm())
        Vh = Vh if weights is None else Vh / weights
        yield name, Approximation(U.cpu(), S.cpu(), Vh.cpu(), LayerError(size, error))


def _column_weights(moments: Tensor) -> Tensor:
    """Return sqrt(q) with the mean of q at 1, and q at least 1e-4: an input that was always 0 still counts a little."""
    q = moments.double()
    return (q / q.mean().clamp_min(torch.finfo(q.dtype).tiny) + 1e-4).sqrt()


def _relative(errors: Any) -> float:
    errors = list(errors)
    change = math.fsum(one.change**2 for one in errors)
    return math.sqrt(math.fsum(one.error**2 for one in errors) / change) if change else 0.0


def _conversion(
    model: PeftModel,
    adapter_name: str,
    done: Mapping[str, Approximation],
    errors: dict[str, LayerError],
    rank: int,
) -> LoraConversion:
    config: Any = model.peft_config[adapter_name]
    state = {}
    for name, (U, S, Vh, _) in done.items():
        root = S[:rank].sqrt()
        A, B = root[:, None] * Vh[:rank], U[:, :rank] * root
        lacking = rank - A.shape[0]  # a weight whose smaller side is below the rank
        state[f"base_model.model.{name}.lora_A.weight"] = nn.functional.pad(A, (0, 0, 0, lacking)).float().contiguous()
        state[f"base_model.model.{name}.lora_B.weight"] = nn.functional.pad(B, (0, lacking)).float().contiguous()
    saved = model.state_dict() if config.modules_to_save else {}
    state |= {
        key: saved[entry].detach().cpu().contiguous() for key, entry in saved_parameters(model, adapter_name).items()
    }
    lora = LoraConfig(
        r=rank,
        lora_alpha=rank,
        modules_to_save=config.modules_to_save,
        task_type=config.task_type,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
    )
    lora.target_modules = _target_names(model, done)  # set here, a list stays in its order, and the file's bytes too
    return LoraConversion(lora, state, errors)


def _target_names(model: PeftModel, converted: Mapping[str, Any]) -> list[str]:
    """Return the last names of the layers, as servers want them, or the whole names where others have the same."""
    last = {name.rpartition(".")[2] for name in converted}
    alike = {
        name
        for name, module in model.get_base_model().named_modules()
        if name.rpartition(".")[2] in last and isinstance(module, nn.Linear | LoraLayer)
    }
    return sorted(last if alike == set(converted) else converted)
