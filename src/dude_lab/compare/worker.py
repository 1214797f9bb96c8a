"""One run in a process of its own, so that its time and peak memory are measured alone.

    python -m dude_lab.compare.worker

The spec is one line of JSON on standard input, which stays open: the run, its config, the folder of the study, and the
number of torch threads, and optionally the step after which the run stops. Exit codes: 0 finished; 1 failed, with the
error in `state/NAME.failed.json`; 75 claimed by another process; 76 stopped after that step, with a checkpoint; 130
stopped by a signal, with a checkpoint if it was training.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from dude_peft.files import write_json

from ..config.run_settings import RunSettings
from ..config.yaml_file import parse_run
from ..training.reporter import Reporter
from ..training.run_folder import RunFolder
from ..training.train_run import Interrupted, train
from .comparison_folder import ComparisonFolder, claim
from .processes import read_spec

BUSY, PAUSED, FAILED, STOPPED = 75, 76, 1, 130
EVERY = 0.5  # seconds between two status writes
TAIL = 40  # lines of output stored with a failure


class Status(Reporter):
    """Writes the progress of the run to a small file, and messages to the log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.status: dict[str, Any] = {}
        self._written = 0.0
        self._began = (0, 0.0)

    def _write(self, *, always: bool = False, **news: Any) -> None:
        self.status |= news
        if always or time.monotonic() - self._written >= EVERY:
            part = self.path.with_name(f".{self.path.name}.part")
            part.write_text(json.dumps(self.status), encoding="utf-8")
            os.replace(part, self.path)
            self._written = time.monotonic()

    @contextmanager
    def _stage(self, text: str) -> Iterator[None]:
        print(text, flush=True)
        self._write(always=True, stage=text, done=None, total=None, left=None)
        yield

    def stage(self, text: str) -> AbstractContextManager[object]:
        """Write the stage to the log and the status."""
        return self._stage(text)

    def note(self, text: str) -> None:
        """Write a message to the log."""
        print(f"note: {text}", flush=True)

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        """Write the number of initialised layers to the status."""
        self._write(stage=what, done=done, total=total, left=left)

    def begin(self, step: int, steps: int) -> None:
        """Write the start of training to the log and the status."""
        self._began = (step, time.monotonic())
        print(f"resuming after step {step}" if step else "training", flush=True)
        self._write(always=True, stage="training", step=step, steps=steps, left=None)

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        """Write a training step to the status."""
        first, since = self._began
        left = (time.monotonic() - since) / max(step - first, 1) * (self.status["steps"] - step)
        self._write(step=step, loss=loss, left=round(left, 1))

    def asked(self, done: int, total: int, what: str) -> None:
        """Write the number of scored questions to the status."""
        self._write(done=done, total=total)


def spec_of(run: Any, folder: Path, threads: int, stop_at: int | None = None) -> str:
    """Return the spec of a run, as a worker reads it from its standard input."""
    config = run.settings.resolved()
    spec = {"kind": run.kind, "name": run.name, "config": config, "folder": str(folder), "threads": threads}
    return json.dumps(spec | ({} if stop_at is None else {"stop_at": stop_at}))


def work_on(spec: dict[str, Any]) -> int:
    """Execute the run of a spec (`spec_of`); return the exit code."""
    folder = ComparisonFolder(spec["folder"])
    lock = claim(folder.state, spec["name"])
    if lock is None:
        return BUSY
    settings = parse_run(spec["config"], spec["name"])
    if spec["name"] in folder.store:
        return 0
    folder.failed_path(spec["name"]).unlink(missing_ok=True)
    status = Status(folder.state / f"{spec['name']}.status.json")
    try:
        _work(spec, settings, status)
    except (Interrupted, KeyboardInterrupt) as stopped:
        print(stopped or "stopped", flush=True)
        step = stopped.step if isinstance(stopped, Interrupted) else 0
        return PAUSED if step >= spec.get("stop_at", math.inf) else STOPPED
    except Exception as error:
        traceback.print_exc()
        text = str(error) or type(error).__name__
        write_failure(folder, spec["name"], spec["config"], text)
        return FAILED
    finally:
        status.path.unlink(missing_ok=True)
    return 0


def _work(spec: dict[str, Any], settings: RunSettings, status: Status) -> None:
    import torch

    from ..training.reporter import prepare_environment, quiet

    torch.set_num_threads(spec["threads"])
    prepare_environment()
    quiet()
    if spec["kind"] == "base":
        from .base_run import evaluate_base

        evaluate_base(settings, status)
        return
    # The base is evaluated once, in a run of its own.
    train(settings, resume="auto", reporter=status, evaluate_start=False, stop_at=spec.get("stop_at"))
    shutil.rmtree(RunFolder(settings.output).checkpoints, ignore_errors=True)  # those of many runs would fill the disk


def write_failure(folder: ComparisonFolder, name: str, config: dict[str, Any], error: str) -> None:
    """Write the error of a run with the end of its log."""
    log = folder.state / f"{name}.log"
    printed = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    write_json(
        folder.failed_path(name),
        {"name": name, "error": error, "output_tail": printed[-TAIL:], "log": log.name, "config": config},
    )


if __name__ == "__main__":
    sys.exit(work_on(read_spec()))
