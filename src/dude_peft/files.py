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
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from .errors import DudeError, shorten

BLOCK = 1 << 22  # bytes read at a time
CHECKSUM = "content_sha256"  # key of a JSON object that holds the SHA-256 of the others


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
    part = part_of(path)
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
        sync(path.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
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
        raise DudeError(f"{path}: holds a {type(value).__name__}, not a JSON object. {remedy}")
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


def json_values(value: Any) -> Any:
    """Return plain values as JSON has them: NaN and infinities as None, tuples as lists."""
    if isinstance(value, Mapping):
        return {key: json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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


def checksums(paths: Iterable[Path], root: Path) -> dict[str, str]:
    """Return the SHA-256 of files, and of all files below folders, by their path from `root`."""
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return {file.relative_to(root).as_posix(): sha256(file) for file in files if file.is_file()}


def damage(root: Path, expected: dict[str, str], below: str = "") -> str | None:
    """What is wrong with the first file that is not as `checksums` found it; None where all are as they were.

    Args:
        root: the folder from which the paths count.
        expected: path -> SHA-256.
        below: look only at this file, or at the files below this folder.
    """
    for name, digest in expected.items():
        if below and name != below and not name.startswith(f"{below}/"):
            continue
        try:
            if sha256(root / name) != digest:
                return f"{name} is damaged (its SHA-256 is not the one recorded)"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror or error})"
    return None


def sync_tree(folder: Path) -> None:
    """Flush all files and folders below a folder, and the folder itself, to disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def apply_umask(folder: Path) -> None:
    """`use_umask` for every file below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            use_umask(path)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder (which Windows does not open), to disk."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user_path(path: str | Path) -> Path:
    """A path as a user writes it: `~` is his home folder.

    Raises:
        DudeError: `~name` of an unknown user, or a null character.
    """
    whole = os.path.expanduser(path)
    if whole.startswith("~"):
        raise DudeError(f"'{shorten(path)}': there is no user of this name. Write ./~ for a folder that is called so.")
    if "\0" in whole:
        raise DudeError(f"'{shorten(repr(str(path)))}': a path cannot hold a null character.")
    return Path(whole)


def check_folder(path: Path, what: str, own: Collection[str] | None = None) -> None:
    """Check that files can be written below a folder, which need not exist: an unnamed file is tried, nothing is left.

    Args:
        path: the folder.
        what: the setting or option that names it, for the message.
        own: the files that may be there because they are replaced; None where the caller checks the contents.

    Raises:
        DudeError: a file stands there or in the way, nothing can be written there, or it holds other files.
    """
    whole = Path(os.path.abspath(path))
    name = f"{what}: {shorten(path)}"
    try:
        # The nearest ancestor that exists; a dangling link counts, for no folder can be made in its place.
        here = next(one for one in (whole, *whole.parents) if os.path.lexists(one))
        here.stat()
        if not here.is_dir():
            inside = "is a file" if here == whole else f"lies inside {shorten(here)}, which is a file"
            raise DudeError(f"{name} {inside}. Choose another folder.")
        longest = os.pathconf(here, "PC_NAME_MAX")
        if long := next((part for part in whole.parts if len(os.fsencode(part)) > longest), None):
            raise DudeError(f"{name}: '{shorten(long, 60)}' is longer than {longest} bytes. Choose a shorter name.")
        with tempfile.TemporaryFile(dir=here) as file:
            file.write(b"0")
            file.flush()
            os.fsync(file.fileno())
        held = sorted(os.listdir(here)) if here == whole and own is not None else []
    except OSError as error:
        raise DudeError(f"{name} cannot be written ({error.strerror}). Choose another folder.") from None
    if others := [one for one in held if one not in (own or ()) and not one.endswith(".part")]:
        shown = ", ".join(shorten(one, 60) for one in others[:4])
        raise DudeError(f"{name} holds files of something else ({shown}). Choose another folder.")


def folder_bytes(path: Path) -> int:
    """Size of all files below a folder, in bytes."""
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def public_name(base: str | None) -> str | None:
    """What a published file calls the base model: never an absolute path, which says where somebody's files lie.

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


def without_paths(value: Any) -> Any:
    """Plain values with `public_name` in place of each text that is an absolute path, or several with commas."""
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return ", ".join(str(public_name(part)) for part in value.split(", ")) if isinstance(value, str) else value
