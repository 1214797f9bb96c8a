"""Names that a user chose, as plain text in Markdown."""

from __future__ import annotations

import re

SPECIAL = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")  # an underscore inside a word means nothing


def escape_markdown(text: str) -> str:
    """Text on one line of which nothing is taken for Markdown or HTML, in a table's cell or outside."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
