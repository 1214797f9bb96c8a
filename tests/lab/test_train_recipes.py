"""Every shipped recipe is a config that can be run."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from dude_lab.compare.comparison import plan_comparison
from dude_lab.config.compare_settings import load_comparison
from dude_lab.config.yaml_file import load_config
from dude_lab.training.run_plan import make_plan

ALL = sorted((ROOT / "recipes").glob("*.yaml"))
COMPARISONS = [path for path in ALL if path.name.startswith("compare")]
RECIPES = [path for path in ALL if path not in COMPARISONS]


def test_there_are_recipes() -> None:
    assert {"mini_gsm_dude.yaml", "gsm8k_dude.yaml", "commonsense_qa_dude.yaml"} <= {p.name for p in RECIPES}
    assert {"compare_demo.yaml"} <= {p.name for p in COMPARISONS}


def test_the_demo_passes_every_check(tmp_path: Path) -> None:
    path = ROOT / "recipes" / "compare_demo.yaml"
    plan = plan_comparison(path, [f"output={tmp_path / 'comparison'}", "run.data.limit=200", "run.eval.limit=5"])
    assert plan.run_count > len(plan.grid.rows) > 1
    assert not (tmp_path / "comparison").exists()


def test_the_demo_with_smollm2_passes_every_check(real_data: Path, tmp_path: Path) -> None:
    """On another model, as SmolLM2 may not have been fetched."""
    path = ROOT / "recipes" / "compare_smollm2.yaml"
    roots = [f"run.data.root={real_data}", f"run.eval.root={real_data}"]
    assert load_comparison(path).run["model"]["name"] == "smollm2"
    plan = plan_comparison(path, ["run.model=mini", f"output={tmp_path / 'comparison'}", *roots])
    assert plan.run_count > len(plan.grid.rows) > 1
    assert not (tmp_path / "comparison").exists()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_is_a_config_named_after_its_run(path: Path) -> None:
    settings = load_config(path)
    assert settings.output == Path("runs") / path.stem


@pytest.mark.parametrize("path", [p for p in RECIPES if p.name.startswith("mini")], ids=lambda p: p.name)
def test_a_mini_recipe_passes_every_check(path: Path, tmp_path: Path) -> None:
    plan = make_plan(load_config(path, [f"output={tmp_path / 'run'}", "data.limit=200", "eval.limit=5"]))
    assert plan.steps > 0 and plan.part.targets and not plan.notes


@pytest.mark.parametrize(("name", "count"), [("gsm8k_dude", 7473), ("commonsense_qa_dude", 9741)])
def test_a_real_recipe_passes_every_check(name: str, count: int, real_data: Path, tmp_path: Path) -> None:
    path = next(p for p in RECIPES if p.stem == name)
    overrides = [f"output={tmp_path / 'run'}", f"data.root={real_data}", f"eval.root={real_data}"]
    plan = make_plan(load_config(path, overrides))
    assert len(plan.data.train) == count
    assert plan.train.dropped == 0
