"""`curves.jsonl`, written while a run trains, read by whoever draws it: in a room of its own, to import no trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..files import write_text


class Curves:
    """`curves.jsonl`: one JSON object a line, each with its `step`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All records; a last line that a kill cut short is left out."""
        if not self.path.is_file():
            return []
        records = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def rewind(self, step: int) -> None:
        """Forget what came after `step`: a resumed run writes it again."""
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in self.read() if r["step"] <= step))

    def append(self, record: dict[str, Any]) -> None:
        """Write one record and let the system have it at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
