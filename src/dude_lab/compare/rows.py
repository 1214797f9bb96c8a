"""The rows of a comparison: its methods with their ranks, keys, labels and learning rates."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from dude_peft.errors import DudeError, did_you_mean, quote

from ..config.compare_settings import ComparisonSettings
from ..methods import METHODS, MethodSettings, TargetSettings, parse_method

OWN_KEYS = ("label", "learning_rates")  # keys of an entry under `methods` that are not the method's


@dataclass(frozen=True)
class Row:
    """A row of the table: one method with one rank and its other keys.

    Attributes:
        label: its label in the table.
        method: settings of the method.
        learning_rates: candidates; a single one is used without a search.
    """

    label: str
    method: MethodSettings
    learning_rates: tuple[float, ...]

    @property
    def r(self) -> int | None:
        """The rank, if the method has one."""
        return getattr(self.method, "r", None)

    @property
    def name(self) -> str:
        """Label and rank, as in file names and messages."""
        return slug(full_name(self.label, self.r).replace(" r=", "-r"))


def picked(rows: Iterable[Row], only: Collection[str]) -> tuple[Row, ...]:
    """Return the rows whose name is in `only`; all of them if it is empty."""
    return tuple(row for row in rows if not only or row.name in only)


def expand_rows(settings: ComparisonSettings, source: str) -> tuple[Row, ...]:
    """Return every method at every rank.

    Raises:
        DudeError: all mistakes in `methods` and `shared`, two rows of one name, unequal numbers of learning rates.
    """
    rows: dict[tuple[str, int | None], Row] = {}
    problems: list[str] = []
    used: set[str] = set()
    for number, entry in enumerate(settings.methods, 1):
        raw = {"name": entry} if isinstance(entry, str) else dict(entry)
        own = {key: raw.pop(key) for key in OWN_KEYS if key in raw}
        place = f"{source}: methods, entry {number}"
        try:
            for row in _expand(raw, own, settings, place, used):
                if (row.label, row.r) in rows:
                    problems.append(
                        f"{place}: a second row is called '{row.name}'; give one of them another label, as in "
                        f"{{name: {row.method.name}, label: ...}}"
                    )
                rows[row.label, row.r] = row
        except DudeError as error:
            problems.append(str(error))
    if not problems and (idle := [key for key in settings.shared if key not in used]):
        known = sorted({k for row in rows.values() for k in type(row.method).model_fields} - {"name"})
        hint = did_you_mean(idle[0], known) or f" They have: {', '.join(known)}."
        problems.append(f"{source}: shared: none of the methods has the key '{idle[0]}'.{hint}")
    if problems:
        raise DudeError("\n".join(problems))
    _check_budget(tuple(rows.values()), source)
    _check_experts(tuple(rows.values()), source)
    return tuple(rows.values())


def _expand(
    raw: dict[str, Any], own: dict[str, Any], settings: ComparisonSettings, place: str, used: set[str]
) -> list[Row]:
    parse_method(raw, place)  # the entry alone first, to report its own mistakes as such
    allowed = METHODS[raw["name"]].settings.model_fields
    given = {key: value for key, value in settings.shared.items() if key in allowed}
    used |= set(given)
    parse_method({**given, **raw}, f"{place}, with shared")  # with the rank that `ranks` replaces
    ranks: list[int | None] = list(settings.ranks) if settings.ranks and "r" in allowed and "r" not in raw else [None]
    label, rates = own.get("label", METHODS[raw["name"]].title), own.get("learning_rates", settings.learning_rates)
    if not isinstance(label, str) or not slug(label):
        raise DudeError(f"{place}: label: a text with letters or digits, got {quote(label)}.")
    if isinstance(rates, (int, float)):
        rates = [rates]
    numbers = isinstance(rates, list) and all(isinstance(x, (int, float)) and x is not True for x in rates)
    good = numbers and rates and all(0 < x < math.inf for x in rates)
    if not good or len(set(rates)) != len(rates):
        raise DudeError(f"{place}: learning_rates: a list of numbers above 0, each once, got {quote(rates)}.")
    rows = []
    for rank in ranks:
        section = {**given, **raw} | ({"r": rank} if rank is not None else {})
        rows.append(Row(label, parse_method(section, place), tuple(float(x) for x in rates)))
    return rows


def _check_budget(rows: tuple[Row, ...], source: str) -> None:
    if len({len(row.learning_rates) for row in rows}) > 1:
        counts = ", ".join(f"{row.name} {len(row.learning_rates)}" for row in rows)
        raise DudeError(
            f"{source}: learning_rates: every method needs the same number of candidates, got {counts}. "
            "Give each the same number."
        )


def _check_experts(rows: tuple[Row, ...], source: str) -> None:
    adapted = {
        row.name: frozenset(getattr(row.method, "target_parameters", None) or ())
        for row in rows
        if isinstance(row.method, TargetSettings)
    }
    if len(set(adapted.values())) > 1:
        shown = "; ".join(f"{name}: {', '.join(sorted(values)) or 'none'}" for name, values in adapted.items())
        able = ", ".join(name for name, one in METHODS.items() if "target_parameters" in one.settings.model_fields)
        raise DudeError(
            f"{source}: target_parameters: the methods adapt different experts ({shown}), and would be compared by "
            f"that. Write it under shared and compare methods that have it ({able}), or leave it out of all."
        )


def full_name(label: str, r: int | None) -> str:
    """Return label and rank, the rank once."""
    return label if r is None or f"r={r}" in label else f"{label} r={r}"


def slug(text: str) -> str:
    """Return a text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
