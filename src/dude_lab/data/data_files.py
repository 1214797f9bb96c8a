"""Read a user's files: .jsonl, .json, .csv and .parquet. Every error names the file and the line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError, did_you_mean, quote, shorten, some

from ..folders import user_path

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MAX_LINE = 64 << 20  # bytes, decompressed: a file without line breaks would fill the memory
MAX_CELL = 64 << 20  # characters of a CSV cell; Python's own limit is 131,072


@dataclass(frozen=True)
class Rows:
    """Records of one source, with the line of each.

    Attributes:
        source: the file, or the name of the set and split.
        rows: the records.
        numbers: line or record number of each record (see `unit`), from 1.
        unit: `line` or `record`.
    """

    source: str
    rows: list[dict[str, Any]]
    numbers: list[int] = field(default_factory=list)
    unit: str = "record"

    def place(self, index: int) -> str:
        """Return where the record at `index` (from 0) is, such as `problems.jsonl, line 12`."""
        number = self.numbers[index] if self.numbers else index + 1
        return f"{self.source}, {self.unit} {number}"


def existing(path: str | Path) -> Path:
    """Return `path` if it is an existing file.

    Raises:
        DudeError: it does not exist, or is not a file; names similar files.
    """
    try:
        file = user_path(path)
        if file.is_file():
            return file
        if file.is_dir():
            raise DudeError(f"{file} is a folder, not a file. Name a {', '.join(SUFFIXES)} file in it.")
        if file.exists():
            raise DudeError(f"{file} is not a regular file.")
        if not file.parent.is_dir():
            raise DudeError(f"{file} does not exist: there is no folder {file.parent.resolve()}.")
        names = sorted(one.name for one in file.parent.iterdir() if one.is_file())
        raise DudeError(f"{file} does not exist.{did_you_mean(file.name, names)} Folder: {file.parent.resolve()}.")
    except (OSError, RuntimeError) as error:  # a name that is too long, a loop of links
        raise DudeError(f"{shorten(path)}: not a file that can be read ({shorten(error)}).") from None


def read_rows(path: str | Path) -> Rows:
    """Return the records of one file.

    Raises:
        DudeError: the file is missing, empty, not UTF-8, truncated or malformed, or of an unknown type.
    """
    file = existing(path)
    suffixes = [one.lower() for one in file.suffixes]
    compressed = bool(suffixes) and suffixes[-1] == ".gz"
    kind = (suffixes[:-1] if compressed else suffixes)[-1:]
    if not kind or kind[0] not in SUFFIXES or (compressed and kind[0] == ".parquet"):
        raise DudeError(f"{file}: unknown type of file. Known: {', '.join(SUFFIXES)} (text files also as .gz).")
    if kind[0] == ".parquet":
        rows = _parquet(file)
    else:
        rows = {".jsonl": read_jsonl, ".json": _json, ".csv": _csv}[kind[0]](file)
    if not rows.rows:
        raise DudeError(f"{file} has no records.")
    return rows


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Yield number (from 1) and text of each line of a UTF-8 file; .gz and .bz2 are decompressed."""
    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(file.suffix.lower(), open)
    number = 0
    try:
        with opener(file, "rb") as stream:
            for number, raw in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), start=1):
                if len(raw) > MAX_LINE:
                    raise DudeError(f"{file}, line {number}: longer than {MAX_LINE:,} bytes.")
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DudeError(
            f"{file}, line {number}: not UTF-8 (byte {error.object[error.start]:#04x} at column {error.start + 1}). "
            "Save the file as UTF-8."
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
        raise DudeError(f"{file}, after line {number}: cannot be read ({error}). Is the file complete?") from None


def read_jsonl(file: Path) -> Rows:
    """Read one JSON object per line; empty lines are skipped."""
    rows, numbers = [], []
    for number, line in lines_of(file):
        if not line.strip():
            continue
        try:
            row = _strict(line)
        except json.JSONDecodeError as error:
            raise DudeError(f"{file}, line {number}: broken JSON ({error.msg} at column {error.colno}).") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise DudeError(f"{file}, line {number}: cannot be read ({shorten(error)}).") from None
        if not isinstance(row, dict):
            raise DudeError(f"{file}, line {number}: expected a JSON object, got {_kind(row)}.")
        rows.append(row)
        numbers.append(number)
    return Rows(str(file), rows, numbers, "line")


def _strict(text: str) -> Any:
    """Parse standard JSON: no NaN, no infinity, no duplicate key in an object.

    Raises:
        ValueError: not standard JSON.
        RecursionError: nested too deeply.
    """
    return json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not valid JSON; write null, or remove the record")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"duplicate key {quote(twice)} in one object")
    return made


def _json(file: Path) -> Rows:
    text = "".join(line for _, line in lines_of(file))
    if not text.strip():
        return Rows(str(file), [])
    try:
        rows = _strict(text)
    except json.JSONDecodeError as error:
        hint = " Name a file with one object per line .jsonl." if error.msg == "Extra data" else ""
        raise DudeError(
            f"{file}, line {error.lineno}: broken JSON ({error.msg} at column {error.colno}).{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DudeError(f"{file}: cannot be read ({shorten(error)}).") from None
    if not isinstance(rows, list):
        raise DudeError(f"{file}: expected an array of objects, got {_kind(rows)}.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DudeError(f"{file}, record {number}: expected a JSON object, got {_kind(row)}.")
    return Rows(str(file), rows)


def _csv(file: Path) -> Rows:
    reader = csv.reader(io.StringIO("".join(line for _, line in lines_of(file)), newline=""), strict=True)
    rows, numbers, start = [], [], 1
    head: list[str] = []
    limit = csv.field_size_limit(MAX_CELL)
    try:
        for cells in reader:
            if not head:
                head = cells
                if len(set(head)) < len(head):
                    raise DudeError(f"{file}, line 1: duplicate column name in {some(head)}.")
            elif cells:
                if len(cells) != len(head):
                    raise DudeError(f"{file}, line {start}: {len(cells)} cells, but the header has {len(head)}.")
                rows.append(dict(zip(head, cells, strict=True)))
                numbers.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DudeError(f"{file}, line {start}: broken CSV ({error}).") from None
    finally:
        csv.field_size_limit(limit)
    return Rows(str(file), rows, numbers, "line")


def _parquet(file: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
        rows = table.to_pylist()
    # ValueError, OverflowError: dates that Python has no value for
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DudeError(f"{file}: not a parquet file that can be read ({shorten(error)}).") from None
    if len(set(table.column_names)) < len(table.column_names):
        raise DudeError(f"{file}: duplicate column name in {some(table.column_names)}.")
    return Rows(str(file), rows)


def _kind(value: Any) -> str:
    names = {dict: "one object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
