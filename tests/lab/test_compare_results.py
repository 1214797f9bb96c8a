"""The table, its verdicts and its picture, from runs written by hand: a pure function of the folder."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparison_tools import begin, finish, runs
from test_cli_train import dude

from dude_lab.compare.comparison_plot import spread
from dude_lab.compare.comparison_report import report
from dude_lab.compare.results import collect
from dude_lab.compare.search import choose
from dude_lab.compare.table import markdown


def answers(share: float, seed: int, n: int = 200) -> list[int]:
    rng = random.Random(seed)
    return [int(rng.random() < share) for _ in range(n)]


def filled(tmp_path: Path, shares: dict[str, float], **changes: Any) -> Any:
    folder, grid = begin(tmp_path, **changes)
    for number, (row, cells) in enumerate(runs(grid).items()):
        for cell in cells:
            seed = cell.settings.train.seed + 100 * number
            finish(folder, cell, {"mini_csqa": answers(shares[row], seed)}, loss=3 - shares[row])
    finish(folder, grid.base_run, {"mini_csqa": answers(0.2, 0)})
    return folder


SHARES = {"lora-r16": 0.5, "dora-r16": 0.8, "full-fine-tuning": 0.52}


def test_the_table_says_what_the_runs_say(tmp_path: Path) -> None:
    made = report(filled(tmp_path, SHARES))
    rows = {row["label"]: row for row in made["rows"]}
    assert list(rows) == ["base model", "LoRA", "DoRA", "Full fine-tuning"]
    dora = rows["DoRA"]
    values = [np.mean(answers(0.8, seed)) for seed in (101, 102, 103)]
    assert dora["accuracy"]["value"] == pytest.approx(np.mean(values)) and dora["accuracies"] == pytest.approx(values)
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)
    assert dora["accuracy"]["high"] == pytest.approx(np.mean(values) + half)
    assert (dora["r"], dora["n"], dora["seeds"], dora["peak_memory_bytes"]) == (16, 200, [1, 2, 3], 2**30)
    assert rows["base model"]["accuracy"]["low"] < rows["base model"]["accuracy"]["value"]


def test_the_verdict_and_bold_follow_the_differences(tmp_path: Path) -> None:
    made = report(filled(tmp_path, SHARES))
    assert made["outcome"] == [made["outcome"][0]]
    assert made["outcome"][0].startswith("DoRA r=16 has the highest accuracy")
    assert "It is significantly higher than" in made["outcome"][0] and "No significant" not in made["outcome"][0]
    assert "| DoRA | 16 | 0.001 | **" in markdown(made)
    pair = next(one for one in made["differences"] if (one["row"], one["minus"]) == ("DoRA r=16", "LoRA r=16"))
    assert pair["low"] > 0.15 and pair["p"] < 0.05


def test_rows_without_a_significant_difference_are_said_so_and_nothing_is_bold(tmp_path: Path) -> None:
    made = report(filled(tmp_path, {"lora-r16": 0.5, "dora-r16": 0.51, "full-fine-tuning": 0.9}))
    first, second = made["outcome"]
    assert first.startswith("Full fine-tuning has the highest") and "higher than" in first
    assert second.startswith("Without full fine-tuning, ") and "No significant difference from" in second
    assert [row["label"] for row in made["rows"] if row["bold"]] == ["Full fine-tuning"]


def test_the_files_are_a_pure_function_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path, SHARES)
    names = ("table.md", "table.json", "curves.png", "curves.svg")
    report(folder)
    first = {name: (folder.path / name).read_bytes() for name in names}
    for name in names:
        (folder.path / name).unlink()
    monkeypatch.setattr("dude_lab.compare.comparison_report.collect", None)  # the answers are read once
    result = dude("compare", folder.path)
    assert result.exit_code == 0, result.output
    assert {name: (folder.path / name).read_bytes() for name in names} == first
    assert "DoRA r=16 has the highest accuracy" in result.stdout and "\n base model" in result.stdout


def test_one_seed_has_an_interval_over_the_questions(tmp_path: Path) -> None:
    made = report(filled(tmp_path, SHARES, seeds=[1]))
    row = made["rows"][1]
    share = np.mean(answers(0.5, 1))
    assert row["accuracy"]["high"] - row["accuracy"]["low"] == pytest.approx(
        2 * 1.96 * np.sqrt(share * (1 - share) / 200), rel=0.03
    )
    assert any("says nothing about other seeds" in note for note in made["notes"])


def test_seeds_that_all_answer_alike_have_an_interval_over_the_questions(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora", "dora"])
    for row, cells in runs(grid).items():
        for cell in cells:
            right = 0 if row == "lora-r16" else cell.settings.train.seed
            finish(folder, cell, {"mini_csqa": [1] * right + [0] * 30})
    made = report(folder)
    alike, spread = (row["accuracy"] for row in made["rows"])
    assert (alike["value"], alike["low"]) == (0, 0)
    assert alike["high"] == pytest.approx(0.1135, abs=1e-3)  # Wilson, n = 30
    assert spread["low"] < 0.04 < spread["high"] < 0.14  # Student's t over the seeds
    assert any("seeds that have one value: 95% interval over the questions" in note for note in made["notes"])


def test_missing_and_failed_runs_are_counted_and_stay_empty(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path)
    lora, dora, _ = runs(grid).values()
    finish(folder, lora[0], {"mini_csqa": answers(0.5, 1)})
    folder.failed_path(dora[0].name).write_text(json.dumps({"error": "broken"}))
    made = report(folder)
    assert [(row["failed"], row["missing"]) for row in made["rows"]] == [(0, 2), (1, 2), (0, 3)]
    assert "| DoRA | 16 | 0.001 | - | - | 0 |" in markdown(made)
    assert "Runs that are failed: DoRA r=16 (1)." in made["notes"]


def test_runs_on_different_base_weights_are_told(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora"], seeds=[1, 2])
    for number, cell in enumerate(runs(grid)["lora-r16"]):
        finish(folder, cell, {"mini_csqa": answers(0.5, number)}, model=str(number) * 64)
    assert any("differ in base models" in note for note in report(folder)["notes"])


def test_several_tasks_have_columns_and_their_mean(tmp_path: Path) -> None:
    tasks = ["mini_boolq", "mini_piqa"]
    run = {"model": "mini", "data": {"name": "mini_csqa"}, "eval": {"tasks": tasks}}
    folder, grid = begin(tmp_path, run=run, methods=["lora", "dora"])
    for row, cells in runs(grid).items():
        for cell in cells:
            share = 0.9 if row == "dora-r16" else 0.4
            right = {
                task: answers(share, cell.settings.train.seed, n) for task, n in zip(tasks, (100, 300), strict=True)
            }
            mean = sum(sum(one) / len(one) for one in right.values()) / 2
            finish(folder, cell, right, others={"average": mean})
    made = report(folder)
    assert made["sets"] == tasks and made["headline"] == "average"
    assert made["rows"][1]["bold"] == ["accuracy", *tasks] and made["rows"][0]["n"] == 400
    assert "| boolq | piqa | mean, % |" in markdown(made)


def test_the_best_on_validation_is_chosen_and_ties_go_to_the_lower_loss(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora"], learning_rates=[1e-4, 1e-3, 1e-2, 1e-1])
    row = grid.rows[0]
    cells = grid.searches(row)
    for cell, right, loss in zip(cells[:3], ([1, 0], [1, 1], [1, 1]), (1.0, 1.5, 1.2), strict=True):
        finish(folder, cell, {"mini_csqa": right}, loss=loss)
    assert choose(grid, row, folder) is None  # one candidate has not run: no choice with an unequal budget
    folder.failed_path(cells[3].name).write_text(json.dumps({"error": "diverged"}))
    choice = choose(grid, row, folder)
    assert choice is not None and choice.learning_rate == 1e-2 and not choice.at_end and choice.warning is None
    report(folder)
    written = json.loads(folder.search.read_text())["rows"]["lora-r16"]
    assert [one.get("accuracy") for one in written["candidates"]] == [0.5, 1.0, 1.0, None]
    assert written["candidates"][3]["error"] == "diverged" and written["learning_rate"] == 1e-2
    assert collect(folder).rows[0].learning_rate == 1e-2


def test_a_best_at_the_end_of_the_grid_is_warned_of(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora"], learning_rates=[1e-3, 1e-2])
    for cell, right in zip(grid.searches(grid.rows[0]), ([1, 0], [1, 1]), strict=True):
        finish(folder, cell, {"mini_csqa": right})
    choice = choose(grid, grid.rows[0], folder)
    assert choice is not None and "0.01, is the smallest or largest of the search (0.001, 0.01)" in (
        choice.warning or ""
    )


def test_finished_runs_give_the_same_table(tmp_path: Path) -> None:
    folder = filled(tmp_path, SHARES)
    places = [folder.runs / name for row in report(folder)["rows"] for name in row.get("runs", [])]
    result = dude("compare", *places, "-o", tmp_path / "table")
    assert result.exit_code == 0, result.output
    one, two = (json.loads((place / "table.json").read_text()) for place in (folder.path, tmp_path / "table"))
    assert [row["accuracy"] for row in one["rows"][1:]] == [row["accuracy"] for row in two["rows"]]
    assert one["outcome"] == two["outcome"] and (tmp_path / "table" / "curves.png").is_file()
    twice = dude("compare", places[0], places[0])
    assert twice.exit_code == 2 and "a second run of LoRA r=16 with seed 1" in twice.stderr


def test_direct_labels_keep_their_distance_and_their_order() -> None:
    places = spread(np.array([0.1, 0.1, 0.12, 0.98, 0.99]), 0.06)
    assert np.all(np.diff(places) >= 0.06 - 1e-6) and places[-1] <= 1 + 1e-9 and places[0] >= 0
    assert list(spread(np.array([0.2, 0.8]), 0.1)) == [0.2, 0.8]
