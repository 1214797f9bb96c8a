"""Callbacks of the trainer: curves, evaluations, checkpoints with checksums, a clean stop on Ctrl-C."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .best_step import BestStep
from .curves import Curves
from .distributed import Processes
from .reporter import Reporter
from .run_checkpoint import PREFIX, is_complete, remove, seal, step_of
from .stop import StopRequest
from .time_left import TimeLeft

if TYPE_CHECKING:
    from .trainer import RunTrainer


class Clock:
    """Seconds of training without evaluations, over all parts of a resumed run."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._before = seconds
        self._since: float | None = None

    def start(self) -> None:
        """Start counting."""
        self._since = time.perf_counter()

    def stop(self) -> None:
        """Stop counting."""
        self._before, self._since = self.seconds, None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + (time.perf_counter() - self._since if self._since is not None else 0.0)


class LogCurves(TrainerCallback):
    """Write loss, learning rate, gradient norms and tokens of every logged step.

    Gradient norms are before clipping; `grad_norm` is over all trained parameters.
    """

    def __init__(self, curves: Curves, clock: Clock, reporter: Reporter, left: TimeLeft) -> None:
        self.curves, self.clock, self.reporter, self.left = curves, clock, reporter, left
        self.trainer: RunTrainer | None = None
        self._last = (0, 0.0)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start the clock."""
        self.clock.start()
        assert self.trainer is not None
        self._last = (self.trainer.tokens, self.clock.seconds)
        self.reporter.begin(state.global_step, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Write one record for a logged step."""
        if not logs or "loss" not in logs:
            return  # the totals at the end of training
        loss, trainer = logs["loss"], self.trainer
        assert trainer is not None
        norms = {f"grad_norm_{group}": value for group, value in trainer.group_norms.items()}
        record = {
            "step": state.global_step,
            "epoch": round(state.epoch or 0.0, 6),
            "loss": loss,
            "learning_rate": logs["learning_rate"],
            "grad_norm": logs.get("grad_norm"),
            **norms,
            "token_accuracy": logs.get("mean_token_accuracy"),
            "tokens": trainer.tokens,
            "seconds": round(self.clock.seconds, 3),
        }
        self.curves.append({k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in record.items()})
        tokens, seconds = self._last
        speed = (trainer.tokens - tokens) / max(self.clock.seconds - seconds, 1e-9)
        self.reporter.remaining(self.left.after(state.global_step, trainer.tokens, self.clock.seconds))
        self.reporter.progress(state.global_step, loss, speed)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop the clock."""
        self.clock.stop()


class StoppedEarly(Exception):  # noqa: N818 - not an error
    """An evaluation repeated by a resumed run ends it before its first step."""


class EvaluateEvery(TrainerCallback):
    """Evaluate every `every` steps except the last, with the clock stopped.

    A stop request ends an evaluation at once: a checkpoint is written, and the resumed run evaluates first.

    Args:
        run: evaluates a step, and returns whether its checkpoint is to be saved, and whether the run ends with it.
    """

    def __init__(
        self,
        every: int,
        clock: Clock,
        curves: Curves,
        stop: StopRequest,
        run: Callable[[int], tuple[bool, bool]],
        processes: Processes,
        left: TimeLeft,
    ) -> None:
        self.every, self.clock, self.curves, self.stop, self.run = every, clock, curves, stop, run
        self.processes, self.left = processes, left

    def _due(self, state: TrainerState) -> bool:
        return 0 < state.global_step < state.max_steps and state.global_step % self.every == 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Repeat an evaluation that a stop request interrupted."""
        step = state.global_step
        if self._due(state) and self.processes.from_first(lambda: not self._done(step)):
            self._evaluate(step, control)
            if control.should_training_stop and not self.stop.asked:
                raise StoppedEarly

    def _done(self, step: int) -> bool:
        return any(r["step"] == step and "loss" not in r for r in self.curves.read())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate if it is due."""
        if self._due(state) and not self.processes.any(self.stop.asked):
            self._evaluate(state.global_step, control)

    def _evaluate(self, step: int, control: TrainerControl) -> None:
        self.clock.stop()
        should_log, begin = control.should_log, time.perf_counter()
        try:
            # No process may leave a collective before the others: several finish the evaluation.
            with self.stop.at_once() if self.processes.count == 1 else nullcontext():
                save, end = self.run(step)
            self.left.evaluated(time.perf_counter() - begin)
            control.should_save |= save
            control.should_training_stop |= end
        except KeyboardInterrupt:
            self.stop.reporter.note("evaluation stopped; it is repeated when the run is resumed")
            control.should_save = control.should_training_stop = True
        finally:
            control.should_log = (
                should_log  # or the trainer, having logged a validation loss, would not log the step's loss
            )
            self.clock.start()


class SealCheckpoints(TrainerCallback):
    """Mark each checkpoint as complete once it is on disk, then delete the oldest ones except the best.

    Of the older ones only the sizes are checked, not the checksums. Checkpoints of later steps, which a resumed run
    skipped because they are damaged, do not count.
    """

    def __init__(
        self, keep: int, curves: Curves, extra: Callable[[], dict[str, Any]], best: BestStep | None = None
    ) -> None:
        self.keep, self.curves, self.extra, self.best = keep, curves, extra, best

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Seal the newest, delete the oldest."""
        folder = Path(args.output_dir or "")
        newest = folder / f"{PREFIX}{state.global_step}"
        self.curves.save_to(newest)
        seal(newest, self.extra())
        numbered = (p for p in folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit())
        older = [p for p in numbered if step_of(p) < state.global_step and is_complete(p)]
        for old in sorted([*older, newest], key=step_of)[: -self.keep]:
            if self.best is None or step_of(old) != self.best.step:
                remove(old)


class StopCleanly(TrainerCallback):
    """After a stop request, or at the step that it names, finish the step, write a checkpoint and stop."""

    def __init__(self, stop: StopRequest, processes: Processes) -> None:
        self.stop, self.processes = stop, processes

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop if any process was asked to, or the step is reached; the last step ends the run."""
        if self.stop.at is not None and self.stop.at <= state.global_step < state.max_steps:
            self.stop.asked = True
        if self.processes.any(self.stop.asked):
            control.should_save = True
            control.should_training_stop = True
