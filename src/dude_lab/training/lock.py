"""Lock of a run folder: one process writes it; others get an error that names the owner."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shlex
import socket
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import write_json

LOCK = ".lock"  # locked by the operating system while a process writes the folder
OWNER = ".owner.json"  # which process that is
SAME_START = 2.0  # seconds by which two readings of a process's start time may differ


@dataclass(frozen=True)
class Owner:
    """The process that writes a folder.

    Attributes:
        process_started: seconds since the epoch; distinguishes it from a later process with the same pid.
        since: when it took the lock, ISO 8601 in UTC.
    """

    host: str
    pid: int
    process_started: float
    since: str
    command: str

    @classmethod
    def this_process(cls) -> Owner:
        """Return the running process as the owner, from now."""
        import psutil

        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time(), now, shlex.join(sys.argv)[:500])

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """Read the owner from a file; None if it is missing or cannot be read."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{name: kind(values[name]) for name, kind in _FIELDS.items()})
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None

    @property
    def here(self) -> bool:
        """Whether the process is of this host."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process still runs; True for another host, where this is unknown."""
        import psutil

        if not self.here:
            return True
        try:
            process = psutil.Process(self.pid)
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and abs(process.create_time() - self.process_started) < SAME_START
            )
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return True

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


_FIELDS: dict[str, Any] = {"host": str, "pid": int, "process_started": float, "since": str, "command": str}


class FolderLock:
    """Exclusive use of a run folder; use as a context manager.

    The kernel releases an `flock` when its process ends, so a lock is never stale on one host. The owner file names the
    process. It also decides on file systems without `flock`, and on network file systems whose locks do not reach other
    hosts.

    On exit both files are removed, and the folder if the lock created it and it is empty.

    Attributes:
        flock: whether the file system took the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.flock = folder, False
        self._descriptor: int | None = None
        self._made: list[Path] = []

    def __enter__(self) -> FolderLock:
        path = self.folder
        while not path.exists():
            self._made.append(path)
            path = path.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._acquire()
        except BaseException:
            self._close()
            self._remove_made()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (OWNER, LOCK):  # the lock last, and still locked: nobody can take it in between
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        self._close()
        self._remove_made()

    def _acquire(self) -> None:
        """Take the lock.

        Raises:
            DudeError: another process has it, or may have it on another host.
        """
        mark = self.folder / OWNER
        if not self._lock_file():
            raise DudeError(_in_use(self.folder, Owner.read(mark)))
        owner, ours = Owner.read(mark), False
        try:
            if owner is not None and owner.alive:
                raise DudeError(_in_use(self.folder, owner))
            ours = True
            if not self.flock:
                mark.unlink(missing_ok=True)
                mark.touch(exist_ok=False)
            write_json(mark, asdict(Owner.this_process()))
        except FileExistsError:
            raise DudeError(_in_use(self.folder, Owner.read(mark))) from None
        except BaseException:
            if ours:  # stopped while the file was written
                mark.unlink(missing_ok=True)
            (self.folder / LOCK).unlink(missing_ok=True)
            raise

    def _lock_file(self) -> bool:
        """Lock the file; return whether this process may continue: it has the lock, or there is no `flock`."""
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        while True:
            self._descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # file systems report one or the other
                return False
            except OSError:  # the file system has no flock
                return True
            if os.fstat(self._descriptor).st_nlink:
                self.flock = True
                return True
            self._close()  # its last owner removed the file between our opening and locking it

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _remove_made(self) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):
                path.rmdir()


def _in_use(folder: Path, owner: Owner | None) -> str:
    if owner is None or owner.here:
        return (
            f"output: {folder} is in use by {owner or 'another process'}. Wait for it, stop it, or choose "
            "another folder with output=DIR."
        )
    return (
        f"output: {folder} is in use by {owner}, and whether that process still runs is not known on "
        f"{socket.gethostname()}. If it does not, delete {folder / OWNER} and try again."
    )
