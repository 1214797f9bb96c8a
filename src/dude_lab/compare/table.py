"""The table of a comparison as data (`table.json`) and as text (`table.md`)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..folders import without_paths
from ..stats.intervals import Interval
from ..text import MISSING, escape_markdown, percent
from ..training.record import perplexity
from .comparison_folder import SCHEMA
from .outcome import Outcome, accuracy, find_outcome
from .results import Results, RowResult
from .run_store import Run


def make_table(results: Results) -> dict[str, Any]:
    """Return the table as JSON values; a pure function of the runs."""
    outcome = find_outcome(results)
    rows = [_base(results)] if results.base else []
    rows += [_row(results, row, outcome) for row in results.rows]
    runs = [run for row in results.rows for run in row.runs]
    return {
        "schema": SCHEMA,
        "headline": results.headline,
        "sets": list(results.sets),
        "rows": rows,
        "outcome": outcome.sentences,
        "differences": [
            {
                "row": one,
                "minus": other,
                "value": found.estimate,
                "low": found.low,
                "high": found.high,
                "p": found.p,
                "p_holm": outcome.adjusted[one, other],
                "word": outcome.word(one, other),
            }
            for (one, other), found in outcome.pairs.items()
        ],
        "notes": _notes(results, runs),
        "provenance": _provenance(runs),
    }


def _base(results: Results) -> dict[str, Any]:
    assert results.base is not None
    runs = [results.base]
    return {
        "label": "base model",
        "method": None,
        "r": None,
        "learning_rate": None,
        "seeds": [],
        "n": _asked(results.base),
        "accuracy": _interval(accuracy(runs)),
        "tasks": {name: _interval(accuracy(runs, name)) for name in results.sets},
        "validation_loss": results.base.validation_loss,
        "bold": [],
        "failed": 0,
        "missing": 0,
    }


def _row(results: Results, row: RowResult, outcome: Outcome) -> dict[str, Any]:
    return {
        "label": row.label,
        "method": row.method,
        "r": row.r,
        "learning_rate": row.learning_rate,
        "chosen_among": row.tried,
        "seeds": [run.seed for run in row.runs],
        "n": _asked(row.runs[0]) if row.runs else None,
        "accuracy": _interval(accuracy(row.runs)),
        "accuracies": [run.accuracy for run in row.runs],
        "tasks": {name: _interval(accuracy(row.runs, name)) for name in results.sets},
        "bold": sorted(column for name, column in outcome.bold if name == row.name),
        "validation_loss": _validation_loss(row.runs),
        "last_tenth_loss": _mean(row.runs, "training", "last_tenth_loss"),
        "train_seconds": _mean(row.runs, "cost", "train_seconds"),
        "init_seconds": _mean(row.runs, "cost", "init_seconds"),
        "peak_memory_bytes": max((run.record["cost"]["peak_memory"]["bytes"] for run in row.runs), default=None),
        "trainable_parameters": row.runs[0].record["cost"]["trainable_parameters"] if row.runs else None,
        "runs": [run.name for run in row.runs],
        "failed": row.failed,
        "missing": row.missing,
    }


def _asked(run: Run) -> int | None:
    """Return the number of questions."""
    return sum(run.after["tasks"][name]["n"] for name in run.tasks_asked) or None


def _interval(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else {"value": found.estimate, "low": found.low, "high": found.high}


def _mean(runs: Sequence[Run], section: str, key: str) -> float | None:
    values = [run.record[section][key] for run in runs if run.record[section].get(key) is not None]
    return fmean(values) if values else None


def _validation_loss(runs: Sequence[Run]) -> float | None:
    """Return the mean over the runs; None unless every run has one."""
    values = [run.validation_loss for run in runs if run.validation_loss is not None]
    return fmean(values) if values and len(values) == len(runs) else None


def _notes(results: Results, runs: list[Run]) -> list[str]:
    notes = []
    begun = [row for row in results.rows if row.runs]
    several = any(len(row.runs) > 1 for row in begun)
    if results.headline is not None:
        if several:
            notes.append("Accuracy: mean over seeds with 95% Student's t interval; all seeds have the same questions.")
        alike = any(len(row.runs) > 1 and len({run.accuracy for run in row.runs}) == 1 for row in begun)
        if alike or results.base is not None or any(len(row.runs) == 1 for row in begun):
            one = "The base model, and rows of one seed or of seeds that have one value" if several else "One seed"
            notes.append(f"{one}: 95% interval over the questions (Wilson), which says nothing about other seeds.")
        notes.append(
            "Differences: paired by seed and question, Student's interval with the variance of a bootstrap over both; "
            "each interval is of its pair by itself. "
            "Significant: p < 0.05 after Holm's correction over all pairs of the table. Bold: best, and significantly "
            "higher than the second best (tasks: paired t over seeds, Holm over the tasks)."
        )
    if any(row.tried > 1 for row in results.rows):
        notes.append("Learning rate: chosen on validation for each row, with equally many candidates (search.json).")
        if above := [row.name for row in results.rows if row.above]:
            notes.append(f"Not the chosen learning rate but the next larger one: {', '.join(above)}.")
        ends = [row.name for row in results.rows if row.at_end]
        if ends:
            notes.append(f"The best learning rate is the smallest or largest of the search: {', '.join(ends)}.")
    if results.jobs is not None and results.jobs > 1:
        notes.append(f"Seconds were measured with {results.jobs} runs in parallel.")
    for what, count in (("failed", "failed"), ("not finished", "missing")):
        rows = [f"{row.name} ({getattr(row, count)})" for row in results.rows if getattr(row, count)]
        if rows:
            notes.append(f"Runs that are {what}: {', '.join(rows)}.")
    facts = _provenance(runs)
    for key, what in (("models", "base models"), ("data", "training data"), ("hardware", "hardware")):
        if len(facts[key]) > 1:
            notes.append(f"These runs differ in {what}: {'; '.join(facts[key])}.")
    return notes


def _provenance(runs: list[Run]) -> dict[str, list[str]]:
    """Return the distinct models, data sets, commits, machines and versions of the runs."""
    found: dict[str, set[str]] = {
        "models": set(),
        "data": set(),
        "commits": set(),
        "hardware": set(),
        "versions": set(),
    }
    for run in runs:
        source = without_paths(run.record["provenance"])
        model, git, machine, v = source["model"], source["git"], source["hardware"], source["versions"]
        mark = model.get("sha256") or model.get("commit") or ""
        found["models"].add(f"{model['name'].rstrip('/').rsplit('/', 1)[-1]} {mark[:12]}".strip())
        found["data"].add(f"{source['data']['source']} {source['data']['sha256'][:12]}")
        found["commits"].add(f"{git['sha'][:12]}{' with changes' if git['dirty'] else ''}" if git else "no commit")
        device = ", ".join(machine["gpus"]) if machine["device"] == "cuda" else machine["cpu"]
        found["hardware"].add(f"{device}, {machine['threads']} of {machine['cores']} threads")
        found["versions"].add(f"torch {v['torch']}, peft {v['peft']}, transformers {v['transformers']}")
    return {key: sorted(values) for key, values in found.items()}


def columns(table: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells as text; a row begins with its plain label, other cells may contain `**bold**`.

    A column without a value is left out, but for the rank.
    """
    several = (
        table["sets"] if len(table["sets"]) > 1 or (table["sets"] and table["sets"] != [table["headline"]]) else []
    )
    what = f"accuracy, % ({table['headline']})" if not several else "mean, %"
    heads = ["method", "r", "lr", *(short(name, several) for name in several), what]
    heads += ["n", "seeds", "loss", "val. loss", "perplexity", "train s", "init s", "memory", "trainable"]
    rows = []
    for row in table["rows"]:
        cells = [row["label"], _text(row["r"]), _text(row["learning_rate"], "{:g}")]
        cells += [_share(row["tasks"][name], bold=name in row["bold"], brief=True) for name in several]
        cells += [_share(row["accuracy"], bold="accuracy" in row["bold"])]
        seeds = str(len(row["seeds"])) if row["method"] else ""
        cells += [_text(row["n"], "{:,}"), seeds, _text(row.get("last_tenth_loss"), "{:.3f}")]
        loss = row.get("validation_loss")
        cells += [_text(loss, "{:.3f}"), _text(None if loss is None else perplexity(loss), "{:.4g}")]
        cells += [_text(row.get("train_seconds"), "{:.0f}" if _long(table) else "{:.1f}")]
        cells += [_text(row.get("init_seconds"), "{:.1f}")]
        memory = row.get("peak_memory_bytes")
        cells += [f"{memory / 2**30:.2f} GiB" if memory else MISSING, _text(row.get("trainable_parameters"), "{:,}")]
        rows.append(cells)
    kept = [k for k in range(len(heads)) if k < 2 or any(row[k] not in ("", MISSING) for row in rows)]
    return [heads[k] for k in kept], [[row[k] for k in kept] for row in rows]


