"""The plan of a run: everything that is checked before the weights are loaded.

`make_plan` runs the checks in order. `dude validate` shows each check, `dude train --dry-run` shows the plan, and
`dude train` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError
from dude_peft.expressions import layer_pattern

from .. import smollm2
from ..config.run_settings import RunSettings
from ..methods import METHODS, FullSettings, MethodSettings, TargetSettings, build
from .base_model import Base, check_base, find_base, meta_model
from .distributed import process_count
from .estimates import MemoryEstimate, estimate, step_count
from .examples import READ, Examples, Parts, Progress, length_limit, pack, shown, tokenize, tokenize_sample
from .trackers import check_trackers

if TYPE_CHECKING:
    from torch import nn

    from dude_peft.targets import Target, Targets

    from .training_data import Columns, TrainingData

CHECKS = ("model", "data", "lengths", "targets", "evaluation", "steps", "memory")


@dataclass(frozen=True)
class TrainablePart:
    """The parameters that a method trains.

    Attributes:
        targets: the adapted modules, with r = 0 if the method has no rank; empty for full fine-tuning.
        sizes: number of trained values in each of them.
        trainable: number of trained values, `modules_to_save` included.
        total: number of values in the base model.
        linear: those in its linear layers but for the output layer, which `model.quantization` quantises.
        frozen: number of float32 values that the method stores beside the base model, not trained.
        notes: on modules that `all-linear` does not match.
    """

    targets: list[Target]
    sizes: list[int]
    trainable: int
    total: int
    frozen: int = 0
    linear: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Plan:
    """The plan of a run; a field is set once its check has passed.

    Attributes:
        steps: optimizer steps.
        epochs: passes over the examples in these steps.
        renderings: the first record as it is trained on, and through the model's chat template, in the parts of
            `examples.shown`; None unless the model has a template and `data.chat_template` does not decide.
        sample: number of examples that are tokenised for the lengths; None for all, which training needs.
        progress: called with the progress of a check.
        processes: number of processes; each has `train.batch_size / processes` examples of a batch.
    """

    settings: RunSettings
    base: Base = None  # type: ignore[assignment]
    data: TrainingData = None  # type: ignore[assignment]
    train: Examples = None  # type: ignore[assignment]
    validation: Examples | None = None
    part: TrainablePart = None  # type: ignore[assignment]
    memory: MemoryEstimate = None  # type: ignore[assignment]
    steps: int = 0
    epochs: float = 0.0
    notes: list[str] = field(default_factory=list)
    renderings: tuple[Parts, Parts] | None = None
    sample: int | None = None
    progress: Progress | None = None
    processes: int = field(default_factory=process_count)

    @property
    def full(self) -> bool:
        """Whether the whole model is trained."""
        return isinstance(self.settings.method, FullSettings)


Report = Callable[[str, str, DudeError | None], None]
"""Called after each check with its name, its result, and the error if it failed."""


def make_plan(
    settings: RunSettings,
    report: Report | None = None,
    *,
    keep_going: bool = False,
    started: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    sample: int | None = None,
) -> Plan:
    """Run the checks and return the plan.

    Args:
        settings: the run.
        report: called after each check.
        started: called before each check with its name.
        progress: called during a check that takes long, with what is done and the total.
        sample: tokenise only this many examples of a larger data set, if nothing is found in them that needs the
            numbers of all (`examples.tokenize_sample`). The plan is then not for training.
        keep_going: after a failed check, run those that do not depend on it, to report all mistakes at once.

    Raises:
        DudeError: the first failed check; with `keep_going`, none.
    """
    plan = Plan(settings, sample=sample, progress=progress)
    failed: set[str] = set()
    for name in CHECKS:
        if failed & _DEPENDS_ON.get(name, frozenset()):
            continue
        if started:
            started(name)
        try:
            found = _CHECKS[name](plan)
        except DudeError as error:
            failed.add(name)
            if report:
                report(name, "", error)
            if not keep_going:
                raise
            continue
        if report:
            report(name, found, None)
    return plan


def _model(plan: Plan) -> str:
    settings = plan.settings
    plan.base = find_base(settings.model, device=settings.train.device, full=plan.full)
    if reason := check_base(plan.base):
        plan.notes.append(f"the weight files are only compared with config.json when they are loaded: {reason}")
    if plan.full and settings.model.dtype in ("bfloat16", "float16"):
        plan.notes.append(
            f"full fine-tuning in {settings.model.dtype}: small updates are lost to rounding; float32 is safer"
        )
    if settings.model.name == smollm2.NAME:
        plan.notes.append(f"{smollm2.NAME} is {smollm2.DESCRIPTION}")
    dtype = str(plan.base.dtype).removeprefix("torch.")
    if settings.model.quantization is not None:
        dtype = f"{settings.model.quantization}, {dtype}"
    return f"{plan.base.config.model_type}, {dtype} on {plan.base.device}, {len(plan.base.tokenizer):,} tokens"


def _data(plan: Plan) -> str:
    from .training_data import load_training

    plan.data = load_training(plan.settings.data)
    held_out = f", {len(plan.data.validation):,} for validation" if plan.data.validation is not None else ""
    form = f" ({plan.data.format})" if plan.data.format else ""
    return f"{len(plan.data.train):,} examples{form}{held_out}"


def _lengths(plan: Plan) -> str:
    train, tokenizer = plan.settings.train, plan.base.tokenizer
    limit = length_limit(train, plan.base.config)
    vocabulary = getattr(plan.base.config.get_text_config(), "vocab_size", None)

    def tokenized(data: Columns, what: str) -> Examples:
        rest = (tokenizer, train, limit, what, vocabulary, plan.progress)
        if plan.sample is None:
            return tokenize(data, *rest).as_dataset()
        return tokenize_sample(data, *rest, size=plan.sample)

    plan.train = tokenized(plan.data.train, "training")
    if plan.data.validation is not None:
        plan.validation = tokenized(plan.data.validation, "validation")
    for what, examples in (("training", plan.train), ("validation", plan.validation)):
        if examples is None:
            continue
        if count := examples.dropped or examples.truncated:
            done = "dropped" if examples.dropped else "truncated"
            plan.notes.append(
                f"{count:,} of {examples.count + examples.dropped:,} {what} examples are longer than {limit} "
                f"tokens (the longest has {examples.longest:,}) and are {done}"
            )
        if examples.merged:
            plan.notes.append(
                f"{examples.merged:,} {what} prompts end inside a token of the concatenated text; start "
                "completions with a space, or end prompts with a line break"
            )
        if examples.endless:
            plan.notes.append(
                f"{examples.endless:,} {what} chats end without an end token after the assistant's last turn, so the "
                "model does not learn to end its answers: add the end token to the model's chat template"
            )
    _compare_with_chat(plan)
    found = f"longest {plan.train.longest:,} tokens, mean {plan.train.mean_length:.0f}, limit {limit:,}"
    if plan.train.sample_of:
        found += f" (from {len(plan.train.data):,} examples, the longest among them)"
    if not train.packing:
        return found
    plan.train = pack(plan.train)
    rows = plan.train.rows
    return f"{found}; packed into {rows:,} sequences, {plan.train.tokens / rows / limit:.0%} full"


def _compare_with_chat(plan: Plan) -> None:
    """Note that a model with a chat template is trained on pairs without it, with both renderings."""
    data, tokenizer = plan.settings.data, plan.base.tokenizer
    if not tokenizer.chat_template or data.chat_template is not None or "prompt" not in plan.data.train.column_names:
        return
    if plan.data.both is None:
        plan.notes.append(f"the model has a chat template, and {data.name} is trained and evaluated without it")
        return
    plan.notes.append(
        "the model has a chat template, and the prompts and completions are trained as text without it. To train them "
        "as turns of a chat, set data.chat_template=true; to keep the text, set it to false"
    )
    as_text, as_chat = plan.data.both
    with suppress(DudeError):  # a template that rejects a chat without a system turn, for instance
        rendered = [tokenize(one, tokenizer, plan.settings.train, READ) for one in (as_text, as_chat)]
        plan.renderings = shown(rendered[0], tokenizer), shown(rendered[1], tokenizer)


def _targets(plan: Plan) -> str:
    quantization, method = plan.settings.model.quantization, METHODS[plan.settings.method.name]
    if quantization is not None and quantization not in method.quantizations:
        able = [one.name for one in METHODS.values() if quantization in one.quantizations]
        raise DudeError(
            f"model.quantization: method '{method.name}' does not train on {quantization} weights. Leave it out, or "
            f"choose one of {', '.join(able)}."
        )
    plan.part = trainable_part(meta_model(plan.base), plan.settings.method)
    plan.notes.extend(plan.part.notes)
    if not plan.part.targets:
        return f"the whole model, {plan.part.trainable:,} parameters"
    ranks = sorted({t.r for t in plan.part.targets})
    rank = f"rank {ranks[0]}, " if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}, "
    rank = rank if any(ranks) else ""  # a method without one
    share = plan.part.trainable / plan.part.total
    experts = sum(t.experts for t in plan.part.targets)
    modules = sum(not t.experts for t in plan.part.targets)
    what = f"{modules} modules and {experts} weights of experts" if experts else f"{modules} modules"
    return f"{what}, {rank}{plan.part.trainable:,} parameters ({share:.2%})"


def _evaluation(plan: Plan) -> str:
    if plan.settings.eval is None:
        return "none"
    if not plan.settings.eval.has_tasks:
        every = plan.settings.eval.every
        return "validation loss" + (f" every {every:,} steps" if every else "")
    from ..evaluation.tasks import build_units

    units = build_units(
        plan.settings.eval, plan.base.tokenizer if plan.base else None
    )  # reads every question: a missing file is reported before training
    limit = plan.settings.eval.limit
    sizes = [len(u.questions) or len(u.task.eval_docs) for u in units]
    count = sum(min(size, limit or size) for size in sizes)
    window = getattr(plan.base.config.get_text_config(), "max_position_embeddings", None) if plan.base else None
    longest = plan.settings.eval.max_new_tokens
    if window and longest >= window and any(u.protocol == "generate" for u in units):
        raise DudeError(
            f"eval.max_new_tokens: {longest}, and the model's context is {window} tokens, question included. Lower it."
        )
    if plan.settings.train.load_best_model_at_end and plan.settings.metric_for_best_model == "accuracy":
        plan.notes.append(
            "the best model is chosen on the questions of the result, whose accuracy is too high for it; "
            "train.metric_for_best_model=loss chooses it by the validation loss"
        )
    return f"{', '.join(plan.settings.eval.names)}: {count:,} questions"


def _steps(plan: Plan) -> str:
    train, count = plan.settings.train, plan.processes
    check_trackers(train.trackers)
    if train.batch_size % count:
        down, up = train.batch_size // count * count, -(-train.batch_size // count) * count
        nearest = " or ".join(str(size) for size in (down, up) if size)
        raise DudeError(
            f"train.batch_size: {train.batch_size} is not a multiple of the {count} processes, which share a batch. "
            f"Set train.batch_size to {nearest}, or start another number of processes."
        )
    if count > 1:
        plan.notes.append(
            f"{count} processes: a step takes {train.batch_size * train.gradient_accumulation} examples, "
            f"{train.batch_size // count} (train.batch_size / {count}) x {count} processes x "
            f"{train.gradient_accumulation} (train.gradient_accumulation)"
        )
    plan.steps, per_epoch = step_count(train, plan.train.rows)
    plan.epochs = plan.steps / per_epoch
    if train.warmup >= plan.steps:
        raise DudeError(f"train.warmup: {train.warmup:g} steps, and the run has {plan.steps}. Lower it.")
    return (
        f"{plan.steps:,} steps of {train.batch_size * train.gradient_accumulation} "
        f"{'sequences' if train.packing else 'examples'}, {plan.epochs:.2f} epochs"
        + (f"; reported to {', '.join(train.trackers)}" if train.trackers else "")
    )


def _memory(plan: Plan) -> str:
    plan.memory = estimate(plan)
    if plan.memory.total > plan.memory.available:
        needed, free = plan.memory.total / 2**30, plan.memory.available / 2**30
        plan.notes.append(
            f"needs about {needed:.1f} GiB, and {free:.1f} GiB are free: lower train.batch_size or "
            "train.max_length, or set train.gradient_checkpointing=true"
        )
    return f"about {plan.memory.total / 2**30:.2f} GiB"


_CHECKS: dict[str, Callable[[Plan], str]] = {
    "model": _model,
    "data": _data,
    "lengths": _lengths,
    "targets": _targets,
    "evaluation": _evaluation,
    "steps": _steps,
    "memory": _memory,
}
_DEPENDS_ON: dict[str, frozenset[str]] = {
    "lengths": frozenset({"model", "data"}),
    "targets": frozenset({"model"}),
    "steps": frozenset({"model", "data", "lengths"}),
    "memory": frozenset({"model", "data", "lengths", "targets", "steps"}),
}


def as_table(plan: Plan) -> list[dict[str, Any]]:
    """Return the adapted modules, one row per name (with `*` for the layer), shape and rank."""
    rows: dict[tuple[str, tuple[int, int], int], dict[str, Any]] = {}
    for target, trainable in zip(plan.part.targets, plan.part.sizes, strict=True):
        name = layer_pattern(target.name)
        row = rows.setdefault(
            (name, target.shape, target.r),
            {"module": name, "shape": target.shape, "r": target.r, "count": 0, "trainable": 0},
        )
        row["count"] += target.weights
        row["trainable"] += trainable
    return list(rows.values())


def trainable_part(model: nn.Module, settings: MethodSettings) -> TrainablePart:
    """Return what the method would train of `model`, which may be on the meta device.

    Raises:
        DudeError: a target that matches no module (with the nearest names), a module that cannot take an adapter, a
            rank above min(d, k) (with the module), a shape that the method cannot take, or a target on the output
            layer.
    """
    total = sum(p.numel() for p in model.parameters())
    if not isinstance(settings, TargetSettings):
        return TrainablePart([], [], total, total)
    method = METHODS[settings.name]
    targets, notes = _find_targets(model, settings)
    output_layer = getattr(model, "get_output_embeddings", lambda: None)()
    modules = dict(model.named_modules())
    for target in targets:
        module = None if target.experts else modules[target.name]
        if module is not None and module is output_layer:
            raise DudeError(
                f"target_modules matches the output layer '{target.name}', whose adapter the trainer's loss does not "
                "use. Remove it from target_modules, or add it to modules_to_save to train all of it."
            )
        if not method.conv1d and type(module).__name__ == "Conv1D":
            raise DudeError(
                f"module '{target.name}' is a Conv1D, and method '{method.name}' supports nn.Linear only. Remove it "
                "from target_modules, or choose another method (`dude methods`)."
            )
        method.check(settings, target)
    sizes = [target.weights * method.count(settings, target) for target in targets]
    saved = tuple(settings.modules_to_save or ())
    copied = [module for name, module in modules.items() if name.endswith(saved)]  # PEFT's rule, "norm" in "layernorm"
    trainable = sum(sizes) + sum(p.numel() for m in copied for p in m.parameters())
    linear = sum(
        module.weight.numel()
        for module in modules.values()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not output_layer
    )
    return TrainablePart(targets, sizes, trainable, total, method.frozen(settings, targets), linear, notes)


def _find_targets(model: nn.Module, settings: TargetSettings) -> Targets:
    """Find the targets by a LoRA config: PEFT matches names alike for every method. Its rank is checked as well."""
    from peft import LoraConfig

    from dude_peft.targets import find_targets

    config = build(settings)
    if isinstance(config, LoraConfig):
        return find_targets(model, config)
    keys = {"task_type": "CAUSAL_LM", **settings.targeting()}
    if (pattern := getattr(settings, "rank_pattern", None)) is not None:
        return find_targets(model, LoraConfig(**keys, r=settings.r, rank_pattern=dict(pattern)))  # type: ignore[attr-defined]
    size = getattr(settings, "r", None) or 0
    found = find_targets(model, LoraConfig(**keys, r=1))
    return found._replace(modules=[t._replace(r=size) for t in found.modules])
