"""The ablation: what each part of DuDe contributes, from made-up runs whose effects are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from comparison_tools import finish
from conftest import ROOT
from test_paper_report import answers, started

from dude_lab.compare.rows import expand_rows
from dude_lab.paper import ablation
from dude_lab.paper.experiment_page import experiment_page
from dude_lab.paper.experiments import chosen
from dude_lab.paper.recipe import comparisons_of
from dude_lab.paper.study_report import write_report

FIXED = ("learning_rates=[1e-3]", "seeds=[42, 78, 512]")
SHARES = {
    ablation.EXACT: 0.8,
    ablation.DETACHED: 0.8,
    ablation.RANDOM: 0.5,
    ablation.RANDOM_DETACHED: 0.5,
    ablation.PISSA: 0.6,
    ablation.PISSA_RANDOM: 0.5,
}


def finished(folder: Path, *, without: str = "") -> dict[str, dict[str, Any]]:
    """Every run but those of one row, and what is written of them: claim -> what -> difference."""
    comparison = started(folder, "ablation", *FIXED)["ablation"]
    grid = comparison.grid()
    for row in grid.rows:
        for cell in grid.runs(row, 1e-3) if row.label != without else ():
            finish(comparison, cell, {"mini_gpqa": answers(SHARES[row.label], "same")})
    made = write_report(folder)["ablation"]
    return {
        claim["claim"]: {one["what"]: one for one in claim["compared"] if one["part"] == "ablation"}
        for claim in made["claims"]
    }


def test_effects_are_mean_differences_of_the_pairs_that_differ_in_one_part(tmp_path: Path) -> None:
    effects, interactions = finished(tmp_path).values()
    right = {label: sum(answers(share, "same")) / 300 for label, share in SHARES.items()}

    def gap(one: str, other: str) -> float:
        return right[one] - right[other]

    a = ablation
    wanted = {
        "exact gradient over detached norm": 0.0,
        "singular vectors of the weight over random ones": (2 * gap(a.EXACT, a.RANDOM) + gap(a.PISSA, a.PISSA_RANDOM))
        / 3,
        "magnitude over none (exact gradient)": (gap(a.EXACT, a.PISSA) + gap(a.RANDOM, a.PISSA_RANDOM)) / 2,
    }
    assert {what: one["value"] for what, one in effects.items()} == pytest.approx(wanted, abs=1e-9)
    assert wanted["singular vectors of the weight over random ones"] > 0.15
    words = [one["word"] for one in effects.values()]
    assert words == ["no significant difference", "significantly higher", "significantly higher"]
    together = gap(a.EXACT, a.RANDOM) - gap(a.PISSA, a.PISSA_RANDOM)
    assert interactions["magnitude x vectors"]["value"] == pytest.approx(together, abs=1e-9)
    assert interactions["gradient x vectors"]["value"] == 0
    low, high = (interactions["magnitude x vectors"][end] for end in ("low", "high"))
    assert low < together < high and interactions["magnitude x vectors"]["word"] == "significantly higher"


def test_a_missing_row_leaves_its_effects_open(tmp_path: Path) -> None:
    effects, interactions = finished(tmp_path, without=ablation.PISSA_RANDOM).values()
    assert effects["exact gradient over detached norm"]["value"] == 0
    assert effects["magnitude over none (exact gradient)"]["value"] is None
    assert interactions["magnitude x vectors"]["word"] == "-" and interactions["gradient x vectors"]["value"] == 0


@pytest.mark.parametrize("scale", ["mini", "small"])
def test_the_recipes_have_the_six_rows(scale: str, tmp_path: Path) -> None:
    for comparison in comparisons_of(chosen("ablation", scale), scale, tmp_path):  # type: ignore[arg-type]
        assert {row.label for row in expand_rows(comparison.settings, "x")} == set(ablation.ABLATED)


def test_one_rate_for_all_rows_is_used_without_a_search(tmp_path: Path) -> None:
    found = {one.name: one for one in comparisons_of(chosen("ablation", "small"), "small", tmp_path)}
    rates = {
        name: {row.learning_rates for row in expand_rows(one.settings, "x")}
        for name, one in found.items()
        if one.spec.learning_rate is not None
    }
    assert rates == {"ablation-lr0.003": {(0.003,)}, "ablation-lr0.01": {(0.01,)}}
    assert {name.partition("-lr")[0] for name in found} == {"ablation", "ablation-above"}
    assert not any("-lr" in one.name for one in comparisons_of(chosen("ablation", "mini"), "mini", tmp_path))


def test_a_rate_for_all_rows_can_be_overridden(tmp_path: Path) -> None:
    made = comparisons_of(chosen("ablation", "small"), "small", tmp_path, ["learning_rates=[0.02]"])
    (one,) = [one for one in made if one.name == "ablation-lr0.01"]
    assert {row.learning_rates for row in expand_rows(one.settings, "x")} == {(0.02,)}


def test_a_page_of_several_tables_says_which_is_which() -> None:
    made = json.loads((ROOT / "studies/mini/ablation.json").read_text())
    several = experiment_page(made)
    assert "\nComparison `ablation`: model `mini` fine-tuned on" in several
    assert "\nComparison `ablation-above`: model `mini` fine-tuned on" in several
    alone = experiment_page({**made, "tables": made["tables"][:1]})
    assert "\nModel `mini` fine-tuned on" in alone and "Comparison" not in alone
