"""Runs without questions: the validation loss during training, and where it is shown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_train_run import curves
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.compare.results import collect_runs
from dude_lab.compare.table import columns, make_table, markdown
from dude_lab.training.record import perplexity
from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Tiny:  # noqa: F811
    """A run that computes the validation loss every two steps."""
    made = Tiny(tiny_base, tmp_path_factory.mktemp("validation"))
    made.raw["data"]["validation"] = 0.2
    made.raw["eval"] = {"every": 2}
    train(made.settings())
    return made


def test_the_validation_loss_every_n_steps(finished: Tiny) -> None:
    points = [r for r in curves(finished.output) if "eval_loss" in r]
    assert [p["step"] for p in points] == [0, 2, 4, 6] and all(set(p) == {"step", "eval_loss"} for p in points)
    assert points[-1]["eval_loss"] < points[0]["eval_loss"]


def test_neither_questions_nor_validation_data_is_refused(tiny: Tiny) -> None:  # noqa: F811
    tiny.raw["eval"] = {"every": 2}
    with pytest.raises(DudeError, match="no questions, and there is no validation data: set "):
        tiny.settings()


def test_the_plan_names_the_validation_loss(finished: Tiny) -> None:
    found: dict[str, str] = {}
    make_plan(finished.settings(), lambda name, text, error: found.update({name: text}))
    assert found["evaluation"] == "validation loss every 2 steps"


def test_tables_and_page_show_it_and_no_column_is_empty(finished: Tiny, tmp_path: Path) -> None:
    from dude_lab.report import write_page

    table = make_table(collect_runs([finished.output]))
    heads, rows = columns(table)
    loss = curves(finished.output)[-1]["eval_loss"]
    row = dict(zip(heads, rows[-1], strict=True))
    assert row["val. loss"] == f"{loss:.3f}" and row["perplexity"] == f"{math.exp(loss):.4g}"
    assert all(set(column) - {"-", ""} for column in zip(*rows, strict=True))
    page = write_page([finished.output], tmp_path / "page").read_text(encoding="utf-8")
    assert "Validation loss (nats per token)" in page and '<th scope="col">val. loss</th>' in page
    for text in (markdown(table), page):
        assert "None" not in text.partition("<script>")[0]


def test_a_run_without_validation_has_no_such_columns(tiny: Tiny) -> None:  # noqa: F811
    train(tiny.settings("train.steps=1", "train.warmup=0"))
    heads, _ = columns(make_table(collect_runs([tiny.output])))
    assert not {"val. loss", "perplexity", "n"} & set(heads) and not any("accuracy" in head for head in heads)


def test_the_summary_of_a_run_shows_loss_and_perplexity(finished: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    from dude_lab.cli.train import show_summary

    show_summary(train(finished.settings(), resume="auto"))
    before, *_, after = (r["eval_loss"] for r in curves(finished.output) if "eval_loss" in r)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"validation loss {before:.4f} -> {after:.4f}" in shown
    assert f"perplexity {math.exp(before):.4g} -> {math.exp(after):.4g}" in shown


def test_a_perplexity_too_large_for_a_float_is_infinite() -> None:
    assert perplexity(0.0) == 1.0 and perplexity(1e4) == math.inf


def test_the_picture_of_a_comparison_has_validation_losses(finished: Tiny, tmp_path: Path) -> None:
    """In place of the accuracy, which runs without questions do not have."""
    from dude_lab.compare import comparison_plot

    titles: list[str] = []
    original = comparison_plot._losses

    def losses(axes, *rest):
        original(axes, *rest)
        titles.append(axes.get_title("left"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison_plot, "_losses", losses)
        comparison_plot.draw(collect_runs([finished.output]), tmp_path / "curves.png")
    assert titles == ["Validation loss (nats per token)", "Training loss (nats per token)"]
