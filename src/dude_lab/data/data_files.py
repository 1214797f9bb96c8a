"""A user's record files: .jsonl, .json, .csv and .parquet, read so that every fault is told with its line."""

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
MAX_LINE = 64 << 20  # bytes, unpacked: a file without line breaks would fill the memory
MAX_CELL = 64 << 20  # characters of a CSV cell; Python's own limit is 131,072


@dataclass(frozen=True)
class Rows:
    """Records of one source, with where each of them stands.

    Attributes:
        source: the file, or the name of the set and split.
        rows: the records.
        numbers: for each record its line (or its number, see `unit`), counted from 1.
        unit: `line` or `record`.
    """

    source: str
    rows: list[dict[str, Any]]
    numbers: list[int] = field(default_factory=list)
    unit: str = "record"

    def place(self, index: int) -> str:
        """`"problems.jsonl, line 12"` for the record at `index` (counted from 0)."""
        number = self.numbers[index] if self.numbers else index + 1
        return f"{self.source}, {self.unit} {number}"


def existing(path: str | Path) -> Path:
    """`path` as an existing file.

    Raises:
        DudeError: there is none; with the nearest names in that folder.
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
    """Every record of one file.

    Raises:
        DudeError: missing, empty, not UTF-8, truncated or broken, with the line; or of a kind that is not read.
    """
    file = existing(path)
    suffixes = [one.lower() for one in file.suffixes]
    packed = bool(suffixes) and suffixes[-1] == ".gz"
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if not kind or kind[0] not in SUFFIXES or (packed and kind[0] == ".parquet"):
        raise DudeError(
            f"{file}: not a kind of file that is read. Known: {', '.join(SUFFIXES)} (the text ones also .gz)."
        )
    if kind[0] == ".parquet":
        rows = _parquet(file)
    else:
        rows = {".jsonl": read_jsonl, ".json": _json, ".csv": _csv}[kind[0]](file)
    if not rows.rows:
        raise DudeError(f"{file} holds no record.")
    return rows


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each line of a UTF-8 file, unpacked where its name ends in .gz or .bz2."""
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
        raise DudeError(f"{file}, after line {number}: cannot be read ({error}). Is the file whole?") from None


def read_jsonl(file: Path) -> Rows:
    """One JSON object a line; empty lines are passed over."""
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
            raise DudeError(f"{file}, line {number}: a JSON object is expected, got {_kind(row)}.")
        rows.append(row)
        numbers.append(number)
    return Rows(str(file), rows, numbers, "line")


def _strict(text: str) -> Any:
    """JSON as its standard has it: no NaN, no infinity, and no key twice in an object.

    Raises:
        ValueError: it is not.
        RecursionError: nested too deeply.
    """
    return json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON; write null, or leave the record out")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {quote(twice)} stands twice in one object")
    return made


def _json(file: Path) -> Rows:
    text = "".join(line for _, line in lines_of(file))
    if not text.strip():
        return Rows(str(file), [])
    try:
        rows = _strict(text)
    except json.JSONDecodeError as error:
        hint = " A file with one object a line is named .jsonl." if error.msg == "Extra data" else ""
        raise DudeError(
            f"{file}, line {error.lineno}: broken JSON ({error.msg} at column {error.colno}).{hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DudeError(f"{file}: cannot be read ({shorten(error)}).") from None
    if not isinstance(rows, list):
        raise DudeError(f"{file}: an array of objects is expected, got {_kind(rows)}.")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DudeError(f"{file}, record {number}: a JSON object is expected, got {_kind(row)}.")
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
                    raise DudeError(f"{file}, line 1: a column name stands twice in {some(head)}.")
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
        raise DudeError(f"{file}: a column name stands twice in {some(table.column_names)}.")
    return Rows(str(file), rows)


def _kind(value: Any) -> str:
    names = {dict: "one object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
