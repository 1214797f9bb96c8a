"""What a config names must exist in the model: every target, pattern and module to save."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .errors import DudeError, nearest
from .expressions import check_expression

ALL_LINEAR = "all-linear"


def layer_pattern(name: str) -> str:
    """A module's name with `*` for each number, so that layers of a kind have one."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


class Target(NamedTuple):
    """One module that an adapter will sit on: its name, the weight's (d, k), the rank and the scaling s."""

    name: str
    shape: tuple[int, int]
    r: int
    scaling: float


class Targets(NamedTuple):
    """The modules that an adapter will sit on, and notes on what `all-linear` leaves out."""

    modules: list[Target]
    notes: list[str]


def check_names(
    names: Sequence[str],
    target_modules: Iterable[str] | str,
    modules_to_save: Iterable[str] = (),
    patterns: Mapping[str, Iterable[str]] | None = None,
) -> None:
    """Every entry must match a module; PEFT is content with one of several.

    Args:
        names: of the model's modules.
        target_modules: last names (or whole ones), a regular expression, or `all-linear`.
        modules_to_save: names of modules to train whole.
        patterns: the keys of `rank_pattern` and `alpha_pattern`, by the name of the option.

    Raises:
        DudeError: naming all that match nothing, each with the nearest names.
    """
    if isinstance(target_modules, str):
        if target_modules.lower() != ALL_LINEAR:
            _check_expression(target_modules, names)
    else:
        _all_found("target_modules", sorted(target_modules), names)
    _all_found("modules_to_save", modules_to_save, names)
    for option, keys in (patterns or {}).items():
        for key in keys:
            check_expression(option, key)
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in names):
                raise DudeError(f"{option}: '{key}' matches no module{suggest(key, names)}.")


def _check_expression(expression: str, names: Sequence[str]) -> None:
    check_expression("target_modules", expression)
    pattern = re.compile(expression)
    if not any(pattern.fullmatch(name) for name in names):
        example = next((n for n in names if n.endswith("q_proj")), names[-1])
        raise DudeError(
            f"target_modules: the expression '{expression}' matches no module{suggest(expression, names)}. It must "
            f"match the whole name, for instance '{example}'; a list of last names, [q_proj], is simpler."
        )


def _all_found(option: str, wanted: Iterable[str], names: Sequence[str]) -> None:
    lost = [w for w in wanted if not any(n == w or n.endswith(f".{w}") for n in names)]
    if lost:
        told = "; ".join(f"'{w}' matches no module{suggest(w, names)}" for w in lost)
        raise DudeError(f"{option}: {told}.")


def suggest(wanted: str, names: Sequence[str]) -> str:
    """`" (nearest: q_proj, v_proj)"`, or the linear layers that the model has."""
    last = wanted.rsplit(".", 1)[-1]
    tails = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in names if not n.rsplit(".", 1)[-1].isdigit()))
    near = nearest(last, tails)
    if near:
        return f" (nearest: {', '.join(near)})"
    usual = sorted(t for t in tails if t.endswith(("proj", "attn", "fc", "dense")))
    return f" (the model has {', '.join(usual or tails[:8])})"


def check_rank(name: str, shape: tuple[int, ...], r: int) -> None:
    """Refuse a rank above min(d, k) of the module `name` with weight `shape` (d, k)."""
    if r > min(shape):
        last = name.rsplit(".", 1)[-1]
        raise DudeError(
            f"rank {r} is above {min(shape)}, the most that module '{name}' of shape {tuple(shape)} can have. "
            f"Lower r, or give this module its own: rank_pattern: {{{last}: {min(shape)}}}."
        )
