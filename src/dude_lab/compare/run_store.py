"""Finished runs, in folders of their own or in a packed study."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from dude_peft.errors import DudeError
from dude_peft.files import CHECKSUM, read_json

from ..training.curves import Curves
from ..training.record import REMEDY, check_files, read_record
from ..training.run_folder import RunFolder
from .packed import Answers, PackedStudy, find_packed


class Source(Protocol):
    """A finished run in its stored form."""

    name: str

    def record(self) -> dict[str, Any] | None:
        """Return its `run.json`; None if it is not finished."""

    def metrics(self) -> dict[str, Any]:
        """Return evaluation -> its `metrics.json`."""

    def curves(self) -> list[dict[str, Any]]:
        """Return its `curves.jsonl`; empty if it has none."""

    def evaluations(self) -> list[str]:
        """Return the names of the evaluations with answers or metrics."""

    def has_answers(self, task: str) -> bool:
        """Whether the evaluation after training has answers to this task."""

    def samples(self, evaluation: str = "after") -> Answers:
        """Return task -> answers of an evaluation, in the order of the questions; a packed run has no prompts."""

    def answers(self) -> dict[str, list[tuple[str, bool]]]:
        """Return task -> id of each question, and whether the answer after training is correct."""


class FolderRun:
    """A run in a folder of its own."""

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(path)
        self.name = self.folder.path.name

    def record(self) -> dict[str, Any] | None:
        """Return its `run.json` without the checksums of this folder's files; None if it is not finished.

        Raises:
            DudeError: it is damaged. The same holds for all files that are read here.
        """
        if not self.folder.record.is_file():
            return None
        record = {key: value for key, value in read_record(self.folder).items() if key != CHECKSUM}
        if files := record.pop("files", None):
            record["files"] = {n: s for n, s in files.items() if n != self.folder.curves.name and n[:5] != "eval/"}
        return record

    @cached_property
    def _full_record(self) -> dict[str, Any]:
        return read_record(self.folder) if self.folder.record.is_file() else {}

    def metrics(self) -> dict[str, Any]:
        """Return evaluation -> its `metrics.json`."""
        files = sorted(self.folder.evaluations.glob("*/metrics.json"))
        for file in files:
            check_files(self.folder, self._full_record, file)
        return {file.parent.name: read_json(file, REMEDY) for file in files}

    def curves(self) -> list[dict[str, Any]]:
        """Return its `curves.jsonl`; empty if it has none."""
        if self.folder.curves.is_file():
            check_files(self.folder, self._full_record, self.folder.curves)
        return Curves(self.folder.curves).read()

    def evaluations(self) -> list[str]:
        """Return the names of the evaluations with answers or metrics."""
        folders = [p for p in self.folder.evaluations.glob("*") if p.is_dir()]
        return sorted(p.name for p in folders if (p / "metrics.json").is_file() or any(p.glob("samples/*.jsonl")))

    def has_answers(self, task: str) -> bool:
        """Whether the evaluation after training has answers to this task."""
        return samples_file(self.folder, "after", task).is_file()

    def samples(self, evaluation: str = "after") -> Answers:
        """Return task -> answers of an evaluation, in the order of the questions."""
        found: Answers = {}
        for file in sorted((self.folder.evaluations / evaluation / "samples").glob("*.jsonl")):
            if samples := self._read(file):
                found[samples[0]["task"]] = samples
        return {task: found[task] for task in sorted(found)}

    def _read(self, file: Path) -> list[dict[str, Any]]:
        check_files(self.folder, self._full_record, file)
        try:
            lines = file.read_text(encoding="utf-8").split("\n")  # not splitlines: a text may hold other line ends
            samples = [json.loads(line) for line in lines if line]
        except (OSError, ValueError, RecursionError) as error:
            raise DudeError(f"{file}: damaged: {error}. {REMEDY}") from None
        if not all(isinstance(one, dict) and {"task", "id", "correct"} <= one.keys() for one in samples):
            raise DudeError(f"{file}: damaged: a line is not an answer with task, id and correct. {REMEDY}")
        return samples

    def answers(self) -> dict[str, list[tuple[str, bool]]]:
        """Return task -> id of each question, and whether the answer after training is correct."""
        return {t: [(str(one["id"]), bool(one["correct"])) for one in s] for t, s in self.samples().items()}


def samples_file(folder: RunFolder, evaluation: str, task: str) -> Path:
    """Return the path of an evaluation's answers to a task (`EvalResult.write`)."""
    return folder.evaluations / evaluation / "samples" / f"{task.replace('/', '__').replace(':', '__')}.jsonl"


class RunStore:
    """The finished runs of a study, in `runs/NAME/` or packed; if a run is in both, its folder is used."""

    def __init__(self, path: Path) -> None:
        self.path, self.folders = path, path / "runs"

    def find(self, name: str) -> Source | None:
        """Return a run by its name; None if it is not finished."""
        if (self.folders / name / "run.json").is_file():
            return FolderRun(self.folders / name)
        packed = find_packed(self.path)
        return packed.run(name) if packed is not None else None

    def record(self, name: str) -> dict[str, Any] | None:
        """Return a run's `run.json`; None if it is not finished."""
        found = self.find(name)
        return None if found is None else found.record()

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def names(self) -> list[str]:
        """Return the names of all finished runs, sorted."""
        folders = {file.parent.name for file in self.folders.glob("*/run.json")}
        packed: PackedStudy | None = find_packed(self.path)
        return sorted(folders | set(packed.records if packed is not None else ()))

    def __iter__(self) -> Iterator[Source]:
        for name in self.names():
            if (found := self.find(name)) is not None:
                yield found


@dataclass(frozen=True)
class Run:
    """A finished run: its `run.json`, and the source of its curves and answers."""

    record: dict[str, Any]
    source: Source

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.source.name

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return int(self.record["seeds"]["seed"])

    @property
    def after(self) -> dict[str, Any]:
        """Metrics after training; empty without an evaluation."""
        return self.record["metrics"]["after"] or {}

    @property
    def validation_loss(self) -> float | None:
        """Mean loss per token on the validation records after training, in nats; None if it was not measured."""
        return self.after.get("validation_loss")

    @property
    def accuracy(self) -> float | None:
        """Value of the headline task."""
        return self.after.get("accuracy")

    def task(self, name: str) -> dict[str, Any] | None:
        """Return the metric of one task; None if it has none."""
        return self.after.get("tasks", {}).get(name)

    @property
    def tasks_asked(self) -> set[str]:
        """Tasks with questions; the others are averages."""
        return {name for name in self.after.get("tasks", {}) if self.source.has_answers(name)}

    def samples(self) -> Answers:
        """Return task -> questions and answers."""
        return {task: found for task, found in self.source.samples().items() if task in self.after.get("tasks", {})}

    def answers(self) -> dict[str, list[tuple[str, bool]]]:
        """Return task -> id of each question, and whether the answer is correct."""
        return {task: found for task, found in self.source.answers().items() if task in self.after.get("tasks", {})}

    def curves(self) -> list[dict[str, Any]]:
        """Return its `curves.jsonl`; empty if it has none."""
        return self.source.curves()


def find_run(path: str | Path) -> Source | None:
    """Return the finished run at a path: its folder, or `STUDY/runs/NAME` of a packed study; None if there is none."""
    path = Path(path)
    if (path / "run.json").is_file():
        return FolderRun(path)
    if path.parent.name == "runs" and not path.exists():
        return RunStore(path.parent.parent).find(path.name)
    return None
