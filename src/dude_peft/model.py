"""DuDe inside PEFT: the model class.

PEFT's type stays LORA and its entry in PEFT's table becomes `DudeModel`, which passes every plain `LoraConfig` on to
`LoraModel`. For a `DudeConfig` PEFT builds its LoRA layer, and `layer.DudeVariant` adds DuDe to it. On disk the adapter
is a stock DoRA adapter of rank 2r (`checkpoint`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import PeftType
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from . import checkpoint
from .base_weight import (
    STACKS,
    check_present,
    dense_weight,
    is_partitioned,
    onloaded,
    record_dense_layers,
    stacks_of,
    with_values,
)
from .checkpoint import Parts
from .config import DudeConfig
from .errors import DudeError, quote
from .experts import DudeExperts, decomposed, from_factors
from .expressions import ALL_LINEAR
from .injection import exchange, rank_and_count, report_init, reported, share, unchanged_on_error
from .layer import DudeVariant, Init, init_from_factors, init_from_svd
from .suitable import expert_parts
from .svd import ONE_THREAD
from .targets import Target, find_targets, saved_modules

OVERWRITING_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq", "mica")

MOST_THREADS = 8  # each has copies of its weight in float32 and float64


def decomposed_on_one_thread(model: nn.Module, target: Target) -> bool:
    """Return whether the weight of `target` is one that `svd` decomposes on one CPU thread, and plain enough to be read
    from another thread than the model's: in memory, and not quantised."""
    d, k = target.shape
    layer = model.get_submodule(target.layer)
    layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
    weight: Any = layer._parameters.get("weight")
    plain = not target.experts and type(layer) in (nn.Linear, Conv1D) and type(weight) in (nn.Parameter, Tensor)
    return bool(plain and not is_partitioned(weight) and weight.device.type == "cpu" and d * k <= ONE_THREAD)


def device_of(model: nn.Module, target: Target) -> torch.device:
    """Return the device of the initial values of `target`: that of its weight, when the layer is called."""
    layer: Any = model.get_submodule(target.layer)
    layer = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
    if target.experts:
        weight = getattr(layer, stacks_of(layer, target.layer)[target.stack].parameter)
    else:
        with onloaded(layer):
            weight = layer.weight
    return cast(torch.device, weight.device)


