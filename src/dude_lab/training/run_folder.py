"""The folder of a run: its paths, and the checks before it is written.

config.yaml    as resolved          run.json       the record, written last
adapter/       (`model/` for full)  curves.jsonl   one line per logged step or evaluation
checkpoints/   to resume from       curves.png     the picture
diverged.json  if the loss, a gradient or a parameter was not finite; then there is no result
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
VALIDATION_LOSSES = "validation_losses.json"  # in `eval/NAME/`: the loss of each batch of the validation examples


class RunFolder:
    """Paths of a run."""

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
        """Check that this run may write into the folder; writes nothing.

        Raises:
            DudeError: the folder cannot be written, or has other files, another run, this run (without `resume`), or
                this run after it diverged (without `retry`).
        """
        if not (resume and self.record.is_file()):  # a finished run may be on a read-only disk
            check_folder(self.path, "output")
        # Left by a process that was killed before the run began.
        ours = {LOCK, OWNER, part_of(self.path / OWNER).name, part_of(self.config).name}
        found = sorted({p.name for p in self.path.iterdir()} - ours) if self.path.is_dir() else []
        if not found:
            return
        if not self.config.is_file():
            raise DudeError(
                f"output: {self.path} is not empty and is not a run ({', '.join(found[:4])}). Choose another folder."
            )
        existing, new = read_yaml(self.config), settings.resolved()
        found_changes = differences({**existing, "output": None}, {**new, "output": None})
        changed = [line for line in found_changes if not line.startswith("train.report_to:")]
        if changed:
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise DudeError(
                f"output: {self.path} has another run ({'; '.join(changed[:4])}{more}). "
                "Choose another folder with output=DIR."
            )
        if not retry and (divergence := Divergence.read(self.path)) is not None:
            raise DudeError(f"output: {divergence.message(self.path)}")
        # A run that was killed before its first checkpoint may simply begin again.
        if not resume and (self.record.is_file() or self.complete_checkpoints()):
            state = (
                "this run, finished" if self.record.is_file() else "this run, unfinished: resume it by --resume auto"
            )
            raise DudeError(f"output: {self.path} has {state}. To train again, choose another folder with output=DIR.")

    def begin(self, settings: RunSettings) -> None:
        """Create the folder and write its config."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config.is_file():
            write_text(self.config, to_yaml(settings))
        (self.path / MARKER).unlink(missing_ok=True)

    def complete_checkpoints(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        return [p for p in self._checkpoints() if is_complete(p)]

    def _checkpoints(self) -> list[Path]:
        found = [p for p in self.checkpoints.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()]
        return sorted(found, key=step_of)

    def find_checkpoint(self, resume: str, note: Callable[[str], None] = lambda text: None) -> Path | None:
        """Return the checkpoint for `--resume auto`, `--resume must` or `--resume PATH`.

        With the first two, damaged checkpoints are skipped.

        Args:
            resume: `auto`, `must`, or the path of a checkpoint.
            note: called with a message for each skipped checkpoint.

        Returns:
            None for `auto` if there is no intact checkpoint: the run begins.

        Raises:
            DudeError: `must` and there is no intact checkpoint, or PATH is incomplete, damaged or of another run.
        """
        if resume in ("auto", "must"):
            checkpoint, faults = self._newest_intact()
            if checkpoint is None and resume == "must":
                lack = f"no complete checkpoint in {self.checkpoints}" if self.config.is_file() else "not a run"
                raise DudeError(
                    f"--resume must: {self.path}: {'; '.join([lack, *faults])}. With --resume auto the run begins "
                    "if there is nothing to resume."
                )
            then = "training begins again" if checkpoint is None else f"resuming from {checkpoint.name} instead"
            for found in faults:
                note(f"{found}; {then}")
            return checkpoint
        path = user_path(resume)
        if not path.is_dir():
            raise DudeError(f"--resume: {path}: no such folder. Use --resume auto for the newest checkpoint.")
        if not is_sealed(path):
            raise DudeError(
                f"--resume: {path} is not a complete checkpoint. Use --resume auto for the newest complete one."
            )
        if path.resolve().parent != self.checkpoints.resolve():
            raise DudeError(
                f"--resume: {path} is not a checkpoint of {self.path}. Set output to the run of the checkpoint."
            )
        if wrong := fault(path):
            raise DudeError(
                f"--resume: {path} is not a complete checkpoint: {wrong.rstrip('.')}. "
                "Use --resume auto for the newest complete one."
            )
        return path

    def _newest_intact(self) -> tuple[Path | None, list[str]]:
        """Return the newest intact checkpoint, and what is wrong with later ones."""
        faults: list[str] = []
        for checkpoint in reversed([p for p in self._checkpoints() if is_sealed(p)]):
            if (found := fault(checkpoint)) is None:
                return checkpoint, faults
            faults.append(f"{checkpoint}: {found.rstrip('.')}")
        return None, faults
