"""What is written of a study, from its folder only: tables, figures, verdicts and the README."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dude_peft.files import json_values, write_json, write_text

from ..compare.run_store import RunStore
from . import margins, paper_figures, paper_tables, rates
from .claims import verdicts
from .experiment_page import experiment_page
from .experiments import Experiment
from .readme import readme
from .study_folder import StudyFolder
from .verdict import Verdict

DIGITS = 12  # decimals of all values: the last bits of an interval depend on the processor


def write_report(path: str | Path) -> dict[str, Any]:
    """Write the tables and figures of every experiment of a study, and its README. Repeated calls give the same bytes.

    Returns:
        Experiment -> what its `.json` holds: `tables` and `claims`.

    Raises:
        DudeError: the folder holds no study.
    """
    study = StudyFolder(path)
    facts = study.facts()
    scale, comparisons = (facts or {}).get("scale", ""), dict[str, paper_tables.ComparisonResult]()
    written = {one.name: write_experiment(study, one, scale, comparisons) for one in study.experiments()}
    assert facts is not None
    found = margins.margins_of(written)
    if found:
        margins.draw(found, study.path / "margins.png", study.path / "margins.svg")
    write_text(study.path / "README.md", readme(facts, written, found, _costs(study, written)))
    return written


def write_experiment(
    study: StudyFolder, experiment: Experiment, scale: str, read: dict[str, paper_tables.ComparisonResult] | None = None
) -> dict[str, Any]:
    """Write an experiment's tables, verdicts and figures; return what its `.json` holds.

    `read` is the cache of `paper_tables.results_of`.
    """
    comparisons = paper_tables.results_of(study, experiment, read)
    made: dict[str, Any] = {
        "experiment": experiment.name,
        "title": experiment.title,
        "question": experiment.question,
        "tables": [_table(comparison, experiment, scale) for comparison in comparisons],
        "claims": [_claim(one) for one in verdicts(experiment, comparisons)],
        "figures": _figures(study, experiment, comparisons),
        "command": paper_tables.command(experiment.name, scale, comparisons[0].overrides if comparisons else ()),
    }
    made = json_values(made, DIGITS)
    write_json(study.path / f"{experiment.name}.json", made)
    write_text(study.path / f"{experiment.name}.md", experiment_page(made))
    return made


def _table(comparison: paper_tables.ComparisonResult, experiment: Experiment, scale: str) -> dict[str, Any]:
    made = paper_tables.make_table(comparison, experiment, scale)
    return rates.table(made, comparison) if experiment.figure == "rates" and comparison.searched else made


def _figures(study: StudyFolder, experiment: Experiment, comparisons: list[paper_tables.ComparisonResult]) -> list[str]:
    names = []
    if experiment.figure == "rates":
        drawn = rates.draw(comparisons, *(study.path / f"{experiment.name}.{kind}" for kind in ("png", "svg")))
        return [experiment.name] if drawn else []
    for comparison in comparisons if experiment.figure else []:
        stem = experiment.name if len(comparisons) == 1 else f"{experiment.name}-{comparison.name}"
        files = [study.path / f"{stem}.{kind}" for kind in ("png", "svg")]
        if paper_figures.draw(str(experiment.figure), comparison, *files):
            names.append(stem)
    return names


def _claim(verdict: Verdict) -> dict[str, Any]:
    compared = [
        {
            "part": one.comparison,
            "what": one.what,
            "unit": one.unit,
            "word": one.word,
            "other": one.other,
            "r": one.r,
            **({"note": one.note} if one.note else {}),
            **(
                {key: getattr(one.interval, name) for key, name in _INTERVAL.items()}
                if one.interval
                else dict.fromkeys(_INTERVAL)
            ),
        }
        for one in verdict.differences
    ]
    return {"claim": verdict.claim, "word": verdict.word, "by_part": verdict.by_comparison, "compared": compared}


_INTERVAL = {"value": "estimate", "low": "low", "high": "high", "p": "p"}


def _costs(study: StudyFolder, written: dict[str, Any]) -> dict[str, Any]:
    """Return the number of runs, their seconds, memory, hardware, commits and versions."""
    found: dict[str, Any] = {
        "runs": 0,
        "seconds": 0.0,
        "memory": 0,
        "hardware": set(),
        "commits": set(),
        "versions": set(),
    }
    for run in RunStore(study.path):
        if (record := run.record()) is None:
            continue
        cost, source = record["cost"], record["provenance"]
        found["runs"] += 1
        found["seconds"] += sum(cost.get(key) or 0.0 for key in ("train_seconds", "eval_seconds", "init_seconds"))
        found["memory"] = max(found["memory"], cost["peak_memory"]["bytes"])
        machine, git, v = source["hardware"], source["git"], source["versions"]
        device = ", ".join(machine.get("gpus") or []) if machine["device"] == "cuda" else machine["cpu"]
        found["hardware"].add(f"{device}, {machine['threads']} of {machine['cores']} threads a run")
        found["commits"].add(f"{git['sha'][:12]}{' with changes' if git['dirty'] else ''}" if git else "no commit")
        found["versions"].add(f"torch {v['torch']}, peft {v['peft']}, transformers {v['transformers']}")
    used = {run for one in written.values() for table in one["tables"] for row in table["rows"] for run in row["runs"]}
    found["in_tables"] = len(used)
    return {key: sorted(value) if isinstance(value, set) else value for key, value in found.items()}