class DudeModel(LoraModel):
    """PEFT's LoRA model, which also takes `DudeConfig`. A plain `LoraConfig` goes to `LoraModel` untouched."""

    def _check_new_adapter_config(self, config: Any) -> None:
        super()._check_new_adapter_config(config)
        everyone = [config, *self.peft_config.values()]
        overwriting = [c for c in everyone if str(c.init_lora_weights).lower().startswith(OVERWRITING_INITS)]
        if overwriting and any(isinstance(c, DudeConfig) for c in everyone):
            raise DudeError(
                f"init_lora_weights={overwriting[0].init_lora_weights!r} overwrites the base weights that DuDe "
                "decomposes and never changes. Use them on two copies of the base model"
            )

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Decompose every target first, then let PEFT inject. Any error leaves the model as it was."""
        config = self.peft_config[adapter_name]
        if not isinstance(config, DudeConfig):
            super().inject_adapter(model, adapter_name, *args, **kwargs)
            return
        options = dict(config.__dict__)
        try:
            with unchanged_on_error(self, model):
                self._inject(model, adapter_name, config, *args, **kwargs)
        except BaseException:
            config.__dict__ = options
            # PEFT has put the config in its table already; without an adapter behind it the model could not be used.
            self.peft_config.pop(adapter_name, None)
            raise

    def _inject(self, model: nn.Module, adapter_name: str, config: DudeConfig, *args: Any, **kwargs: Any) -> None:
        def prepare() -> tuple[Sequence[Target], dict[Target, Init]]:
            return self._prepare(model, adapter_name, config, divides)

        partitioned = any(is_partitioned(parameter) for parameter in model.parameters())  # all gather, each decomposes
        divides = rank_and_count()[1] > 1 and checkpoint.LOADED.get() is None and not partitioned
        if not divides:
            targets, inits = prepare()
        else:
            targets, values = exchange(prepare, lambda target: device_of(model, target))
            inits = {target: Init(*tensors) for target, tensors in values.items()}
        # PEFT's option to build adapters on the meta device would lose the initial values; it saves nothing here.
        kwargs.pop("low_cpu_mem_usage", None)
        parameters = config.target_parameters  # PEFT makes a set of them for some architectures
        with warnings.catch_warnings():
            # Said of patterns that match parameters alone. `find_targets` has checked them.
            warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
            super().inject_adapter(model, adapter_name, *args[:1], low_cpu_mem_usage=False, **kwargs)
        config.target_parameters = parameters
        stacks: dict[str, dict[str, Init]] = {}
        for target in targets:
            init = inits[target]
            if target.experts:
                stacks.setdefault(target.layer, {})[target.stack] = init
            else:
                DudeVariant.attach(model.get_submodule(target.name), adapter_name, init, config)
        for name, found in stacks.items():
            cast(DudeExperts, model.get_submodule(name)).attach(adapter_name, found, config)

    def _prepare(
        self, model: nn.Module, adapter_name: str, config: DudeConfig, divides: bool
    ) -> tuple[Sequence[Target], dict[Target, Init]]:
        """Check the config against the model; return all targets, and the initial values of those of this process."""
        if not adapter_name or "." in adapter_name or hasattr(nn.ModuleDict(), adapter_name):
            raise DudeError(
                f"adapter_name {quote(adapter_name)} cannot name a module in PyTorch: give a word without dots "
                "that is no method of nn.ModuleDict, for instance 'default'"
            )
        self._check_new_adapter_config(config)
        targets, notes = find_targets(model, config)
        for note in notes:
            warnings.warn(note, stacklevel=2)
        for name, module in saved_modules(model, config).items():
            if any(p.is_meta for p in module.parameters()):
                raise DudeError(
                    f"modules_to_save: '{name}' has no values in memory (meta device or offloaded by accelerate), "
                    "so no copy of it can be trained: keep it on a device (device_map), or leave it out"
                )
        wanted = config.target_modules
        if isinstance(wanted, str) and (wanted.lower() == ALL_LINEAR or expert_parts(model)):
            # By name: PEFT would add modules that are left out here, and reads an expression as last names.
            config.target_modules = {target.name for target in targets if not target.experts}
        loaded = checkpoint.LOADED.get()
        mine = share(targets) if divides else targets
        what = "Decomposing weights" if loaded is None else "Placing factors"
        return targets, dict(self._inits(model, mine, config, loaded, reported(mine, what)))

    def _inject_parameters(
        self, peft_config: Any, model: nn.Module, adapter_name: str, low_cpu_mem_usage: bool
    ) -> list[str]:
        """Put `DudeExperts` in place of the experts that a `DudeConfig` names; PEFT calls this."""
        if not isinstance(peft_config, DudeConfig):
            return cast(list[str], super()._inject_parameters(peft_config, model, adapter_name, low_cpu_mem_usage))
        sizes: dict[str, dict[str, tuple[int, float]]] = {}
        for target in find_targets(model, peft_config).modules:
            if target.experts:
                sizes.setdefault(target.layer, {})[target.stack] = target.r, target.scaling
        for name, stacks in sizes.items():
            layer = model.get_submodule(name)
            if not isinstance(layer, DudeExperts):
                layer = DudeExperts(layer, name)
                model.set_submodule(name, layer)
            layer.add(adapter_name, stacks, peft_config)
        return list(sizes)

    @staticmethod
    def _inits(
        model: nn.Module,
        targets: Sequence[Target],
        config: DudeConfig,
        loaded: Mapping[str, Parts] | None,
        order: Iterable[Target],
    ) -> Iterator[tuple[Target, Init]]:
        """Yield each target of `order` with its initial values; small weights on a CPU are decomposed concurrently.

        Each on one thread, so with the same bits as one after the other.
        """
        threads = min(torch.get_num_threads(), MOST_THREADS)
        small = [] if loaded is not None or threads == 1 else [t for t in targets if decomposed_on_one_thread(model, t)]
        if len(small) < 2:
            for target in order:
                yield target, DudeModel._init(model, target, config, loaded)
            return
        before = torch.get_num_threads()
        pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
        try:
            running = {t.name: pool.submit(DudeModel._init, model, t, config, None) for t in small}
            for target in order:
                future = running.pop(target.name, None)
                yield target, future.result() if future else DudeModel._init(model, target, config, None)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(before)  # part of which, MKL's, the workers have changed for the process

    @staticmethod
    def _init(model: nn.Module, target: Target, config: DudeConfig, loaded: Mapping[str, Parts] | None) -> Init:
        """Compute the initial values of one target: from the parts in a file, or by decomposing its weight."""
        layer = model.get_submodule(target.layer)
        if isinstance(layer, BaseTunerLayer):
            if layer.merged:
                raise DudeError(
                    f"module '{target.name}' has a merged adapter: call unmerge_adapter() before adding one"
                )
            if target.experts and not isinstance(layer, DudeExperts):
                raise DudeError(f"'{target.layer}' has an adapter of another method: use a copy of the base model")
            layer = layer.get_base_layer()
        if target.experts:
            return DudeModel._expert_init(layer, target, config, loaded)
        with with_values(layer):
            weight = dense_weight(layer, target.name)
            check_present(target.name, weight)
            if loaded is not None:
                A0, B0 = (loaded[target.name][part].to(weight.device) for part in (checkpoint.A0, checkpoint.B0))
                init = init_from_factors(weight, A0, B0, config.magnitude_axis)
                checkpoint.check_same_base(
                    init, target.name, target.scaling, config.magnitude_axis, config.init_variant
                )
                return init
            options = config.init_variant, config.magnitude_axis, config.svd, config.svd_seed, config.factors
            return init_from_svd(weight, target.name, target.r, target.scaling, *options)

    @staticmethod
    def _expert_init(layer: Any, target: Target, config: DudeConfig, loaded: Mapping[str, Parts] | None) -> Init:
        """Compute the initial values of a stack of experts, as `_init`."""
        stack = stacks_of(layer, target.layer)[target.stack]
        weight = stack.weight(getattr(layer, stack.parameter).detach())
        check_present(target.name, weight)
        if loaded is None:
            return decomposed(weight, target.layer, target.stack, target.r, target.scaling, config)
        A0, B0 = (loaded[target.name][part].to(weight.device) for part in (checkpoint.A0, checkpoint.B0))
        init = from_factors(weight, A0, B0, config.magnitude_axis)
        checkpoint.check_same_base(init, target.name, target.scaling, config.magnitude_axis, config.init_variant)
        return init

    def _create_and_replace(  # type: ignore[override]
        self,
        lora_config: Any,
        adapter_name: str,
        target: Any,
        target_name: str,
        parent: Any,
        current_key: str,
        **kw: Any,
    ) -> None:
        if not isinstance(lora_config, DudeConfig):
            report_init(current_key)
            if adapter_name in getattr(target, "lora_dude", ()):  # of an earlier get_peft_model on the same base
                target.delete_adapter(adapter_name)
            super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, current_key, **kw)
            return
        plain = lora_config.lora_config()
        base = target.get_base_layer() if isinstance(target, BaseTunerLayer) else target
        plain.fan_in_fan_out = lora_config.fan_in_fan_out = isinstance(base, Conv1D)
        with onloaded(base):  # PEFT puts the adapter where the weight is
            super()._create_and_replace(plain, adapter_name, target, target_name, parent, current_key, **kw)

    def add_weighted_adapter(self, adapters: list[str], *args: Any, **kwargs: Any) -> None:
        """Refuse DuDe adapters: a sum of factors is not the sum of their effects on the weight."""
        if any(isinstance(self.peft_config.get(name), DudeConfig) for name in adapters):
            raise DudeError(
                f"add_weighted_adapter({adapters}): a DuDe adapter's magnitude and norm do not add. Merge each one "
                "into a copy of the base model and average the weights"
            )
        super().add_weighted_adapter(adapters, *args, **kwargs)

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        model = super()._unload_and_optionally_merge(merge, *args, **kwargs)
        record_dense_layers(model)
        return model

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Return the key in a file: PEFT's, which has the adapter's name one place further left for experts."""
        pattern = rf"(.+\.lora_\w+)\.{re.escape(adapter_name)}(\.(?:{'|'.join(STACKS)})\.\w+)"
        if found := re.fullmatch(pattern, key):
            return found[1] + found[2]
        return cast(str, super()._remove_adapter_name_from_key(key, adapter_name))

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: Any, unwanted_adapter_names: Any
    ) -> dict[str, Tensor]:
        state = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        if not isinstance(config, DudeConfig):
            return state
        # PEFT reads the modules to save out of `state_dict` next, and does not gather shards.
        for name in saved_parameters(model, adapter_name).values():
            if name in state_dict:
                state_dict[name] = checkpoint.full_tensor(state_dict[name])
        # A state dict of the trained parameters alone lacks the initial values.
        frozen = {n: p.detach() for n, p in model.named_parameters() if state and f".lora_dude.{adapter_name}." in n}
        return checkpoint.to_stored({**frozen, **state}, config.magnitude_axis, f".{adapter_name}")

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if isinstance(config, DudeConfig) and checkpoint.LOADED.get() is None:  # `load_adapter` has done it
            layers, saved = dude_layers(model, adapter_name), set(saved_parameters(model, adapter_name).values())
            saved |= checkpoint.embedding_entries(model, state_dict, saved).keys()
            state_dict = checkpoint.from_stored(state_dict, layers, config, adapter_name, saved)
        state_dict = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        return _sharded_like(model, state_dict) if isinstance(config, DudeConfig) else state_dict


