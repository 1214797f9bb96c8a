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

from dude_lab.compare import processes
from dude_lab.compare.comparison_folder import ComparisonFolder


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


def pool_of_its_own(folder: ComparisonFolder) -> subprocess.Popen[bytes]:
    """A pool in a process that can be killed; it works on the folder's first row."""
    code = f"""
        from dude_lab.compare import pool, processes
        from dude_lab.compare.comparison_folder import ComparisonFolder
        from dude_lab.compare.pool import Watcher
        processes.COMMAND, processes.SERVER = {processes.COMMAND!r}, {processes.SERVER!r}
        folder = ComparisonFolder({str(folder.path)!r})
        grid = folder.grid()
        cells = grid.runs(grid.rows[0], grid.rows[0].learning_rates[0])
        pool.Pool(folder, jobs=2, threads=1, retry_failed=False, watcher=Watcher()).work(lambda: cells)
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])


@pytest.mark.parametrize("way", ["fresh", "forked", pytest.param("unfit", marks=pytest.mark.slow)])
def test_everything_ends_with_a_killed_pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str) -> None:
    """As by SIGTERM, so with a checkpoint; the next pool goes on. Unfit: fresh processes from a server."""
    stand_in(monkeypatch, tmp_path, "fresh" if way == "fresh" else "forked", *["no_such_module"] * (way == "unfit"))
    folder, cells = cells_of(tmp_path, [6, 10])  # seed 6 waits for a minute
    pool = pool_of_its_own(folder)
    pid, _, _ = cell_waits(folder)
    everything = {pid, *(one.pid for one in psutil.Process(pool.pid).children(recursive=True))}
    pool.kill()
    pool.wait()
    comes(lambda: all(gone(one) for one in everything))
    assert "checkpoint written" in (folder.state / f"{cells[0].name}.log").read_text()
    assert not folder.is_claimed(cells[0]) and not folder.is_done(cells[0]) and folder.failure(cells[0]) is None
    assert work(folder, cells[1:]).bad == {}


def test_a_run_that_does_not_stop_is_ended() -> None:
    code = """
        import os, signal, time
        from dude_lab.compare import processes
        signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"asked\\n"))  # a print may be under way
        processes.GRACE = 0.2
        print(processes.read_spec(), flush=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.05)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write('{"name": "a"}\n')
    process.stdin.flush()
    assert process.stdout.readline() == "{'name': 'a'}\n" and process.poll() is None
    process.stdin.close()
    assert process.stdout.read() == "asked\n" and process.wait(30) == 1


def test_the_runs_of_a_killed_server_are_told_and_the_others_are_worked_on(
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
    seen = work(folder, cells, jobs=1)
    assert sorted(seen.done) == sorted(cell.name for cell in cells[2:])
    assert sorted(visits(folder)) == sorted(cell.name for cell in cells)
    assert not any("serve" in log.read_text() for log in folder.state.glob("lora*.log"))
    assert "exit code 9" in seen.bad[cells[0].name] and "SIGKILL" in seen.bad[cells[1].name]


def test_the_threads_of_openblas_do_not_stand_in_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, "forked", "numpy", "scipy.linalg", "pyarrow")
    folder, cells = cells_of(tmp_path, [10])
    assert work(folder, cells, threads=2).done == [cells[0].name]
    assert "serve" in (folder.state / f"{cells[0].name}.log").read_text()
