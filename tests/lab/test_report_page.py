"""`dude report`: the page says what `dude compare` says, is the same bytes each time, and takes nothing for markup."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from comparison_tools import begin, finish, runs
from test_cli_train import dude
from test_compare_results import SHARES, filled

from dude_lab.compare.comparison_report import report as write_table
from dude_lab.report import write_page

EVIL = "</script><script>window.evil = 1</script><img src=x onerror='evil=1'> & \"quoted\" {{ 7 * 7 }} \u2028"


def page(path: Path, output: Path) -> str:
    return write_page([path], output).read_text(encoding="utf-8")


def payload(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def question(place: Path, number: int, **values: Any) -> None:
    """Write over a question of a finished run."""
    path = next((place / "eval" / "after" / "samples").iterdir())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[number] |= values
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_table_is_that_of_compare(tmp_path: Path) -> None:
    folder = filled(tmp_path, SHARES)
    text = page(folder.path, tmp_path / "page")
    write_table(folder)
    lines = folder.table_md.read_text().splitlines()
    cells = [cell.strip() for line in (lines[0], *lines[2:6]) for cell in line.strip("|").split("|")]
    shown = re.search(r'<table class="results">(.*?)</table>', text, re.DOTALL)
    assert shown is not None
    bold = re.sub("</?strong>", "**", shown[1])
    assert [unescape(one).strip() for one in re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", bold, re.DOTALL)] == cells
    for sentence in json.loads(folder.table_json.read_text())["outcome"]:
        assert sentence in unescape(text)
    table = json.loads(folder.table_json.read_text())
    drawn = {row["name"]: row["accuracy"] for row in payload(text)["rows"]}
    assert drawn["DoRA r=16"] == next(row["accuracy"] for row in table["rows"] if row["label"] == "DoRA")


def test_the_same_folder_gives_the_same_bytes_wherever_it_lies(tmp_path: Path) -> None:
    folder = filled(tmp_path, SHARES)
    first = page(folder.path, tmp_path / "page")
    assert page(folder.path, tmp_path / "page") == first
    moved = folder.path.rename(tmp_path / "moved")
    assert page(moved, tmp_path / "other") == first
    assert str(tmp_path) not in first


def test_nothing_in_the_data_is_taken_for_markup(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=[{"name": "lora", "label": f"A {EVIL}"}, "dora"], seeds=[1])
    for right, cell in zip(([1, 0], [0, 1]), (cells[0] for cells in runs(grid).values()), strict=True):
        place = finish(folder, cell, {"mini_csqa": right})
        question(place, 0, prompt=f"Q {EVIL}", choices=[EVIL, "b"], gold=0, prediction=1 - right[0])
        question(place, 1, prompt="plain", generated=EVIL, gold=EVIL)
    text = page(folder.path, tmp_path / "page")
    assert text.count("<script") == 2 and "<img" not in text and "49" not in re.findall(r"<h1>(.*?)</h1>", text)[0]
    answers = payload(text)["answers"]
    asked = {one["prompt"]: one for one in answers["questions"]}
    assert asked[f"Q {EVIL}"]["gold"] == EVIL and asked["plain"]["gold"] == EVIL
    assert EVIL.strip() in answers["texts"]


def test_the_questions_are_those_in_which_two_methods_differ(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora", "dora"], seeds=[1, 2])
    right = {"lora-r16": ([1] * 30 + [0, 1, 0], [1] * 30 + [0, 0, 0]), "dora-r16": ([0] * 30 + [1, 0, 0],) * 2}
    for row, cells in runs(grid).items():
        for cell, answers in zip(cells, right[row], strict=True):
            place = finish(folder, cell, {"mini_csqa": answers})
            for number, ok in enumerate(answers):
                question(place, number, prompt=f"Q{number}", choices=["yes", "no"], gold=0, prediction=1 - ok)
    found = payload(page(folder.path, tmp_path / "page"))["answers"]
    pair = next(one for one in found["pairs"] if (one["one"], one["other"]) == ("LoRA r=16", "DoRA r=16"))
    assert (pair["n"], pair["seeds"], pair["more"]) == (33, [1, 2], [31, 1])
    first, second = pair["lists"]
    assert len(first) == 20 and len(second) == 1  # shown, of 31 and 1
    place, seed, mine, theirs, answer, other = second[0]
    asked = found["questions"][place]
    assert (asked["prompt"], asked["gold"], seed, mine, theirs) == ("Q30", "yes", 1, 0, 2)
    assert (found["texts"][answer], found["texts"][other]) == ("no", "yes")


def test_long_questions_keep_their_end_and_curves_are_thinned(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora", "dora"], seeds=[1])
    for right, cell in zip(([1], [0]), (cells[0] for cells in runs(grid).values()), strict=True):
        place = finish(folder, cell, {"mini_csqa": right})
        question(place, 0, prompt="x" * 5000 + "the question")
        curve = [{"step": k, "loss": 1 / k, "grad_norm": 1.0, "accuracy": None} for k in range(1, 3001)]
        (place / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in curve))
    found = payload(page(folder.path, tmp_path / "page"))
    assert found["answers"]["questions"][0]["prompt"].endswith("xthe question")
    assert len(found["answers"]["questions"][0]["prompt"]) < 1300
    assert [one["key"] for one in found["curves"]] == ["loss", "grad_norm"]
    line = found["curves"][0]["lines"][0]
    assert len(line["steps"]) == 400 and (line["steps"][0], line["steps"][-1]) == (1, 3000)
    assert line["smooth"][0] == 1.0 and line["smooth"][-1] is None  # from the first step, to the last full window
    assert line["smooth"][200] == pytest.approx(1 / line["steps"][200], rel=0.05)


def test_accuracy_on_the_way_begins_with_the_base(tmp_path: Path) -> None:
    folder = filled(tmp_path, SHARES, seeds=[1])
    assert "accuracy" not in [one["key"] for one in payload(page(folder.path, tmp_path / "page"))["curves"]]
    for place in folder.runs.glob("lora*"):
        with (place / "curves.jsonl").open("a") as file:
            file.writelines(json.dumps({"step": k, "eval": "mini_csqa", "accuracy": k / 40}) + "\n" for k in (10, 20))
    found = payload(page(folder.path, tmp_path / "page"))
    lines = next(one for one in found["curves"] if one["key"] == "accuracy")["lines"]
    assert lines[0]["steps"] == [0, 10, 20] and lines[0]["raw"] == [pytest.approx(found["base"]["value"]), 0.25, 0.5]
    assert lines[1] is None


def test_what_is_missing_is_said_or_left_out(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, seeds=[1])
    lora, dora, _ = runs(grid).values()
    place = finish(folder, lora[0], {"mini_csqa": [1, 0]})
    folder.failed_path(dora[0].name).write_text(json.dumps({"error": "<broken>"}))
    text = page(folder.path, tmp_path / "page")  # one method only, one failed, one not begun
    assert "dora-r16, seed 1, lr 0.001</strong>: &lt;broken&gt;" in text and "No pair to compare" in text
    for path in (place / "eval").rglob("*.jsonl"):
        path.unlink()
    (place / "curves.jsonl").unlink()
    text = page(folder.path, tmp_path / "page")
    assert payload(text)["curves"] == [] and 'id="curves"' not in text and payload(text)["answers"]["pairs"] == []


def test_finished_runs_make_a_page_as_well(tmp_path: Path) -> None:
    folder = filled(tmp_path, SHARES)
    places = sorted(p for p in folder.runs.iterdir() if (p / "config.yaml").is_file())
    text = write_page(places, tmp_path / "page").read_text(encoding="utf-8")
    assert text.count("<details>") == len(places) == 9
    assert {row["name"] for row in payload(text)["rows"]} == {"LoRA r=16", "DoRA r=16", "Full fine-tuning"}


@pytest.mark.parametrize("held", ["nothing", "comparison", "foreign"])
def test_without_a_run_nothing_is_written(tmp_path: Path, held: str) -> None:
    folder, output = tmp_path / "runs", tmp_path / "page"
    folder.mkdir()
    if held == "comparison":
        folder = begin(tmp_path)[0].path
    if held == "foreign":  # a page that somebody else wrote is not written over
        folder = filled(tmp_path, SHARES).path
        output.mkdir()
        (output / "index.html").write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    result = dude("report", folder, "-o", output)
    assert result.exit_code == 2, result.output
    reason = {"nothing": "not a run", "comparison": "no finished run", "foreign": "not a page of `dude report`"}
    assert reason[held] in result.stderr
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    assert output.exists() == (held == "foreign")


SCORES = {"lora": 20, "dora": 30, "dude": 25, "dude_a": 35}


@pytest.mark.parametrize(("methods", "opens"), [
    (["lora", "dora", "dude", "dude_a"], ["DuDe r=16", "DoRA r=16"]),  # not the better one of DuDe's own
    (["dude", "lora"], ["DuDe r=16", "LoRA r=16"]),
    (["dude", "dude_a"], ["DuDe r=16", "DuDe-A r=16"]),
    (["lora", "dora"], ["LoRA r=16", "DoRA r=16"]),
])  # fmt: skip
def test_it_opens_on_dude_against_the_best_other_method(tmp_path: Path, methods: list[str], opens: list[str]) -> None:
    folder, grid = begin(tmp_path, methods=methods, seeds=[1, 2])
    for method, cells in zip(methods, runs(grid).values(), strict=True):
        for cell in cells:
            right = SCORES[method]
            finish(folder, cell, {"mini_csqa": [1] * right + [0] * (40 - right)})
    text = page(folder.path, tmp_path / "page")
    assert payload(text)["answers"]["opens"] == opens
    first = re.search(r'<p class="outcome[^"]*">(.*?)</p>', text)
    assert first is not None
    shown = unescape(first[1])
    if methods == ["lora", "dora", "dude", "dude_a"]:
        assert shown.startswith("DuDe r=16 against DoRA r=16, the best other method: -12.5 points, 95% interval -")
    if methods == ["dude", "lora"]:
        assert shown.startswith("DuDe r=16 against LoRA r=16, the best other method: +12.5 points, 95% interval +")
    if "dude" not in methods or "dude_a" in methods[:2]:
        assert ", the best other method: " not in text


def test_every_table_scrolls_sideways_and_charts_are_high_enough() -> None:
    source = Path(write_page.__code__.co_filename).parent
    html, css = (source / "page.html").read_text("utf-8"), (source / "style.css").read_text("utf-8")
    assert (
        html.count("<table")
        == len(re.findall(r'<div class="wide" tabindex="0" role="region"[^>]*>\n<table', html))
        == 3
    )
    rules = dict(re.findall(r"^(\S[^{}\n]*) \{([^}]*)\}", css, re.MULTILINE))
    assert "overflow-x: auto" in rules[".wide"] and "max-width: 100%" in rules[".wide"]
    assert "min-width: max-content" in rules[".results"]  # wider than a narrow window, not squeezed into it
    assert "min-height: 240px" in rules[".plot svg"]
    scripts = {name: (source / name).read_text("utf-8") for name in ("charts.js", "plots.js")}
    height = re.search(r"const HEIGHT = (\d+);", scripts["charts.js"])
    assert height is not None and int(height[1]) >= 240
    heights = re.findall(r"const height = (.*);", "".join(scripts.values()))
    assert len(heights) == 3 and all(one == "HEIGHT" or one.startswith("Math.max(HEIGHT, ") for one in heights)


def test_the_losses_are_logarithmic_and_the_validation_loss_has_a_chart(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora"], seeds=[1])
    place = finish(folder, next(iter(runs(grid).values()))[0], {"mini_csqa": [1, 0]})
    records = [{"step": k, "loss": 2 / k} for k in range(1, 21)] + [
        {"step": k, "eval_loss": 1 / k} for k in (5, 10, 20)
    ]
    (place / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    text = page(folder.path, tmp_path / "page")
    assert {one["key"]: one["log"] for one in payload(text)["curves"]} == {"loss": True, "eval_loss": True}
    drawn = set(re.findall(r"addChart\(\"(\w+)\"", text))
    assert {one["key"] for one in payload(text)["curves"]} <= drawn
