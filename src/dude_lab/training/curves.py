"""`curves.jsonl`, written while a run trains, read by whoever draws it; a module of its own, to import no trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import sync, write_text

REMEDY = "Restore it from a copy, or remove it: the run's curves are then left out."


class Curves:
    """`curves.jsonl`: one JSON object a line, each with its `step`."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path, self.writes = path, writes  # of several processes only the first one writes

    def read(self) -> list[dict[str, Any]]:
        """All records; a last line that a kill cut short is left out.

        Raises:
            DudeError: the file is not UTF-8, or a line is not a JSON object of numbers with a step.
        """
        if not self.path.is_file():
            return []
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DudeError(f"{self.path}: cannot be read ({error}). {REMEDY}") from None
        return [self._record(number, line) for number, line in enumerate(lines[:-1], 1)]

    def _record(self, number: int, line: str) -> dict[str, Any]:
        try:
            record = json.loads(line, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise DudeError(f"{self.path}:{number}: not JSON ({error}). {REMEDY}") from None
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            raise DudeError(f"{self.path}:{number}: not an object with a step: {line[:80]!r}. {REMEDY}")
        for key, value in record.items():
            if key != "eval" and value is not None and type(value) not in (int, float):
                raise DudeError(f"{self.path}:{number}: '{key}' is not a number: {str(value)[:80]!r}. {REMEDY}")
        return record

    def save_to(self, checkpoint: Path) -> None:
        """Copy the file into a checkpoint."""
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        write_text(checkpoint / self.path.name, text)

    def restore(self, checkpoint: Path | None, step: int = -1) -> None:
        """Go back to what the file was when a checkpoint was written; None: to an empty one.

        A checkpoint of version 0.1.0 has no copy: then everything after `step` is removed.
        """
        if not self.writes:
            return
        copy = checkpoint / self.path.name if checkpoint is not None else None
        if copy is not None and copy.is_file():
            write_text(self.path, copy.read_text(encoding="utf-8"))
            return
        records = [r for r in self.read() if r["step"] <= step] if checkpoint is not None else []
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in records))

    def append(self, record: dict[str, Any], *, before_loss: bool = False) -> None:
        """Write one record and let the system have it at once.

        Args:
            record: with its `step`.
            before_loss: put it before the loss of its step, where that is the last record.
        """
        if not self.writes:
            return
        line = json.dumps(record, allow_nan=False) + "\n"
        records = self.read() if before_loss else []
        if records and records[-1]["step"] == record["step"] and "loss" in records[-1]:
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.path, "".join([*lines[:-1], line, lines[-1]]))
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)

    def sync(self) -> None:
        """Flush the file to disk."""
        if self.path.is_file():
            sync(self.path)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")
