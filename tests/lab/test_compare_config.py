"""Mistakes in a comparison's YAML: exit code 2, key and remedy, nothing written. And what a good one stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_tools import begin, raw, runs
from test_cli_train import dude

from dude_lab.compare.grid import Grid, check_questions
from dude_lab.config.compare_settings import parse_comparison
from dude_peft.errors import DudeError

SEARCH = {"learning_rates": [1e-3, 3e-3]}

MISTAKES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"methodz": ["lora"]}, ("unknown key 'methodz'", "'methods'")),
    ({"methods": []}, ("'methods'",)),
    ({"methods": ["lora", "dorra"]}, ("methods, entry 2", "unknown method 'dorra'", "'dora'")),
    ({"methods": ["lora", {"name": "full", "r": 2}]}, ("entry 2", "'full' has no key 'r'", "Remove it")),
    ({"methods": ["lora", "lora"]}, ("entry 2", "lora-r16", "another label")),
    ({"methods": ["lora", {"name": "lora", "label": "again"}]}, ("'lora-r16' and 'again-r16' are the same run",)),
    ({"methods": [{"name": "lora", "label": "..."}]}, ("label",)),
    ({"methods": [{"name": "lora", "learning_rates": [-1]}]}, ("learning_rates: a list of numbers above 0", "-1")),
    (
        {"methods": ["lora", {"name": "dora", "learning_rates": [1e-3, 2e-3]}]},
        ("the same number", "lora-r16 1, dora-r16 2"),
    ),
    ({"shared": {"target_module": ["q_proj"]}}, ("shared", "'target_module'", "'target_modules'")),
    ({"ranks": [0]}, ("'r'", "greater than or equal to 1")),
    ({"ranks": [2, 2]}, ("'ranks'", "each value once")),
    ({"seeds": []}, ("'seeds'",)),
    ({"seeds": [-1]}, ("'train.seed'",)),
    ({"learning_rates": [0]}, ("'learning_rates'", "above 0")),
    ({"run": {"model": "mini", "data": {"name": "mini_gsm"}, "method": "lora"}}, ("'run.method'", "under methods")),
    (
        {"run": {"model": "mini", "data": {"name": "mini_gsm"}, "train": {"seed": 3}}},
        ("'run.train.seed'", "write seeds at the top level"),
    ),
    ({"run": {"model": "mini", "data": {"name": "mini_gsn"}}}, ("data.name", "'mini_gsm'")),
    (
        {"run": {"model": "mini", "data": {"name": "mini_gsm"}, "train": {"stepz": 3}}},
        ("run: unknown key 'train.stepz'", "'steps'"),
    ),
    ({**SEARCH, "search": {"eval": {"split": "test"}}}, ("never chosen on the test split",)),
    (
        {**SEARCH, "run": {"model": "mini", "data": {"name": "mini_gsm"}}},
        ("no questions to choose among them by", "search.eval: null"),
    ),
    ({**SEARCH, "search": {"eval": None}}, ("run.data.validation is not set",)),
    (
        {
            **SEARCH,
            "run": {
                "model": "mini",
                "data": {"name": "mini_gsm"},
                "eval": {"suite": "mini_csqa", "split": "validation"},
            },
        },
        ("mini_csqa, split 'validation'", "run.eval.skip"),
    ),
    (
        {
            **SEARCH,
            "run": {"model": "mini", "data": {"name": "mini_gsm"}, "eval": {"suite": "commonsense_qa"}},
        },
        ("commonsense_qa, split 'validation'", "run.eval.skip"),  # without a split it is that of the search
    ),
    ({"jobs": 0}, ("'jobs'",)),
]


@pytest.mark.parametrize(
    ("changes", "words"), MISTAKES, ids=lambda one: "-".join(one)[:40] if isinstance(one, dict) else ""
)
def test_a_mistake_is_told_with_its_remedy_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    config = tmp_path / "compare.yaml"
    values = raw(tmp_path) | changes
    config.write_text(yaml.safe_dump(values))
    result = dude("compare", config)
    assert result.exit_code == 2, result.output
    for word in words:
        assert word in result.stderr
    assert list(tmp_path.iterdir()) == [config]


def test_a_run_config_and_a_foreign_folder_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("model: mini\nmethod: lora\n")
    assert "use `dude train`" in dude("compare", config).stderr
    config.write_text(yaml.safe_dump(raw(tmp_path)))
    (tmp_path / "compare").mkdir()
    (tmp_path / "compare" / "thesis.tex").touch()
    result = dude("compare", config)
    assert result.exit_code == 2 and "holds no comparison (thesis.tex)" in result.stderr
    result = dude("compare", tmp_path / "nowhere")
    assert result.exit_code == 2 and "no such folder" in result.stderr


def grid(folder: Path, **changes: Any) -> Grid:
    return Grid(parse_comparison(raw(folder, **changes)), "weights", folder)


def test_rows_are_methods_times_ranks_where_there_is_a_rank(tmp_path: Path) -> None:
    made = grid(tmp_path, methods=["lora", {"name": "dora", "r": 4}, "full"], ranks=[2, 8])
    assert [row.name for row in made.rows] == ["lora-r2", "lora-r8", "dora-r4", "full-fine-tuning"]
    cell = runs(made)["lora-r8"][0]
    assert cell.settings.method.r == 8  # type: ignore[attr-defined]
    assert cell.settings.method.target_modules == ["q_proj", "v_proj"]  # type: ignore[attr-defined]
    assert [one.settings.train.seed for one in runs(made)["lora-r8"]] == [1, 2, 3]


def test_a_key_changes_with_what_determines_the_result_and_with_nothing_else(tmp_path: Path) -> None:
    def keys(**changes: Any) -> list[str]:
        return [cell.name.rpartition("-")[2] for row in runs(grid(tmp_path, **changes)).values() for cell in row]

    first = keys()
    assert len(set(first)) == 9
    assert keys(output="elsewhere", jobs=2, threads=2) == first
    assert keys(seeds=[3, 1], methods=["lora"]) == [first[2], first[0]]
    labelled = grid(tmp_path, methods=[{"name": "lora", "label": "mine"}], seeds=[1])
    assert runs(labelled)["mine-r16"][0].name.endswith(first[0])
    for other in ({"learning_rates": [2e-3]}, {"shared": {"r": 2}, "methods": ["lora"]}):
        assert not set(keys(**other)) & set(first)
    reweighed = Grid(parse_comparison(raw(tmp_path)), "other weights", tmp_path)
    assert not {cell.name for row in runs(reweighed).values() for cell in row} & {
        cell.name for row in runs(grid(tmp_path)).values() for cell in row
    }


def test_searches_are_on_validation_and_never_on_the_questions_of_the_table(tmp_path: Path) -> None:
    made = grid(tmp_path, **SEARCH, search={"steps": 5, "seed": 9, "eval": {"limit": 7}})
    for row in made.rows:
        cells = made.searches(row)
        assert [cell.settings.train.learning_rate for cell in cells] == [1e-3, 3e-3]
        for cell in cells:
            asked = cell.settings.eval
            assert asked is not None and (asked.suite, asked.split, asked.limit) == ("mini_csqa", "validation", 7)
            assert (cell.settings.train.steps, cell.settings.train.seed) == (5, 9)
    for cell in grid(tmp_path, **SEARCH).searches(made.rows[0]):  # and so without a `search` section
        assert cell.settings.eval is not None and cell.settings.eval.split == "validation"
    assert made.base_run is not None and made.base_run.settings.eval.split is None  # type: ignore[union-attr]


def test_a_search_asks_the_questions_that_the_table_skips(tmp_path: Path) -> None:
    run = {**SEARCH, "run": {**grid(tmp_path, **SEARCH).settings.run, "eval": {"suite": "mini_csqa", "skip": 7}}}
    made = grid(tmp_path, **run, search={"eval": {"limit": 7}})
    [searched] = {run.settings.eval.skip for run in made.searches(made.rows[0])}  # type: ignore[union-attr]
    [asked] = {run.settings.eval.skip for run in made.runs(made.rows[0], 1e-3)}  # type: ignore[union-attr]
    assert (searched, asked) == (None, 7)
    check_questions(made)  # of other splits
    overlapping = {**run["run"], "eval": {"suite": "commonsense_qa", "skip": 6}}
    with pytest.raises(DudeError, match="commonsense_qa, split 'validation'"):
        check_questions(grid(tmp_path, **{**run, "run": overlapping}, search={"eval": {"limit": 7}}))
    check_questions(grid(tmp_path, **{**run, "run": overlapping}, search={"eval": {"limit": 6}}))


def test_the_folder_means_the_same_comparison_wherever_it_is_moved(tmp_path: Path) -> None:
    folder, made = begin(tmp_path)
    moved = folder.path.rename(tmp_path / "moved")
    from dude_lab.compare.comparison_folder import ComparisonFolder

    names = [cell.name for row in runs(ComparisonFolder(moved).grid()).values() for cell in row]
    assert names == [cell.name for row in runs(made).values() for cell in row]
