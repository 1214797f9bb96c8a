"""A process of a comparison that is killed: told, kept, and gone on with from its checkpoint to the same steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_compare_run import write
from test_train_run import steps
from tiny_run import tiny_base  # noqa: F401

from dude_peft.experiments.compare import compare, plan_comparison
from dude_peft.experiments.grid import Cell
from dude_peft.experiments.watcher import Watcher
from dude_peft.training.run import train


class KillOnce(Watcher):
    """Kills the process that trains, as soon as it has written a checkpoint."""

    def __init__(self, output: Path) -> None:
        self.output, self.killed, self.errors = output, False, [""]

    def running(self, cells: Sequence[tuple[Cell, dict[str, Any]]], elsewhere: int) -> None:
        if not self.killed and list(self.output.glob("runs/lora*/checkpoints/checkpoint-*/manifest.json")):
            psutil.Process().children(recursive=True)[-1].kill()  # the server of the forks comes before it
            self.killed = True

    def failed(self, cell: Cell, error: str) -> None:
        self.errors.append(error)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    config = write(tiny_base, tmp_path, methods=[{"name": "lora", "r": 4}])
    changes = ["run.eval=null", "run.train.steps=60"]
    plan = plan_comparison(config, changes)
    cell = plan.grid.run_cells(plan.grid.rows[0], 1e-2)[0]
    watcher = KillOnce(plan.folder.path)
    compare(plan, watcher)
    assert watcher.killed and "SIGKILL" in watcher.errors[-1] and not plan.folder.is_done(cell)
    compare(plan, Watcher())
    assert plan.folder.is_done(cell)
    log = (plan.folder.state / f"{cell.name}.log").read_text()
    assert "going on after step" in log
    train(cell.settings.model_copy(update={"output": tmp_path / "whole"}))
    assert steps(plan.folder.runs / cell.name) == steps(tmp_path / "whole")
