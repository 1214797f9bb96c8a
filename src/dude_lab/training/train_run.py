"""Train a run: check, load, adapt, train, evaluate, and write its folder."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError
from dude_peft.files import write_json, write_text

from ..config.run_settings import RunSettings
from ..config.yaml_file import fingerprint
from ..folders import checksums
from ..methods import METHODS
from .base_model import identity, load_base
from .best_step import BestStep
from .distributed import OtherProcess, Processes, check_engine, connect
from .estimates import out_of_memory, step_count
from .lock import OWNER, FolderLock
from .model_card import model_card
from .nonfinite import Divergence, NotFinite
from .provenance import now
from .record import make_record, perplexity, read_record
from .reporter import Reporter
from .run_checkpoint import PREFIX, fault, read_manifest, step_of
from .run_folder import VALIDATION_LOSSES, RunFolder
from .run_plan import Plan, make_plan
from .run_result import INITIAL, draw_result, metrics_before, save_initial, save_result, sync_result
from .stop import StopRequest
from .time_left import TimeLeft
from .trackers import tracker_callbacks

if TYPE_CHECKING:
    from .trainer import RunTrainer


FACTORISED = ("svd", "qr")  # initialisations that decompose the weights, which takes time
TRAINING = "training"


class Interrupted(Exception):  # noqa: N818 - not an error
    """A run was stopped by Ctrl-C or SIGTERM.

    Attributes:
        step: step of the last checkpoint; 0 if there is none.
        steps: steps of the run; 0 if it was still being checked.
        stage: what the run was doing.
    """

    def __init__(self, folder: RunFolder, step: int, steps: int, stage: str = TRAINING) -> None:
        super().__init__(
            f"stopped after step {step} of {steps}" if stage == TRAINING and step else f"stopped while {stage}"
        )
        self.folder, self.step, self.steps, self.stage = folder, step, steps, stage


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, its record (`run.json`), and whether it was already finished."""

    folder: RunFolder
    record: dict[str, Any]
    already: bool = False


def train(
    settings: RunSettings,
    *,
    resume: str | None = None,
    reporter: Reporter | None = None,
    evaluate_start: bool = True,
    stop_at: int | None = None,
) -> RunResult:
    """Train a run and write it to `settings.output`.

    Under `torchrun` all processes call this: they share the batches, and the first one writes and reports.

    Args:
        settings: the run.
        resume: None to begin; `auto` to resume from the newest complete checkpoint, or begin if there is none; `must`
            to fail if there is none; or the path of a checkpoint.
        reporter: called about the progress.
        evaluate_start: evaluate before the first step as well.
        stop_at: stop after this step with a checkpoint, as SIGTERM does; a run that ends before finishes.

    Returns:
        The finished run; with `resume`, a run that is already finished is returned unchanged.

    Raises:
        DudeError: a mistake in the settings, or a folder that is in use; raised before the weights are loaded if
            possible, and before anything is written.
        Interrupted: stopped by `stop_at`, Ctrl-C or SIGTERM: in training after the step, with a checkpoint; else at
            once, but not while the result is written. `resume="auto"` resumes.
    """
    with connect(settings.train.device) as processes:
        shown = reporter if reporter is not None and processes.first else Reporter()
        return _train(settings, resume, shown, evaluate_start, processes, stop_at)


