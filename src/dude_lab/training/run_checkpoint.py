"""One checkpoint: the manifest that makes it complete, and whether its files are still those that were written."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError
from dude_peft.files import CHECKSUM, read_json, sync, write_json

from ..folders import apply_umask, checksums, damage

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"
REMEDY = "Write --resume auto: an earlier checkpoint is used."
# The keys of a manifest without checksums, as written by version 0.1.0. Any other key needs the checksums too, so that
# a damaged key does not pass for an old manifest.
WITHOUT_SUMS = frozenset({"files", "config", "data", "model", "started", "train_seconds", "eval_seconds", "tokens"})


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def seal(checkpoint: Path, extra: dict[str, Any]) -> None:
    """Mark a checkpoint as complete: a manifest with size and SHA-256 of its files, written after they are on disk."""
    apply_umask(checkpoint)
    paths = [p for p in sorted(checkpoint.rglob("*")) if p.is_file() and p != checkpoint / MANIFEST]
    for path in paths:
        sync(path)
    files = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in paths}
    sums = checksums(paths, checkpoint)
    write_json(checkpoint / MANIFEST, {"files": files, "sha256": sums, **extra}, checksum=True)
    sync(checkpoint.parent)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, its manifest first, so that a kill in between leaves no complete one with files missing."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """What `seal` wrote.

    Raises:
        DudeError: no manifest, or a damaged one.
    """
    path = checkpoint / MANIFEST
    manifest = read_json(path, REMEDY, finite=True)
    if not set(manifest) <= WITHOUT_SUMS and not (isinstance(manifest.get("sha256"), dict) and CHECKSUM in manifest):
        raise DudeError(f"{path}: damaged: it holds no checksums. {REMEDY}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(size, int) for size in files.values()):
        raise DudeError(f"{path}: damaged: it holds no sizes of the files. {REMEDY}")
    types: dict[str, type | tuple[type, ...]] = {
        "config": str, "data": str, "model": dict, "started": str,
        "train_seconds": (int, float), "eval_seconds": (int, float), "tokens": int,
    }  # fmt: skip
    for key, kind in types.items():
        if key in manifest and not isinstance(manifest[key], kind):
            raise DudeError(f"{path}: damaged: '{key}' is {str(manifest[key])[:80]!r}. {REMEDY}")
    return manifest


def is_sealed(checkpoint: Path) -> bool:
    """Whether `seal` has marked a checkpoint as complete; what its files hold is not looked at."""
    return (checkpoint / MANIFEST).is_file()


def fault(checkpoint: Path, *, content: bool = True) -> str | None:
    """What is wrong with a sealed checkpoint, beginning with the file's name; None where it is as it was written.

    Args:
        checkpoint: its folder.
        content: read and hash the files; without it only that they are there with their sizes.
    """
    try:
        manifest = read_manifest(checkpoint)
    except DudeError as error:
        return str(error).removesuffix(REMEDY).removeprefix(f"{checkpoint}{os.sep}").strip()
    for name, size in manifest["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, not {size}"
    return damage(checkpoint, manifest.get("sha256", {})) if content else None


def is_complete(checkpoint: Path) -> bool:
    """Whether every file that `seal` listed is there with its size."""
    return is_sealed(checkpoint) and fault(checkpoint, content=False) is None
