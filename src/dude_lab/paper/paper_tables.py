"""A part's table: ours with its intervals, the paper's beside it, and the command that repeats each row."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cached_property
from statistics import stdev
from typing import Any

from ..compare.comparison_folder import ComparisonFolder
from ..compare.outcome import Outcome, accuracy, find_outcome
from ..compare.results import Results, RowResult, collect
from ..compare.rows import slug
from ..compare.run_store import Run
from ..markdown import escape_markdown
from ..stats.intervals import Interval
from . import published
from .experiments import Column, Experiment, Selection
from .study_folder import StudyFolder

MISSING = "-"


@dataclass(frozen=True)
class PartResult:
    """What a part has measured so far.

    Attributes:
        name: of the part.
        selection: which runs.
        model: the base model.
        paper: how the paper calls it; None for a model that is not the paper's.
        prefix: of the names of its tasks: `mini_`, or nothing.
        overrides: what was changed of the recipe.
        trained_on: name of the data, or the file.
        results: rows and base.
    """

    name: str
    selection: Selection
    model: str
    paper: str | None
    prefix: str
    overrides: tuple[str, ...]
    trained_on: str
    results: Results

    @property
    def searched(self) -> bool:
        """Whether the runs have the learning rates that a search found best."""
        return not self.selection.above and any(row.candidates for row in self.results.rows)

    @cached_property
    def outcome(self) -> Outcome:
        """The comparisons of its rows."""
        return find_outcome(self.results)

    def row(self, method: str, r: int | None) -> RowResult | None:
        """The row of a method at a rank."""
        return next((row for row in self.results.rows if (row.method, row.r) == (method, r)), None)


def results_of(
    root: StudyFolder, experiment: Experiment, read: dict[str, PartResult] | None = None
) -> list[PartResult]:
    """Every part of an experiment that has been begun, from the folder alone.

    Args:
        root: the folder.
        experiment: which one.
        read: parts that were read already, by name; those that are read now are entered.
    """
    read = {} if read is None else read
    found = []
    for selection, facts, folder in root.parts(experiment):
        if folder.path.name not in read:
            read[folder.path.name] = _result(selection, facts, folder)
        found.append(read[folder.path.name])
    return found


def _result(selection: Selection, facts: dict[str, Any], folder: ComparisonFolder) -> PartResult:
    data = folder.grid().settings.run["data"]
    return PartResult(
        folder.path.name,
        selection,
        facts["model"],
        facts["paper"],
        facts["prefix"],
        tuple(facts["overrides"]),
        str(data.get("name") or data.get("train")),
        collect(folder),
    )


def interval(runs: tuple[Run, ...] | list[Run], column: Column, prefix: str) -> Interval | None:
    """A row's value in a column, with its interval; None where nothing was measured."""
    return accuracy(list(runs), prefix + column.task if column.task else None) if runs else None


def make_table(part: PartResult, experiment: Experiment, scale: str) -> dict[str, Any]:
    """The table as plain JSON values: shares between 0 and 1 of ours, per cent of the paper's as it prints them."""
    selection = part.selection
    rows = [_row(part, row, experiment, scale) for row in part.results.rows]
    base = part.results.base
    return {
        "part": part.name,
        "model": part.model,
        "paper_model": part.paper,
        "trained_on": part.trained_on,
        "columns": [
            {"key": column.key, "title": column.title} | ({} if column.chance is None else {"chance": column.chance})
            for column in selection.columns
        ],
        "source": published.source(selection.published) if selection.published else None,
        "paper_models": _paper_models(part),
        "base": _values(part, [base]) if base is not None else None,
        "rows": rows,
    }


def _paper_models(part: PartResult) -> list[str]:
    if part.selection.published is None:
        return []
    return [part.paper] if part.paper else published.models(part.selection.published)


def _row(part: PartResult, row: RowResult, experiment: Experiment, scale: str) -> dict[str, Any]:
    by_seed = {str(run.seed): run.accuracy for run in row.runs if run.accuracy is not None}
    block = part.selection.published
    costs = [run.record["cost"] for run in row.runs]
    return {
        "label": row.label,
        "method": row.method,
        "r": row.r,
        "learning_rate": row.learning_rate,
        "at_end": row.at_end,
        "seeds": by_seed,
        "std": stdev(by_seed.values()) if len(by_seed) > 1 else None,
        "n": _asked(row),
        "values": _values(part, list(row.runs)),
        "paper": published.values(block, row.method, row.r, part.paper) if block else {},
        "train_seconds": sum(one["train_seconds"] for one in costs) / len(costs) if costs else None,
        "runs": [run.name for run in row.runs],
        "failed": row.failed,
        "missing": row.missing,
        "command": command(experiment.name, scale, part.overrides, slug(row.name.replace(" r=", "-r"))),
    }