def _train(
    settings: RunSettings, resume: str | None, reporter: Reporter, first: bool, processes: Processes, at: int | None
) -> RunResult:
    folder = RunFolder(settings.output)

    def check() -> bool:
        # A checkpoint named by its path is used even if the run diverged.
        folder.check(settings, resume=resume is not None, retry=resume not in (None, "auto", "must"))
        return resume is not None and folder.record.is_file()

    def claim() -> tuple[bool, Path | None]:
        lock = stack.enter_context(FolderLock(folder.path))
        if not lock.flock:
            reporter.note(f"{folder.path}: this file system has no flock; only {OWNER} shows that the folder is in use")
        if check():  # again: another process may have finished the run in between
            return True, None
        return False, folder.find_checkpoint(resume, reporter.note) if resume is not None else None

    def prepare() -> Plan:
        with reporter.stage("checking"):
            made = make_plan(
                settings,
                reporter.check,
                started=reporter.checking,
                progress=lambda done, total: reporter.asked(done, total, "examples"),
            )
        check_engine(made, processes.engine)
        if checkpoint is not None:
            _check_checkpoint(checkpoint, made, folder)
        return made

    with StopRequest(reporter, at) as stop:
        plan = Plan(settings)
        try:
            with ExitStack() as stack:
                if processes.from_first(check):
                    return _finished(folder)
                with stop.deferred("stopping"):  # or a signal between locking and entering the block would leave files
                    finished, checkpoint = processes.from_first(claim)
                if stop.asked:
                    raise KeyboardInterrupt
                if finished:
                    return _finished(folder)
                plan = processes.together(prepare)
                for text in plan.notes:
                    reporter.note(text)
                if checkpoint is not None and at is not None and at <= step_of(checkpoint) < plan.steps:
                    raise Interrupted(folder, step_of(checkpoint), plan.steps)
                return _Run(plan, folder, reporter, stop, first, processes).go(checkpoint)
        except KeyboardInterrupt:
            complete = folder.complete_checkpoints()
            raise Interrupted(folder, step_of(complete[-1]) if complete else 0, plan.steps, stop.stage) from None


def _finished(folder: RunFolder) -> RunResult:
    return RunResult(folder, read_record(folder), already=True)


def _check_checkpoint(checkpoint: Path, plan: Plan, folder: RunFolder) -> None:
    """Reject a checkpoint of another config or other data."""
    manifest = read_manifest(checkpoint)
    if manifest.get("config") != fingerprint(plan.settings):
        raise DudeError(f"--resume: {checkpoint} was written under another config than {folder.config}.")
    if manifest.get("data") != plan.data.sha256:
        raise DudeError(f"--resume: the training data ({plan.data.source}) is not what {checkpoint} was trained on.")