def dude_layers(model: nn.Module, adapter_name: str) -> dict[str, Any]:
    """Return PEFT's layers that have the DuDe adapter `adapter_name`, by module name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer) and adapter_name in getattr(module, "lora_dude", {})
    }


def saved_parameters(model: nn.Module, adapter_name: str) -> dict[str, str]:
    """Return the names in `model` of the parameters of the adapter's `modules_to_save`, by their names in its file."""
    return {
        f"{name}.{key}": f"{name}.{entry}"
        for name, module in model.named_modules()
        if isinstance(module, AuxiliaryTrainingWrapper)
        for key, entry in module.adapter_state_dict_load_map(adapter_name).items()
    }


def _sharded_like(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return `state_dict` with the values of parameters that FSDP2 shards, sharded in the same way."""
    shards = {name: p for name, p in model.named_parameters() if hasattr(p, "full_tensor") and name in state_dict}
    if not shards:
        return state_dict
    from torch.distributed.tensor import distribute_tensor

    placed = {
        name: distribute_tensor(state_dict[name].to(p.device, p.dtype), p.device_mesh, p.placements)  # type: ignore[attr-defined]
        for name, p in shards.items()
    }
    return {**state_dict, **placed}


PEFT_TYPE_TO_TUNER_MAPPING[PeftType.LORA] = DudeModel
