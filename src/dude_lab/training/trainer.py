"""`RunTrainer`: TRL's trainer with the changes that a run needs: logs, checkpoints, sharding, checks of numbers.

This module imports torch, transformers and TRL; import it only to train.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import DistributedType, is_peft_model
from datasets import Dataset
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from trl import SFTTrainer
from trl.trainer import utils as trl_utils

from . import zero
from .distributed import ALONE, FSDP2, SHARDS, ZERO, ZERO3, Processes
from .examples import IGNORED
from .length_sampler import LengthGroupedSampler
from .nonfinite import NotFinite, all_finite, first_not_finite
from .packed_batches import TOKENS
from .run_checkpoint import PREFIX, remove
from .sharding import (
    full_optimizer_state,
    full_tensor,
    gathered,
    is_sharded,
    reshard,
    saved_parameters,
    shard,
    shard_optimizer_state,
)

FUSED = hasattr(trl_utils, "add_fused_lm_head")  # whether TRL's trainer computes the loss from the last hidden state
GROUPS = {"A": ".lora_A.", "B": ".lora_B.", "m": ".lora_magnitude_vector"}  # in PEFT's parameter names


class RunTrainer(SFTTrainer):
    """TRL's trainer, which also counts tokens and computes the gradient norms of A, B and m before clipping.

    It raises `NotFinite` at the first step whose loss or gradient norm is not finite, before the optimizer's update,
    and before it saves parameters that are not. What was averaged since the last logged step is part of a checkpoint,
    so that a resumed run logs the same losses (the base class loses them). Adapters keep their dtype. It writes no
    model cards and sends no telemetry.

    Args:
        group_by_length: whether to use the `LengthGroupedSampler`.
        processes: the processes that share the batches; each trains on its part of every batch.

    Attributes:
        tokens: tokens seen (without padding), by all processes; set it before `train` when a run is resumed.
        group_norms: gradient norms of the last step, `{"A": ..., "B": ..., "m": ...}`, for the groups that exist.
        log_state: what the next logged step averages, as it was at the last checkpoint.
        validation_losses: loss of each batch of the validation examples, in the last evaluation.
    """

    def __init__(self, *args: Any, group_by_length: bool = False, processes: Processes = ALONE, **kwargs: Any) -> None:
        model = kwargs["model"]
        trained = [(parameter, parameter.data) for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(*args, **kwargs)
        for parameter, values in trained:  # TRL rounds adapters to bfloat16 where the base is quantised
            if parameter.dtype != values.dtype:
                parameter.data = values.to(parameter.device)
        self.group_by_length, self.processes = group_by_length, processes
        self.tokens = 0
        self.group_norms: dict[str, float] = {}
        self.log_state: dict[str, Any] = {}
        self._loss_sum = torch.zeros((), device=self.args.device)  # over the micro-batches since the last logged step
        self._logged = 0  # the last logged step
        self._step_tokens = 0
        self.validation_losses: list[float] = []
        self.sharded = False
        self.zero: zero.ZeroOptimizer | None = None
        self._find_trained()

    def _find_trained(self) -> None:
        assert self.model is not None
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        named = [(f".{name}", p) for name, p in self.model.named_parameters() if p.requires_grad]
        groups = {group: [p for name, p in named if part in name] for group, part in GROUPS.items()}
        self._groups = {group: parameters for group, parameters in groups.items() if parameters}

    def shard(self, checkpoint: Path | None = None) -> None:
        """Shard the model if the engine does, after the parameters of `checkpoint` were loaded into it; collective."""
        if self.processes.engine not in SHARDS:
            return
        if checkpoint is not None:
            super()._load_from_checkpoint(str(checkpoint))
        assert self.model is not None
        # For Accelerate the model is prepared: it sets up autocast, and does not wrap the model for DDP.
        self.accelerator.prepare_model(self.model, evaluation_mode=True)
        if self.processes.engine == FSDP2:
            shard(self.model, self.args.device, self.processes.count)
            self._find_trained()
        else:
            optimizer, stage = self.create_optimizer(), ZERO[self.processes.engine]
            self.optimizer = self.zero = zero.partition(self.model, optimizer, stage, self.args.max_grad_norm)
            self.model_wrapped = engine = self.zero.engine
            self.accelerator.backward = partial(engine.backward, scale_wrt_gas=False)  # type: ignore[method-assign]
        self.sharded = True

    def reshard(self) -> None:
        """Free what an evaluation has gathered; call it before the next step."""
        if self.sharded and self.model is not None:
            reshard(self.model)

    def gathered(self) -> AbstractContextManager[None]:
        """Return a context in which the first process can save the model; every process has to enter it."""
        assert self.model is not None
        if self.processes.engine == ZERO3 and self.sharded:
            return zero.gathered([parameter for _, _, parameter in saved_parameters(self.model)])
        return gathered(self.model) if self.sharded and self.zero is None else nullcontext()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the parameters of a checkpoint, unless `shard` has done it."""
        if not self.sharded:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, in the first process."""
        with self.gathered():
            super().save_model(output_dir, _internal_call)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the states of optimizer and schedule, as a single process has them."""
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = full_optimizer_state(self.optimizer) if self.zero is None else self.zero.state_dict()
        if self.processes.first:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)  # type: ignore[union-attr]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load the states of optimizer and schedule, which a single process or several have saved."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.sharded and self.zero is None:
            shard_optimizer_state(self.optimizer)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Do one forward and backward; after the last one of a step, compute the norms of the unclipped gradients."""
        if self.zero is not None:
            self.zero.engine.set_gradient_accumulation_boundary(self.accelerator.sync_gradients)
        wrapped = isinstance(model, DistributedDataParallel) or is_sharded(model) or self.zero is not None
        if self.processes.count > 1 and not wrapped:
            raise RuntimeError("the model is not wrapped for training by several processes: gradients would differ")
        counts = inputs.pop(TOKENS) if TOKENS in inputs else inputs["attention_mask"].sum(dim=1)
        if self.processes.count > 1:
            counts = counts[(inputs["labels"] != IGNORED).any(dim=1)]  # without those that fill up a short batch
        self._step_tokens += int(counts.sum())
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._loss_sum += loss.detach()
        if self.accelerator.sync_gradients:
            if self.processes.any(not math.isfinite(self._loss_sum)):
                raise self._not_finite("loss")
            self.tokens += self.processes.sum(self._step_tokens)
            self._step_tokens = 0
            scaler = self.accelerator.scaler
            scale = scaler.get_scale() if scaler is not None else 1.0
            self.group_norms = {
                group: float(self._gradient_norm(parameters)) / scale for group, parameters in self._groups.items()
            }
        return loss

    def compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Compute the loss as the base class, with logits only at the positions whose next token has a label.

        TRL does this on devices with Triton. Elsewhere it computes the logits of all positions, prompts and padding
        included. Here the other positions are removed from the last hidden state before TRL's chunked loss, which takes
        labels that are already shifted.
        """
        labels = inputs.get("labels")
        if labels is None or self.args.device.type != "cpu" or not FUSED:
            return super().compute_loss(model, inputs, *args, **kwargs)
        shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        labelled = shifted != IGNORED
        if not labelled.any():
            return super().compute_loss(model, inputs, *args, **kwargs)

        def remove(backbone: torch.nn.Module, given: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[labelled].unsqueeze(0)  # (1, labelled, hidden)
            return output

        assert self.model is not None
        language_model: Any = self.model.get_base_model() if is_peft_model(self.model) else self.model  # type: ignore[operator]
        with language_model.base_model.register_forward_hook(remove):
            return super().compute_loss(
                model, {**inputs, "shift_labels": shifted[labelled].unsqueeze(0)}, *args, **kwargs
            )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Return the batches of a step, and the number of their labels over all processes.

        Accelerate fills up the last, short batch of an epoch with examples of the first one, so that every process has
        some. These get no loss.
        """
        if self.processes.count == 1:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = list(islice(epoch_iterator, num_batches))
        state = self.accelerator.gradient_state
        if batches and state.end_of_dataloader:
            left = len(self.train_dataset) % self.args.train_batch_size
            share = self.args.train_batch_size // self.processes.count
            if left:
                batches[-1]["labels"][max(0, left - self.processes.rank * share) :] = IGNORED
            state.active_dataloader.remainder = -1  # or TRL's metrics would leave out processes
        return batches, self._get_num_items_in_batch(batches, device)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the metrics of the validation examples; every process computes all of them.

        Evaluated before it is trained, a model counts as prepared for Accelerate, which then does not wrap it for
        training, and each process would follow its own gradient. This is undone.
        """
        self.validation_losses = []
        if self.processes.count == 1:
            return super().evaluate(*args, **kwargs)
        gather = vars(self)["gather_function"]
        self.gather_function: Any = self._own
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.gather_function = gather
            if self.model_wrapped is self.model and not self.sharded:
                self.model.__dict__.pop("_is_accelerate_prepared", None)
                self.accelerator._models.clear()

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss of a validation batch, and keep it."""
        found = super().prediction_step(*args, **kwargs)
        if found[0] is not None:
            self.validation_losses.append(float(found[0]))
        return found

    def _own(self, losses: torch.Tensor) -> torch.Tensor:
        """Return the losses of a batch, one per example, as Accelerate gathers them in a single process."""
        state = self.accelerator.gradient_state
        return losses[: state.remainder] if state.end_of_dataloader and state.remainder > 0 else losses

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return all examples in every process: a loss is a mean over a batch, so it depends on the batch."""
        if self.processes.count == 1:
            return super().get_eval_dataloader(eval_dataset)
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        loader = DataLoader(data, batch_size=self.args.eval_batch_size, collate_fn=self.data_collator)
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def _save_rng_state(self, output_dir: str) -> None:
        """Write the random states of all processes in the first one, which seals the checkpoint."""
        if self.processes.count == 1:
            super()._save_rng_state(output_dir)
            return
        with tempfile.TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            (mine,) = Path(folder).iterdir()
            states = self.processes.gather((mine.name, mine.read_bytes()))
        if self.processes.first:
            for name, content in states:
                (Path(output_dir) / name).write_bytes(content)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        """Clip as the base class, but check the norm first: clipping by NaN makes every gradient NaN.

        With a loss scaler an infinite gradient is normal: the step is skipped and the scale lowered, as long as it can.
        """
        kinds = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        if self.accelerator.distributed_type not in kinds:
            return super()._clip_grad_norm(model)
        scaler = self.accelerator.scaler
        self.accelerator.unscale_gradients()
        norm = self._gradient_norm(self._trained)
        if not math.isfinite(norm) and (scaler is None or scaler.get_scale() <= 1):
            raise self._not_finite("gradient norm")
        if self.zero is not None:  # its step clips
            return norm
        torch.nn.utils.clip_grads_with_norm_(self._trained, self.args.max_grad_norm, norm)
        return norm

    def _gradient_norm(self, parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
        if self.zero is not None:
            return self.zero.gradient_norm(parameters)
        return full_tensor(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))

    def check_parameters(self) -> None:
        """Raise `NotFinite` unless every trained parameter is finite."""
        partitioned = self._trained if self.processes.engine == ZERO3 and self.sharded else []
        with zero.gathered(partitioned) if partitioned else nullcontext():
            if self.processes.any(not all_finite(self._trained)):
                raise self._not_finite("parameters", self.state.global_step)

    def _not_finite(self, what: str, step: int | None = None) -> NotFinite:
        assert self.model is not None
        return NotFinite(self.state.global_step + 1 if step is None else step, what, first_not_finite(self.model))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Return the sampler of an epoch: shuffled, or also grouped by length."""
        if not self.group_by_length:
            return super()._get_train_sampler(train_dataset)
        data = self.train_dataset if train_dataset is None else train_dataset
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroupedSampler([len(ids) for ids in data["input_ids"]], self.args.train_batch_size, seed)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save into a new folder: files of a checkpoint that a resumed run skipped are removed."""
        self.check_parameters()
        place = Path(self.args.output_dir or "") / f"{PREFIX}{self.state.global_step}"
        if self.processes.first and place.is_dir():
            remove(place)
        self.log_state = {
            "loss_sum": self._mean_loss_sum(),
            "step": self._logged,
            "token_accuracy": list(self._metrics["train"].get("mean_token_accuracy", ())),
        }
        super()._save_checkpoint(model, trial)

    def restore_log_state(self, state: dict[str, Any]) -> None:
        """Restore the averages of a checkpoint: `log_state` as it was there."""
        self._loss_sum.fill_(state["loss_sum"])
        self._logged = state["step"]
        if state["token_accuracy"]:  # the base class fails on the mean of an empty list
            self._metrics["train"]["mean_token_accuracy"] = list(state["token_accuracy"])

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the base class, but average the loss over all steps since the last logged one, also after a resume."""
        if "loss" in logs:
            logs["loss"] = self._mean_loss_sum() / (self.state.global_step - self._logged)
            self._loss_sum.zero_()
            self._logged = self.state.global_step
            assert self.model is not None
            self.model.train()  # an evaluation in this step has changed it; the base class then logs other averages
        super().log(logs, *args, **kwargs)

    def report(self, values: dict[str, float]) -> None:
        """Send values to the trackers; `log` would mix them with the averages of training."""
        for callback in self._trackers():
            callback.on_log(self.args, self.state, self.control, logs=dict(values), model=self.model)

    def end_reports(self) -> None:
        """Close the trackers after the evaluation of the result, which comes after the last step."""
        for callback in self._trackers():
            callback.on_train_end(self.args, self.state, self.control, model=self.model)

    def _trackers(self) -> list[TrainerCallback]:
        if not self.is_world_process_zero():
            return []
        known = tuple(INTEGRATION_TO_CALLBACK.values())
        return [one for one in self.callback_handler.callbacks if isinstance(one, known)]

    def _mean_loss_sum(self) -> float:
        """Return the mean over the processes."""
        return float(self.accelerator.gather(self._loss_sum).mean())  # type: ignore[union-attr]

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: the run folder has the documentation."""

    def _send_telemetry(self) -> None:
        pass
