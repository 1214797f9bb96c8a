"""Text of tables: shares in %, Markdown, and text of which nothing is taken for markup."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from decimal import ROUND_HALF_UP, Decimal

MISSING = "-"
SPECIAL = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)")  # an underscore inside a word means nothing


def escape_markdown(text: str) -> str:
    """Return text on one line of which nothing is taken for Markdown or HTML, in a table's cell or outside."""
    return SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def aligned_table(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """Return a table whose columns are aligned in the text as well.

    Args:
        rows: the cells, the heads first; they are escaped.
        left: the columns that are aligned to the left; all others are to the right.
    """
    rows = [[escape_markdown(cell) for cell in row] for row in rows]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    head, *body = [
        "| "
        + " | ".join(c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 2) if k in left else "-" * (w + 1) + ":" for k, w in enumerate(widths)) + "|"
    return "\n".join([head, rule, *body])


def percent(share: float | None, sign: str = "") -> str:
    """Format a share, or a difference of shares, in % with one decimal; with `sign="+"` its sign is always shown.

    Halves are rounded away from zero: a mean over seeds is often one, and as a binary float just above or below it.
    """
    if share is None:
        return MISSING
    shown = Decimal(f"{100 * share:.9f}").quantize(Decimal("0.1"), ROUND_HALF_UP)
    return f"{shown or abs(shown):{sign}.1f}"
