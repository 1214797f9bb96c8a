"""An experiment in the README of a study: question, verdicts, picture, and its main values in one small table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..stats.significance import SIGNIFICANT
from ..text import MISSING, escape_markdown, percent
from . import rates
from .experiment_page import difference_text, verdict_text
from .experiments import spec_of
from .paper_tables import AT_END, conditions, headline, number, rate_text

Table = Mapping[str, Any]
FEW = 4  # columns that are all shown; of more, the average alone


def experiment_summary(name: str, made: Mapping[str, Any]) -> list[str]:
    """Return the lines of an experiment, from what its `.json` holds; `name` is that of its page."""
    tables = made["tables"]
    labels = comparison_labels(tables)
    lines = [f"### [{made['title']}]({name}.md)", "", made["question"], ""]
    claims = [f"- {one['claim']}: {verdict_text(one, labels)}." for one in made["claims"]]
    lines += [*claims, ""] if claims else []
    for figure in made["figures"]:
        lines += [f"![{made['title']}]({figure}.png)", ""]
    if not claims and made["figures"]:
        return lines
    searched = [one for one in tables if rates.is_search(one)]
    if searched:
        lines += [*_rates(searched), ""]
    for group in _side_by_side([one for one in tables if not rates.is_search(one)]):
        values = _values(group, labels)
        lines += [*values, "", *([AT_END, ""] if any("*)" in line for line in values) else [])]
    if rows := _differences(made["claims"], [one["part"] for one in tables], labels):
        lines += [*rows, ""]
    return lines


def comparison_labels(tables: Sequence[Table]) -> dict[str, str]:
    """Return comparison -> what distinguishes it from the experiment's others: data, learning rate, model, or ranks."""
    facts = {one["part"]: conditions(one, one["trained_on"] if rates.is_search(one) else "") for one in tables}
    varying = [k for k, values in enumerate(zip(*facts.values(), strict=True)) if len(set(values)) > 1]
    labels = {name: ", ".join(found[k] for k in varying if found[k]) or found[0] for name, found in facts.items()}
    shared = [label for label, count in Counter(labels.values()).items() if count > 1]
    return labels | {
        one["part"]: f"{labels[one['part']]}, r={', '.join(map(str, ranks))}"
        for one in tables
        if labels[one["part"]] in shared
        and (ranks := dict.fromkeys(row["r"] for row in one["rows"] if row["r"] is not None))
    }


def _side_by_side(tables: Sequence[Table]) -> list[list[Table]]:
    """Return the tables in groups: those of which one column is shown go beside each other."""
    together = [one for one in tables if len(_shown(one)) == 1]
    return [*([together] if together else []), *([one] for one in tables if len(_shown(one)) > 1)]


def _values(tables: Sequence[Table], labels: Mapping[str, str]) -> list[str]:
    """Return a table of values: a column for each comparison, or rank or column of it.

    Learning rates are in brackets: of several columns, beside the name of the row.
    """
    several = len({row["r"] for table in tables for row in table["rows"]} - {None}) > 1
    by_rank = all(_ranks(table) for table in tables)  # else the ranks are named with the methods
    columns: dict[str, dict[str, str]] = {}
    for table in tables:
        shown = _shown(table)
        for column in shown:
            for r in _ranks(table) if by_rank else (None,):
                head = column["title"] if len(shown) > 1 else labels[table["part"]]
                cells = columns.setdefault(f"{head}, r={r}" if several and by_rank else head, {})
                if column.get("chance") is not None:
                    cells["guessing"] = percent(column["chance"])
                if table["base"] is not None:
                    cells["base model"] = _number(table["base"][column["key"]], column)
                for row in table["rows"]:
                    if by_rank and row["r"] not in (r, None):
                        continue
                    label = f"{row['label']} r={row['r']}" if several and not by_rank and row["r"] else row["label"]
                    value, rate = _number(row["values"][column["key"]], column), _rate(row, table)
                    if len(shown) > 1:
                        cells[label + rate] = value
                    else:
                        cells[label] = value + rate
    return _table(f"{labels[tables[0]['part']]}: accuracy, %" if len(_shown(tables[0])) > 1 else "accuracy, %", columns)


