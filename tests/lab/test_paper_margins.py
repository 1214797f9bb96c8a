"""DuDe's margin in every experiment, in one table and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from test_paper_report import PLAIN, RATES, fill, started

from dude_lab import plot_style
from dude_lab.paper import margins
from dude_lab.paper.experiments import chosen
from dude_lab.paper.recipe import comparisons_of
from dude_lab.paper.study_report import write_report


def compared(other: str, value: float | None, word: str, **more: Any) -> dict[str, Any]:
    ends = {"low": None, "high": None} if value is None else {"low": value - 0.01, "high": value + 0.01}
    return {"other": other, "part": "gpqa", "r": 16, "value": value, "word": word, **ends, **more}


def made(*compared: dict[str, Any], **models: tuple[str, str | None]) -> dict[str, Any]:
    """An experiment as `study_report` writes it; `models`: part -> its model's path and the paper's name of it."""
    tables = []
    for part in dict.fromkeys(one["part"] for one in compared):
        model, paper = models.get(part, ("mini", None))
        tables.append({"part": part, "model": model, "paper_model": paper, "trained_on": f"mini_{part.split('-')[-1]}"})
    claims = [{"compared": list(compared)}, {"compared": [{"other": "", "value": 1.0, "part": "x", "r": None}]}]
    return {"claims": claims, "tables": tables}


def test_the_table_has_a_row_for_each_rank_or_part_and_bold_where_decided() -> None:
    written = {
        "table2": made(
            compared("LoRA", 0.031, "significantly higher"), compared("PiSSA", -0.0004, "no significant difference")
        ),
        "table3": made(*(compared("LoRA", -0.02, "significantly lower", part="ranks", r=r) for r in (2, 32))),
        "table4": made(
            *(compared("LoRA", 0.01, "significantly higher", part=f"variants-{part}") for part in ("gsm", "mmlu"))
        ),
    }
    found = margins.margins_of(written)
    assert margins.markdown(found).splitlines() == [
        "| DuDe's margin, points | over LoRA | over PiSSA |",
        "|---|---:|---:|",
        "| GPQA, r=16 (Table 2) | **+3.1 [+2.1, +4.1]** | +0.0 [-1.0, +1.0] |",
        "| MMLU, r=2 (Table 3); MMLU, r=32 (Table 3) | **-2.0 [-3.0, -1.0]** | - |",
        "| GSM8K, r=16 (Table 4); MMLU, r=16 (Table 4) | **+1.0 [+0.0, +2.0]** | - |",
    ]
    assert "DuDe is significantly higher in 2 and significantly lower in 1; no significant" in margins.sentence(found)


def test_models_are_named_as_the_paper_names_them(tmp_path: Path) -> None:
    """At the scale of the paper an experiment has several models, whose paths end in 7B, v0.1, 4 and hf."""
    places = {}
    for name in ("table1", "table2"):
        comparisons = comparisons_of(chosen(name, "paper"), "paper", tmp_path)
        tables = [
            {"part": one.name, "model": one.model.name, "paper_model": one.model.paper, "trained_on": "gpqa"}
            for one in comparisons
        ]
        claims = [{"compared": [compared("LoRA", k / 100, "-", part=one.name) for k, one in enumerate(comparisons)]}]
        places |= {name: [lead.where for lead in margins.margins_of({name: {"claims": claims, "tables": tables}})]}
    assert places["table1"] == [
        f"Commonsense, {model}, r=16 (Table 1)" for model in ("Qwen1.5-7B", "Qwen2.5-32B", "LLaMA2-13B")
    ]
    assert places["table2"][2:] == [
        "GPQA, Mistral-7B v0.1, r=16 (Table 2)",
        "GPQA, Phi4 small, r=16 (Table 2)",
    ]
    other = made(compared("LoRA", 0.1, "-"), compared("LoRA", 0.2, "-", part="x"), x=("hub/Llama-2-7b-hf", None))
    assert [lead.where for lead in margins.margins_of({"table2": other})][1].startswith("mini_x, Llama-2-7b-hf")


def test_what_is_missing_is_left_out() -> None:
    assert margins.margins_of({"table2": made(compared("LoRA", None, "-"))}) == []


def test_the_readme_begins_with_it_and_the_claims_say_how_many_won(tmp_path: Path) -> None:
    folder = started(tmp_path, "table2", *PLAIN, *RATES)["gpqa"]
    fill(folder, "mini_gpqa", {"lora": 0.4, "dora": 0.8, "pissa": 0.4, "dude": 0.8})
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "DuDe is significantly higher in 2 and significantly lower in 0; no significant difference in 1." in text
    assert "| GPQA, r=16 (Table 2) | **+" in text and "](margins.png)" in text
    assert "PiSSA: no significant difference (significantly higher 2 of 3)." in text
    picture = (tmp_path / "margins.svg").read_text()
    assert "over PiSSA" in picture and "GPQA, r=16 (Table 2)" in picture
    assert (tmp_path / "margins.png").stat().st_size > 5000


def test_a_difference_of_equal_answers_has_no_interval() -> None:
    written = {"table2": made(compared("LoRA", 0.0, "no significant difference", low=0.0, high=0.0))}
    assert margins.markdown(margins.margins_of(written)).splitlines()[-1] == "| GPQA, r=16 (Table 2) | +0.0 |"


def test_experiments_that_share_runs_share_a_row() -> None:
    differences = [compared("LoRA", 0.1, "-", part="variants-metamath"), compared("LoRA", 0.1, "-", part="curves")]
    written = {name: made(one) for name, one in zip(("table4", "figure2"), differences, strict=True)}
    for one in written.values():
        one["tables"][0]["trained_on"] = "mini_metamath"
    assert [one.where for one in margins.margins_of(written)] == ["GSM8K after MetaMathQA, r=16 (Table 4, Figure 2)"]


def test_a_difference_is_counted_once_and_as_significant_if_each_table_says_so() -> None:
    higher, same = "significantly higher", "no significant difference"
    written = {
        "table1": made(compared("LoRA", 0.03, same), compared("PiSSA", 0.02, higher)),
        "seeds": made(compared("LoRA", 0.03, higher), compared("PiSSA", 0.02, higher)),
    }
    found = margins.margins_of(written)
    assert [(one.other, one.word) for one in found] == [("LoRA", same), ("PiSSA", higher)]
    assert "(Table 1, Section 4.5)" in found[0].where


def test_an_interval_that_is_cut_off_ends_in_an_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [margins.Margin(f"Table {k}", "LoRA", 0.01, 0.0, 0.02, "-") for k in range(6)]
    found.append(margins.Margin("wide", "LoRA", 0.01, -0.3, 0.02, "-"))
    drawn: list[tuple[str, float]] = []

    def look(figure: Figure, *_: Path) -> None:
        axes = figure.axes[0]
        limit = axes.get_xlim()[1]
        for line in axes.get_lines():
            x, y = line.get_xdata()[0], line.get_ydata()[0]  # type: ignore[index]
            if line.get_marker() in ("<", ">"):
                drawn.append((str(line.get_marker()), y))
                assert -limit <= x < -0.9 * limit
        assert "arrow: the interval ends outside" in str(figure._supxlabel.get_text())  # type: ignore[attr-defined]

    monkeypatch.setattr(plot_style, "save", look)
    margins.draw(found, tmp_path / "x.png")
    assert drawn == [("<", 6)]
