"""`DudeError`, the error that users cause, and helpers for its message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DudeError(ValueError):
    """A mistake in a config, a file, a module name or a rank.

    The message says what is wrong, the value received, the limit and the remedy. It is a `ValueError`, so that
    library code can be caught as users catch PEFT; the command line prints it without a traceback and exits with 2.
    """

    def __init__(self, message: str) -> None:
        """Escape halves of surrogate pairs, as in file names that are not UTF-8: no terminal can print them."""
        super().__init__(message.encode("utf-8", "backslashreplace").decode("utf-8"))


def nearest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.5) -> list[str]:
    """Return the known names closest to `name`, best first; none below a similarity of `cutoff`."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `" Did you mean 'a' or 'b'?"` to append to a message, or an empty string."""
    similar = nearest(name, known)
    return f" Did you mean {' or '.join(repr(n) for n in similar)}?" if similar else ""


def shorten(value: object, limit: int = 120) -> str:
    """Return a value on one line of at most `limit` characters; the middle of a longer one is left out."""
    text = " ".join(str(value).split())
    if len(text) <= limit:
        return text
    half = (limit - 30) // 2
    return f"{text[:half]} ... ({len(text):,} characters) ... {text[-half:]}"


def quote(value: object, limit: int = 120) -> str:
    """Return `repr(value)`, shortened, also of what has none: an integer of over 4300 digits, a deeply nested list."""
    try:
        return shorten(repr(value), limit)
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__} too large to print"


def some(items: Iterable[str], limit: int = 10) -> str:
    """Return `items` joined by commas, each shortened; after `limit` of them only their number."""
    listed = list(items)
    parts = [shorten(one) for one in listed[:limit]]
    more = [f"and {len(listed) - limit:,} more"] if len(listed) > limit else []
    return ", ".join(parts + more)
