"""A comparison of a reproduction is a comparison: `dude compare` shows it and `dude report` makes a page of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_cli_train import dude
from test_paper_report import PLAIN, RATES, fill, started

from dude_lab.compare.comparison_folder import find_comparison
from dude_lab.report import write_page
from dude_peft.errors import DudeError
from dude_peft.files import CHECKSUM


@pytest.fixture
def reproduction(tmp_path: Path) -> Path:
    folder = started(tmp_path / "results", "table2", *PLAIN, *RATES)["gpqa"]
    fill(folder, "mini_gpqa", {"lora": 0.4, "dora": 0.4, "pissa": 0.4, "dude": 0.8})
    return tmp_path / "results"


def test_a_part_is_shown_and_makes_a_page(reproduction: Path) -> None:
    comparison, page = reproduction / "parts" / "gpqa", reproduction.parent / "page"
    shown = dude("compare", comparison)
    assert shown.exit_code == 0 and "DuDe" in shown.stdout and "PiSSA" in shown.stdout
    assert (comparison / "table.md").is_file() and (comparison / "curves.png").is_file()
    assert not list(reproduction.glob("table.*")) and not list(reproduction.glob("curves.*"))
    made = dude("report", comparison, "-o", page)
    assert made.exit_code == 0 and "mini_gpqa" in (page / "index.html").read_text(encoding="utf-8")


def test_a_study_names_its_comparisons(reproduction: Path) -> None:
    page = reproduction.parent / "page"
    for words in (("compare", reproduction), ("report", reproduction, "-o", page), ("compare", page, reproduction)):
        result = dude(*words)
        assert result.exit_code == 2 and f"such as {reproduction / 'parts' / 'gpqa'}" in " ".join(result.stderr.split())
    assert not page.exists()


@pytest.mark.parametrize("packed", [False, True])
def test_comparisons_and_runs_stand_in_one_table(reproduction: Path, tmp_path: Path, packed: bool) -> None:
    """A comparison of its own, one of a study, and a run; rows of one name get their own labels."""
    other = started(tmp_path / "other", "table2", "learning_rates=[3e-3]", "methods=[lora, dude]")["gpqa"]
    fill(other, "mini_gpqa", {"lora": 0.5, "dude": 0.6})
    alone = tmp_path / "alone"
    alone.mkdir()
    for name in ("compare.yaml", "base.json"):
        (alone / name).write_bytes((other.path / name).read_bytes())
    other.runs.rename(alone / "runs")
    comparison = reproduction / "parts" / "gpqa"
    run = next((reproduction / "runs").glob("dora*"))
    if packed:
        assert dude("pack", reproduction).exit_code == 0 and dude("pack", alone).exit_code == 0
    shown = dude("compare", comparison, alone, comparison, "-o", tmp_path / "table")
    assert shown.exit_code == 0, shown.output
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [row["label"] for row in rows] == [
        "LoRA (gpqa)", "DoRA", "PiSSA", "DuDe (gpqa)", "LoRA (alone)", "DuDe (alone)",
    ]  # fmt: skip
    assert all(len(row["seeds"]) == 5 for row in rows)
    shown = dude("compare", alone, run, "-o", tmp_path / "table")
    rows = json.loads((tmp_path / "table" / "table.json").read_text())["rows"]
    assert [(row["label"], len(row["seeds"])) for row in rows] == [("LoRA", 5), ("DuDe", 5), ("DoRA", 1)]
    made = dude("report", alone, comparison, "-o", tmp_path / "page")
    assert made.exit_code == 0 and "LoRA (gpqa)" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_comparisons_with_other_questions_are_refused(reproduction: Path, tmp_path: Path) -> None:
    other = started(tmp_path / "other", "table2", "run.eval.limit=7", *PLAIN, *RATES)["gpqa"]
    fill(other, "mini_gpqa", {"lora": 0.4, "dora": 0.4, "pissa": 0.4, "dude": 0.8})
    result = dude("compare", reproduction / "parts" / "gpqa", other.path)
    assert result.exit_code == 2 and "different questions" in result.stderr
    for file in (other.runs).glob("*/run.json"):
        record = json.loads(file.read_text())
        record["config"]["eval"], record["metrics"]["after"]["tasks"] = None, {}
        file.write_text(json.dumps({k: v for k, v in record.items() if k != CHECKSUM}))
    run = next(path for path in sorted(other.runs.iterdir()) if path.name.startswith("dude"))
    result = dude("compare", reproduction / "parts" / "gpqa", run)
    assert result.exit_code == 2 and f"{run.name} was not evaluated on questions" in " ".join(result.stderr.split())


def test_from_inside_its_own_folder(reproduction: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reproduction / "parts" / "gpqa")
    found = find_comparison(".")
    assert found is not None and found.runs == reproduction / "runs" and found.runs.is_dir()


def test_neither(tmp_path: Path) -> None:
    folder = tmp_path / "parts" / "gpqa"
    folder.mkdir(parents=True)
    assert find_comparison(folder) is None
    with pytest.raises(DudeError, match="not a run"):
        write_page([folder], tmp_path / "page")
