"""A process with the libraries imported, which forks one `dude` command after the other, with a fault in its way.

    LD_PRELOAD=faults.so python fault_server.py

Requests and replies are lines of JSON on standard input and output (see `faults.Server`).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any

COMMANDS = ("dude_lab.cli.commands", "dude_lab.cli.train", "dude_lab.training.merging", "matplotlib.figure")


def save_time() -> None:
    """Do once what every command would do again; the files that are written, and how, stay the same."""
    from functools import cache
    from importlib import metadata

    import jinja2
    from huggingface_hub import ModelCard, ModelCardData
    from matplotlib.figure import Figure

    from dude_lab.training import provenance

    Figure.draw = lambda self, renderer: None  # type: ignore[assignment, method-assign]  # pictures are blank
    jinja2.Environment.compile = cache(jinja2.Environment.compile)  # type: ignore[method-assign]
    ModelCard.from_template(ModelCardData())
    provenance.git_state()
    provenance.hardware()
    metadata.version = cache(metadata.version)
    provenance.versions()


def run_command(request: dict[str, Any]) -> int:
    """The command of a request in this process, its output in a file; returns the exit code, 1 with a traceback."""
    import traceback

    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    calls = os.open(request["calls"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666) if request["calls"] else -1
    sys.argv = ["dude", *request["arguments"]]
    below, at, action, error = request["below"], request["at"], request["action"], request["error"]
    os.environ |= request["environment"]
    ctypes.CDLL(None).fault_arm(os.fsencode(below), ctypes.c_long(at), action, error, calls)
    from dude_lab.cli.app import main

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def wait_for(pid: int, seconds: float | None) -> int:
    """The exit code of a child, which is killed when the time is over."""
    if seconds is not None:
        descriptor = os.pidfd_open(pid)
        if not select.select([descriptor], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> int:
    """Serve until standard input ends."""
    from dude_lab.compare.fork_server import PRELOADED, preload
    from dude_lab.training.reporter import prepare_environment

    prepare_environment()
    replies = os.dup(1)
    os.dup2(2, 1)  # an import that prints must not reach the client
    if not preload((*PRELOADED, *COMMANDS)):
        return 3
    save_time()
    os.write(replies, b"{}\n")
    while line := sys.stdin.readline():
        request = json.loads(line)
        begin = time.monotonic()
        if (pid := os.fork()) == 0:
            os.setsid()
            os.close(replies)
            code = run_command(request)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        code = wait_for(pid, request["kill_after"])
        os.write(replies, json.dumps({"code": code, "seconds": time.monotonic() - begin}).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
