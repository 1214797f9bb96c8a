"""`dude` commands that are killed, or whose file-system calls fail, at a call or a moment that the test chooses."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
COUNT, KILL, TEAR, FAIL, FAIL_FROM = range(5)  # `action` in faults.c
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
LIMIT = 120.0  # seconds; a command of the tiny run takes about one


@dataclass(frozen=True)
class Call:
    """One file-system call: number (from 1), name, kind (see `can_fail` in faults.c), bytes, path below the folder."""

    number: int
    name: str
    kind: str
    bytes: int
    path: str


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal), seconds, output, and the calls that it made."""

    code: int
    seconds: float
    output: str
    calls: list[Call] = field(default_factory=list)

    @property
    def killed(self) -> bool:
        """Whether by SIGKILL."""
        return self.code == -signal.SIGKILL

    @property
    def traceback(self) -> bool:
        """Whether Python showed one."""
        return "Traceback (most recent call last)" in self.output


class Server:
    """The process that forks the commands (`fault_server`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        library = folder / "faults.so"
        build = ["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library)]
        subprocess.run([*build, str(HERE / "faults.c"), "-ldl"], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "fault_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        assert self._reply() == {}, "the fault server cannot fork"

    def run(
        self,
        *arguments: str,
        below: Path,
        at: int = 0,
        action: int = COUNT,
        error: str = "EIO",
        kill_after: float | None = None,
        log_calls: bool = False,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """Run `dude ARGUMENTS`, with `action` at call `at` below a folder, or SIGKILL after some seconds."""
        log, calls = self.folder / "output.log", self.folder / "calls.log"
        request = {
            "arguments": arguments,
            "below": str(below),
            "at": at,
            "action": action,
            "error": ERRORS[error],
            "kill_after": LIMIT if kill_after is None else kill_after,
            "log": str(log),
            "calls": str(calls) if log_calls else None,
            "environment": environment or {},
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        reply = self._reply()
        assert kill_after is not None or reply["seconds"] < LIMIT, f"no end after {LIMIT} s: {arguments}"
        rows = [line.split("\t") for line in calls.read_text().splitlines()] if log_calls else []
        found = [Call(int(n), name, kind, int(size), path) for n, name, kind, size, path in rows]
        return Ended(reply["code"], reply["seconds"], log.read_text(errors="replace"), found)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _reply(self) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None
        ready = select.select([pipe], [], [], LIMIT + 60)[0]
        line = pipe.readline() if ready else b""
        assert line, "the fault server has died"
        return json.loads(line)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One server for all tests of a process; skips where faults cannot be injected."""
    if sys.platform != "linux" or shutil.which("cc") is None:
        pytest.skip("faults are injected on Linux with a C compiler (cc)")
    made = Server(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()
