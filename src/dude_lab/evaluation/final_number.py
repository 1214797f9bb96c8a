"""The number a worked solution ends in: what GSM8K's exact match compares."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = r"[-−]?\s?\$?\s?[-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_MARKED = re.compile(rf"####\s*({_NUMBER})")
_SAID = re.compile(rf"[Tt]he answer is:?\s*({_NUMBER})")
_ANY = re.compile(_NUMBER)


def final_number(text: str) -> Decimal | None:
    """The number after the first `####`; where there is none, after `The answer is` (MetaMathQA's ending).

    Thousands commas, a dollar sign, a trailing dot and trailing zeros make no difference.

    >>> final_number("so 2 * 600 = 1200.\\n#### $1,200.")
    Decimal('1200')
    """
    match = _MARKED.search(text) or _SAID.search(text)
    return None if match is None else _decimal(match.group(1))


def last_number(text: str) -> Decimal | None:
    """The last number anywhere in `text`: lm-evaluation-harness's `flexible-extract`."""
    found = _ANY.findall(text)
    return _decimal(found[-1]) if found else None


def _decimal(text: str) -> Decimal:
    negative = text.lstrip()[0] in "-−" or "-" in text or "−" in text
    value = Decimal(re.sub(r"[^\d.]", "", text))
    return -value if negative else value
