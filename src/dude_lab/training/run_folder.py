"""The folder of a run: who may write into it, what lies where, and files that are whole or not there.

config.yaml    as resolved          run.json       the record, written last
adapter/       (`model/` for full)  curves.jsonl   one line a logged step or evaluation
checkpoints/   to resume from       curves.png     the picture
diverged.json  where the loss, a gradient or a parameter was not finite: then there is no result
eval/          metrics and per-item samples: `before/`, `after/`, and one folder for each suite evaluated since
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dude_peft.errors import DudeError
from dude_peft.files import part_of, write_text

from ..config.run_settings import RunSettings
from ..config.yaml_file import differences, to_yaml
from ..config.yaml_reader import read_yaml
from ..folders import check_folder, user_path
from .lock import LOCK, OWNER
from .nonfinite import MARKER, Divergence
from .run_checkpoint import PREFIX, fault, is_complete, is_sealed, step_of

SCHEMA = 1  # of run.json; raised when a field changes its meaning


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

    def check(self, settings: RunSettings, *, resume: bool, retry: bool = False) -> None:
        """Refuse a folder that this run may not write into; writes nothing.

        Raises:
            DudeError: the folder cannot be written, or holds something else, another run, (without `resume`) this, or
                (without `retry`) this, and it diverged.
        """
        if not (resume and self.record.is_file()):  # a finished run may lie on a disk that is read only
            check_folder(self.path, "output")
        # Left by a process that was killed before it began the run.
        ours = {LOCK, OWNER, part_of(self.path / OWNER).name, part_of(self.config).name}
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
        if not retry and (divergence := Divergence.read(self.path)) is not None:
            raise DudeError(f"output: {divergence.message(self.path)}")
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
        (self.path / MARKER).unlink(missing_ok=True)

    def complete_checkpoints(self) -> list[Path]:
        """Checkpoints that were written to their end, oldest first; one that a kill cut short is not among them."""
        return [p for p in self._checkpoints() if is_complete(p)]

    def _checkpoints(self) -> list[Path]:
        found = [p for p in self.checkpoints.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
        return sorted(found, key=step_of)

    def find_checkpoint(self, resume: str, note: Callable[[str], None] = lambda text: None) -> Path | None:
        """The checkpoint that `--resume auto`, `--resume must` or `--resume PATH` means.

        With the first two, a damaged one is passed over for the one before it.

        Args:
            resume: `auto`, `must`, or the path of a checkpoint.
            note: called with a message that names the checkpoint passed over, why, and what is used instead.

        Returns:
            None for `auto` where there is none that can be used: the run begins.

        Raises:
            DudeError: `must` and there is none, or the one named is incomplete, damaged or of another run.
        """
        if resume in ("auto", "must"):
            checkpoint, faults = self._newest_intact()
            if checkpoint is None and resume == "must":
                lack = f"no complete checkpoint in {self.checkpoints}" if self.config.is_file() else "no run there"
                raise DudeError(
                    f"--resume must: {self.path}: {'; '.join([lack, *faults])}. Write --resume auto to begin the run "
                    "where there is nothing to resume."
                )
            then = "training begins again" if checkpoint is None else f"going on from {checkpoint.name} instead"
            for found in faults:
                note(f"{found}; {then}")
            return checkpoint
        path = user_path(resume)
        if not path.is_dir():
            raise DudeError(f"--resume: {path}: no such folder. Write --resume auto for the newest checkpoint.")
        if not is_sealed(path):
            raise DudeError(
                f"--resume: {path} is not a complete checkpoint. Write --resume auto for the newest that is."
            )
        if path.resolve().parent != self.checkpoints.resolve():
            raise DudeError(
                f"--resume: {path} is not a checkpoint of {self.path}. Set output to the run that it belongs to."
            )
        if wrong := fault(path):
            raise DudeError(
                f"--resume: {path} is not a complete checkpoint: {wrong.rstrip('.')}. "
                "Write --resume auto for the newest that is."
            )
        return path

    def _newest_intact(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint whose files are as they were written, and what is wrong with those after it."""
        faults: list[str] = []
        for checkpoint in reversed([p for p in self._checkpoints() if is_sealed(p)]):
            if (found := fault(checkpoint)) is None:
                return checkpoint, faults
            faults.append(f"{checkpoint}: {found.rstrip('.')}")
        return None, faults
