"""The config and provenance of each run, failures and searches, as the page shows them."""

from __future__ import annotations

from typing import Any

from ..compare.comparison_folder import ComparisonFolder
from ..compare.results import Results
from ..compare.run_store import Run
from ..config.yaml_reader import dump_yaml
from ..folders import without_paths
from ..text import percent


def run_cards(results: Results) -> list[dict[str, Any]]:
    """Return an entry for each run, the base first: a title, facts, and the config as YAML."""
    runs = [("base model", results.base)] if _is_own(results.base) else []
    runs += [(f"{row.name}, seed {run.seed}", run) for row in results.rows for run in row.runs]
    return [_card(title, run) for title, run in runs if run is not None]


def _is_own(base: Run | None) -> bool:
    """Return whether the base is a run of its own, not the beginning of a training run, which has a card."""
    return base is not None and base.record.get("kind") == "base"


def _card(title: str, run: Run) -> dict[str, Any]:
    record = without_paths(run.record)
    source, cost = record["provenance"], record["cost"]
    # The path on the machine that trained is private, and the folder may have been moved.
    config = {key: value for key, value in record["config"].items() if key != "output"}
    git, machine = source.get("git"), source["hardware"]
    device = ", ".join(machine.get("gpus") or []) if machine.get("device") == "cuda" else machine.get("cpu")
    facts = {
        "folder": run.name,
        "started": record.get("started"),
        "finished": record.get("finished"),
        "commit": f"{git['sha']}{' with changes' if git['dirty'] else ''}" if git else "none",
        "hardware": f"{device}, {machine.get('threads')} of {machine.get('cores')} threads",
        "system": machine.get("system"),
        "versions": ", ".join(f"{name} {version}" for name, version in source["versions"].items() if version),
        "base model": " ".join(str(v) for v in source["model"].values() if v).replace("\n", " "),
        "data": f"{source['data']['source']}, SHA-256 {source['data']['sha256']}" if "data" in source else None,
        "steps": record.get("training", {}).get("steps"),
        "tokens": f"{cost['tokens']:,}" if cost.get("tokens") else None,
        "evaluation": f"{cost['eval_seconds']:.1f} s" if cost.get("eval_seconds") is not None else None,
        "adapter": f"{cost['adapter_bytes']:,} bytes" if cost.get("adapter_bytes") else None,
    }
    return {
        "title": title,
        "facts": {key: str(value) for key, value in facts.items() if value is not None},
        "config": dump_yaml(config),
    }


def failures(folder: ComparisonFolder | None) -> list[dict[str, str]]:
    """Return the failed runs of a comparison that did not finish later, with the reason."""
    if folder is None:
        return []
    grid = folder.grid()
    found: dict[str, dict[str, str]] = {}
    for row in grid.rows:
        runs = [*grid.searches(row), *(run for rate in row.learning_rates for run in grid.runs(row, rate))]
        for run in runs:
            if not folder.is_done(run) and (failure := folder.failure(run)) is not None:
                found[run.name] = {"title": run.title, "error": str(failure.get("error", "failed"))}
    return list(found.values())


def searches(folder: ComparisonFolder | None) -> list[dict[str, Any]]:
    """Return the learning rates that were tried for each row, and their validation results."""
    from ..compare.search import choose

    if folder is None:
        return []
    grid = folder.grid()
    choices = [choose(grid, row, folder) for row in grid.rows if len(row.learning_rates) > 1]
    lines = []
    for choice in choices:
        for one in choice.candidates if choice is not None else ():
            accuracy, loss = one.get("accuracy"), one.get("validation_loss") or one.get("last_tenth_loss")
            lines.append(
                {
                    "row": choice.row if choice else "",
                    "rate": f"{one['learning_rate']:g}",
                    "chosen": choice is not None and one["learning_rate"] == choice.learning_rate,
                    "accuracy": percent(accuracy),
                    "loss": "-" if loss is None else f"{loss:.3f}",
                    "error": one.get("error", ""),
                }
            )
    return lines
