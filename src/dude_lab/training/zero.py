"""DeepSpeed's ZeRO-2 and ZeRO-3 in a run: the engine, and the optimizer's state in the form that one process has.

As with FSDP2 (`sharding`), a checkpoint does not depend on the number of processes, nor on the engine.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

STATES = ("exp_avg", "exp_avg_sq")  # of AdamW, for each parameter, beside the number of steps


class ZeroOptimizer(torch.optim.Optimizer):
    """The optimizer of a DeepSpeed engine, with `state_dict` and `load_state_dict` in the form of a single process.

    Both are collective, as is `step`.

    Args:
        engine: DeepSpeed's engine around the model.
        options: the options of each group, also of those without parameters, which DeepSpeed removes from its list.
        groups: the parameters of each group, before DeepSpeed replaced them by flat partitions.
    """

    step_was_skipped = False
    _is_accelerate_prepared = True  # Accelerate would move the state to the device

    def __init__(self, engine: Any, options: list[dict[str, Any]], groups: Sequence[Sequence[nn.Parameter]]) -> None:
        self.engine, self.param_groups, self.groups, self.defaults = engine, options, groups, {}
        self._norms: dict[int, Tensor] = {}  # of the gradients of this step

    @property
    def state(self) -> Any:  # type: ignore[override]
        """Return nothing: the state is of flat partitions."""
        return {}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Clip the gradients and update the parameters."""
        self.engine.step()
        self._norms.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do nothing: the engine's step has freed the gradients."""

    def gradient_norm(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Return the norm of the averaged gradients of parameters, after the last backward of a step; collective."""
        from deepspeed.utils import safe_get_full_grad

        for parameter in parameters:
            if id(parameter) not in self._norms:
                gradient = safe_get_full_grad(parameter)
                norm = parameter.new_zeros(()) if gradient is None else gradient.norm()
                self._norms[id(parameter)] = norm.float()
        return torch.stack([self._norms[id(parameter)] for parameter in parameters]).norm()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as the optimizer of a single process has it; collective."""
        from deepspeed.utils import safe_get_full_optimizer_state

        self._link()
        partitions = [values for values in self._base.state.values() if values]
        steps = max((values["step"] for values in partitions), default=None)
        state: dict[int, dict[str, Any]] = {}
        packed: list[dict[str, Any]] = []
        numbers = itertools.count()
        for options, parameters in zip(self.param_groups, self.groups, strict=True):
            places = [next(numbers) for _ in parameters]
            packed.append({**options, "params": places})
            if steps is None:  # before the first step
                continue
            for number, parameter in zip(places, parameters, strict=True):
                full = {key: safe_get_full_optimizer_state(parameter, key).cpu() for key in STATES}
                state[number] = {"step": steps.clone(), **full}
        return {"state": state, "param_groups": packed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state that one process or several have saved; collective."""
        from deepspeed.utils import safe_set_full_optimizer_state

        for options, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            options.update({key: value for key, value in saved.items() if key != "params"})
        states = state_dict["state"]
        if not states:
            return
        for partition in self._partitions:  # the state exists from the first step on
            empty = {key: torch.zeros_like(partition) for key in STATES}
            self._base.state[partition] = {"step": next(iter(states.values()))["step"].clone(), **empty}
        self._link()
        everyone = (parameter for parameters in self.groups for parameter in parameters)
        for number, parameter in enumerate(everyone):
            for key in STATES:
                value = states[number][key].to(parameter.device)
                safe_set_full_optimizer_state(parameter, value, key)

    @property
    def _base(self) -> Any:
        return self.engine.optimizer.optimizer

    @property
    def _partitions(self) -> list[Tensor]:
        """Return the flat partitions of this process, which the optimizer updates."""
        zero = self.engine.optimizer
        return getattr(zero, "single_partition_of_fp32_groups", None) or zero.fp32_partitioned_groups_flat

    def _link(self) -> None:
        """Let ZeRO-2 find each parameter's part of the state.

        It does so once, after the first step of the first group, when the other groups have no state yet.
        """
        zero = self.engine.optimizer
        if hasattr(zero, "_hp_optimizer_states_linked"):
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()


def partition(model: nn.Module, optimizer: torch.optim.Optimizer, stage: int, max_grad_norm: float) -> ZeroOptimizer:
    """Give a model, with its adapter, to a DeepSpeed engine; collective.

    Stage 2 divides gradients and the optimizer's state, stage 3 also the parameters. All keep their dtype.

    Args:
        model: with full parameters.
        optimizer: AdamW of the trained parameters.
        stage: 2 or 3.
        max_grad_norm: of clipping; 0 for none.

    Returns:
        The optimizer of the engine, which is its attribute `engine`.
    """
    import deepspeed
    import deepspeed.ops
    from deepspeed.accelerator import get_accelerator

    if get_accelerator().device_name() == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled
    options = list(optimizer.param_groups)
    groups = [list(group["params"]) for group in options]
    if stage == 3:
        # What a module reads without calling the one that has it: an adapter's layer, and TRL's loss the head's weight.
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        readers = [(module, module) for module in model.modules() if isinstance(module, BaseTunerLayer)]
        for reader, owner in [*readers, (base, base.get_output_embeddings())]:
            for parameter in owner.parameters():
                deepspeed.zero.register_external_parameter(reader, parameter)
    config = {
        "train_micro_batch_size_per_gpu": 1,  # the trainer divides batches and losses
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "steps_per_print": 2**31,
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": 0,  # parameters that stay whole have to be of one dtype
        },
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return ZeroOptimizer(engine, options, groups)


@contextmanager
def gathered(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Return a context in which parameters that ZeRO-3 partitions have their full values; collective."""
    import deepspeed

    with deepspeed.zero.GatheredParameters(list({id(p): p for p in parameters}.values())):
        yield
