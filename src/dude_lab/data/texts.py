"""Plain texts whose perplexity is measured: WikiText-2, or a file of the user."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from dude_peft.errors import DudeError, did_you_mean

from ..folders import user_path
from .sets import ROOT_VARIABLE, Hub, read_hub

NAMED = {"wikitext2": ("wikitext2/test.txt", Hub("Salesforce/wikitext", "wikitext-2-v1", {"test": "test"}))}
"""Name -> its file below the folder of the raw data, and where it is on the Hugging Face hub."""


def text_name(source: str) -> str:
    """Return the name in tables of a text: its own, or the file's without suffixes."""
    return source if source in NAMED else Path(source).name.partition(".")[0] or "text"


def passages(source: str, root: str | None, *, limit: int | None, length: int) -> list[str]:
    """Return the lines of a text, joined to passages.

    Args:
        source: a name of `NAMED`, or a file of UTF-8 text, which may be compressed as .gz.
        root: folder of the raw data. If None, the environment variable DUDE_DATA_DIR, then the hub.
        limit: use only the first `limit` characters. All if None.
        length: characters of a passage, at least; the last one may be shorter.

    Raises:
        DudeError: the text cannot be read, or is empty.
    """
    joined: list[str] = []
    taken = 0
    for line in _lines(source, root):
        if limit is not None and taken + len(line) > limit and joined:
            break
        if joined and len(joined[-1]) < length:
            joined[-1] += line
        else:
            joined.append(line)
        taken += len(line)
    found = [one for one in joined if one.strip()]
    if not found:
        raise DudeError(f"eval.text: {source} has no text.")
    return found


def _lines(source: str, root: str | None) -> list[str]:
    if source in NAMED:
        name, hub = NAMED[source]
        folder = root or os.environ.get(ROOT_VARIABLE)
        for file in (user_path(folder) / name, user_path(folder) / f"{name}.gz") if folder else ():
            if file.is_file():
                return _read(file)
        remedy = f"Set eval.root or {ROOT_VARIABLE} to a folder with {name}, or connect to the Hugging Face hub."
        rows = read_hub(hub.path, hub.subset, "test", what=f"eval.text: {source}", remedy=remedy)
        return [str(row["text"]) for row in rows.rows]
    file = user_path(source)
    if not file.is_file():
        raise DudeError(
            f"eval.text: {source}: no such file, and no text is called so.{did_you_mean(source, NAMED)} Known: "
            f"{', '.join(NAMED)}."
        )
    return _read(file)


def _read(file: Path) -> list[str]:
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        return data.decode("utf-8-sig").splitlines(keepends=True)
    except (OSError, EOFError, ValueError) as error:
        raise DudeError(f"eval.text: {file} cannot be read as UTF-8 text ({error}).") from None
