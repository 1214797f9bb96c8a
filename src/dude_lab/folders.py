"""Folders and paths that a user names, and checksums of what is written to them."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from dude_peft import files
from dude_peft.errors import DudeError, shorten


@contextlib.contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder atomically: the files go into the folder that this yields, which then takes the place of `path`.

    All files are flushed to disk before the move, and get the mode that the umask gives. After an error nothing is
    left behind.

    Args:
        path: the folder, which may exist if it is empty.
        overwrite: whether it may have files, which are deleted.

    Raises:
        OSError: the folder has files and `overwrite` is false, or the disk fails.
    """
    path = Path(os.path.realpath(path))  # the folder behind a link, so that the link stays
    part = files.part_of(path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        apply_umask(part)
        sync_tree(part)
        if overwrite:
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir():
            path.rmdir()
        os.replace(part, path)
        files.sync(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def user_path(path: str | Path) -> Path:
    """Return a path as a user writes it: `~` is the home folder.

    Raises:
        DudeError: `~name` of an unknown user, or a null character.
    """
    text = os.path.expanduser(path)
    if text.startswith("~"):
        raise DudeError(f"'{shorten(path)}': there is no user of this name. Write ./~ for a folder that is called so.")
    if "\0" in text:
        raise DudeError(f"'{shorten(repr(str(path)))}': a path cannot hold a null character.")
    return Path(text)


def check_folder(path: Path, what: str, own: Collection[str] | None = None) -> None:
    """Check that files can be written below a folder, which need not exist: an unnamed file is tried, nothing is left.

    Args:
        path: the folder.
        what: the setting or option that names it, for the message.
        own: the files that may be there because they are replaced; None where the caller checks the contents.

    Raises:
        DudeError: a file stands there or in the way, nothing can be written there, or it holds other files.
    """
    full = Path(os.path.abspath(path))
    name = f"{what}: {shorten(path)}"
    try:
        # The nearest ancestor that exists; a dangling link counts, for no folder can be made in its place.
        here = next(one for one in (full, *full.parents) if os.path.lexists(one))
        here.stat()
        if not here.is_dir():
            inside = "is a file" if here == full else f"lies inside {shorten(here)}, which is a file"
            raise DudeError(f"{name} {inside}. Choose another folder.")
        longest = os.pathconf(here, "PC_NAME_MAX")
        if long := next((part for part in full.parts if len(os.fsencode(part)) > longest), None):
            raise DudeError(f"{name}: '{shorten(long, 60)}' is longer than {longest} bytes. Choose a shorter name.")
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(b"0")
            file.flush()
            os.fsync(file.fileno())
        present = sorted(os.listdir(here)) if here == full and own is not None else []
    except OSError as error:
        raise DudeError(f"{name} cannot be written ({error.strerror}). Choose another folder.") from None
    if others := [one for one in present if one not in (own or ()) and not one.endswith(".part")]:
        shown = ", ".join(shorten(one, 60) for one in others[:4])
        raise DudeError(f"{name} contains other files ({shown}). Choose another folder.")


def folder_bytes(path: Path) -> int:
    """Return the size of all files below a folder in bytes."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def checksums(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """Return the SHA-256 of files, and of all files below folders, by their path from `root`."""
    found = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {file.relative_to(root).as_posix(): files.sha256(file) for file in found if file.is_file()}


def damage(root: Path, expected: dict[str, str], below: str = "") -> str | None:
    """Return what is wrong with the first file that is not as `checksums` found it; None if none has changed.

    Args:
        root: the folder from which the paths count.
        expected: path -> SHA-256.
        below: look only at this file, or at the files below this folder.
    """
    for name, digest in expected.items():
        if below and name != below and not name.startswith(f"{below}/"):
            continue
        try:
            if files.sha256(root / name) != digest:
                return f"{name} is damaged (its SHA-256 is not the one recorded)"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


def sync_tree(folder: Path) -> None:
    """Flush all files and folders below a folder, and the folder itself, to disk."""
    for path in folder.rglob("*"):
        files.sync(path)
    files.sync(folder)


def apply_umask(folder: Path) -> None:
    """Call `use_umask` for every file below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            files.use_umask(path)


def without_paths(value: Any) -> Any:
    """Return plain values with `public_name` in place of each text that is an absolute path, or several with commas."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return ", ".join(str(files.public_name(part)) for part in value.split(", ")) if isinstance(value, str) else value
