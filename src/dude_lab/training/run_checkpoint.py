"""Checkpoints: the manifest that marks one as complete, and the check of its files."""

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
REMEDY = "Use --resume auto, which takes an earlier checkpoint."
# The keys of a manifest without checksums, as written by version 0.1.0. Any other key needs the checksums too, so that
# a damaged key does not pass for an old manifest.
WITHOUT_SUMS = frozenset({"files", "config", "data", "model", "started", "train_seconds", "eval_seconds", "tokens"})


def step_of(checkpoint: Path) -> int:
    """Return the optimizer step of a checkpoint."""
    return int(checkpoint.name.removeprefix(PREFIX))


def seal(checkpoint: Path, extra: dict[str, Any]) -> None:
    """Mark a checkpoint as complete by a manifest with size and SHA-256 of its files, once they are on disk."""
    apply_umask(checkpoint)
    paths = [p for p in sorted(checkpoint.rglob("*")) if p.is_file() and p != checkpoint / MANIFEST]
    for path in paths:
        sync(path)
    files = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in paths}
    sums = checksums(paths, checkpoint)
    write_json(checkpoint / MANIFEST, {"files": files, "sha256": sums, **extra}, checksum=True)
    sync(checkpoint.parent)


def remove(checkpoint: Path) -> None:
    """Delete a checkpoint, its manifest first: if it is interrupted, the checkpoint counts as incomplete."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(checkpoint)


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """Read the manifest that `seal` wrote.

    Raises:
        DudeError: no manifest, or a damaged one.
    """
    path = checkpoint / MANIFEST
    manifest = read_json(path, REMEDY, finite=True)
    if not set(manifest) <= WITHOUT_SUMS and not (isinstance(manifest.get("sha256"), dict) and CHECKSUM in manifest):
        raise DudeError(f"{path}: damaged: it has no checksums. {REMEDY}")
    files = manifest.get("files")
    if not isinstance(files, dict) or not all(isinstance(size, int) for size in files.values()):
        raise DudeError(f"{path}: damaged: it has no file sizes. {REMEDY}")
    types: dict[str, type | tuple[type, ...]] = {
        "config": str, "data": str, "model": dict, "started": str,
        "train_seconds": (int, float), "eval_seconds": (int, float), "tokens": int,
    }  # fmt: skip
    for key, kind in types.items():
        if key in manifest and not isinstance(manifest[key], kind):
            raise DudeError(f"{path}: damaged: '{key}' is {str(manifest[key])[:80]!r}. {REMEDY}")
    return manifest


def is_sealed(checkpoint: Path) -> bool:
    """Return whether a checkpoint has a manifest; its files are not checked."""
    return (checkpoint / MANIFEST).is_file()


def fault(checkpoint: Path, *, content: bool = True) -> str | None:
    """Return what is wrong with a sealed checkpoint, beginning with a file name; None if it is intact.

    Args:
        checkpoint: its folder.
        content: compare the SHA-256 of the files; if false, only their sizes.
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
    """Return whether every file in the manifest exists and has its size."""
    return is_sealed(checkpoint) and fault(checkpoint, content=False) is None
