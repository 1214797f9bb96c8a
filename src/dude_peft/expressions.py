"""Regular expressions out of a config, bounded before they are matched.

PEFT matches them against every module name with Python's `re`, which backtracks: `(a+)+b` takes time exponential in
the length of a name. So the parse tree is read first, and an expression is refused when its worst case on a module name
is more than `MAX_STEPS`. Usual expressions for module names need far fewer.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from typing import Any

from .errors import DudeError, quote

ALL_LINEAR = "all-linear"  # PEFT's word for every linear layer but the output layer; no expression

MAX_LENGTH = 2000  # characters
MAX_STEPS = 1_000_000  # per module name; 20 to 50 ns each

# What one quantifier multiplies the steps by: k of them in a row divide a name of n characters in C(n + k, k) ways. 30
# is the fourth root of that for n = 64, k = 4; a quantifier that cannot pass a dot has n = 16 or so.
PAST_DOTS = 30
WITHIN_DOTS = 6

# How PEFT uses the expressions of each option.
FORMS = {
    "target_modules": "{}",
    "exclude_modules": "{}",
    "rank_pattern": r"(.*\.)?({})$",
    "alpha_pattern": r"(.*\.)?({})$",
    "layers_pattern": r"(?:^|.*?\.){}\.(?P<idx>\d+)\.",
    "modules_to_save": r"(^|.*\.){}($|\..*)",
}

_parser: Any = importlib.import_module("re._parser" if sys.version_info >= (3, 11) else "sre_parse")


class _NestedError(Exception):
    """A quantifier around something that can match in several ways."""


def check_expression(option: str, expression: str) -> None:
    """Refuse an expression of `option` (a key of `FORMS`) that does not compile or could take too long to match.

    Raises:
        DudeError: invalid, longer than `MAX_LENGTH`, a quantifier in a quantifier, or too many in a row.
    """
    shown = f"{option}: {quote(expression)}"
    if len(expression) > MAX_LENGTH:
        raise DudeError(
            f"{shown} has {len(expression)} characters, at most {MAX_LENGTH} are allowed: give a list of names"
        )
    try:
        tree = _parser.parse(expression)
        re.compile(FORMS[option].format(expression))
        steps = _steps(tree)
    except (re.error, OverflowError, RecursionError) as error:
        raise DudeError(f"{shown} is not a regular expression: {error}.") from None
    except _NestedError:
        raise DudeError(
            f"{shown} repeats what can match in several ways (a quantifier in a quantifier), which can take time "
            "exponential in the length of a name. Remove the outer quantifier, or give a list of names"
        ) from None
    if steps > MAX_STEPS:
        raise DudeError(
            f"{shown} could take {steps:.0e} steps on a module name, at most {MAX_STEPS:.0e} are allowed. Use fewer "
            "quantifiers (at most 4 such as .*, or 7 such as [^.]*), or give a list of names"
        )


def _steps(tree: Iterable[Any]) -> float:
    """Return about how many ways a part of the parse tree can match: product over a sequence, sum over choices."""
    steps = 1.0
    for op, value in tree:
        kind = str(op)
        if kind.endswith("_REPEAT"):
            low, high, body = value
            inner = _steps(body)
            if int(high) <= 1:
                steps *= inner + (int(low) == 0)
            elif inner > 1:
                raise _NestedError
            elif low != high:
                steps *= min(int(high) - int(low) + 1, WITHIN_DOTS if _stays_within_dots(body) else PAST_DOTS)
        elif kind == "BRANCH":
            steps *= _choices(value[1])
        elif kind == "SUBPATTERN":
            steps *= _steps(value[3])
        elif kind == "ATOMIC_GROUP":
            steps *= _steps(value)
        elif kind in ("ASSERT", "ASSERT_NOT"):
            steps *= _steps(value[1])
        elif kind == "GROUPREF_EXISTS":
            steps *= _steps(value[1]) + (_steps(value[2]) if value[2] else 1)
    return min(steps, 1e300)


def _choices(branches: list[Any]) -> float:
    """Return the ways of an alternation; of words, how many of them at most are prefixes of one another."""
    words = ["".join(chr(v) if str(op) == "LITERAL" else "\0" for op, v in branch) for branch in branches]
    if any("\0" in word for word in words):
        return sum(_steps(branch) for branch in branches)
    known = set(words)
    return max(sum(word[:n] in known for n in range(len(word) + 1)) for word in words)


def _stays_within_dots(body: Any) -> bool:
    """Return whether a quantified single character can never be a dot; False if in doubt."""
    if len(body) != 1:
        return False
    op, value = body[0]
    kind, dot = str(op), ord(".")
    if kind in ("LITERAL", "NOT_LITERAL"):
        return (value == dot) == (kind == "NOT_LITERAL")
    if kind == "SUBPATTERN":
        return _stays_within_dots(value[3])
    if kind != "IN":
        return False
    negated = str(value[0][0]) == "NEGATE"
    members = value[1:] if negated else value
    if negated:
        return any(str(o) == "LITERAL" and v == dot for o, v in members)
    return all(
        (str(o) == "LITERAL" and v != dot)
        or (str(o) == "RANGE" and not v[0] <= dot <= v[1])
        or (str(o) == "CATEGORY" and not str(v).startswith("CATEGORY_NOT"))
        for o, v in members
    )


def layer_pattern(name: str) -> str:
    """Return a module's name with `*` for each number: the same for all layers of a kind."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))
