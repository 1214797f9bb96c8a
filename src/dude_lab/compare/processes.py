"""Worker processes: a fresh Python, or a fork of a server that has imported the libraries.

A fork saves the 8 to 10 s of CPU in which a fresh Python imports torch, transformers, TRL and lm-eval. It is used on
Linux without an accelerator, whose runtime does not survive a fork; DUDE_FRESH_PROCESSES=1 turns it off. Either way a
worker has its own session, log and threads, and gives the same bits. It ends when the pool ends, however that dies: it
reads a pipe that the pool, or the server, keeps open.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Protocol

COMMAND = (sys.executable, "-m", "dude_lab.compare.worker")
SERVER = (sys.executable, "-m", "dude_lab.compare.fork_server")
FRESH = "DUDE_FRESH_PROCESSES"
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and either in WSL
WAIT = 0.1  # seconds
GRACE = 10.0  # seconds from SIGTERM to exit when the pool is gone: enough for a step and a checkpoint


class Process(Protocol):
    """A worker process, with the interface of `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Return its exit code, or minus the signal that killed it; None while it runs."""

    def wait(self) -> int:
        """Wait for its end and return the exit code."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""

    def kill(self) -> None:
        """Send SIGKILL."""


def can_fork() -> bool:
    """Whether processes can be forked on this machine."""
    wanted = os.environ.get(FRESH, "") in ("", "0")
    return wanted and sys.platform == "linux" and not any(map(os.path.exists, ACCELERATORS))


def environment(threads: int) -> dict[str, str]:
    """Return the environment of a worker with `threads` threads; libraries read it when they are imported."""
    count = str(threads)
    return {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "PYTHONUNBUFFERED": "1"}


def fresh(spec: str, log: str | Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a fresh Python for the run of `spec`; it appends its output to `log`."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # Ctrl-C in the terminal reaches the pool only, which forwards it once
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already; see its exit code
        process.stdin.write(spec.encode() + b"\n")
        process.stdin.flush()
    return process  # standard input stays open: the process ends when it closes


def read_spec() -> dict[str, Any]:
    """Read the spec that `fresh` has written to standard input; from then on this process ends with the pool."""
    spec = json.loads(sys.stdin.readline())
    end_with(sys.stdin.fileno())
    return spec


def end_with(pipe: int) -> None:
    """End this process when the other end of `pipe` closes: by SIGTERM, and after `GRACE` seconds by exit."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(pipe, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=watch, name="end with the pool", daemon=True).start()


class Launcher:
    """Starts worker processes, forked or fresh.

    Args:
        state: folder for the output of the server.
        threads: number of threads per worker.
    """

    def __init__(self, state: Path, threads: int) -> None:
        self._log, self._env = state / ".server.log", environment(threads)
        self._server: subprocess.Popen[bytes] | None = None
        self._lost = not can_fork()
        self._running: dict[int, _Forked] = {}
        self._started = 0
        self._rest = b""

    def start(self, spec: str, log: Path) -> Process:
        """Start a process for the run of `spec` (`worker.spec_of`); it appends its output to `log`."""
        if not self._lost and self._server is None:
            with self._log.open("ab") as file:
                self._server = subprocess.Popen(
                    SERVER,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=self._env,
                    start_new_session=True,
                    bufsize=0,
                )
        self._started += 1
        made = _Forked(self, self._started)
        if self._lost or not self._ask(id=made.number, spec=json.loads(spec), log=str(log.resolve())):
            return fresh(spec, log, self._env)
        self._running[made.number] = made
        return made

    def kill(self) -> None:
        """Kill the server and its workers, for a server that is still importing."""
        if self._server is not None:
            self._server.kill()
            self._lose()

    def close(self) -> None:
        """End the server if there is one."""
        if self._server is not None:
            for pipe in (self._server.stdin, self._server.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
            self._server.wait()
            self._server, self._lost = None, True

    def _ask(self, **request: Any) -> bool:
        """Send a request; return False if the server has died."""
        assert self._server is not None and self._server.stdin is not None
        data = json.dumps(request).encode() + b"\n"
        try:
            while data:
                data = data[self._server.stdin.write(data) :]
        except OSError:
            self._lose()
            return False
        return True

    def read(self, seconds: float = 0.0) -> None:
        """Read the replies of the server, waiting up to `seconds`."""
        if self._server is None or self._lost:
            return
        pipe = self._server.stdout
        assert pipe is not None
        while select.select([pipe], [], [], seconds)[0]:
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                self._lose()
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            for reply in map(json.loads, lines):
                if "pid" in reply:
                    self._running[reply["id"]].pid = reply["pid"]
                else:
                    self._running.pop(reply["id"]).code = reply["code"]
            seconds = 0.0

    def _lose(self) -> None:
        """Kill the workers of a server that has died, since their exit codes are lost; later workers are fresh."""
        self._lost = True
        for process in self._running.values():
            if process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            process.code = -signal.SIGKILL
        self._running.clear()


class _Forked:
    """A worker that the server has forked."""

    def __init__(self, launcher: Launcher, number: int) -> None:
        self._launcher, self.number = launcher, number
        self.pid: int | None = None
        self.code: int | None = None

    def poll(self) -> int | None:
        if self.code is None:
            self._launcher.read()
        return self.code

    def wait(self) -> int:
        while self.code is None:
            self._launcher.read(WAIT)
        return self.code

    def send_signal(self, sig: int) -> None:
        if self.code is None:
            self._launcher._ask(id=self.number, signal=int(sig))

    def kill(self) -> None:
        if self.pid is None:
            self._launcher.kill()
        self.send_signal(signal.SIGKILL)
