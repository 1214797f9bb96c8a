"""DuDe's margin over each baseline in all experiments: one table, one picture, one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..methods import METHODS
from ..plot_style import QUIET_COLOR, method_style, picture
from ..stats.significance import HIGHER, LOWER, SAME, SIGNIFICANT
from ..text import escape_markdown, percent
from .experiments import EXPERIMENTS
from .paper_tables import BEST_RATE, conditions, model_name


@dataclass(frozen=True)
class Margin:
    """A difference in accuracy, as in an experiment's `.json`.

    Attributes:
        where: what was asked, with the rank and, if an experiment has several, the model; in brackets the experiments.
        other: the method that DuDe is compared with.
        value: DuDe's accuracy minus the other's.
        low: lower end of its 95% interval.
        high: upper end.
        word: its significance (`verdict.Word`).
    """

    where: str
    other: str
    value: float
    low: float
    high: float
    word: str


def margins_of(written: dict[str, Any]) -> list[Margin]:
    """Return the differences in accuracy in `written` (`study_report.write_report`).

    One that several experiments share is returned once, with all their names. It is significant only if it is so in
    each of them: they may compare different numbers of pairs.
    """
    places: dict[tuple[tuple[Any, ...], ...], dict[str, list[str]]] = {}
    words: dict[tuple[Any, ...], set[str]] = {}
    for name, one in written.items():
        rows: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        for compared in (two for claim in one["claims"] for two in claim["compared"]):
            if compared["other"] and None not in (compared["value"], compared["low"], compared["high"]):
                found = tuple(compared[key] for key in ("other", "value", "low", "high"))
                words.setdefault(found, set()).add(compared["word"])
                rows.setdefault(_where(name, one, compared), []).append(found)
        for (asked, experiment), row in rows.items():
            places.setdefault(tuple(row), {}).setdefault(asked, []).append(experiment)
    made = []
    for differences, where in places.items():
        place = "; ".join(f"{asked} ({', '.join(names)})" for asked, names in where.items())
        for one in differences:
            other, value, low, high = one
            word = next(iter(words[one])) if len(words[one]) == 1 else SAME
            made.append(Margin(place, other, value, low, high, word))
    return made


def _where(name: str, made: dict[str, Any], compared: dict[str, Any]) -> tuple[str, str]:
    """Return what was asked, with the rank and the model if the experiment has several, and the experiment."""
    claims = [one for claim in made["claims"] for one in claim["compared"] if one["other"]]
    tables = {table["part"]: table for table in made["tables"]}
    shown, here = [tables[one["part"]] for one in claims], tables[compared["part"]]
    asked, after, rate, model = conditions(here)
    label = asked if rate == BEST_RATE else f"{asked}, {rate}"
    label += f" {after}" if after else ""
    if len({model_name(table) for table in shown}) > 1:
        label += f", {model}"
    if compared["r"] is not None:
        label += f", r={compared['r']}"
    return label, EXPERIMENTS[name].title.split(":")[0]


def sentence(found: list[Margin]) -> str:
    """Return how many differences are significant."""
    counts = {word: sum(one.word == word for one in found) for word in (HIGHER, SAME, LOWER)}
    return (
        f"Of {len(found)} comparisons of accuracy, DuDe is significantly higher in {counts[HIGHER]} and significantly "
        f"lower in {counts[LOWER]}; no significant difference in {counts[SAME]}."
    )


def markdown(found: list[Margin]) -> str:
    """Return the table: a row for each place, a column for each baseline; significant differences in bold."""
    others = list(dict.fromkeys(one.other for one in found))
    lines = [f"| DuDe's margin, points | {' | '.join(f'over {escape_markdown(other)}' for other in others)} |"]
    lines.append("|---" + "|---:" * len(others) + "|")
    for where, row in _by_place(found).items():
        lines.append(f"| {where} | {' | '.join(_cell(row.get(other)) for other in others)} |")
    return "\n".join(lines)


def _by_place(found: Iterable[Margin]) -> dict[str, dict[str, Margin]]:
    places: dict[str, dict[str, Margin]] = {}
    for one in found:
        places.setdefault(one.where, {})[one.other] = one
    return places


def _cell(one: Margin | None) -> str:
    if one is None:
        return "-"
    mid, low, high = (percent(value, "+") for value in (one.value, one.low, one.high))
    if low == high:  # all answers are the same with every seed
        return mid
    return f"**{mid} [{low}, {high}]**" if one.word in SIGNIFICANT else f"{mid} [{low}, {high}]"


def _limit(found: list[Margin]) -> tuple[float, bool]:
    """Return the limit of the x axis in points, and whether an interval is cut off by it.

    One wide interval must not flatten all others; every point is visible.
    """
    ends = sorted(max(abs(one.low), abs(one.high)) for one in found)
    limit = max(1.15 * ends[int(0.85 * (len(ends) - 1))], 1.15 * max(abs(one.value) for one in found), 1e-3)
    return 100 * limit, limit < ends[-1]


def _folded(place: str) -> str:
    """Break a label before the experiments if several share it."""
    return place.replace(" (", "\n(", 1) if "," in place.partition("(")[2] else place


def draw(found: list[Margin], *paths: Path) -> None:
    """Draw the table into files, whose suffixes choose the formats; markers of significant differences are filled."""
    places, others = _by_place(found), list(dict.fromkeys(one.other for one in found))
    limit, cut = _limit(found)
    names = {method.title: name for name, method in METHODS.items()}
    with picture(*paths, size=(3.2 + 2.6 * len(others), 1.2 + 0.34 * len(places))) as figure:
        panels = figure.subplots(1, len(others), sharey=True, sharex=True, squeeze=False)[0]
        for axes, other in zip(panels, others, strict=True):
            style = method_style(names.get(other, other))
            axes.axvline(0, color=QUIET_COLOR, linewidth=0.9)
            for y, row in enumerate(places.values()):
                if (one := row.get(other)) is None:
                    continue
                mid, low, high = (100 * value for value in (one.value, one.low, one.high))
                axes.errorbar(
                    [mid], [y], xerr=[[mid - low], [high - mid]], color=style.color, marker=style.marker,
                    mfc=style.color if one.word in SIGNIFICANT else "white", linestyle="", elinewidth=1.2,
                )  # fmt: skip
                for end, arrow in ((low, "<"), (high, ">")):
                    if abs(end) > limit:  # the tip of the arrow is at the axis' limit
                        at = 0.97 * limit * (1 if end > 0 else -1)
                        axes.plot([at], [y], marker=arrow, color=style.color, markersize=5.5, clip_on=False)
            axes.set_title(f"over {other}")
            axes.set_yticks(range(len(places)), [_folded(place) for place in places])
            axes.set_ylim(len(places) - 0.4, -0.6)
            axes.set_xlim(-limit, limit)
        label = "DuDe's margin in points, 95% interval of each by itself; filled: significant after Holm's correction"
        figure.supxlabel(label + (";\narrow: the interval ends outside the picture" if cut else ""), fontsize=9.5)
