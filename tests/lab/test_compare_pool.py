"""Who works on what: several pools on one folder, failures, kills and stops, with a stand-in for the worker.

Each promise is kept by processes started afresh and by forked ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pool_tools import Seen, cells_of, stand_in, visits, work

from dude_lab.compare import pool as pool_module
from dude_lab.compare import processes
from dude_lab.compare.comparison_folder import claim
from dude_lab.compare.grid import PlannedRun
from dude_lab.compare.pool import Pool, Stopped, TimeUp


@pytest.fixture(autouse=True, params=["fresh", "forked"])
def _stand_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in(monkeypatch, tmp_path, request.param)


def test_two_processes_divide_the_work_and_never_do_a_run_twice(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, list(range(10, 17)))
    code = f"""
        import sys
        sys.path.insert(0, {str(ROOT / "tests" / "support")!r})
        from dude_lab.compare import pool, processes
        from dude_lab.compare.comparison_folder import ComparisonFolder
        from dude_lab.compare.pool import Watcher
        processes.COMMAND, processes.SERVER = {processes.COMMAND!r}, {processes.SERVER!r}
        pool.POLL, pool.POLL_OTHERS = 0.02, 0.1
        folder = ComparisonFolder({str(folder.path)!r})
        grid = folder.grid()
        cells = grid.runs(grid.rows[0], grid.rows[0].learning_rates[0])
        pool.Pool(folder, jobs=2, threads=1, retry_failed=False, watcher=Watcher()).work(lambda: cells)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    others = [subprocess.Popen(command) for _ in range(2)]
    assert [other.wait(60) for other in others] == [0, 0]
    assert sorted(visits(folder)) == sorted(cell.name for cell in cells)
    assert all(folder.is_done(cell) for cell in cells)
    assert work(folder, cells).done == [] and len(visits(folder)) == 7  # and a start after that does nothing


def test_a_run_of_another_pool_is_waited_for(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, [10, 11])
    lock = claim(folder.state, cells[0].name)

    class Release(Seen):
        def finished(self, cell: PlannedRun, record: dict[str, Any], *, here: bool) -> None:
            super().finished(cell, record, here=here)
            lock.release()  # the other pool has died once the free cell is done

    seen = Release()
    Pool(folder, jobs=2, threads=1, retry_failed=False, watcher=seen).work(lambda: cells)
    assert seen.elsewhere == 1
    assert visits(folder) == [cells[1].name, cells[0].name]


def test_a_failure_is_shown_and_does_not_stop_the_rest(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, [3, 4, 10])
    seen = work(folder, cells)
    assert seen.done == [cells[2].name]
    assert seen.bad[cells[0].name] == "it went wrong" and "exit code 9" in seen.bad[cells[1].name]
    assert folder.failure(cells[1])["config"]["train"]["seed"] == 4  # type: ignore[index]
    assert "a cry for help" in (folder.state / f"{cells[0].name}.log").read_text()
    (folder.path / "mended").touch()
    again = work(folder, cells)
    assert again.done == [] and set(again.bad) == {cells[0].name, cells[1].name} and len(visits(folder)) == 3
    third = work(folder, cells, retry=True)
    assert third.done == [cells[0].name] and set(third.bad) == {cells[1].name} and len(visits(folder)) == 5
    assert folder.failure(cells[0]) is None


def test_a_killed_process_is_no_failure_and_the_next_start_goes_on(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, [5, 10])
    seen = work(folder, cells, jobs=1)
    assert seen.done == [cells[1].name] and "SIGKILL" in seen.bad[cells[0].name]
    assert folder.failure(cells[0]) is None and not folder.is_claimed(cells[0])
    work(folder, cells, jobs=1)
    assert visits(folder).count(cells[0].name) == 2


@pytest.mark.parametrize("survivor", ["of its row", "of another row"])
def test_a_run_that_is_killed_while_others_run_is_repeated_alone(tmp_path: Path, survivor: str) -> None:
    folder, cells = cells_of(tmp_path, [7, 8, 10], methods=["lora", "pissa"])
    killed, other = cells[0], cells[-1].row
    if survivor == "of another row":
        cells.sort(key=lambda cell: cell.settings.train.seed)
    seen = work(folder, cells)
    assert sorted(seen.done) == sorted(cell.name for cell in cells) and seen.bad == {}
    assert visits(folder).count(killed.name) == 2 and len(visits(folder)) == 7
    assert len(seen.notes) == 1 and killed.title in seen.notes[0] and "2 runs in parallel" in seen.notes[0]
    assert [killed.row] in seen.together and [other, other] in seen.together  # the other row still in parallel
    assert all(killed.row not in rows for rows in seen.together if len(rows) > 1)


def test_a_run_that_is_killed_although_alone_is_reported(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, [5, 8])
    seen = work(folder, cells)
    assert seen.done == [cells[1].name] and "SIGKILL" in seen.bad[cells[0].name] and len(seen.notes) == 1
    assert visits(folder).count(cells[0].name) == 2


def test_ctrl_c_asks_every_process_to_end_and_waits_for_it(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, [6, 10])

    def interrupt() -> None:
        while not (folder.path / "waiting").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Stopped):
        work(folder, cells, jobs=1)
    assert signal.getsignal(signal.SIGINT) is handler
    assert "checkpoint written" in (folder.state / f"{cells[0].name}.log").read_text()
    assert folder.failure(cells[0]) is None and not folder.is_claimed(cells[0])
    assert visits(folder) == [cells[0].name]  # nothing new was begun


def test_runs_that_become_known_later_are_worked_on(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, [10, 11])
    Pool(folder, jobs=1, threads=1, retry_failed=False, watcher=Seen()).work(
        lambda: cells if folder.is_done(cells[0]) else cells[:1]
    )
    assert visits(folder) == [cell.name for cell in cells]
    assert json.loads((folder.runs / cells[1].name / "run.json").read_text())


def test_all_runs_are_looked_at_when_one_ends_and_seldom_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "POLL_OTHERS", 1000.0)
    folder, cells = cells_of(tmp_path, [10, 11])
    looks = []

    def todo() -> list[PlannedRun]:
        looks.append(sum(folder.is_done(cell) for cell in cells))
        return cells

    Pool(folder, jobs=1, threads=1, retry_failed=False, watcher=Seen()).work(todo)
    assert looks == [0, 0, 1, 2]  # what is done already, the first run, the second, the end


def test_at_its_deadline_a_pool_stops_what_runs_and_starts_nothing(tmp_path: Path) -> None:
    folder, cells = cells_of(tmp_path, [10, 6, 11])
    seen = Seen()
    pool = Pool(folder, jobs=1, threads=1, retry_failed=False, watcher=seen, deadline=time.monotonic() + 8)

    def until_it_waits() -> list[PlannedRun]:
        if (folder.path / "waiting").exists():
            pool.deadline = 0
        return cells

    with pytest.raises(TimeUp):
        pool.work(until_it_waits)
    assert seen.done == [cells[0].name] and not folder.is_done(cells[2])
    assert "checkpoint written" in (folder.state / f"{cells[1].name}.log").read_text()
