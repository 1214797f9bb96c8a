"""A killed process of a comparison, or all of it: nothing runs on, and the next start resumes to the same steps."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_compare_run import write
from test_train_run import steps
from tiny_run import tiny_base  # noqa: F401

from dude_lab.compare.comparison import compare, plan_comparison
from dude_lab.compare.grid import PlannedRun
from dude_lab.compare.pool import Watcher
from dude_lab.training.train_run import train


class KillOnce(Watcher):
    """Kills the process that trains, as soon as it has written a checkpoint."""

    def __init__(self, output: Path) -> None:
        self.output, self.killed, self.errors = output, False, [""]

    def running(self, cells: Sequence[tuple[PlannedRun, dict[str, Any]]], elsewhere: int) -> None:
        if not self.killed and list(self.output.glob("runs/lora*/checkpoints/checkpoint-*/manifest.json")):
            psutil.Process().children(recursive=True)[-1].kill()  # the server of the forks comes before it
            self.killed = True

    def failed(self, cell: PlannedRun, error: str) -> None:
        self.errors.append(error)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    config = write(tiny_base, tmp_path, methods=[{"name": "lora", "r": 4}])
    changes = ["run.eval=null", "run.train.steps=60"]
    plan = plan_comparison(config, changes)
    cell = plan.grid.runs(plan.grid.rows[0], 1e-2)[0]
    watcher = KillOnce(plan.folder.path)
    compare(plan, watcher)
    assert watcher.killed and "SIGKILL" in watcher.errors[-1] and not plan.folder.is_done(cell)
    compare(plan, Watcher())
    assert plan.folder.is_done(cell)
    log = (plan.folder.state / f"{cell.name}.log").read_text()
    assert "resuming after step" in log
    train(cell.settings.model_copy(update={"output": tmp_path / "whole"}))
    assert steps(plan.folder.runs / cell.name) == steps(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("fresh", ["0", "1"])
def test_nothing_outlives_a_killed_comparison(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fresh: str,
) -> None:
    monkeypatch.setenv("DUDE_FRESH_PROCESSES", fresh)
    config = write(tiny_base, tmp_path, methods=[{"name": "lora", "r": 4}])
    changes = ["run.eval=null", "run.train.steps=200"]
    command = "from dude_lab.cli.app import main; main()"
    parent = subprocess.Popen([sys.executable, "-c", command, "compare", str(config), *changes])
    plan = plan_comparison(config, changes)
    cell = plan.grid.runs(plan.grid.rows[0], 1e-2)[0]
    place = plan.folder.runs / cell.name
    end = time.monotonic() + 120
    while not list(place.glob("checkpoints/checkpoint-*/manifest.json")):
        assert time.monotonic() < end and parent.poll() is None
        time.sleep(0.05)
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    assert children and not psutil.wait_procs(children, timeout=20)[1]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    time.sleep(1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not plan.folder.is_done(cell) and not plan.folder.is_claimed(cell)
    compare(plan, Watcher())
    assert plan.folder.is_done(cell)
    assert "resuming after step" in (plan.folder.state / f"{cell.name}.log").read_text()
