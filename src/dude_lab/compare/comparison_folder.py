"""The folder of a comparison: its paths, locks, finished and failed runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import read_json, write_json, write_text

from ..config.compare_settings import ComparisonSettings, parse_comparison
from ..config.yaml_reader import dump_yaml, read_yaml
from ..folders import check_folder
from ..training.run_checkpoint import step_of
from ..training.run_folder import RunFolder
from .grid import Grid, PlannedRun
from .run_store import Run, RunStore

SCHEMA = 1  # of table.json, search.json and base.json
STUDY = "reproduction.json"  # marks the folder of a study, which has its comparisons in `parts/`


class ComparisonFolder:
    """Paths of one comparison.

    In its own folder:

        compare.yaml, base.json                the config as resolved, and which base model it means
        search.json, table.md, table.json, curves.png, curves.svg

    In the folder of its study, which several comparisons may share (`dude reproduce`), by default the same folder:

        runs/NAME/                             one run each
        runs.parquet, curves.parquet, answers.parquet    finished runs that were packed (`packing.pack`)
        state/NAME.lock, .log, .status.json    locked while a process works on the run; output; progress
        state/NAME.failed.json                 the error of a failed run

    A run is named by what determines it, so a run that two comparisons need is one folder. A lock is the operating
    system's (`flock`): it ends with the process that holds it, however that dies.

    Args:
        path: folder of the comparison.
        study: folder of the runs; None: the same.
    """

    def __init__(self, path: str | Path, study: str | Path | None = None) -> None:
        self.path = Path(path)
        self.study = self.path if study is None else Path(study)
        self.config = self.path / "compare.yaml"
        self.base = self.path / "base.json"
        self.runs = self.study / "runs"
        self.store = RunStore(self.study)
        self.state = self.study / "state"
        self.search = self.path / "search.json"
        self.table_md = self.path / "table.md"
        self.table_json = self.path / "table.json"
        self.picture = self.path / "curves.png"

    def check(self) -> None:
        """Reject a folder that a comparison cannot be written to; write nothing.

        Raises:
            DudeError: a folder that cannot be written or holds something else.
        """
        check_folder(self.path, "output")
        entries = sorted(p.name for p in self.path.iterdir()) if self.path.is_dir() else []
        if entries and not self.config.is_file():
            raise DudeError(
                f"output: {self.path} is not empty and holds no comparison ({', '.join(entries[:4])}). "
                "Choose another folder."
            )

    def begin(self, settings: ComparisonSettings, base: dict[str, Any]) -> None:
        """Write config and base model; finished runs of an earlier config stay and are used if they match."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.runs.mkdir(parents=True, exist_ok=True)
        self.state.mkdir(exist_ok=True)
        values = {**settings.resolved(), "output": "."}  # the folder can be moved
        text = dump_yaml(values)
        with self.writing():
            if not self.config.is_file() or self.config.read_text(encoding="utf-8") != text:
                write_text(self.config, text)
            write_json(self.base, {"schema": SCHEMA, **base}, checksum=True)

    def grid(self) -> Grid:
        """Return the grid of the config in the folder.

        Raises:
            DudeError: the folder holds no comparison, or it is damaged.
        """
        if not self.config.is_file() or not self.base.is_file():
            raise DudeError(f"{self.path}: no comparison here (no compare.yaml). Give the output of `dude compare`.")
        settings = parse_comparison(read_yaml(self.config), str(self.config))
        remedy = "Restore it from a copy, or remove it and resume with `dude compare` and the YAML file."
        base = read_json(self.base, remedy, finite=True)
        if not isinstance(base.get("sha256") or base.get("commit") or base.get("name"), str):
            raise DudeError(f"{self.base}: damaged: it names no base model. {remedy}")
        return Grid(settings, mark_of(base), self.runs, str(self.config))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Lock the files that several processes of a comparison write."""
        from filelock import FileLock

        with FileLock(self.state / ".writing.lock"):
            yield

    def record(self, run: PlannedRun) -> dict[str, Any] | None:
        """Return the run's `run.json`; None if it is not finished.

        Raises:
            DudeError: it is damaged.
        """
        return self.store.record(run.name)

    def finished(self, run: PlannedRun) -> Run | None:
        """Return the finished run; None if it is not finished."""
        source = self.store.find(run.name)
        record = None if source is None else source.record()
        return None if source is None or record is None else Run(record, source)

    def is_done(self, run: PlannedRun) -> bool:
        """Whether the run is finished."""
        return run.name in self.store

    def last_step(self, run: PlannedRun) -> int:
        """Return the step of the newest complete checkpoint of an unfinished run; 0 if there is none."""
        found = RunFolder(self.runs / run.name).complete_checkpoints()
        return step_of(found[-1]) if found else 0

    def failure(self, run: PlannedRun) -> dict[str, Any] | None:
        """Return the record of the run's failure; None if it has not failed."""
        return read(self.failed_path(run.name))

    def failed_path(self, name: str) -> Path:
        """Return the path of the record of a failure."""
        return self.state / f"{name}.failed.json"

    def failed_at(self, run: PlannedRun) -> int | None:
        """Return the time of its failure in ns; None if it has not failed."""
        try:
            return self.failed_path(run.name).stat().st_mtime_ns
        except OSError:
            return None

    def status(self, name: str) -> dict[str, Any]:
        """Return the progress of a run as its process last wrote it; empty if there is none."""
        return read(self.state / f"{name}.status.json") or {}

    def is_claimed(self, run: PlannedRun) -> bool:
        """Whether a process works on the run."""
        if not (self.state / f"{run.name}.lock").exists():
            return False
        if (lock := claim(self.state, run.name)) is None:
            return True
        lock.release()
        return False


def find_comparison(path: str | Path) -> ComparisonFolder | None:
    """Return the comparison whose folder `path` is, alone or in `parts/` of a study; None if it is none.

    Raises:
        DudeError: it is the folder of a study; names its comparisons.
    """
    path = Path(path)
    if (path / STUDY).is_file():
        names = sorted(config.parent.name for config in path.glob("parts/*/compare.yaml"))
        raise DudeError(
            f"{path}: a study of {len(names)} comparisons. Give one of them, such as "
            f"{path / 'parts' / (names[0] if names else 'NAME')}. Comparisons: {', '.join(names) or 'none yet'}."
        )
    here = path.resolve()
    study = path.parent.parent if path.name == here.name else here.parent.parent
    shared = here.parent.name == "parts" and (study / STUDY).is_file()
    folder = ComparisonFolder(path, study if shared else None)
    return folder if folder.config.is_file() else None


def claim(state: Path, name: str) -> Any:
    """Acquire the lock of a run until the process ends or releases it; return None if another process has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(state / f"{name}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def mark_of(identity: dict[str, Any]) -> str:
    """Return what identifies a base model in the names of its runs, from its `identity`."""
    weights = str(identity.get("sha256") or identity.get("commit") or identity["name"])
    return f"{weights} {identity['chat_template']}" if "chat_template" in identity else weights


def read(path: Path) -> dict[str, Any] | None:
    """Read a JSON file; None if there is none, or it is being replaced."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
