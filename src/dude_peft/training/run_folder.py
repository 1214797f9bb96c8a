"""The folder of a run: who may write into it, what lies where, and files that are whole or not there.

config.yaml    as resolved          run.json       the record, written last
adapter/       (`model/` for full)  curves.jsonl   one line a logged step or evaluation
checkpoints/   to resume from       curves.png     the picture
eval/          metrics and per-item samples: `before/`, `after/`, and one folder for each suite evaluated since
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import DudeError
from ..files import sync, write_json, write_text
from .config_file import differences, read_yaml, to_yaml
from .lock import LOCK, OWNER
from .settings import RunSettings

SCHEMA = 1  # of run.json; raised when a field changes its meaning
MANIFEST = "manifest.json"
PREFIX = "checkpoint-"


class RunFolder:
    """Paths of one run, and the rules about what may be written there."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.record = self.path / "run.json"
        self.curves = self.path / "curves.jsonl"
        self.picture = self.path / "curves.png"
        self.adapter = self.path / "adapter"
        self.model = self.path / "model"
        self.checkpoints = self.path / "checkpoints"
        self.evaluations = self.path / "eval"

    def check(self, settings: RunSettings, *, resume: bool) -> None:
        """Refuse a folder that this run may not write into; writes nothing.

        Raises:
            DudeError: the path is a file, or the folder holds something else, another run, or (without `resume`) this.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DudeError(f"output: {self.path} is a file. Choose another folder.")
        ours = {LOCK, OWNER, f".{self.config.name}.part"}  # of a process that was killed before it began the run
        held = sorted({p.name for p in self.path.iterdir()} - ours) if self.path.is_dir() else []
        if not held:
            return
        if not self.config.is_file():
            raise DudeError(
                f"output: {self.path} is not empty and holds no run ({', '.join(held[:4])}). Choose another folder."
            )
        there = read_yaml(self.config)
        here = settings.resolved()
        changed = differences({**there, "output": None}, {**here, "output": None})
        if changed:
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise DudeError(
                f"output: {self.path} holds another run ({'; '.join(changed[:4])}{more}). "
                "Choose another folder with output=DIR."
            )
        # A run that died before its first checkpoint may simply begin again: there is nothing in it to lose.
        if not resume and (self.record.is_file() or self.complete_checkpoints()):
            state = (
                "this run, finished" if self.record.is_file() else "this run, not finished: go on with --resume auto"
            )
            raise DudeError(
                f"output: {self.path} holds {state}. To train it anew choose another folder with output=DIR."
            )

    def begin(self, settings: RunSettings) -> None:
        """Claim the folder: from here on it holds this run."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config.is_file():
            write_text(self.config, to_yaml(settings))

    def complete_checkpoints(self) -> list[Path]:
        """Checkpoints that were written to their end, oldest first; one that a kill cut short is not among them."""
        found = [p for p in self.checkpoints.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
        return sorted((p for p in found if is_complete(p)), key=step_of)

    def find_checkpoint(self, resume: str) -> Path | None:
        """The checkpoint that `--resume auto`, `--resume must` or `--resume PATH` means.

        Returns:
            None for `auto` where there is none: the run begins.

        Raises:
            DudeError: `must` and there is none, or the one named is not whole or belongs to another run.
        """
        if resume in ("auto", "must"):
            whole = self.complete_checkpoints()
            if not whole and resume == "must":
                what = f"no complete checkpoint in {self.checkpoints}" if self.config.is_file() else "no run there"
                raise DudeError(
                    f"--resume must: {self.path}: {what}. Write --resume auto to begin the run where there is nothing "
                    "to resume."
                )
            return whole[-1] if whole else None
        path = Path(resume)
        if not path.is_dir():
            raise DudeError(f"--resume: {path}: no such folder. Write --resume auto for the newest checkpoint.")
        if not is_complete(path):
            raise DudeError(
                f"--resume: {path} is not a complete checkpoint. Write --resume auto for the newest that is."
            )
        if path.resolve().parent != self.checkpoints.resolve():
            raise DudeError(
                f"--resume: {path} is not a checkpoint of {self.path}. Set output to the run that it belongs to."
            )
        return path


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def seal(checkpoint: Path, extra: dict[str, Any]) -> None:
    """Mark a checkpoint as whole: the list of its files with their sizes, written after all of them are on disk."""
    files = {p.name: p.stat().st_size for p in sorted(checkpoint.iterdir()) if p.is_file() and p.name != MANIFEST}
    for name in files:
        sync(checkpoint / name)
    write_json(checkpoint / MANIFEST, {"files": files, **extra})


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """What `seal` wrote."""
    return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))


def is_complete(checkpoint: Path) -> bool:
    """Whether every file that `seal` listed is there with its size."""
    try:
        files = read_manifest(checkpoint)["files"]
    except (OSError, ValueError, KeyError):
        return False
    return all((checkpoint / n).is_file() and (checkpoint / n).stat().st_size == size for n, size in files.items())
