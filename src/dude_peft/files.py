"""Read and write files safely: atomic writes, checksums, JSON that may be damaged.

Every file that a later step depends on is written through this module: a process that is killed leaves the old file or
the new one, never a part of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from .errors import DudeError

BLOCK = 1 << 22  # bytes read at a time


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with the mode that the process's umask gives."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    sync(part)
    os.replace(part, path)


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON atomically: NaN and infinity raise `ValueError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Args:
        path: the file.
        remedy: what the user can do if the file is damaged, as a sentence for the error message.

    Raises:
        DudeError: the file cannot be read, is not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: bad UTF-8, bad JSON, huge integers
        raise DudeError(f"{path}: cannot be read as JSON ({error}). {remedy}") from None
    if not isinstance(value, dict):
        raise DudeError(f"{path}: holds a {type(value).__name__}, not a JSON object. {remedy}")
    return value


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def folder_bytes(path: Path) -> int:
    """Size of all files below a folder, in bytes."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
