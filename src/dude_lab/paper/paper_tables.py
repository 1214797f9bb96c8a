"""The table of a comparison: measured values with intervals, the paper's values, and the command of each row."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import stdev
from typing import Any, NamedTuple

from ..compare.comparison_folder import ComparisonFolder
from ..compare.outcome import Outcome, accuracy, find_outcome
from ..compare.results import Results, RowResult, collect
from ..compare.rows import slug
from ..compare.run_store import Run
from ..stats.intervals import Interval, t_interval
from ..text import MISSING, escape_markdown, percent
from . import published
from .experiments import VALIDATION_LOSS, Column, ComparisonSpec, Experiment, spec_of
from .study_folder import StudyFolder

BEST_RATE = "best rate"
AT_END = "\\* the smallest or largest learning rate of the search: a better one may lie beyond."


@dataclass(frozen=True)
class ComparisonResult:
    """The results of a comparison.

    Attributes:
        name: name of the comparison.
        spec: which runs.
        model: base model.
        paper: the paper's name of the model; None if it is not one of the paper's.
        prefix: prefix of its tasks' names: `mini_`, or empty.
        overrides: changes to the recipe.
        trained_on: name of the data set, or file.
        results: rows and base.
    """

    name: str
    spec: ComparisonSpec
    model: str
    paper: str | None
    prefix: str
    overrides: tuple[str, ...]
    trained_on: str
    results: Results

    @property
    def searched(self) -> bool:
        """Whether the runs have the learning rates that a search found best."""
        return not self.spec.above and any(row.candidates for row in self.results.rows)

    @cached_property
    def outcome(self) -> Outcome:
        """Significance of all differences between its rows."""
        return find_outcome(self.results)

    def row(self, method: str, r: int | None) -> RowResult | None:
        """Return the row of a method at a rank; None if there is none."""
        return next((row for row in self.results.rows if (row.method, row.r) == (method, r)), None)


def results_of(
    study: StudyFolder, experiment: Experiment, read: dict[str, ComparisonResult] | None = None
) -> list[ComparisonResult]:
    """Return the results of an experiment's comparisons, from the study's folder only.

    Args:
        study: the folder.
        experiment: the experiment.
        read: cache of comparisons that were read before, by name; updated.
    """
    read = {} if read is None else read
    found = []
    for spec, facts, folder in study.comparisons(experiment):
        if folder.path.name not in read:
            read[folder.path.name] = _result(spec, facts, folder)
        found.append(read[folder.path.name])
    return found


def _result(spec: ComparisonSpec, facts: dict[str, Any], folder: ComparisonFolder) -> ComparisonResult:
    data = folder.grid().settings.run["data"]
    return ComparisonResult(
        folder.path.name,
        spec,
        facts["model"],
        facts["paper"],
        facts["prefix"],
        tuple(facts["overrides"]),
        str(data.get("name") or data.get("train")),
        collect(folder),
    )


def interval(runs: tuple[Run, ...] | list[Run], column: Column, prefix: str) -> Interval | None:
    """Return a row's value in a column with its interval; None if it was not measured.

    A validation loss of one seed has no interval, and its ends are NaN.
    """
    if column.task == VALIDATION_LOSS:
        losses = validation_losses(runs)
        return t_interval(losses) if len(losses) > 1 else Interval(losses[0], math.nan, math.nan) if losses else None
    return accuracy(list(runs), prefix + column.task if column.task else None) if runs else None


def validation_losses(runs: Sequence[Run]) -> list[float]:
    """Return the validation loss of each run that has one."""
    return [run.validation_loss for run in runs if run.validation_loss is not None]


def make_table(comparison: ComparisonResult, experiment: Experiment, scale: str) -> dict[str, Any]:
    """Return the table as JSON values: measured accuracies between 0 and 1, the paper's values in %, as printed."""
    spec = comparison.spec
    rows = [_row(comparison, row, experiment, scale) for row in comparison.results.rows]
    base = comparison.results.base
    return {
        "part": comparison.name,
        "model": comparison.model,
        "paper_model": comparison.paper,
        "trained_on": comparison.trained_on,
        "columns": [
            {"key": column.key, "title": column.title}
            | ({} if column.chance is None else {"chance": column.chance})
            | ({} if column.percent else {"percent": False})
            for column in spec.columns
        ],
        "source": published.source(spec.published) if spec.published else None,
        "paper_models": _paper_models(comparison),
        "base": _values(comparison, [base]) if base is not None else None,
        "rows": rows,
    }


def _paper_models(comparison: ComparisonResult) -> list[str]:
    if comparison.spec.published is None:
        return []
    return [comparison.paper] if comparison.paper else published.models(comparison.spec.published)


def _row(comparison: ComparisonResult, row: RowResult, experiment: Experiment, scale: str) -> dict[str, Any]:
    by_seed = {str(run.seed): run.accuracy for run in row.runs if run.accuracy is not None}
    block = comparison.spec.published
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
        "values": _values(comparison, list(row.runs)),
        "paper": published.values(block, row.method, row.r, comparison.paper) if block else {},
        "train_seconds": sum(one["train_seconds"] for one in costs) / len(costs) if costs else None,
        "runs": [run.name for run in row.runs],
        "failed": row.failed,
        "missing": row.missing,
        "command": command(experiment.name, scale, comparison.overrides, slug(row.name.replace(" r=", "-r"))),
    }