def _table(what: str, columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a table from heading -> row -> cell; the base model and guessing come first."""
    names = dict.fromkeys(name for cells in columns.values() for name in cells)
    order = sorted(names, key=lambda one: {"guessing": 0, "base model": 1}.get(one, 2))
    lines = [f"| {what} | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
    return lines + [
        f"| {escape_markdown(name)} | {' | '.join(cells.get(name, '') for cells in columns.values())} |"
        for name in order
    ]


def _shown(table: Table) -> list[Mapping[str, Any]]:
    return list(table["columns"]) if len(table["columns"]) <= FEW else [headline(table["columns"])]


def _ranks(table: Table) -> list[int]:
    """Return the ranks if the methods are compared at each; empty if only some have several."""
    methods: dict[int, set[str]] = {}
    for row in table["rows"]:
        if row["r"] is not None:
            methods.setdefault(row["r"], set()).add(row["label"])
    return list(methods) if len({frozenset(one) for one in methods.values()}) == 1 else []


def _number(found: Mapping[str, float] | None, column: Mapping[str, Any]) -> str:
    if found is None:
        return MISSING
    return percent(found["value"]) if column.get("percent", True) else number(found["value"])


def _rate(row: Mapping[str, Any], table: Table) -> str:
    """Return the row's learning rate in brackets; empty where all rows have one."""
    spec = spec_of(table["part"])
    if row["learning_rate"] is None or (spec is not None and spec.learning_rate is not None):
        return ""
    return f" ({rate_text(row)})"


def _rates(tables: Sequence[Table]) -> list[str]:
    """Return the best rate of each row, the rates within a point of it, and what the next larger one loses."""
    columns: dict[str, dict[str, str]] = {}
    for table in tables:
        for r in _ranks(table):
            cells = columns.setdefault(f"{table['trained_on']}, r={r}", {})
            for row in table["rows"]:
                if row["r"] in (r, None) and row["learning_rate"] is not None:
                    best = f"{row['learning_rate']:g}"
                    around, loss = rates.around(row["rates"], best)
                    cells[row["label"]] = f"{best}, {loss}" if around == best else f"{best} ({around}), {loss}"
    return _table("best rate (within a point of it), points at the next larger one", columns)


def _differences(
    claims: Sequence[Mapping[str, Any]], comparisons: Sequence[str], labels: Mapping[str, str]
) -> list[str]:
    """Return the differences of the claims, but for DuDe's margins: a row each, a column for each comparison."""
    cells: dict[str, dict[str, str]] = {}
    found = [one for claim in claims for one in claim["compared"] if not one["other"]]
    units = {one["unit"] for one in found}
    for one in found:
        unit = f", {one['unit']}" if len(units) > 1 and one["unit"] else ""
        cells.setdefault(f"{one['what']}{unit}", {})[one["part"]] = _cell(one)
    if not cells or all(text == MISSING for row in cells.values() for text in row.values()):
        return []
    used = [name for name in comparisons if any(name in row for row in cells.values())]
    heads = {name: labels[name] if len(used) > 1 else "difference" for name in used}
    columns = {head: {what: row.get(name, "") for what, row in cells.items()} for name, head in heads.items()}
    return _table(f"{units.pop()}, 95% interval".removeprefix(", ") if len(units) == 1 else "95% interval", columns)


def _cell(one: Mapping[str, Any]) -> str:
    if one["value"] is None:
        return MISSING
    value, low, high = difference_text(one)
    text = value if low is None else f"{value} [{low}, {high}]"
    text += f" ({one['note']})" if one.get("note") else ""
    return f"**{text}**" if one["word"] in SIGNIFICANT else text
