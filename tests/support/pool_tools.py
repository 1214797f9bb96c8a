"""A stand-in for a comparison's worker, which runs in a tenth of a second, and a pool that works with it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from comparison_tools import begin, runs

from dude_lab.compare import pool as pool_module
from dude_lab.compare import processes
from dude_lab.compare.comparison_folder import ComparisonFolder
from dude_lab.compare.grid import PlannedRun
from dude_lab.compare.pool import Pool, Watcher

# Takes the cell's lock as the worker does, says that it was here, and does what the seed in its name asks for.
WORKER = """
import json, os, pathlib, signal, sys, time
from dude_lab.compare.comparison_folder import claim

def work(spec):
    folder, name = pathlib.Path(spec["folder"]), spec["name"]
    if (lock := claim(folder / "state", name)) is None:
        sys.exit(75)
    place = folder / "runs" / name
    if (place / "run.json").is_file():
        sys.exit(0)
    with (folder / "visits").open("a") as file:
        file.write(name + "\\n")
    failed = folder / "state" / (name + ".failed.json")
    failed.unlink(missing_ok=True)
    print(sys.argv[1:])
    seed = spec["config"]["train"]["seed"]
    if seed == 3 and not (folder / "mended").exists():
        print("a cry for help")
        failed.write_text(json.dumps({"error": "it went wrong", "output_tail": []}))
        sys.exit(1)
    if seed == 4:
        os._exit(9)
    if seed == 5:
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 7 and name.startswith("lora") and not (folder / "killed").exists():  # once, while another runs
        while len((folder / "visits").read_text().split()) < 2:
            time.sleep(0.01)
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == 6:
        signal.signal(signal.SIGTERM, lambda *_: (print("checkpoint written"), sys.exit(130)))
        (folder / "waiting.part").write_text(f"{os.getpid()} {os.getsid(0)} {os.getppid()}")
        (folder / "waiting.part").rename(folder / "waiting")
        time.sleep(60)
    if seed in (7, 8):
        while not (folder / "killed").exists():
            time.sleep(0.01)
        time.sleep(1)  # still there when the pool sees that the other is gone
    time.sleep(0.05)
    place.mkdir(parents=True)
    record = {"config": {}, "method": None, "title": "", "r": None, "cost": {"peak_memory": {"bytes": 0}}}
    record["provenance"] = {"versions": {}, "hardware": {}, "model": {"name": "mini"}}
    (place / "run.json").write_text(json.dumps(record | {"metrics": {"before": None, "after": None}}))

if sys.argv[1:]:
    from dude_lab.compare import fork_server, processes
    processes.COMMAND = (sys.executable, __file__)
    sys.exit(fork_server.main(work, sys.argv[2:]))
from dude_lab.compare.processes import read_spec
sys.exit(work(read_spec()))
"""


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, way: str, *preloaded: str) -> None:
    """Let pools start the stand-in, fresh or forked; a server of forks imports `preloaded` first."""
    if way == "forked":
        monkeypatch.delenv(processes.FRESH, raising=False)
        if not processes.can_fork():
            pytest.skip("processes are not forked here: no Linux, or an accelerator")
    else:
        monkeypatch.setenv(processes.FRESH, "1")
    script = folder / "worker.py"
    script.write_text(WORKER)
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(processes, "SERVER", (sys.executable, str(script), "serve", *preloaded))
    monkeypatch.setattr(pool_module, "POLL", 0.02)
    monkeypatch.setattr(pool_module, "POLL_OTHERS", 0.1)


class Seen(Watcher):
    def __init__(self) -> None:
        self.done: list[str] = []
        self.bad: dict[str, str] = {}
        self.notes: list[str] = []
        self.together: list[list[str]] = []  # rows of the runs in progress, since the first note
        self.elsewhere = 0

    def finished(self, cell: PlannedRun, record: dict[str, Any], *, here: bool) -> None:
        assert record
        self.done.append(cell.name)

    def failed(self, cell: PlannedRun, error: str) -> None:
        self.bad[cell.name] = error

    def note(self, text: str) -> None:
        self.notes.append(text)

    def running(self, cells: Sequence[tuple[PlannedRun, dict[str, Any]]], elsewhere: int) -> None:
        self.elsewhere = max(self.elsewhere, elsewhere)
        if self.notes:
            self.together.append([cell.row for cell, _ in cells])


def work(
    folder: ComparisonFolder, cells: Sequence[PlannedRun], *, retry: bool = False, jobs: int = 2, threads: int = 1
) -> Seen:
    seen = Seen()
    Pool(folder, jobs=jobs, threads=threads, retry_failed=retry, watcher=seen).work(lambda: cells)
    return seen


def visits(folder: ComparisonFolder) -> list[str]:
    return (folder.path / "visits").read_text().split()


def cells_of(
    tmp_path: Path, seeds: list[int], methods: Sequence[str] = ("lora",)
) -> tuple[ComparisonFolder, list[PlannedRun]]:
    folder, grid = begin(tmp_path, methods=list(methods), seeds=seeds)
    return folder, [cell for row in runs(grid).values() for cell in row]
