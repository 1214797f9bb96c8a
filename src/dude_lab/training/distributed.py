"""The processes of a run that `torchrun` or `accelerate launch` started: all do the same steps, the first one writes.

Nothing here imports torch until `connect` is called with more than one process.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dude_peft.errors import DudeError

if TYPE_CHECKING:
    from .run_plan import Plan

T = TypeVar("T")

DDP, FSDP2, ZERO2, ZERO3 = "ddp", "fsdp2", "zero2", "zero3"
ZERO = {ZERO2: 2, ZERO3: 3}  # with DeepSpeed's number
TITLES = {DDP: "DDP", FSDP2: "FSDP2", ZERO2: "ZeRO-2", ZERO3: "ZeRO-3"}
SHARDS = (FSDP2, *ZERO)  # engines that the trainer sets up itself, hidden from Accelerate
# How `accelerate launch` passes on its config file; `torchrun` passes on what the shell has set.
USE_FSDP, FSDP_VERSION = "ACCELERATE_USE_FSDP", "FSDP_VERSION"
USE_DEEPSPEED, ZERO_STAGE = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE"
OFFLOADS = ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE")
DEEPSPEED_FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
OTHER_ENGINES = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config (tensor or context parallelism)",
}


class OtherProcess(DudeError):  # noqa: N818 - the error is that of another process
    """An error that another process of the run reports."""


def process_count() -> int:
    """Return the number of processes that `torchrun` started; 1 without it."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def process_rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK") or 0) if process_count() > 1 else 0


def engine() -> str:
    """Return the engine that trains with several processes, by the variables that `accelerate launch` sets.

    Raises:
        DudeError: one that is not supported.
    """
    if process_count() == 1:
        return DDP
    remedy = "Use DDP, FSDP2 (fsdp_version: 2) or DeepSpeed's ZeRO-2 and ZeRO-3; recipes/distributed has config files."
    for variable, name in OTHER_ENGINES.items():
        if _true(variable):
            raise DudeError(f"{variable}: {name} is not supported. {remedy}")
    if _true(USE_DEEPSPEED):
        return _zero()
    if not _true(USE_FSDP):
        return DDP
    if os.environ.get(FSDP_VERSION, "1") != "2":
        raise DudeError(f"FSDP1 is not supported: its flat parameters mix frozen and trained ones. {remedy}")
    return FSDP2


def _zero() -> str:
    """Return the engine that the variables of DeepSpeed ask for."""
    remedy = "Set deepspeed_config as recipes/distributed/zero2.yaml and zero3.yaml do."
    if path := os.environ.get(DEEPSPEED_FILE):
        raise DudeError(f"deepspeed_config_file: {path}: `dude train` reads no config of DeepSpeed's own. {remedy}")
    stage = os.environ.get(ZERO_STAGE, "2")
    engines = {str(number): name for name, number in ZERO.items()}
    if stage not in engines:
        raise DudeError(f"zero_stage: {stage} is not supported, only 2 and 3 are. {remedy}")
    for variable in OFFLOADS:
        if (device := os.environ.get(variable, "none")) != "none":
            key = variable.removeprefix("ACCELERATE_DEEPSPEED_").lower()
            raise DudeError(f"{key}: {device}: offloading by DeepSpeed is not supported. {remedy}")
    if importlib.util.find_spec("deepspeed") is None:
        raise DudeError("DeepSpeed is not installed. Install it (pip install deepspeed), or use FSDP2.")
    return engines[stage]


def check_engine(plan: Plan, engine: str) -> None:
    """Reject a run that an engine cannot train.

    Raises:
        DudeError: the setting and the engine.
    """
    import torch

    if engine not in SHARDS:
        return
    name = TITLES[engine]
    if plan.settings.train.load_best_model_at_end:
        raise DudeError(
            f"train.load_best_model_at_end: a model that {name} has sharded cannot load a checkpoint. Leave it out, or "
            "use DDP."
        )
    quantized = plan.settings.model.quantization or getattr(plan.base.config, "quantization_config", None)
    if quantized is not None and engine in (FSDP2, ZERO3):
        raise DudeError(f"model.quantization: {name} does not shard quantised weights. Use ZeRO-2 or DDP.")
    if engine in ZERO and plan.base.device != "cpu" and plan.base.dtype is torch.float16:
        raise DudeError(f"model.dtype: {name} without a loss scaler does not train float16. Use bfloat16.")


def _true(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


@dataclass(frozen=True)
class Processes:
    """The processes of a run. Every method is a collective: all of them have to call it.

    Attributes:
        rank: of this process, from 0.
        count: of all.
        engine: `ddp`, `fsdp2`, `zero2` or `zero3`.
    """

    rank: int = 0
    count: int = 1
    engine: str = DDP

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process."""
        return self.sum(int(value)) > 0

    def sum(self, value: int) -> int:
        """Return the sum of a value over all processes."""
        if self.count == 1:
            return value
        import torch
        from accelerate import PartialState

        total = torch.tensor(value, dtype=torch.int64, device=PartialState().device)
        torch.distributed.all_reduce(total)
        return int(total)

    def from_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process and return its result, which can be pickled, in all of them.

        Raises:
            DudeError: the function raised it; in the other processes, it raised anything.
        """
        if self.count == 1:
            return function()
        from accelerate.utils import broadcast_object_list

        box: list[Any] = [None, None]
        error: BaseException | None = None
        if self.first:
            try:
                box[0] = function()
            except BaseException as caught:
                error, box[1] = caught, str(caught) or type(caught).__name__
        broadcast_object_list(box)
        if error is not None:
            raise error
        if box[1] is not None:
            raise OtherProcess(box[1])
        return box[0]

    def together(self, function: Callable[[], T]) -> T:
        """Call a function in every process.

        Raises:
            DudeError: the function raised anything in another process, or a DudeError; the first process reports it.
        """
        if self.count == 1:
            return function()
        result: Any = None
        error: Exception | None = None
        try:
            result = function()
        except Exception as caught:
            error = caught
        messages = self.gather(None if error is None else str(error) or type(error).__name__)
        if error is not None and not isinstance(error, DudeError):
            raise error
        for rank, text in enumerate(messages):
            if text is not None:
                text = text if rank == 0 else f"process {rank}: {text}"
                raise DudeError(text) if self.first else OtherProcess(text)
        return result

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


ALONE = Processes()


@contextmanager
def connect(device: str) -> Iterator[Processes]:
    """Connect the processes that were started, over gloo on the CPU and NCCL on GPUs.

    FSDP2 and ZeRO are set up here (`sharding`, `zero`) and not by accelerate, which refuses FSDP2 on a CPU and writes
    checkpoints that only the same number of processes can read: their variables are hidden from it in the block.

    Args:
        device: `train.device` of the run. On `cuda` each process gets a GPU of its own.

    Raises:
        DudeError: an engine that is not supported.
    """
    if process_count() == 1:
        yield ALONE
        return
    import torch
    from accelerate import PartialState

    from .base_model import choose_device

    chosen = engine()
    hidden = {name: os.environ.pop(name) for name in (USE_FSDP, USE_DEEPSPEED) if name in os.environ}
    connected = torch.distributed.is_initialized()  # by the caller, who also disconnects
    state = PartialState(cpu=choose_device(device) == "cpu")
    try:
        yield Processes(state.process_index, state.num_processes, chosen)
    finally:
        os.environ.update(hidden)
        if not connected:
            state.destroy_process_group()
