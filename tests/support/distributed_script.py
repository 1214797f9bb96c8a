"""Runs of `torchrun`, carried out one after the other by all processes.

Arguments: the file for the results, and a JSON list of runs, each {"raw": config, "resume": ..., "env": variables,
"sigterm_at": step, "nan_at": step, "sigkill_at": step, "sigkill": ranks}; SIGTERM and NaN happen in the last process
alone, SIGKILL in those of `ranks`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from dude_lab.config.yaml_file import parse_run
from dude_lab.training.distributed import connect
from dude_lab.training.reporter import Reporter
from dude_lab.training.train_run import Interrupted, train
from dude_lab.training.trainer import RunTrainer
from dude_peft.errors import DudeError


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.initialised = 0  # layers, in this process

    def note(self, text: str) -> None:
        self.notes.append(text)

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        self.initialised = total


def one(run: dict[str, Any], rank: int, count: int) -> dict[str, Any]:
    compute, reporter = RunTrainer.compute_loss, Notes()
    sent: list[bool] = []
    last = rank == count - 1

    def compute_loss(self: RunTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, *args, **kwargs)
        if last and self.state.global_step + 1 == run.get("sigterm_at") and self.is_in_train and not sent:
            sent.append(True)  # a second one would stop the run at once
            os.kill(os.getpid(), signal.SIGTERM)
        if rank in run.get("sigkill", ()) and self.state.global_step + 1 == run["sigkill_at"] and self.is_in_train:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss * float("nan") if last and self.state.global_step + 1 == run.get("nan_at") else loss

    RunTrainer.compute_loss = compute_loss  # type: ignore[method-assign]
    before = dict(os.environ)
    os.environ.update(run.get("env", {}))
    try:
        record = train(parse_run(run["raw"]), resume=run.get("resume"), reporter=reporter).record
        return {"record": record, "notes": reporter.notes, "initialised": reporter.initialised}
    except (DudeError, Interrupted) as error:
        return {"error": str(error), "kind": type(error).__name__, "notes": reporter.notes}
    finally:
        os.environ.clear()
        os.environ.update(before)
        RunTrainer.compute_loss = compute  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with connect("cpu") as processes:
        results = []
        for run in json.loads(Path(sys.argv[2]).read_text()):
            results.append(processes.gather(one(run, processes.rank, processes.count)))
        if processes.first:
            Path(sys.argv[1]).write_text(json.dumps(results))