def command(experiment: str, scale: str, overrides: tuple[str, ...], row: str | None = None) -> str:
    """The command line that runs an experiment again, or one of its rows, in a folder of its own."""
    words = ["dude", "reproduce", experiment, "--scale", scale, *(["--row", row] if row else []), "-o", "again"]
    return shlex.join([*words, *overrides])


def _values(part: PartResult, runs: list[Run]) -> dict[str, dict[str, float] | None]:
    found = {column.key: interval(runs, column, part.prefix) for column in part.selection.columns}
    return {
        key: None if one is None else {"value": one.estimate, "low": one.low, "high": one.high}
        for key, one in found.items()
    }


def _asked(row: RowResult) -> int | None:
    if not row.runs or not row.runs[0].after:
        return None
    return sum(row.runs[0].after["tasks"][name]["n"] for name in row.runs[0].tasks_asked) or None


def markdown(table: dict[str, Any]) -> str:
    """Ours, the paper's headline beside it, and the whole of the paper's rows where it has more columns."""
    columns, papers = table["columns"], table["paper_models"]
    last = _main(columns)
    seeds = list(dict.fromkeys(seed for row in table["rows"] for seed in row["seeds"]))
    show_seeds = len(columns) == 1 and len(seeds) > 1
    heads = ["method", "r", "lr", *(column["title"] for column in columns)]
    heads += [f"seed {seed}" for seed in seeds] + ["std"] if show_seeds else []
    heads += [f"paper: {model}" for model in papers] + ["n", "seeds", "missing"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    if any("chance" in column for column in columns):
        cells = ["guessing", "", ""] + [text(_hundred(column.get("chance")), "{:.1f}") for column in columns]
        lines.append("| " + " | ".join(cells + [""] * (len(heads) - len(cells))) + " |")
    if table["base"] is not None:
        cells = ["untrained", "", ""] + [_share(table["base"][column["key"]], column is last) for column in columns]
        lines.append("| " + " | ".join(cells + [""] * (len(heads) - len(cells))) + " |")
    for row in table["rows"]:
        cells = [
            escape_markdown(row["label"]),
            text(row["r"]),
            text(row["learning_rate"], "{:g}") + ("*" if row["at_end"] else ""),
        ]
        cells += [_share(row["values"][column["key"]], column is last) for column in columns]
        if show_seeds:
            cells += [text(_hundred(row["seeds"].get(seed)), "{:.1f}") for seed in seeds]
            cells += [text(_hundred(row["std"]), "{:.2f}")]
        cells += [text(row["paper"].get(model, {}).get(last["key"]), "{:.2f}") for model in papers]
        left = ", ".join(f"{row[key]} {key}" for key in ("failed", "missing") if row[key])
        cells += [text(row["n"], "{:,}"), str(len(row["seeds"])), left]
        lines.append("| " + " | ".join(cells) + " |")
    if any(row["at_end"] for row in table["rows"]):
        lines += ["", "\\* the smallest or largest of those tried: a better one may lie beyond."]
    return "\n".join(lines) + "\n" + _paper_rows(table)


def _main(columns: list[dict[str, Any]]) -> dict[str, Any]:
    """The headline's column."""
    return next((column for column in columns if column["key"] == "avg"), columns[-1])


def _paper_rows(table: dict[str, Any]) -> str:
    columns = table["columns"]
    if len(columns) < 2 or not table["paper_models"]:
        return ""
    lines = [
        "",
        f"The paper's own ({table['source']}):",
        "",
        "| model | method | r | " + " | ".join(column["title"] for column in columns) + " |",
        "|---|---|---:|" + "---:|" * len(columns),
    ]
    for model in table["paper_models"]:
        for row in table["rows"]:
            values = row["paper"].get(model, {})
            cells = [text(values.get(column["key"]), "{:.2f}") for column in columns]
            lines.append(
                f"| {model} | {escape_markdown(row['label'])} | {text(row['r'])} | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines) + "\n"


def text(value: Any, form: str = "{}") -> str:
    """A cell; `MISSING` for None."""
    return MISSING if value is None else form.format(value)


def _hundred(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _share(found: dict[str, float] | None, whole: bool) -> str:
    if found is None:
        return MISSING
    text = f"{100 * found['value']:.1f}"
    return f"{text} [{100 * max(0.0, found['low']):.1f}, {100 * min(1.0, found['high']):.1f}]" if whole else text
