"""A process that has imported the libraries, and forks a worker process for each run that it is asked for.

    python -m dude_lab.compare.fork_server

Requests and replies are lines of JSON on standard input and output:

    {"id": 1, "spec": {...}, "log": "PATH"}    start a worker (`worker`), its output is appended to the log
    {"id": 1, "signal": 15}                    send a signal to the worker, unless it has ended
    {"id": 1, "pid": 1234}                     reply: it has started
    {"id": 1, "code": 0}                       reply: it has ended; minus the signal that killed it

Workers share imports only: no file, no thread, no random state that a run reads before it sets its seed. The server
ends when its standard input closes, so it cannot outlive the pool, and workers end with the server
(`processes.end_with`).
"""

from __future__ import annotations

import gc
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ..training.reporter import prepare_environment
from .processes import end_with, fresh
from .worker import work_on

IDLE = {"jemalloc_bg_thd"}  # threads that survive a fork: jemalloc (pyarrow) stops and restarts its own
POLL = 0.05  # seconds between two polls of the workers

# What a run imports, including modules that libraries import on first use.
PRELOADED = (
    "dude_lab.compare.base_run",
    "dude_peft.checkpoint",
    "dude_peft.baselines",
    "dude_lab.training.callbacks",
    "dude_lab.training.curves",
    "dude_lab.training.build_trainer",
    "dude_lab.evaluation.evaluator",
    "lm_eval.evaluator",
    "matplotlib.backends.backend_agg",
    "transformers.models.llama.modeling_llama",
)


class Server:
    """The workers, and the pipes to the pool.

    Args:
        work: spec -> exit code; runs in a worker.
        preloaded: modules to import first.
    """

    def __init__(self, work: Callable[[dict[str, Any]], int], preloaded: Sequence[str]) -> None:
        self.work = work
        # Duplicates, since an import that prints must not write to the pool.
        self._requests, self._replies = os.dup(0), os.dup(1)
        _redirect(0, os.devnull, os.O_RDONLY)
        os.dup2(2, 1)
        self._alive = os.pipe()  # workers see the server end
        self._running: dict[int, int] = {}  # pid -> id
        self._fresh: dict[int, subprocess.Popen[bytes]] = {}  # references, since subprocess would reap them otherwise
        self._forks = preload(preloaded)

    def serve(self) -> int:
        """Serve requests until standard input closes; return the exit code: in a worker, that of its run."""
        rest = b""
        while True:
            if select.select([self._requests], [], [], POLL)[0]:
                data = os.read(self._requests, 1 << 16)
                if not data:
                    os.close(self._alive[1])
                    return 0
                *lines, rest = (rest + data).split(b"\n")
                for request in map(json.loads, lines):
                    if "signal" in request:
                        self._signal(request["id"], request["signal"])
                    elif not self._start(request):
                        return self.work(request["spec"])
            self._reap()

    def _start(self, request: dict[str, Any]) -> bool:
        """Start a worker; return False in the worker."""
        if self._forks:
            pid = os.fork()
        else:
            process = fresh(json.dumps(request["spec"]), request["log"])
            pid = process.pid
            self._fresh[pid] = process
        if pid == 0:
            os.close(self._requests)
            os.close(self._replies)
            os.close(self._alive[1])
            os.setsid()
            _redirect(1, request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(1, 2)
            end_with(self._alive[0])
            return False
        self._running[pid] = request["id"]
        self._reply(id=request["id"], pid=pid)
        return True

    def _signal(self, number: int, what: int) -> None:
        for pid, one in self._running.items():
            if one == number:
                os.kill(pid, what)  # not reaped yet, so the pid is still its own

    def _reap(self) -> None:
        for pid in list(self._running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                if process := self._fresh.pop(pid, None):
                    process.returncode = code
                    assert process.stdin is not None
                    process.stdin.close()
                self._reply(id=self._running.pop(pid), code=code)

    def _reply(self, **values: int) -> None:
        os.write(self._replies, json.dumps(values).encode() + b"\n")


def preload(modules: Sequence[str]) -> bool:
    """Import modules; return whether this process can be forked. If not, workers are fresh processes."""
    try:
        for module in modules:
            import_module(module)
    except Exception:  # every run will raise it too, and write it to its log
        return False
    gc.collect()
    gc.freeze()  # otherwise the first collection of each worker would copy every page
    if (pid := os.fork()) == 0:  # libraries that support fork (OpenBLAS) end their threads before it
        os._exit(0)
    os.waitpid(pid, 0)
    torch = sys.modules.get("torch")
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return len([name for name in threads if name not in IDLE]) == 1 and not (torch and torch.cuda.is_initialized())


def _redirect(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o666)
    os.dup2(opened, descriptor)
    os.close(opened)


def main(work: Callable[[dict[str, Any]], int] = work_on, preloaded: Sequence[str] = PRELOADED) -> int:
    """Serve until the pool ends; return the exit code."""
    prepare_environment()
    try:
        return Server(work, preloaded).serve()
    except BrokenPipeError:  # the pool died between two polls
        return 0


if __name__ == "__main__":
    sys.exit(main())