def command(experiment: str, scale: str, overrides: tuple[str, ...], row: str | None = None) -> str:
    """Return the command that repeats an experiment, or one of its rows, in a new folder."""
    words = ["dude", "reproduce", experiment, "--scale", scale, *(["--row", row] if row else []), "-o", "again"]
    return shlex.join([*words, *overrides])


def _values(comparison: ComparisonResult, runs: list[Run]) -> dict[str, dict[str, float] | None]:
    found = {column.key: interval(runs, column, comparison.prefix) for column in comparison.spec.columns}
    return {
        key: None if one is None else {"value": one.estimate, "low": one.low, "high": one.high}
        for key, one in found.items()
    }


def _asked(row: RowResult) -> int | None:
    if not row.runs or not row.runs[0].after:
        return None
    return sum(row.runs[0].after["tasks"][name]["n"] for name in row.runs[0].tasks_asked) or None


def markdown(table: dict[str, Any]) -> str:
    """Return the table with the paper's headline value, and below it all of the paper's columns if it has several."""
    columns, papers = table["columns"], table["paper_models"]
    last = headline(columns)
    seeds = list(dict.fromkeys(seed for row in table["rows"] for seed in row["seeds"]))
    show_seeds = sum(column.get("percent", True) for column in columns) == 1 and len(seeds) > 1
    heads = ["method", "r", "lr", *(column["title"] for column in columns)]
    heads += [f"seed {seed}" for seed in seeds] + ["std"] if show_seeds else []
    heads += [f"paper: {model}" for model in papers] + ["n", "seeds", "missing"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    if any("chance" in column for column in columns):
        cells = ["guessing", "", ""] + [percent(column.get("chance")) for column in columns]
        lines.append("| " + " | ".join(cells + [""] * (len(heads) - len(cells))) + " |")
    if table["base"] is not None:
        cells = ["base model", "", ""] + [_value(table["base"][column["key"]], column, last) for column in columns]
        lines.append("| " + " | ".join(cells + [""] * (len(heads) - len(cells))) + " |")
    for row in table["rows"]:
        cells = [
            escape_markdown(row["label"]),
            text(row["r"]),
            rate_text(row),
        ]
        cells += [_value(row["values"][column["key"]], column, last) for column in columns]
        if show_seeds:
            cells += [percent(row["seeds"].get(seed)) for seed in seeds]
            cells += [text(None if row["std"] is None else 100 * row["std"], "{:.2f}")]
        cells += [text(row["paper"].get(model, {}).get(last["key"]), "{:.2f}") for model in papers]
        left = ", ".join(f"{row[key]} {key}" for key in ("failed", "missing") if row[key])
        cells += [text(row["n"], "{:,}"), str(len(row["seeds"])), left]
        lines.append("| " + " | ".join(cells) + " |")
    if any(row["at_end"] for row in table["rows"]):
        lines += ["", AT_END]
    return "\n".join(lines) + "\n" + _paper_rows(table)


def headline(columns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the column of the headline metric."""
    return next((column for column in columns if column["key"] == "avg"), columns[-1])


def _paper_rows(table: dict[str, Any]) -> str:
    columns = table["columns"]
    if len(columns) < 2 or not table["paper_models"]:
        return ""
    lines = [
        "",
        f"The paper's values ({table['source']}):",
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
    """Format a value; `MISSING` for None."""
    return MISSING if value is None else form.format(value)


def rate_text(row: Mapping[str, Any]) -> str:
    """Return the learning rate of a row, with a star if it is at an end of the search (`AT_END`)."""
    return text(row["learning_rate"], "{:g}") + ("*" if row["at_end"] else "")


class Conditions(NamedTuple):
    """What a comparison was made with, in words; empty where there is nothing to say."""

    asked: str
    after: str
    rate: str
    model: str


def conditions(table: Mapping[str, Any], asked: str = "") -> Conditions:
    """Return the conditions of a table; `asked` is what its questions are called, by default as in the recipe."""
    spec = spec_of(table["part"])
    asked = asked or (table["trained_on"] if spec is None else spec.asked)
    after = "after MetaMathQA" if "metamath" in table["trained_on"].lower() else ""
    rate = BEST_RATE
    if spec is not None and spec.above:
        rate = "next larger rate"
    elif spec is not None and spec.learning_rate is not None:
        rate = f"{spec.learning_rate:g} for all"
    return Conditions(asked, after, rate, model_name(table))


def model_name(table: Mapping[str, Any]) -> str:
    """Return the paper's name of a table's model, or the last component of its path."""
    return str(table["paper_model"] or table["model"].rstrip("/").rsplit("/", 1)[-1])


def _value(found: dict[str, float] | None, column: dict[str, Any], main: dict[str, Any]) -> str:
    """Return a value as its column has it, that of the main column with its interval."""
    if column.get("percent", True) or found is None:
        return _share(found, column is main)
    return number(found["value"])


def number(value: float) -> str:
    """Format a value that is not a share: a perplexity with one decimal, a loss with three."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _share(found: dict[str, float] | None, with_interval: bool) -> str:
    if found is None:
        return MISSING
    text = percent(found["value"])
    return f"{text} [{percent(max(0.0, found['low']))}, {percent(min(1.0, found['high']))}]" if with_interval else text
