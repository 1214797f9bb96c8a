"""Read and write files safely: atomic writes, checksums, JSON that may be damaged.

Every file that a later step depends on is written through this module: a process that is killed leaves the old file or
the new one, never a part of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .errors import DudeError, shorten

BLOCK = 1 << 22  # bytes read at a time
CHECKSUM = "content_sha256"  # key of a JSON object for the SHA-256 of the others


def part_of(path: Path) -> Path:
    """Return where a file or folder is written before it is moved to `path`; a killed process may leave it behind."""
    return path.with_name(f".{path.name}.part")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically, with the mode that the process's umask gives; it survives a power failure."""
    part = part_of(path)
    try:
        part.write_text(text, encoding="utf-8")
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk names no file
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically that several processes may write at once, with the mode that the umask gives."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def use_umask(path: Path) -> None:
    """Give a file that a library made private (safetensors writes through a file of mode 0600) the umask's mode."""
    probe = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    with probe.open("xb") as file:
        mode = os.fstat(file.fileno()).st_mode
    probe.unlink()
    path.chmod(stat.S_IMODE(mode))


def write_json(path: Path, value: Any, *, checksum: bool = False) -> None:
    """Write strict JSON atomically: NaN and infinity raise `ValueError`.

    Args:
        path: the file.
        value: plain JSON values; a dict with string keys where `checksum` is set.
        checksum: add the SHA-256 of the content as one more key, which `read_json` then verifies.
    """
    if checksum:
        value = {**value, CHECKSUM: json_sha256(value)}
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, remedy: str, *, finite: bool = False) -> dict[str, Any]:
    """Return the JSON object in a file, verified where it has a checksum.

    Args:
        path: the file.
        remedy: what the user can do if the file is damaged, as a sentence for the error message.
        finite: refuse NaN and infinities, which Python reads although JSON has none.

    Raises:
        DudeError: the file cannot be read, is not UTF-8, not JSON, nested too deeply, not an object, or its content
            does not have the SHA-256 that it names.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant if finite else None)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: bad UTF-8, bad JSON, huge integers
        raise DudeError(f"{path}: cannot be read as JSON ({error}). {remedy}") from None
    if not isinstance(value, dict):
        raise DudeError(f"{path}: contains a {type(value).__name__}, not a JSON object. {remedy}")
    if CHECKSUM in value and value[CHECKSUM] != json_sha256(value):
        raise DudeError(f"{path}: damaged: its content does not have the SHA-256 that it names. {remedy}")
    return value


def json_sha256(value: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object without its checksum, hexadecimal; the order of its keys does not matter."""
    content = {key: item for key, item in value.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def refuse_constant(constant: str) -> None:
    """Reject NaN and infinities: the `parse_constant` of `json.loads`."""
    raise ValueError(f"{constant} is not a JSON value")


def json_values(value: Any, digits: int | None = None) -> Any:
    """Return plain values as JSON has them: NaN and infinities as None, tuples as lists.

    `digits` is the number of decimals that floats are rounded to; None: not rounded.
    """
    if isinstance(value, Mapping):
        return {key: json_values(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item, digits) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return value if digits is None else round(value, digits) + 0.0  # no negative zero


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    hash_file(digest, path)
    return digest.hexdigest()


def hash_file(digest: Any, path: Path) -> None:
    """Add the content of a file to a hash of `hashlib`."""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder (which Windows does not open), to disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def public_name(base: str | None) -> str | None:
    """Return the name of the base model for a published file: never an absolute path.

    A repository's name and a relative path stay as they are. Of a snapshot in the hub's cache it is the repository, of
    the embedded model "mini", of any other folder its last name.
    """
    if not base or not (PurePosixPath(base).is_absolute() or PureWindowsPath(base).is_absolute()):
        return base
    parts = [part for part in re.split(r"[/\\]", base) if part]
    for part, following in itertools.pairwise(parts):
        if part.startswith("models--") and following == "snapshots":
            return part.removeprefix("models--").replace("--", "/", 1)
    if parts[-4:] == ["dude_lab", "assets", "mini", "model"]:
        return "mini"
    return parts[-1] if parts else None


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads from a folder; empty if there are none.

    Raises:
        DudeError: the index is damaged, names a file outside the folder, or one that is missing.
    """
    if (single := folder / "model.safetensors").is_file():
        return [single]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    remedy = "Copy the model's folder again."
    parts = read_json(index, remedy).get("weight_map")
    if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
        raise DudeError(f"{index}: 'weight_map' is not a mapping of tensors to files. {remedy}")
    names = sorted(set(parts.values()))
    if outside := [name for name in names if Path(name).name != name or name in ("", ".", "..")]:
        raise DudeError(f"{index} names a file outside its folder: {shorten(outside[0])}. {remedy}")
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise DudeError(f"{index} names {len(lost)} files that are missing: {shorten(', '.join(lost), 300)}. {remedy}")
    return [folder / name for name in names]