class _Run:
    """The state of a run between its stages."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        reporter: Reporter,
        stop: StopRequest,
        evaluate_start: bool,
        processes: Processes,
    ) -> None:
        self.plan, self.folder, self.reporter, self.evaluate_start = plan, folder, reporter, evaluate_start
        self.stop, self.processes = stop, processes
        self.eval_seconds = 0.0
        self.before: dict[str, Any] | None = None
        self.best = BestStep.of(plan.settings)
        self.first_step = self.last_step = 0
        self.started = now()

    def go(self, checkpoint: Path | None) -> RunResult:
        from .callbacks import Clock
        from .curves import Curves

        plan, folder, settings = self.plan, self.folder, self.plan.settings
        manifest = read_manifest(checkpoint) if checkpoint else {}
        self.started = manifest.get("started", self.started)
        self.eval_seconds = manifest.get("eval_seconds", 0.0)
        self.clock = Clock(manifest.get("train_seconds", 0.0))
        self.curves = Curves(folder.curves, writes=self.processes.first)

        with self._stage(f"loading {settings.model.name}"):
            self.identity = identity(plan.base)
            base = load_base(plan.base)
        if (was := manifest.get("model", self.identity)) != self.identity:
            same = was.get("chat_template") == self.identity.get("chat_template")
            what = f"base model '{settings.model.name}'" if same else f"chat template {settings.model.chat_template}"
            raise DudeError(f"--resume: the {what} is not what {checkpoint} was trained on.")
        title = METHODS[settings.method.name].title
        with self._stage(f"preparing {title}"):
            begin = time.perf_counter()
            model = self.processes.together(lambda: self._adapt(base))
            init_seconds = time.perf_counter() - begin

        # All checks have passed; now the folder is written.
        self.processes.from_first(lambda: folder.begin(settings))
        self.curves.restore(checkpoint, step_of(checkpoint) if checkpoint else -1)
        self.first_step = step_of(checkpoint) if checkpoint else 0
        trainer = self.trainer = self._make_trainer(model)
        trainer.tokens = manifest.get("tokens", 0)
        if self.best is not None and "best" in manifest:
            self.best.restore(manifest["best"])
        if checkpoint is not None:  # checkpoints of version 0.1.0 have no averages: they begin here
            begun = {"loss_sum": 0.0, "step": step_of(checkpoint), "token_accuracy": []}
            trainer.restore_log_state(manifest.get("log", begun))
        if self.processes.first:
            save_initial(trainer.model, plan, folder)
        trainer.shard(checkpoint)
        begins = checkpoint is None and self.evaluate_start
        try:
            before = self.before = self._evaluate(trainer, 0, "before") if begins else metrics_before(manifest, folder)
            self.last_step = self._train(trainer, checkpoint)
            trainer.check_parameters()
            after = self._evaluate_result(trainer)
        except NotFinite as error:
            raise self._diverged(error) from None
        trainer.end_reports()

        self.stop.stage = "saving"
        late = "the result is being written; the run stops afterwards. Press again to stop at once"
        with self.stop.deferred(late), trainer.gathered():
            record = self.processes.from_first(lambda: self._finish(trainer, init_seconds, before, after))
        return RunResult(folder, record)

    def _finish(
        self,
        trainer: RunTrainer,
        init_seconds: float,
        before: dict[str, Any] | None,
        after: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """Write the result, the picture and, last, the record."""
        folder = self.folder
        saved, saved_bytes = save_result(trainer.model, self.plan, folder)
        loaded = self.plan.settings.train.load_best_model_at_end
        evaluations = [folder.evaluations / name for name, found in (("before", before), ("after", after)) if found]
        record = make_record(
            self.plan,
            files={},
            model=self.identity,
            curves=self.curves.read(),
            started=self.started,
            finished=now(),
            init_seconds=init_seconds,
            train_seconds=self.clock.seconds,
            eval_seconds=self.eval_seconds,
            tokens=trainer.tokens,
            last_step=self.last_step,
            best={} if self.best is None else self.best.facts(self._ended(self.last_step), loaded=loaded),
            saved_bytes=saved_bytes,
            before=before,
            after=after,
        )
        if not self.plan.full:
            write_text(saved / "README.md", model_card(record))
        record["files"] = checksums([saved, folder.curves, *evaluations], folder.path)
        if self.processes.count > 1:
            record["provenance"]["hardware"]["engine"] = self.processes.engine
        draw_result(self.curves.read(), record, folder)
        sync_result(folder)
        write_json(folder.record, record, checksum=True)
        shutil.rmtree(folder.checkpoints / INITIAL, ignore_errors=True)  # a resumed run needs it until here
        return read_record(folder)

    def _diverged(self, error: NotFinite) -> DudeError:
        """Record the divergence in the folder and return the error."""
        complete = self.folder.complete_checkpoints()
        divergence = Divergence(
            step=error.step,
            what=error.what,
            module=error.module,
            checkpoint=step_of(complete[-1]) if complete else None,
            learning_rate=self.plan.settings.train.learning_rate,
        )
        if self.processes.first:
            divergence.write(self.folder.path)
        kind = DudeError if self.processes.first else OtherProcess
        return kind(divergence.message(self.folder.path))

    @contextmanager
    def _stage(self, text: str) -> Iterator[None]:
        """Report a stage of the run, and name it if the run is stopped in it."""
        before, self.stop.stage = self.stop.stage, text
        with self.reporter.stage(text):
            yield
        self.stop.stage = before  # not after an error, which is of this stage

    def _adapt(self, base: Any) -> Any:
        """Add the method's adapter to the base model and report the progress."""
        from dude_peft.injection import distributed_init, on_init

        from .build_trainer import adapted_model

        what = "decomposing" if METHODS[self.plan.settings.method.name].init in FACTORISED else "preparing"
        begin = time.perf_counter()

        def report(module: str, number: int, of: int) -> None:
            left = (time.perf_counter() - begin) / number * (of - number) if number else None
            self.reporter.prepared(what, number, of, left)

        try:
            with on_init(report, len(self.plan.part.targets)), distributed_init():
                return adapted_model(self.plan, base)
        except DudeError:
            raise
        except ValueError as error:  # PEFT's own refusals
            raise DudeError(f"method '{self.plan.settings.method.name}': {error}") from error

    def _make_trainer(self, model: Any) -> RunTrainer:
        from .build_trainer import build_trainer
        from .callbacks import EvaluateEvery, LogCurves, SealCheckpoints, StopCleanly

        settings = self.plan.settings
        left = self._time_left()
        log = LogCurves(self.curves, self.clock, self.reporter, left)
        callbacks: list[Any] = [
            log,
            StopCleanly(self.stop, self.processes),
        ]
        if self.processes.first:
            callbacks.append(
                SealCheckpoints(
                    settings.train.keep_checkpoints,
                    self.curves,
                    self._checkpoint_facts,
                    self.best if settings.train.load_best_model_at_end else None,
                )
            )
        if settings.eval is not None and settings.eval.every:
            callbacks.append(
                EvaluateEvery(
                    settings.eval.every, self.clock, self.curves, self.stop, self._evaluate_now, self.processes, left
                )
            )
        callbacks += tracker_callbacks(settings.train.trackers, self.folder.path, self.first_step)
        log.trainer = build_trainer(self.plan, model, self.folder.checkpoints, callbacks, self.processes)
        return log.trainer

    def _time_left(self) -> TimeLeft:
        plan, evaluation = self.plan, self.plan.settings.eval
        _, per_epoch = step_count(plan.settings.train, plan.train.rows)
        return TimeLeft(plan.steps, per_epoch, plan.train.tokens, evaluation.every if evaluation is not None else None)

    def _checkpoint_facts(self) -> dict[str, Any]:
        return {
            "config": fingerprint(self.plan.settings),
            "data": self.plan.data.sha256,
            "model": self.identity,
            "started": self.started,
            "train_seconds": self.clock.seconds,
            "eval_seconds": self.eval_seconds,
            "tokens": self.trainer.tokens,
            "log": self.trainer.log_state,
            "before": self.before,
            "processes": self.processes.count,
            **({"best": self.best.state} if self.best is not None else {}),
        }

    def _train(self, trainer: RunTrainer, checkpoint: Path | None) -> int:
        """Train the remaining steps and return the last one.

        There are none if the checkpoint is of the last step (the trainer would do one more), or the run has been
        stopped early at it.
        """
        import torch
        from transformers import set_seed

        from .callbacks import StoppedEarly

        ended = self.best is not None and self.best.exhausted
        if checkpoint is not None and (ended or step_of(checkpoint) >= self.plan.steps):
            trainer._load_from_checkpoint(str(checkpoint))
            return step_of(checkpoint)
        if self.processes.count > 1 and checkpoint is not None:
            before = read_manifest(checkpoint).get("processes", 1)
            if before != self.processes.count:
                self.reporter.note(
                    f"{checkpoint} is of {before} processes, and now there are {self.processes.count}: the batches are "
                    "the same, the dropout masks are not"
                )
        elif not self.processes.first:
            set_seed(
                self.plan.settings.train.seed + self.processes.rank
            )  # or all processes would have the same dropout masks
        self.stop.stage = TRAINING
        try:
            with self.stop.deferred("stopping after this step, with a checkpoint; press again to stop at once"):
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except StoppedEarly:
            pass
        except torch.OutOfMemoryError:
            raise DudeError(out_of_memory(self.plan)) from None
        finally:
            self.clock.stop()
            self.reporter.end()
        if self.processes.any(self.stop.asked):
            raise Interrupted(self.folder, trainer.state.global_step, self.plan.steps)
        if self.best is not None and self.best.exhausted:
            self.reporter.note(self._ended(trainer.state.global_step))
        return trainer.state.global_step

    def _ended(self, step: int) -> str:
        """Return why the run ended at its last step."""
        if self.best is None or not self.best.exhausted:
            return f"all {self.plan.steps} steps are done"
        name = {"loss": "validation loss"}.get(self.best.metric, self.best.metric)
        return (
            f"stopped early at step {step}: {self.best.waited} evaluations without a better {name} than that of step "
            f"{self.best.step}"
        )

    def _evaluate_result(self, trainer: RunTrainer) -> dict[str, Any] | None:
        """Evaluate the result, which is the model of the last step or of the best one, and load that."""
        best, last = self.best, self.last_step
        ended = best is not None and best.exhausted
        load = best is not None and self.plan.settings.train.load_best_model_at_end
        after = None
        if not (ended and load):  # a run that was stopped early has a better step, which is evaluated below
            after = self._evaluate(trainer, last, "after", curve=not ended)
            if best is not None and after is not None and not ended:
                best.update(last, self.processes.from_first(lambda: after))
        if best is None or not load or best.step == last:
            return after
        checkpoint = self.folder.checkpoints / f"{PREFIX}{best.step}"
        if found := fault(checkpoint):
            raise DudeError(
                f"{checkpoint}: {found}. It is the best checkpoint, which train.load_best_model_at_end loads. Remove "
                f"{self.folder.path} and train again."
            )
        trainer._load_from_checkpoint(str(checkpoint))
        self.reporter.note(f"the best checkpoint, of step {best.step}, is loaded")
        return self._evaluate(trainer, best.step, "after", curve=False)

    def _evaluate(
        self, trainer: RunTrainer, step: int, name: str | None = None, *, curve: bool = True
    ) -> dict[str, Any] | None:
        """Compute accuracy and validation loss; with a name, write answers and metrics to `eval/NAME`.

        Every process evaluates all questions, so that none waits in a collective.

        Args:
            trainer: with the model.
            step: its step.
            name: of the evaluation's folder.
            curve: whether to write the values to `curves.jsonl`.
        """
        import torch

        settings, plan = self.plan.settings, self.plan
        begin = time.perf_counter()
        point: dict[str, Any] = {}
        metrics: dict[str, Any] = {}
        if plan.validation is not None:
            with self._stage(f"validation loss {name or f'at step {step}'}"):
                devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
                with torch.random.fork_rng(devices):  # a DataLoader draws a seed
                    point["eval_loss"] = metrics["validation_loss"] = trainer.evaluate()["eval_loss"]
            if not math.isfinite(point["eval_loss"]):
                raise NotFinite(step, "validation loss", None)
            self.reporter.validated(step, point["eval_loss"])
            trainer.report({"eval_perplexity": perplexity(point["eval_loss"])})
        if settings.eval is not None and settings.eval.has_tasks:
            from ..evaluation.evaluator import evaluate

            with self._stage(f"evaluating {name or f'at step {step}'}"):
                asked = settings.eval.before_training() if name == "before" else settings.eval
                result = evaluate(trainer.model, plan.base.tokenizer, asked, progress=self.reporter.asked)
            point |= {"eval": result.headline, "accuracy": result.accuracy}
            metrics |= {"headline": result.headline, "accuracy": result.accuracy, "tasks": result.metrics}
            if name and self.processes.first:
                result.write(self.folder.evaluations / name)
            self.reporter.evaluated(step, result.headline, result.accuracy)
            trainer.report({"eval_accuracy": result.accuracy})
        if not metrics:
            return None
        trainer.reshard()
        self.eval_seconds += time.perf_counter() - begin
        # The resumed run repeats an interrupted evaluation after the loss was written.
        if curve:
            self.curves.append({"step": step, **point}, before_loss=name is None)
        if name and self.processes.first:
            (self.folder.evaluations / name).mkdir(parents=True, exist_ok=True)
            write_json(self.folder.evaluations / name / "summary.json", metrics)
            if plan.validation is not None:
                write_json(self.folder.evaluations / name / VALIDATION_LOSSES, {"losses": trainer.validation_losses})
        return metrics

    def _evaluate_now(self, step: int) -> tuple[bool, bool]:
        """Evaluate, and return whether to save the checkpoint of this step as the best, and whether the run ends."""
        metrics = self._evaluate(self.trainer, step)
        if self.best is None or metrics is None:
            return False, False
        better = self.best.update(step, self.processes.from_first(lambda: metrics))
        return (better and self.plan.settings.train.load_best_model_at_end) or self.best.exhausted, self.best.exhausted
