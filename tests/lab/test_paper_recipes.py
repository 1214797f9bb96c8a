"""The paper's experiments as recipes: they say what the paper says, and a dry run costs nothing."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from test_cli_train import dude

from dude_lab.compare.grid import Grid
from dude_lab.paper import published
from dude_lab.paper.budget import cost
from dude_lab.paper.experiments import ALL, COMPARISONS, EXPERIMENTS, Experiment, at, chosen
from dude_lab.paper.recipe import StudyComparison, comparisons_of
from dude_lab.paper.shapes import shapes

NOWHERE = Path("nowhere")


def comparisons(
    scale: Any, *overrides: str, name: str = "all", rows: tuple[str, ...] = ()
) -> dict[str, StudyComparison]:
    return {
        comparison.name: comparison
        for comparison in comparisons_of(chosen(name, scale), scale, NOWHERE, overrides, rows)
    }


def grid(comparison: StudyComparison) -> Grid:
    return Grid(comparison.settings, comparison.model.name, NOWHERE)


def cells(comparison: StudyComparison) -> set[str]:
    made = grid(comparison)
    every = [cell for row in made.rows for rate in row.learning_rates for cell in made.runs(row, rate)]
    return {cell.name for cell in [*every, *(cell for row in made.rows for cell in made.searches(row))]}


@pytest.mark.parametrize("scale", ["paper", "small", "mini"])
def test_a_dry_run_of_everything_needs_no_network_and_writes_nothing(
    scale: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a dry run asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    said = dude("reproduce", "all", "--scale", scale, "--dry-run")
    assert said.exit_code == 0, said.output
    assert list(tmp_path.iterdir()) == []
    for comparison in comparisons(scale).values():
        assert comparison.spec.name in said.stdout and comparison.model.name.rsplit("/", 1)[-1] in said.stdout
        assert all(text in said.stdout for text in comparison.recipe.chosen)
    assert "3,086" in said.stdout if scale == "paper" else "core-hours" in said.stdout


def test_the_help_names_every_experiment() -> None:
    said = dude("reproduce", "--help")
    assert {"calibration", "rates"} < set(EXPERIMENTS)
    assert f"{', '.join(EXPERIMENTS)}, or {ALL}." in " ".join(said.stdout.replace("│", " ").split())


@pytest.mark.parametrize("experiment", at("paper"), ids=lambda one: one.name)
def test_each_experiment_has_a_dry_run_of_its_own(experiment: Experiment) -> None:
    said = dude("reproduce", experiment.name, "--scale", "paper", "--dry-run")
    assert said.exit_code == 0, said.output
    for spec in experiment.comparisons:
        assert spec in said.stdout


def test_the_shapes_are_those_of_the_models() -> None:
    assert {comparison.model.name for comparison in comparisons("paper").values()} <= set(shapes())
    for name, shape in shapes().items():
        assert shape.counted == shape.parameters, name


def test_a_shape_counts_what_the_real_architecture_counts() -> None:
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    from dude_lab.methods import parse_method
    from dude_lab.training.run_plan import trainable_part

    shape = shapes()["Qwen/Qwen2.5-0.5B"]
    config = Qwen2Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in model.parameters()) == shape.counted
    dude_r32 = parse_method({"name": "dude", "r": 32, "target_modules": ["q_proj", "v_proj"]})
    assert trainable_part(model, dude_r32).trainable == cost(comparisons("paper", name="table3")["ranks"]).trainable


def test_the_paper_recipes_say_what_the_paper_says() -> None:
    found = comparisons("paper")
    batches = {  # Tables 5, 6, 7 and Section 4.2
        "commonsense": (1, 20, 1),
        "gpqa": (4, 1, 1),
        "mmlu": (1, 100, 1),
        "curves": (8, 16, 3),
        "gsm": (8, 16, 1),
    }
    for comparison in found.values():
        made = grid(comparison)
        assert comparison.settings.learning_rates == [2e-5]
        for row in made.rows:
            run = made.runs(row, 2e-5)[0].settings
            train = run.train
            assert (train.schedule, train.warmup) == ("cosine", 0.03)
            assert (train.batch_size, train.gradient_accumulation, train.epochs) == batches[comparison.recipe_name]
            if row.method.name != "full":
                fused = comparison.model.paper == "Phi4 small"
                assert row.method.target_modules == (["qkv_proj"] if fused else ["q_proj", "v_proj"])  # type: ignore[attr-defined]
    assert found["seeds-metamath"].settings.seeds == [42, 78, 512, 1234, 3407]
    assert sorted({row.r for row in grid(found["ranks"]).rows}) == [2, 4, 8, 16, 32]  # type: ignore[type-var]
    assert {row.r for row in grid(found["variants-mmlu"]).rows} == {32}
    curves = found["curves"]
    assert cost(curves).steps == 3000 and curves.settings.run["eval"]["every"] == 200
    assert [row.method.name for row in grid(curves).rows] == ["full", "lora", "dora", "pissa", "dude"]
    assert curves.settings.run["data"] == {"name": "metamathqa", "sample": 128000, "seed": 42}
    assert found["gpqa-phi-4"].settings.run["data"]["name"] == "gpqa_main_extended"


def test_every_model_of_the_paper_has_its_part_and_its_numbers() -> None:
    for spec in COMPARISONS.values():
        if spec.published is None:
            continue
        mine = [comparison for comparison in comparisons("paper").values() if comparison.spec.name == spec.name]
        assert {comparison.model.paper for comparison in mine} == set(published.models(spec.published))
        for comparison in mine:
            for row in grid(comparison).rows:
                told = published.values(spec.published, row.method.name, row.r, comparison.model.paper)
                assert {column.key for column in spec.columns} <= set(told[str(comparison.model.paper)])


def test_an_override_does_not_outlive_its_call() -> None:
    def runs(*overrides: str) -> dict[str, set[str]]:
        return {
            name: cells(comparison) for name, comparison in comparisons("mini", *overrides, name="calibration").items()
        }

    before = runs()
    assert runs("learning_rates=[1e-3]") != before
    assert runs() == before


def test_the_published_numbers_are_consistent() -> None:
    for row in published.rows("commonsense"):
        sets = [value for key, value in row.items() if key not in ("model", "method", "r", "avg")]
        assert len(sets) == 8 and sum(sets) / 8 == pytest.approx(row["avg"], abs=0.011), row
    assert len(published.rows("gpqa")) == 16 and len(published.rows("mmlu")) == 22
    gsm = {row["method"]: row["accuracy"] for row in published.rows("gsm")}
    for row in published.rows("seeds"):
        assert row.get("best") in (None, gsm[row["method"]]) or row["method"] == "pissa"


def test_what_two_tables_need_is_run_once() -> None:
    for scale in ("mini", "paper"):
        found = comparisons(scale)
        r32 = {name for name in cells(found["ranks"]) if "r32" in name}
        assert r32 and r32 < cells(found["variants-mmlu"])
        assert cells(found["seeds-metamath"]) & cells(found["variants-metamath"])
    mini = comparisons("mini")
    assert cells(mini["seeds-metamath"]) < cells(mini["curves"])
    assert cells(mini["seeds-gsm"]) == cells(mini["variants-gsm"]) & cells(mini["calibration-gsm"])


def test_a_scale_has_the_parts_that_its_recipes_make() -> None:
    assert {name for name in comparisons("paper") if name.endswith("-gsm")} == set()
    assert {one.name: one.comparisons for one in at("paper")}["seeds"] == ("seeds-metamath",)
    seeds = {
        name: row for name, comparison in comparisons("mini", name="seeds").items() for row in grid(comparison).rows[:1]
    }
    assert list(seeds) == ["seeds-metamath", "seeds-gsm"]
    assert all((row.method.name, row.r) == ("lora", 16) for row in seeds.values())


def test_all_of_mini_fits_into_six_and_a_half_hours_on_two_cores() -> None:
    found = comparisons("mini").values()
    assert all(len(comparison.settings.seeds) >= 5 and comparison.settings.jobs == 2 for comparison in found)
    hours: dict[str, float] = {}
    for comparison in found:
        hours |= cost(comparison).run_hours
    assert 0.5 < sum(hours.values()) / 2 <= 6.5


def test_overrides_reach_every_part_and_rows_can_be_picked() -> None:
    changed = comparisons("mini", "run.train.steps=2", "seeds=[7]")
    assert all(
        comparison.settings.run["train"]["steps"] == 2 and comparison.settings.seeds == [7]
        for comparison in changed.values()
    )
    rates = comparisons("mini", "learning_rates=[1e-2]", name="figure2")["curves"]
    assert {row.learning_rates for row in grid(rates).rows} == {(1e-2,)}
    picked = comparisons("mini", name="table3", rows=("dude-r16",))["ranks"]
    whole = comparisons("mini", name="table3")["ranks"]
    assert picked.only == ("dude-r16",) and picked.settings == whole.settings  # the table has the other rows too
    mine, all_rows = cost(picked), cost(whole)
    assert mine.runs * len(grid(whole).rows) == all_rows.runs and mine.run_hours.items() < all_rows.run_hours.items()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tabel1",), "Did you mean 'table1'"),
        (("table1", "--scale", "tiny"), "mini, small, paper"),
        (("calibration", "--scale", "paper"), "at scale paper"),
        (("table3", "--row", "dude-r3", "--dry-run"), "dude-r32"),
        (("table3", "--row", "dude-r2", "--row", "full", "--dry-run"), "lora-r2, lora-r4"),
        (("table1", "run.train.stps=3", "--dry-run"), "steps"),
        (("table1", "run.model=elsewhere", "--dry-run"), "shape of 'elsewhere'"),
    ],
)
def test_mistakes_are_told(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    said = dude("reproduce", *words, "-o", tmp_path / "out")
    assert said.exit_code == 2 and told in said.stderr, said.output
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_or_of_the_other_scale_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    said = dude("reproduce", "table1", "--dry-run", "-o", tmp_path)
    assert said.exit_code == 2 and "notes.txt" in said.stderr
    (tmp_path / "reproduction.json").write_text('{"scale": "paper"}')
    said = dude("reproduce", "table1", "--dry-run", "-o", tmp_path)
    assert said.exit_code == 2 and "at scale paper" in said.stderr


def test_guessing_has_right_what_the_numbers_of_choices_say() -> None:
    from dude_lab.data.catalogue import named_set

    asked = {"calibration-csqa": "mini_csqa", "calibration-gpqa": "mini_gpqa", "calibration-mmlu": "mini_mmlu"}
    seen = 0
    for spec in COMPARISONS.values():
        for column in spec.columns:
            name = f"mini_{column.task}" if column.task else asked.get(spec.name)
            if column.chance and name:
                questions = named_set(name).examples("test", limit=50)
                assert {len(one.choices) for one in questions} == {round(1 / column.chance)}, name  # type: ignore[union-attr]
                seen += 1
    assert seen == 11
