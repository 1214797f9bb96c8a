"""What a reproduction writes beside its runs: tables, figures, verdicts and the README, from the folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dude_peft.files import json_values, write_json, write_text

from ..compare.run_store import RunStore
from . import margins, paper_figures, paper_tables, rates
from .claims import verdicts
from .experiments import Experiment
from .readme import experiment_page, readme
from .study_folder import StudyFolder
from .verdict import Verdict


def write_report(path: str | Path) -> dict[str, Any]:
    """Draw every experiment that the folder holds, and write its README; written again they are the same bytes.

    Returns:
        Experiment -> what its `.json` holds: `tables` and `claims`.

    Raises:
        DudeError: no reproduction there.
    """
    root = StudyFolder(path)
    facts = root.facts()
    scale, parts = (facts or {}).get("scale", ""), dict[str, paper_tables.PartResult]()
    written = {one.name: write_experiment(root, one, scale, parts) for one in root.experiments()}
    assert facts is not None
    found = margins.leads(written)
    if found:
        margins.draw(found, root.path / "leads.png", root.path / "leads.svg")
    write_text(root.path / "README.md", readme(facts, written, found, _costs(root, written)))
    return written


def write_experiment(
    root: StudyFolder, experiment: Experiment, scale: str, read: dict[str, paper_tables.PartResult] | None = None
) -> dict[str, Any]:
    """Write an experiment's table, verdicts and figures; returns what its `.json` holds.

    `read` holds the parts that were read already, as in `tables.results_of`.
    """
    parts = paper_tables.results_of(root, experiment, read)
    made: dict[str, Any] = {
        "experiment": experiment.name,
        "title": experiment.title,
        "question": experiment.question,
        "tables": [_table(part, experiment, scale) for part in parts],
        "claims": [_claim(one) for one in verdicts(experiment, parts)],
        "figures": _figures(root, experiment, parts),
        "command": paper_tables.command(experiment.name, scale, parts[0].overrides if parts else ()),
    }
    made = json_values(made)
    write_json(root.path / f"{experiment.name}.json", made)
    write_text(root.path / f"{experiment.name}.md", experiment_page(made))
    return made


def _table(part: paper_tables.PartResult, experiment: Experiment, scale: str) -> dict[str, Any]:
    made = paper_tables.make_table(part, experiment, scale)
    return rates.table(made, part) if experiment.figure == "rates" and part.searched else made


def _figures(root: StudyFolder, experiment: Experiment, parts: list[paper_tables.PartResult]) -> list[str]:
    names = []
    if experiment.figure == "rates":
        drawn = rates.draw(parts, *(root.path / f"{experiment.name}.{kind}" for kind in ("png", "svg")))
        return [experiment.name] if drawn else []
    for part in parts if experiment.figure else []:
        stem = experiment.name if len(parts) == 1 else f"{experiment.name}-{part.name}"
        files = [root.path / f"{stem}.{kind}" for kind in ("png", "svg")]
        if paper_figures.draw(str(experiment.figure), part, *files):
            names.append(stem)
    return names


def _claim(verdict: Verdict) -> dict[str, Any]:
    compared = [
        {
            "part": one.part,
            "what": one.what,
            "unit": one.unit,
            "word": one.word,
            "other": one.other,
            "r": one.r,
            **(
                {key: getattr(one.interval, name) for key, name in _INTERVAL.items()}
                if one.interval
                else dict.fromkeys(_INTERVAL)
            ),
        }
        for one in verdict.compared
    ]
    return {"claim": verdict.claim, "word": verdict.word, "by_part": verdict.by_part, "compared": compared}


_INTERVAL = {"value": "estimate", "low": "low", "high": "high", "p": "p"}


def _costs(root: StudyFolder, written: dict[str, Any]) -> dict[str, Any]:
    """Of every run in the store: how many, their seconds, where they ran."""
    found: dict[str, Any] = {
        "runs": 0,
        "seconds": 0.0,
        "memory": 0,
        "hardware": set(),
        "commits": set(),
        "versions": set(),
    }
    for run in RunStore(root.path):
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
