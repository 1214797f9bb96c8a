"""One process writes a run folder: a second one gets an error that names the owner; a dead process has no lock."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from test_train_resume import At, Killed, kill, result
from test_train_run import steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.lock import LOCK, OWNER, FolderLock, Owner
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError
from dude_peft.files import part_of

HOLD = "import sys, pathlib; from dude_lab.training.lock import FolderLock\n"
HOLD += "with FolderLock(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that has the lock until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    return process


def state(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("resume", [None, "auto"])
def test_a_second_process_is_refused_with_the_owner_s_name(tiny: Tiny, resume: str | None) -> None:  # noqa: F811
    from test_cli_train import dude

    if resume:
        with pytest.raises(Killed):
            train(tiny.settings(), reporter=At(3, kill))
    with hold(tiny.output) as other:
        before = state(tiny.output)
        again = dude("train", tiny.write(), *(["--resume", resume] if resume else []))
        assert again.exit_code == 2 and "Traceback" not in again.output
        for word in (f"in use by process {other.pid} on", "since 20", "output=DIR", str(tiny.output)):
            assert word in again.stderr
        assert state(tiny.output) == before
    train(tiny.settings(), resume=resume)
    assert len(steps(tiny.output)) == 6


def test_two_runs_in_one_process(tiny: Tiny) -> None:  # noqa: F811
    errors: list[str] = []

    def second() -> None:
        with pytest.raises(DudeError) as caught:
            train(tiny.settings(), resume="auto")
        errors.append(str(caught.value))

    train(tiny.settings(), reporter=At(3, second))
    train(tiny.settings(f"output={tiny.folder / 'whole'}"))
    assert f"process {os.getpid()} on" in errors[0]
    assert result(tiny.output) == result(tiny.folder / "whole") and len(steps(tiny.output)) == 6


def test_a_lock_of_a_killed_process_is_no_lock(tiny: Tiny) -> None:  # noqa: F811
    with hold(tiny.output) as other:
        other.send_signal(signal.SIGKILL)
    assert {p.name for p in tiny.output.iterdir()} == {LOCK, OWNER}  # it could not clean up
    train(tiny.settings())
    assert not {LOCK, OWNER} & {p.name for p in tiny.output.iterdir()}


@pytest.mark.parametrize("name", [OWNER, "config.yaml"])
def test_a_kill_while_the_first_files_are_written_leaves_a_folder_that_can_be_used(tiny: Tiny, name: str) -> None:  # noqa: F811
    tiny.output.mkdir()
    part_of(tiny.output / name).write_text("{")
    train(tiny.settings(), resume="auto")
    assert (tiny.output / "run.json").is_file()


def test_an_owner_on_another_host_is_refused_with_the_remedy(tiny: Tiny) -> None:  # noqa: F811
    tiny.output.mkdir()
    mark = tiny.output / OWNER
    mark.write_text(json.dumps(asdict(replace(Owner.this_process(), host="node17", pid=1))))
    with pytest.raises(DudeError, match=r"process 1 on node17 .*If it does not, delete .*\.owner\.json"):
        train(tiny.settings())
    assert [p.name for p in tiny.output.iterdir()] == [OWNER]
    mark.unlink()
    train(tiny.settings())


def no_flock(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOTSUP, "no locks here")


def test_a_file_system_without_flock(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The owner file decides: by the pid, and by when that process began, for pids are used again."""
    monkeypatch.setattr(fcntl, "flock", no_flock)
    mark = tiny.output / OWNER
    with hold(tiny.output), pytest.raises(DudeError, match="in use by process"):
        train(tiny.settings())
    tiny.output.mkdir(exist_ok=True)
    me = Owner.this_process()
    for dead in (replace(me, pid=2**22 + 1), replace(me, process_started=me.process_started - 60)):
        assert me.alive and not dead.alive
        mark.write_text(json.dumps(asdict(dead)))
        with FolderLock(tiny.output) as lock:
            assert not lock.flock and Owner.read(mark) == replace(me, since=Owner.read(mark).since)  # type: ignore[union-attr]
        mark.write_text("{")  # torn by a full disk: it names nobody
        with FolderLock(tiny.output):
            pass
    mark.write_text(json.dumps(asdict(me)))
    with pytest.raises(DudeError, match="in use by process"), FolderLock(tiny.output):
        pass
    assert mark.is_file()


def test_a_refused_run_leaves_no_folder(tiny: Tiny) -> None:  # noqa: F811
    with pytest.raises(DudeError):
        train(tiny.settings("data.train=nowhere.jsonl", f"output={tiny.folder / 'a' / 'b'}"))
    assert not (tiny.folder / "a").exists()
