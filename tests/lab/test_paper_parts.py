"""A part of a reproduction is a comparison: `dude compare` shows it and `dude report` makes a page of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_cli_train import dude
from test_paper_report import PLAIN, RATES, fill, started

from dude_lab.paper.study_folder import PartFolder, find_comparison
from dude_lab.report import write_page
from dude_peft.errors import DudeError


@pytest.fixture
def reproduction(tmp_path: Path) -> Path:
    folder = started(tmp_path / "results", "table2", *PLAIN, *RATES)["gpqa"]
    fill(folder, "mini_gpqa", {"lora": 0.4, "dora": 0.4, "pissa": 0.4, "dude": 0.8})
    return tmp_path / "results"


def test_a_part_is_shown_and_makes_a_page(reproduction: Path) -> None:
    part, page = reproduction / "parts" / "gpqa", reproduction.parent / "page"
    shown = dude("compare", part)
    assert shown.exit_code == 0 and "DuDe" in shown.stdout and "PiSSA" in shown.stdout
    assert (part / "table.md").is_file() and (part / "curves.png").is_file()
    assert not list(reproduction.glob("table.*")) and not list(reproduction.glob("curves.*"))
    made = dude("report", part, "-o", page)
    assert made.exit_code == 0 and "mini_gpqa" in (page / "index.html").read_text(encoding="utf-8")


def test_a_whole_reproduction_names_its_parts(reproduction: Path) -> None:
    result = dude("report", reproduction, "-o", reproduction.parent / "page")
    assert result.exit_code == 2 and f"such as {reproduction / 'parts' / 'gpqa'}" in " ".join(result.stderr.split())
    assert not (reproduction.parent / "page").exists()


def test_from_inside_its_own_folder(reproduction: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(reproduction / "parts" / "gpqa")
    found = find_comparison(".")
    assert isinstance(found, PartFolder) and found.runs.is_dir()


def test_neither(tmp_path: Path) -> None:
    folder = tmp_path / "parts" / "gpqa"
    folder.mkdir(parents=True)
    assert find_comparison(folder) is None
    with pytest.raises(DudeError, match="not a run"):
        write_page([folder], tmp_path / "page")
