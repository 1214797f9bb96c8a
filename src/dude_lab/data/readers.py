"""Readers of data sets as their authors publish them; text files may be compressed as .gz or .bz2."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError

from .data_files import Rows, lines_of, read_jsonl, read_rows

PACKED = ("", ".gz", ".bz2")

GPQA_SEED = 0
"""Seed of the order of GPQA's answers, which must not depend on the seed of a run."""

Reader = Callable[[Path], Rows]


def find(folder: Path, name: str) -> Path | None:
    """Return the file `name` in `folder`, plain or compressed; None if there is none."""
    return next((file for pack in PACKED if (file := folder / (name + pack)).is_file()), None)


def plain_name(file: Path) -> str:
    """Return the file name without the suffix of the compression."""
    return file.stem if file.suffix in PACKED[1:] else file.name


def with_labels(key: str) -> Reader:
    """Return a reader of .jsonl files with labels in `<name>-labels.lst`, which go under `key`."""

    def read(file: Path) -> Rows:
        rows = read_jsonl(file)
        name = plain_name(file).removesuffix(".jsonl") + "-labels.lst"
        labels_file = find(file.parent, name)
        if labels_file is None:
            if all(key in row for row in rows.rows):
                return rows
            raise DudeError(f"{file} needs its labels: {file.parent} has no {name}.")
        labels = [line.strip() for _, line in lines_of(labels_file)]
        if len(labels) != len(rows.rows):
            raise DudeError(f"{labels_file} has {len(labels)} labels for the {len(rows.rows)} records of {file}.")
        return replace(rows, rows=[{**row, key: label} for row, label in zip(rows.rows, labels, strict=True)])

    return read


def hellaswag(file: Path) -> Rows:
    """Read HellaSwag: .jsonl, or plain text with six lines per record (context, label, four endings)."""
    if not plain_name(file).endswith(".txt"):
        return read_jsonl(file)
    lines = [line.rstrip("\r\n") for _, line in lines_of(file)]
    if len(lines) % 6:
        raise DudeError(f"{file}: {len(lines)} lines, not six for each record. Is the file complete?")
    rows, numbers = [], []
    for start in range(0, len(lines), 6):
        head, label, *endings = lines[start : start + 6]
        activity, colon, context = head.partition(": ")
        if not colon or label not in ("0", "1", "2", "3"):
            raise DudeError(f"{file}, line {start + 1}: expected 'activity: context' and then a label 0 to 3.")
        rows.append({"activity_label": activity, "ctx": context, "label": int(label), "endings": endings})
        numbers.append(start + 1)
    return Rows(str(file), rows, numbers, "line")


def mmlu(folder: Path) -> Rows:
    """Read MMLU: one CSV file without header per subject (question, four choices, letter), sorted by name."""
    rows: list[dict[str, Any]] = []
    for file in sorted(one for one in folder.iterdir() if plain_name(one).endswith(".csv")):
        subject = plain_name(file).removesuffix(".csv").removesuffix(f"_{folder.name}")
        text = "".join(line for _, line in lines_of(file))
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        start = 1
        try:
            for number, cells in enumerate(reader):
                if len(cells) != 6 or cells[5].strip() not in ("A", "B", "C", "D"):
                    raise DudeError(
                        f"{file}, line {start}: expected six cells: question, four choices and a letter A to D."
                    )
                rows.append(
                    {
                        "id": number,
                        "subject": subject,
                        "question": cells[0],
                        "choices": cells[1:5],
                        "answer": cells[5].strip(),
                    }
                )
                start = reader.line_num + 1
        except csv.Error as error:
            raise DudeError(f"{file}, line {start}: broken CSV ({error}).") from None
    return Rows(str(folder), rows)


def gpqa(file: Path) -> Rows:
    """Read GPQA's CSV and add the order of the answers to each record."""
    return ordered(read_rows(file))


def gpqa_both(folder: Path) -> Rows:
    """Read `gpqa_main.csv`, then `gpqa_extended.csv`."""
    files = [find(folder, f"gpqa_{part}.csv") or folder / f"gpqa_{part}.csv" for part in ("main", "extended")]
    parts = [read_rows(file) for file in files]
    return ordered(Rows(" and ".join(str(file) for file in files), [row for part in parts for row in part.rows]))


def ordered(rows: Rows) -> Rows:
    """Return records of GPQA with a seeded permutation of the four answers under `order`.

    The permutations are those of shuffling [incorrect 1, incorrect 2, incorrect 3, correct] row by row after one
    `random.seed(GPQA_SEED)`, and depend on nothing else.
    """
    dice = random.Random(GPQA_SEED)
    out = []
    for row in rows.rows:
        order = [0, 1, 2, 3]
        dice.shuffle(order)
        out.append({**row, "order": order})
    return replace(rows, rows=out)
