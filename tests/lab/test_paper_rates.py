"""What a wrong learning rate costs: the searches as table and picture, and whole runs with the next rate above."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from comparison_tools import begin, finish
from conftest import ROOT
from test_paper_report import PLAIN, answers, started

from dude_lab.compare.comparison_folder import ComparisonFolder
from dude_lab.compare.comparison_report import report
from dude_lab.compare.results import collect
from dude_lab.compare.search import choose
from dude_lab.paper.experiments import chosen
from dude_lab.paper.rates import draw, plateau
from dude_lab.paper.study_folder import StudyFolder
from dude_lab.paper.study_report import write_report
from dude_peft.errors import DudeError

SMALL = ("learning_rates=[1e-3, 1e-2, 1e-1]",)
SHARES = {  # at 1e-3, 1e-2, 1e-1; the best is 1e-2 for LoRA and DoRA, 1e-3 for PiSSA and DuDe
    "lora": (0.3, 0.7, 0.2),
    "dora": (0.3, 0.7, 0.1),
    "pissa": (0.7, 0.5, 0.2),
    "dude": (0.7, 0.6, 0.4),
}


def search(folder: ComparisonFolder, task: str) -> None:
    """Every search, finished."""
    grid = folder.grid()
    for row in grid.rows:
        for cell, share in zip(grid.searches(row), SHARES[row.method.name], strict=True):
            finish(folder, cell, {task: answers(share, cell.name)})


def test_the_searches_are_a_table_a_picture_and_a_claim(tmp_path: Path) -> None:
    folder = started(tmp_path, "rates", *SMALL)["gpqa"]
    search(folder, "mini_gpqa")
    made = write_report(tmp_path)["rates"]
    forgiving = [one for one in made["claims"][0]["compared"] if one["part"] == "gpqa"]
    assert [one["word"] for one in forgiving] == ["holds", "does not hold"]
    assert "DuDe against PiSSA" in forgiving[0]["what"] and forgiving[0]["note"] == "higher in 2 of 2"
    assert "DoRA against LoRA" in forgiving[1]["what"] and forgiving[1]["note"] == "higher in 0 of 1"
    assert "gpqa" not in {one["part"] for one in made["claims"][1]["compared"]}  # its runs are at the best rates
    table = next(one for one in made["tables"] if one["part"] == "gpqa")
    rates = {row["method"]: row["rates"] for row in table["rows"]}
    gaps = [rates["dude"][rate] - rates["pissa"][rate] for rate in ("0.01", "0.1")]
    assert forgiving[0]["value"] == pytest.approx(sum(gaps) / 2) and gaps[1] > 0.1
    page = (tmp_path / "rates.md").read_text()
    right = sum(answers(0.7, folder.grid().searches(folder.grid().rows[3])[0].name)) / 3
    line = next(one for one in page.splitlines() if one.startswith("| DuDe | 16 | **"))
    assert line.startswith(f"| DuDe | 16 | **{right:.1f}** |") and line.endswith("| 300 |")
    assert "lr 0.001 | lr 0.01 | lr 0.1 | within 1 point | next rate | n |" in page
    assert "| 0.001 | " in line and f"| {100 * rates['dude']['0.01'] - right:+.1f} | 300 |" in line
    picture = (tmp_path / "rates.svg").read_text()
    assert "mini_gpqa, r=16" in picture and "mini_csqa" not in picture and (tmp_path / "rates.png").is_file()


def test_a_method_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    search(started(tmp_path, "rates", "methods=[dude]", *SMALL)["gpqa"], "mini_gpqa")
    made = write_report(tmp_path)["rates"]
    assert [claim["compared"] for claim in made["claims"]] == [[], []] and made["figures"] == ["rates"]


def test_whole_runs_with_the_next_rate_are_judged_by_pairs(tmp_path: Path) -> None:
    folder = started(tmp_path, "rates", *SMALL)["above-gpqa"]
    grid = folder.grid()
    assert {row.learning_rate for row in collect(folder).rows} == {None}  # not known before the search
    search(folder, "mini_gpqa")
    above = {"lora": 1e-1, "dora": 1e-1, "pissa": 1e-2, "dude": 1e-2}
    assert {row.method: row.learning_rate for row in collect(folder).rows} == above
    runs = [cell for row in grid.rows for cell in grid.runs(row, above[row.method.name])]
    shares = {"lora": 0.5, "dora": 0.5, "pissa": 0.4, "dude": 0.6}
    for cell in runs:
        method = cell.settings.method.name
        finish(folder, cell, {"mini_gpqa": answers(shares[method], (method, cell.settings.train.seed))})
    made = write_report(tmp_path)["rates"]
    found = {one["what"]: one["word"] for one in made["claims"][1]["compared"] if one["part"] == "above-gpqa"}
    assert found == {
        "DuDe r=16 against PiSSA": "significantly higher",
        "DoRA r=16 against LoRA": "no significant difference",
    }
    assert not [one for one in made["claims"][0]["compared"] if one["part"] == "above-gpqa"]
    assert "comparisons of accuracy" not in (tmp_path / "README.md").read_text()  # the margins are at the best rates
    assert "Not the chosen learning rate but the next larger one: LoRA r=16, DoRA r=16" in " ".join(
        report(folder)["notes"]
    )


def test_above_the_largest_rate_there_is_none(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, learning_rates=[1e-3, 1e-2], search={"above": True})
    for row in grid.rows:
        for cell, share in zip(grid.searches(row), (0.3, 0.6), strict=True):
            finish(folder, cell, {"mini_csqa": answers(share, cell.name)})
    choice = choose(grid, grid.rows[0], folder)
    assert choice is not None and choice.learning_rate is None and "none above" in str(choice.warning)


def test_the_rates_above_are_the_next_to_the_chosen() -> None:
    """In `studies/mini`, on the grid that they were chosen from."""
    study = StudyFolder(ROOT / "studies" / "mini")
    for above, searched in (("above-gpqa", "gpqa"), ("above-mmlu", "ranks")):
        rows = json.loads(study.comparison(searched).search.read_text())["rows"]
        for row in collect(study.comparison(above)).rows:
            chosen = rows[f"{row.method}-r{row.r}"]
            tried = [one["learning_rate"] for one in chosen["candidates"]]
            assert row.learning_rate == tried[tried.index(chosen["learning_rate"]) + 1] and len(row.runs) == 5


def test_without_a_search_nothing_is_drawn_and_the_paper_has_none(tmp_path: Path) -> None:
    started(tmp_path, "rates", *PLAIN)
    made = write_report(tmp_path)["rates"]
    assert made["figures"] == [] and {one["word"] for one in made["claims"]} == {"-"}
    with pytest.raises(DudeError, match="at scale paper"):
        chosen("rates", "paper")


def test_the_plateau_is_the_rates_around_the_best_within_a_point() -> None:
    found = {"0.0001": 0.5, "0.001": 0.49, "0.003": 0.5, "0.01": 0.492, "0.03": 0.489, "0.1": 0.498}
    assert plateau(found, "0.003") == ("0.0001", "0.01")  # exactly a point below counts; what is beyond a dip does not
    assert plateau({**found, "0.1": 0.6}, "0.1") == ("0.1", "0.1")
    assert plateau({"0.1": 0.3}, "0.1") == ("0.1", "0.1")


def test_full_fine_tuning_is_in_the_panel_of_a_rank_and_has_none_alone(tmp_path: Path) -> None:
    def row(method: str, r: int | None) -> SimpleNamespace:
        found = [{"learning_rate": rate, "accuracy": 0.5} for rate in (1e-3, 1e-2)]
        return SimpleNamespace(method=method, r=r, label=method, candidates=found)

    def drawn(*rows: SimpleNamespace) -> bool:
        one: Any = SimpleNamespace(searched=True, trained_on="set", results=SimpleNamespace(rows=rows))
        return draw([one], tmp_path / "rates.svg")

    assert not drawn(row("full", None))
    assert drawn(row("full", None), row("dude", 16))
    picture = (tmp_path / "rates.svg").read_text()
    assert "r=None" not in picture and "r=16" in picture and ">full<" in picture
