"""The page of one experiment: question, verdicts, figures, tables, and the command of each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..stats.significance import SIGNIFICANT
from ..text import percent
from . import rates
from .paper_tables import markdown

WORDS = {"holds": "**holds**", "does not hold": "**does not hold**"}
DECIDED = (*SIGNIFICANT, "holds", "does not hold")


def experiment_page(made: dict[str, Any]) -> str:
    """Return the page, from what the experiment's `.json` holds."""
    lines = [f"# {made['title']}", "", made["question"], ""]
    lines += _claims(made["claims"])
    for name in made["figures"]:
        lines += [f"![{made['title']}]({name}.png)", "", f"[{name}.svg]({name}.svg)", ""]
    if not made["tables"]:
        lines += ["Not run yet.", ""]
    for table in made["tables"]:
        searched = rates.is_search(table)
        unit = "accuracy on validation in %, the chosen rate in bold:" if searched else _unit
        model = "Model" if len(made["tables"]) == 1 else f"Comparison `{table['part']}`: model"
        lines += [f"{model} `{table['model']}` fine-tuned on `{table['trained_on']}`, {unit}", ""]
        lines += [rates.markdown(table) if searched else markdown(table)]
    lines += ["To repeat all of it, or one row:", "", "```", made["command"]]
    lines += list(dict.fromkeys(row["command"] for table in made["tables"] for row in table["rows"]))
    return "\n".join([*lines, "```"]) + "\n"


_unit = "accuracy in %, 95% interval in brackets:"


def _claims(claims: list[dict[str, Any]]) -> list[str]:
    if not claims:
        return []
    lines = ["| claim | verdict |", "|---|---|"]
    lines += [f"| {one['claim']} | {verdict_text(one)} |" for one in claims]
    lines.append("")
    for one in claims:
        lines += [f"- {claim_text(compared)}" for compared in one["compared"]]
    return [*lines, ""]


def verdict_text(claim: dict[str, Any], names: Mapping[str, str] | None = None) -> str:
    """Return the verdict, or one for each comparison if they differ, with the number of differences that disagree.

    `names` has what the comparisons are called, if not by their own names.
    """
    words = {
        comparison: [one["word"] for one in claim["compared"] if one["part"] == comparison]
        for comparison in claim["by_part"]
    }
    comparisons = {
        comparison: WORDS.get(word, word) + _mixed(word, words[comparison])
        for comparison, word in claim["by_part"].items()
    }
    if len(set(comparisons.values())) < 2:
        return next(iter(comparisons.values()), WORDS.get(claim["word"], claim["word"]))
    return "; ".join(f"{(names or {}).get(one, one)}: {word}" for one, word in comparisons.items())


def _mixed(word: str, words: list[str]) -> str:
    others = [one for one in DECIDED if one != word and one in words and len(set(words)) > 1]
    return f" ({', '.join(f'{one} {words.count(one)} of {len(words)}' for one in others)})" if others else ""


def claim_text(one: dict[str, Any]) -> str:
    """Return one difference as a line."""
    if one["value"] is None:
        return f"{one['what']} ({one['part']}): -"
    value, low, high = difference_text(one)
    text = f"{one['what']} ({one['part']}): {value} {one['unit']}".rstrip()
    if low is not None:
        text += f", 95% interval {low} to {high}"
    if one.get("note"):
        text += f", {one['note']}"
    return f"{text}: {one['word']}"


def difference_text(one: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """Return a difference and the ends of its interval as texts; None for the ends if it has no interval."""
    points = one["unit"] == "points"
    form = "{:+.1f}" if abs(one["value"]) >= 10 else "{:+.3f}"
    if all(abs(one[key] or 0.0) < 0.001 for key in ("value", "low", "high")):
        form = "{:+.5f}"  # losses that agree in three decimals
    value, low, high = (
        None if one[key] is None else percent(one[key], "+") if points else form.format(one[key])
        for key in ("value", "low", "high")
    )
    assert value is not None
    return (value, None, None) if one["low"] == one["high"] else (value, low, high)
