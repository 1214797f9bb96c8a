"""Forked processes of a comparison: each on its own, none lost with its server, no server left without its pool."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pool_tools import cells_of, stand_in, visits, work

from dude_peft.experiments import processes
from dude_peft.experiments.folder import ComparisonFolder


def comes(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def cell_waits(folder: ComparisonFolder) -> tuple[int, int, int]:
    """The process of a cell that waits (seed 6): its number, its session's, its parent's."""
    comes((folder.path / "waiting").exists)
    pid, session, parent = map(int, (folder.path / "waiting").read_text().split())
    return pid, session, parent


def beside(action: Callable[[], None]) -> None:
    threading.Thread(target=action, daemon=True).start()


def test_where_processes_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(processes.FRESH, raising=False)
    there: set[str] = set()
    monkeypatch.setattr(os.path, "exists", there.__contains__)
    assert processes.can_fork()
    for accelerator in ("/dev/nvidiactl", "/dev/kfd"):
        there.add(accelerator)
        assert not processes.can_fork()
        there.clear()
    monkeypatch.setenv(processes.FRESH, "1")
    assert not processes.can_fork()
    monkeypatch.delenv(processes.FRESH)
    for platform in ("darwin", "win32"):
        monkeypatch.setattr(sys, "platform", platform)
        assert not processes.can_fork()


def test_a_forked_process_has_its_own_session_and_the_server_goes_with_its_pool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, "forked")
    folder, cells = cells_of(tmp_path, [6, 10])
    found: list[tuple[int, int, int]] = []

    def end() -> None:
        found.append(cell_waits(folder))
        os.kill(found[0][0], signal.SIGTERM)

    beside(end)
    seen = work(folder, cells)
    ((pid, session, parent),) = found
    assert pid == session != os.getsid(0) and parent != os.getpid()
    assert gone(parent) and seen.done == [cells[1].name] and "was stopped" in seen.bad[cells[0].name]
    said = (folder.state / f"{cells[0].name}.log").read_text()
    assert "serve" in said and "checkpoint written" in said


def test_a_server_dies_with_a_killed_pool_and_its_cell_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "forked")
    folder, _ = cells_of(tmp_path, [6])
    code = f"""
        from dude_peft.experiments import pool, processes
        from dude_peft.experiments.folder import ComparisonFolder
        from dude_peft.experiments.watcher import Watcher
        processes.COMMAND, processes.SERVER = {processes.COMMAND!r}, {processes.SERVER!r}
        folder = ComparisonFolder({str(folder.path)!r})
        grid = folder.grid()
        cells = grid.run_cells(grid.rows[0], grid.rows[0].learning_rates[0])
        pool.Pool(folder, jobs=1, threads=1, retry_failed=False, watcher=Watcher()).work(lambda: cells)
    """
    pool = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    pid, _, server = cell_waits(folder)
    try:
        pool.kill()
        pool.wait()
        comes(lambda: gone(server))
        assert not gone(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_cells_of_a_killed_server_are_told_and_the_others_are_worked_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, "forked")
    folder, cells = cells_of(tmp_path, [6, 10])
    beside(lambda: os.kill(cell_waits(folder)[2], signal.SIGKILL))
    seen = work(folder, cells, jobs=1)
    assert "SIGKILL" in seen.bad[cells[0].name] and seen.done == [cells[1].name]
    assert not folder.is_claimed(cells[0]) and folder.failure(cells[0]) is None


@pytest.mark.parametrize("unfit", ["no_such_module", "starts_a_thread"])
def test_a_server_that_must_not_be_forked_starts_processes_afresh(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, unfit: str
) -> None:
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    stand_in(monkeypatch, tmp_path, "forked", unfit)  # the stand-in's folder is the first that is searched
    folder, cells = cells_of(tmp_path, [4, 5, 10, 11])
    seen = work(folder, cells)
    assert sorted(seen.done) == sorted(cell.name for cell in cells[2:])
    assert sorted(visits(folder)) == sorted(cell.name for cell in cells)
    assert not any("serve" in log.read_text() for log in folder.state.glob("lora*.log"))
    assert "exit code 9" in seen.bad[cells[0].name] and "SIGKILL" in seen.bad[cells[1].name]


def test_the_threads_of_openblas_do_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "forked", "numpy", "scipy.linalg", "pyarrow")
    folder, cells = cells_of(tmp_path, [10])
    assert work(folder, cells, threads=2).done == [cells[0].name]
    assert "serve" in (folder.state / f"{cells[0].name}.log").read_text()