def short(name: str, among: Sequence[str]) -> str:
    """Return a task's name without the prefix that all of them share."""
    first = name.partition("_")[0]
    alike = len(among) > 1 and all(one.startswith(f"{first}_") for one in among)
    return name.removeprefix(f"{first}_") if alike else name


def markdown(table: dict[str, Any]) -> str:
    """Return the table, the outcome and the notes as Markdown."""
    heads, rows = columns(table)
    lines = ["| " + " | ".join(map(escape_markdown, heads)) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    lines += ["| " + " | ".join([escape_markdown(label), *cells]) + " |" for label, *cells in rows]
    lines += ["", *(f"- {escape_markdown(text)}" for text in table["outcome"])]
    lines += ["", *(f"{escape_markdown(text)}  " for text in table["notes"])]
    known = [f"{key}: {'; '.join(values)}" for key, values in table["provenance"].items() if values]
    return "\n".join([*lines, "", *(f"{escape_markdown(text)}  " for text in known)]).rstrip() + "\n"


def _long(table: dict[str, Any]) -> bool:
    return all((row.get("train_seconds") or 100) >= 10 for row in table["rows"])


def _text(value: Any, form: str = "{}") -> str:
    return MISSING if value is None else form.format(value)


def _share(found: dict[str, float] | None, *, bold: bool, brief: bool = False) -> str:
    if found is None:
        return MISSING
    text = percent(found["value"])
    text = f"**{text}**" if bold else text
    return text if brief else f"{text} [{percent(max(0.0, found['low']))}, {percent(min(1.0, found['high']))}]"
