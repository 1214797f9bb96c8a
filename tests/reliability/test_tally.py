"""The page's table is what the tests recorded: rows of one name and subject are added up, failures included."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tally


def report(outcome: str, *rows: tuple[str, str, int, int]) -> SimpleNamespace:
    found = [dict(zip(("what", "subject", "tried", "good"), row, strict=True)) for row in rows]
    return SimpleNamespace(outcome=outcome, user_properties=[("other", 1), *((tally.PROPERTY, row) for row in found)])


def test_counts_are_added_up(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    reports = [
        report("passed", ("kill", "dude", 900, 900), ("kill", "lora", 100, 100)),
        report("failed", ("kill", "dude", 200, 199), ("flip", "dude", 7, 7)),
        report("passed"),
    ]
    found = tally.summary(reports, seconds=90)
    assert found["tests"] == {"passed": 2, "failed": 1} and found["minutes"] == 1.5
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tally.BEGIN}\nold\n{tally.END}\nafter\n")
    monkeypatch.setattr(tally, "PAGE", page)
    summary = tmp_path / "found.json"
    summary.write_text(tally.json.dumps(found))
    tally.main(summary)
    tally.main(summary)
    text = page.read_text()
    assert "| kill | dude, lora | 1,200 | 1,199 |" in text and "| flip | dude | 7 | 7 |" in text
    assert "3 tests, 1 failed, in 1.5 minutes" in text and "old" not in text
    assert text.startswith(f"before\n{tally.BEGIN}\n|") and text.endswith(f"\n{tally.END}\nafter\n")
