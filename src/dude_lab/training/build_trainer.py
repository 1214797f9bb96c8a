"""`build_trainer`: the trainer of a plan, with every default that affects results pinned, and the adapted model.

This module imports torch, transformers and TRL; import it only to train.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig

from .distributed import ALONE, DDP, ZERO, ZERO3, Processes
from .packed_batches import PackedCollator, check_packing
from .run_plan import Plan
from .trainer import RunTrainer

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


def sft_config(plan: Plan, folder: Path, engine: str = DDP) -> SFTConfig:
    """Return the run's settings as TRL's, with every default that affects results pinned."""
    train = plan.settings.train
    on_cpu = plan.base.device == "cpu"
    mixed = not on_cpu and (plan.base.dtype is torch.bfloat16 or (plan.full and torch.cuda.is_bf16_supported()))
    config = SFTConfig(
        output_dir=str(folder),
        # steps and batches
        max_steps=plan.steps,
        per_device_train_batch_size=train.batch_size,
        per_device_eval_batch_size=train.batch_size,
        gradient_accumulation_steps=train.gradient_accumulation,
        average_tokens_across_devices=True,
        dataloader_drop_last=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=True,
        # data: already tokenised, masked and truncated
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        eval_packing=False,
        padding_free=False,
        completion_only_loss=train.completion_only_loss,
        assistant_only_loss=False,
        shuffle_dataset=False,
        loss_type="nll",
        # optimizer
        optim="adamw_torch",
        learning_rate=train.learning_rate,
        lr_scheduler_type=SCHEDULES[train.schedule],
        warmup_steps=int(train.warmup) if train.warmup >= 1 else train.warmup,
        weight_decay=train.weight_decay,
        adam_beta1=train.adam_beta1,
        adam_beta2=train.adam_beta2,
        adam_epsilon=train.adam_epsilon,
        max_grad_norm=train.max_grad_norm,
        label_smoothing_factor=0.0,
        neftune_noise_alpha=None,
        # numbers
        use_cpu=on_cpu,
        bf16=mixed,
        fp16=not on_cpu and plan.base.dtype is torch.float16,
        gradient_checkpointing=train.gradient_checkpointing,
        # ZeRO-3 gathers weights for the backward in hooks, which the other kind of checkpointing does not call
        gradient_checkpointing_kwargs={"use_reentrant": True} if engine == ZERO3 else None,
        torch_compile=False,
        use_liger_kernel=False,
        auto_find_batch_size=False,
        # randomness
        seed=train.seed,
        data_seed=train.seed if train.data_seed is None else train.data_seed,
        full_determinism=False,
        # logging and saving: our own callbacks show progress, log, and delete old checkpoints
        logging_strategy="steps",
        logging_steps=train.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",  # the trackers are among our callbacks
        run_name=plan.settings.output.name,
        project="dude",
        log_level="error",
        eval_strategy="no",
        save_strategy="steps",
        save_steps=train.save_every,
        save_total_limit=None,
        save_only_model=False,
        load_best_model_at_end=False,
        push_to_hub=False,
        ignore_data_skip=False,
        # several processes share a batch, so that the config has the same meaning with any number of them
        accelerator_config={
            "split_batches": plan.processes > 1,
            "gradient_accumulation_kwargs": {"sync_each_batch": engine in ZERO},
        },
        ddp_find_unused_parameters=plan.full and not train.gradient_checkpointing,
        ddp_broadcast_buffers=False,
    )
    if config.n_gpu > 1:
        config._n_gpu = 1  # one process trains on one GPU; DataParallel would silently multiply the batch
    return config


def build_trainer(
    plan: Plan,
    model: torch.nn.Module,
    folder: Path,
    callbacks: Iterable[TrainerCallback] = (),
    processes: Processes = ALONE,
) -> RunTrainer:
    """Return TRL's trainer for a plan.

    Args:
        plan: a checked plan.
        model: the base model, or the PEFT model made by `adapted_model`.
        folder: folder of the checkpoints; the trainer creates it.
        callbacks: callbacks, called in this order.
        processes: processes of the run.

    Returns:
        The trainer for `plan.steps` steps.

    Raises:
        DudeError: packed examples, and a model that does not keep them apart.
    """
    if plan.train.packed:
        check_packing(model)
    trainer = RunTrainer(
        model=model,
        args=sft_config(plan, folder, processes.engine),
        train_dataset=plan.train.data,
        eval_dataset=plan.validation.data if plan.validation is not None else None,
        processing_class=plan.base.tokenizer,
        data_collator=PackedCollator(plan.base.tokenizer.pad_token_id) if plan.train.packed else None,
        callbacks=list(callbacks),
        group_by_length=plan.settings.train.group_by_length,
        processes=processes,
    )
    for chatter in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(chatter)
    return trainer


def adapted_model(plan: Plan, base: torch.nn.Module) -> torch.nn.Module:
    """Add the method's adapter to the base model, seeded: the same plan gives the same adapter.

    Raises:
        DudeError: the method cannot be applied to this model (a non-finite weight, for instance).
    """
    from peft import get_peft_model
    from transformers import set_seed

    from ..methods import build

    set_seed(plan.settings.train.seed)
    config = build(plan.settings.method, plan.settings.train.seed)
    if config is None:
        return base
    if isinstance(getattr(config, "target_modules", None), str):
        # The modules of the plan for every method: PEFT's "all-linear" and expressions match differently.
        config.target_modules = {target.name for target in plan.part.targets if not target.experts}  # type: ignore[attr-defined]
    return get_peft_model(base, config)
