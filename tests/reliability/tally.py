"""Counts of what the reliability tests tried and what came of it, as `runs/reliability.json` and `docs/reliability.md`.

pytest --reliability-summary FILE.json ...        write what the tests recorded
python tests/reliability/tally.py FILE.json       put its tables into docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

PROPERTY = "reliability"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Record `tried` trials of which `good` came out as promised; rows of one name and subject are summed."""

    def record(what: str, subject: str, tried: int, good: int) -> None:
        record_property(PROPERTY, {"what": what, "subject": subject, "tried": tried, "good": good})

    return record


def summary(reports: Iterable[Any], seconds: float) -> dict[str, Any]:
    """What a session's test reports recorded, with versions and hardware.

    Args:
        reports: pytest's reports of the tests' calls.
        seconds: how long the session took.
    """
    from dude_lab.training.provenance import git_state, hardware, versions

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    tests = {"passed": 0, "failed": 0}
    for report in reports:
        tests[report.outcome] = tests.get(report.outcome, 0) + 1
        for name, found in report.user_properties:
            if name == PROPERTY:
                key = found["what"], found["subject"]
                row = rows.setdefault(key, {"what": key[0], "subject": key[1], "tried": 0, "good": 0})
                row["tried"] += found["tried"]
                row["good"] += found["good"]
    return {
        "rows": sorted(rows.values(), key=lambda row: (row["what"], row["subject"])),
        "tests": tests,
        "minutes": round(seconds / 60, 1),
        "commit": git_state(),
        "versions": versions(),
        "hardware": hardware(),
    }


def tables(found: dict[str, Any]) -> str:
    """The summary as Markdown: one line for each thing that was tried, its subjects added up."""
    lines = ["| tried | on | trials | as promised |", "|---|---|---:|---:|"]
    names = sorted({row["what"] for row in found["rows"]})
    for name in names:
        rows = [row for row in found["rows"] if row["what"] == name]
        tried, good = sum(row["tried"] for row in rows), sum(row["good"] for row in rows)
        lines.append(f"| {name} | {', '.join(row['subject'] for row in rows)} | {tried:,} | {good:,} |")
    machine, versions = found["hardware"], found["versions"]
    parts = ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "transformers", "peft", "trl"))
    commit = f" at commit {found['commit']['sha'][:9]}" if found["commit"] else ""
    lines += [
        "",
        f"{sum(found['tests'].values())} tests, {found['tests']['failed']} failed, in {found['minutes']:g} minutes on "
        f"{machine['cores']} cores ({machine['cpu']}, {machine['system']}), {parts}{commit}.",
    ]
    return "\n".join(lines)


def main(path: Path) -> None:
    """Replace the tables of the page."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    found = json.loads(path.read_text(encoding="utf-8"))
    PAGE.write_text(f"{before}{BEGIN}\n{tables(found)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
