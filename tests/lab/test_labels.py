"""Names that a user chose appear as they are: in Markdown, on the terminal, in the HTML page and in pictures."""

from __future__ import annotations

import html
from pathlib import Path

import pytest
from comparison_tools import begin, finish, runs
from test_cli_train import dude

from dude_lab.compare.comparison_report import report
from dude_lab.evaluation.result import EvalResult, Metric
from dude_lab.report.page import write_page
from dude_lab.text import escape_markdown

LABEL = r"a|b `c` **d** [e](f) <g> [red]h[/] [/x] $\i{ _j_ k_l ~m~ &amp;"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("DuDe (r=16)", "DuDe (r=16)"),
        ("mini_csqa", "mini_csqa"),
        ("_a_ b_", r"\_a\_ b\_"),
        ("a|b\nc", r"a\|b c"),
        (r"\|", r"\\\|"),
        ("<b>&lt;", r"\<b\>\&lt;"),
        ("**a** `b` [c](d) ~e~ $f$", r"\*\*a\*\* \`b\` \[c\](d) \~e\~ \$f\$"),
    ],
)
def test_escaping(text: str, escaped: str) -> None:
    assert escape_markdown(text) == escaped


def test_a_label_of_signs(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=[{"name": "lora", "label": LABEL}, "dora"], seeds=[1])
    for cells in runs(grid).values():
        for cell in cells:
            finish(folder, cell, {"mini_csqa": [1, 0, 1]})
    made = report(folder)  # draws the picture as well
    assert made["rows"][0]["label"] == LABEL
    lines = folder.table_md.read_text(encoding="utf-8").splitlines()
    row = next(line for line in lines if "k_l" in line)
    assert escape_markdown(LABEL) in row
    unescaped = [k for k, one in enumerate(row) if one == "|" and row[k - 1] != "\\"]
    assert len(unescaped) == lines[0].count("|") and "**d**" not in row

    shown = dude("compare", folder.path)
    assert shown.exit_code == 0, shown.output
    for part in ("a|b `c` **d** [e](f) <g> ", r"[red]h[/] [/x] $\i{ _j_", "k_l ~m~ &amp;"):  # folded into three lines
        assert part in shown.stdout

    page = write_page([folder.path], tmp_path / "page").read_text(encoding="utf-8")
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    assert html.escape(LABEL, quote=False) in body
    assert "<g>" not in body and "<strong>d</strong>" not in body


def test_a_folder_of_signs(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path / "[/x] [red]`*|", methods=["lora"], seeds=[1])
    for cells in runs(grid).values():
        for cell in cells:
            finish(folder, cell, {"mini_csqa": [1, 0, 1]})
    for words in (("compare", folder.path), ("report", folder.path, "-o", tmp_path / "[/y]")):
        result = dude(*words)
        assert result.exit_code == 0, result.output
        assert str(words[-1]) in result.stdout


def test_a_task_of_signs() -> None:
    metric = Metric("lm_eval:a|b", "exact*match", 0.5, 0.1, 4, 0, "lm_eval", "test")
    table = EvalResult((metric,), {}, 1.0, "lm_eval:a|b").markdown()
    assert r"| lm_eval:a\|b |" in table and r"exact\*match" in table
    assert len({len(line) for line in table.splitlines()}) == 1
