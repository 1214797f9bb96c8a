"""What a reproduction says of its runs: tables, verdicts, figures and README, from runs written by hand."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from comparison_tools import finish

from dude_lab.compare.comparison import Plan
from dude_lab.compare.comparison_folder import ComparisonFolder
from dude_lab.compare.comparison_report import report
from dude_lab.compare.grid import Grid, PlannedRun
from dude_lab.paper.experiment_page import difference_text
from dude_lab.paper.experiments import Scale, chosen
from dude_lab.paper.recipe import comparisons_of
from dude_lab.paper.study import Study
from dude_lab.paper.study_folder import StudyFolder
from dude_lab.paper.study_report import write_report
from dude_lab.stats.significance import holm
from dude_lab.text import percent

RATES = ("learning_rates=[1e-3]",)
FIVE = "methods=[full, lora, dora, pissa, dude]"
PLAIN = ("methods=[lora, dora, pissa, dude]", *RATES)


def started(
    folder: Path, name: str, *overrides: str, scale: Scale = "mini", rows: tuple[str, ...] = ()
) -> dict[str, ComparisonFolder]:
    """A reproduction in which nothing has run yet."""
    root = StudyFolder(folder)
    comparisons = comparisons_of(chosen(name, scale), scale, folder, overrides, rows)
    base = {"name": "mini", "dtype": "float32", "sha256": "0" * 64}
    kept = [root.comparison(comparison.name) for comparison in comparisons]
    plans = tuple(
        Plan(comparison.settings, Grid(comparison.settings, "0" * 64, one.runs), one, base)
        for comparison, one in zip(comparisons, kept, strict=True)
    )
    Study(root, scale, chosen(name, scale), comparisons, plans, overrides).begin()
    return {one.path.name: one for one in kept}


def cells(folder: ComparisonFolder) -> list[PlannedRun]:
    grid = folder.grid()
    return [cell for row in grid.rows for cell in grid.runs(row, row.learning_rates[0])]


def answers(share: float, mark: object, n: int = 300) -> list[int]:
    """The same questions are hard for every method, so that pairs tell apart what single intervals do not."""
    hard, noise = random.Random("questions"), random.Random(str(mark))
    return [int(hard.random() + 0.1 * noise.random() < share) for _ in range(n)]


def fill(folder: ComparisonFolder, task: str, shares: dict[str, float], *, skip: tuple[str, ...] = ()) -> None:
    for cell in cells(folder):
        method, seed = cell.settings.method.name, cell.settings.train.seed
        if method in skip:
            continue
        loss = 3 - shares[method]
        place = finish(folder, cell, {task: answers(shares[method], (method, seed))}, loss=loss)
        asked = [
            {"step": step, "eval": task, "accuracy": shares[method] * step / 20 + seed / 1e6} for step in (5, 10, 20)
        ]
        norms = [{"step": k, "loss": loss + 1 / k + seed / 1e6, "grad_norm": 1 / k} for k in range(1, 21)]
        (place / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [*norms, *asked]))


def words(made: dict[str, Any], name: str) -> dict[str, str]:
    return {one["claim"]: one["word"] for one in made[name]["claims"]}


@pytest.mark.parametrize(("dude", "word"), [(0.8, "holds"), (0.5, "no significant difference"), (0.3, "does not hold")])
def test_a_claim_is_judged_by_the_paired_answers(tmp_path: Path, dude: float, word: str) -> None:
    folder = started(tmp_path, "table2", *PLAIN)["gpqa"]
    fill(folder, "mini_gpqa", {"lora": 0.5, "dora": 0.5, "pissa": 0.5, "dude": dude})
    made = write_report(tmp_path)
    assert set(words(made, "table2").values()) == {word}
    compared = made["table2"]["claims"][0]["compared"]
    assert [one["what"] for one in compared] == [f"DuDe r=16 against {rival}" for rival in ("LoRA", "DoRA", "PiSSA")]
    assert all(
        (one["low"] > 0) is (word == "holds") and (one["high"] < 0) is (word == "does not hold") for one in compared
    )


def test_one_comparison_the_other_way_decides_and_a_missing_one_leaves_it_open(tmp_path: Path) -> None:
    shares = {"lora": 0.4, "dora": 0.7, "pissa": 0.4, "dude": 0.5}
    folder = started(tmp_path, "table2", *PLAIN)["gpqa"]
    fill(folder, "mini_gpqa", shares, skip=("pissa",))
    made = write_report(tmp_path)
    assert [one["word"] for one in made["table2"]["claims"][0]["compared"]] == [
        "significantly higher",
        "significantly lower",
        "-",
    ]
    assert set(words(made, "table2").values()) == {"-"}
    page = (tmp_path / "table2.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("| PiSSA"))
    assert line.startswith("| PiSSA | 16 | 0.001 | - |") and "| 19.19 |" in line and line.endswith("| 5 missing |")
    for cell in cells(folder):
        if cell.settings.method.name == "pissa":
            finish(folder, cell, {"mini_gpqa": answers(0.4, cell.name)})
    assert set(words(write_report(tmp_path), "table2").values()) == {"does not hold"}


def test_rows_that_are_not_run_yet_stay_in_the_table_and_leave_a_claim_open(tmp_path: Path) -> None:
    folder = started(tmp_path, "table2", *PLAIN, rows=("lora-r16", "dude-r16"))["gpqa"]
    fill(folder, "mini_gpqa", {"lora": 0.4, "dude": 0.8}, skip=("dora", "pissa"))
    made = write_report(tmp_path)
    assert [one["word"] for one in made["table2"]["claims"][0]["compared"]] == ["significantly higher", "-", "-"]
    assert [row["missing"] for row in made["table2"]["tables"][0]["rows"]] == [0, 5, 5, 0]
    page = (tmp_path / "README.md").read_text()
    assert "- DuDe is more accurate than LoRA, DoRA and PiSSA: - (significantly higher 1 of 3)." in page
    assert "Not complete: table2 (10 runs missing, 0 failed)." in page
    assert "Not begun: table1, table3," in page
    folder = started(tmp_path, "table2", *PLAIN, rows=("dora-r16", "pissa-r16"))["gpqa"]
    fill(folder, "mini_gpqa", {"dora": 0.4, "pissa": 0.4}, skip=("lora", "dude"))
    assert write_report(tmp_path)["table2"]["claims"][0]["word"] == "holds"


def test_both_commands_say_the_same_of_the_same_runs(tmp_path: Path) -> None:
    """DuDe's lead over PiSSA has an interval above zero, and is not significant among the six pairs of the table."""
    folder = started(tmp_path, "table2", *PLAIN)["gpqa"]
    fill(folder, "mini_gpqa", {"lora": 0.5, "dora": 0.515, "pissa": 0.515, "dude": 0.535})
    compared = write_report(tmp_path)["table2"]["claims"][0]["compared"]
    table = report(folder)
    pairs = {(one["row"], one["minus"]): one for one in table["differences"]}
    assert len(pairs) == 12 and len(compared) == 3
    for one in compared:
        pair = pairs["DuDe r=16", one["what"].removeprefix("DuDe r=16 against ") + " r=16"]
        assert one["word"] == pair["word"]
        assert {key: one[key] for key in ("value", "low", "high", "p")} == {
            key: pytest.approx(pair[key], abs=1e-12) for key in ("value", "low", "high", "p")
        }
        back = pairs[pair["minus"], "DuDe r=16"]
        assert (back["value"], back["p_holm"]) == (-pair["value"], pair["p_holm"])
    lead = pairs["DuDe r=16", "PiSSA r=16"]
    assert lead["low"] > 0 and lead["p"] < 0.05 < lead["p_holm"] and lead["word"] == "no significant difference"
    assert [one["p_holm"] for one in table["differences"][::2]] == holm([one["p"] for one in table["differences"][::2]])
    same, higher = table["outcome"][0].index("No significant difference from"), table["outcome"][0].index("higher than")
    assert higher < table["outcome"][0].index("LoRA") < same < table["outcome"][0].index("PiSSA")
    assert not any(row["bold"] for row in table["rows"])


def test_the_table_shows_ours_and_the_papers(tmp_path: Path) -> None:
    for folder in started(tmp_path, "seeds", *PLAIN).values():
        fill(folder, "mini_gsm", {"lora": 0.4, "dora": 0.4, "pissa": 0.4, "dude": 0.8})
    made = write_report(tmp_path)["seeds"]
    row = next(row for row in made["tables"][0]["rows"] if row["method"] == "dude")
    values = [sum(answers(0.8, ("dude", seed))) / 300 for seed in (42, 78, 512, 1234, 3407)]
    assert list(row["seeds"].values()) == pytest.approx(values)
    assert row["values"]["mean"]["value"] == pytest.approx(sum(values) / 5)
    assert row["paper"]["Qwen1.5-7B"]["mean"] == 62.53
    assert row["command"].startswith("dude reproduce seeds --scale mini --row dude-r16 -o again")
    assert "'methods=[lora, dora, pissa, dude]'" in row["command"]
    text = (tmp_path / "seeds.md").read_text()
    assert f"{100 * values[0]:.1f}" in text and "62.53" in text and "seed 3407" in text
    assert (
        words({"seeds": made}, "seeds")["DuDe's worst seed is more accurate than the best of every other method"]
        == "holds"
    )


def test_figure_2_judges_losses_and_the_way_there(tmp_path: Path) -> None:
    folder = started(tmp_path, "figure2", FIVE, *RATES)["curves"]
    fill(folder, "mini_gsm", {"full": 0.9, "lora": 0.4, "dora": 0.5, "pissa": 0.7, "dude": 0.6})
    made = write_report(tmp_path)
    verdicts = {one["claim"]: [two["word"] for two in one["compared"]] for one in made["figure2"]["claims"]}
    wanted = ["significantly higher", "significantly higher", "significantly lower"]
    assert verdicts["DuDe's training loss falls faster"] == wanted
    assert verdicts["DuDe's loss is closer to full fine-tuning's"] == wanted
    assert verdicts["DuDe's accuracy is higher throughout training"] == wanted
    gap = made["figure2"]["claims"][0]["compared"][0]
    assert gap["unit"] == "nats" and gap["value"] == pytest.approx(0.2, abs=1e-6)
    for kind in ("png", "svg"):
        assert (tmp_path / f"figure2.{kind}").stat().st_size > 5000
    picture = (tmp_path / "figure2.svg").read_text()
    assert "Full fine-tuning" in picture and "Gradient norm" in picture and "mini_gsm" in picture


def validated(folder: ComparisonFolder, losses: dict[str, float], *, seeds: int = 3) -> None:
    """Finish runs that were evaluated at the end only, and answer no question."""
    for cell in cells(folder):
        method, seed = cell.settings.method.name, cell.settings.train.seed
        if method in losses and seed in [42, 78, 512][:seeds]:
            place = finish(folder, cell, {"gsm8k": [0] * 30}, validation_loss=losses[method] + seed / 1e6)
            lines = [{"step": k, "loss": 1 + 1 / k, "grad_norm": 1.0} for k in range(1, 21)]
            lines.append({"step": 20, "eval": "gsm8k", "accuracy": 0.0})
            (place / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))


def test_figure_2_has_the_validation_loss_where_the_accuracy_was_measured_at_the_end(tmp_path: Path) -> None:
    folder = started(tmp_path, "figure2", FIVE, *RATES, scale="small")["curves"]
    losses = {"full": 0.9, "lora": 1.2, "dora": 1.0, "pissa": 1.1, "dude": 1.1}
    validated(folder, losses)
    made = write_report(tmp_path)["figure2"]
    claim = next(one for one in made["claims"] if one["claim"] == "DuDe's validation loss is lower")
    assert [one["word"] for one in claim["compared"]] == [
        "significantly higher",
        "significantly lower",
        "no significant difference",
    ]
    assert [one["value"] for one in claim["compared"]] == [pytest.approx(value, abs=1e-9) for value in (0.1, -0.1, 0.0)]
    assert claim["compared"][0]["what"] == "validation loss, LoRA minus DuDe" and claim["compared"][0]["unit"] == "nats"
    picture = (tmp_path / "figure2.svg").read_text()
    assert "(c) Validation loss at the end" in picture and "Accuracy on" not in picture
    rows = {line.split("|")[1].strip(): line for line in section(tmp_path, "figure2") if line.startswith("| ")}
    assert rows["LoRA (0.001)"] == "| LoRA (0.001) | 1.200 | 0.0 |"
    page = (tmp_path / "figure2.md").read_text()
    assert "| LoRA | 16 | 0.001 | 1.200 | 0.0 [0.0, 11.4] | 0.0 | 0.0 | 0.0 | 0.00 | 30 | 3 |  |" in page


def test_a_validation_loss_of_one_seed_has_no_interval(tmp_path: Path) -> None:
    validated(started(tmp_path, "figure2", FIVE, *RATES, scale="small")["curves"], {"lora": 1.2, "dude": 1.1}, seeds=1)
    made = write_report(tmp_path)["figure2"]
    values = {row["method"]: row["values"]["loss"] for row in made["tables"][0]["rows"]}
    assert values["lora"] == {"value": pytest.approx(1.200042), "low": None, "high": None} and values["dora"] is None
    claim = next(one for one in made["claims"] if one["claim"] == "DuDe's validation loss is lower")
    assert [one["value"] for one in claim["compared"]] == [None, None, None]


def test_ranks_are_judged_each_and_the_growth_of_the_lead(tmp_path: Path) -> None:
    folder = started(tmp_path, "table3", *PLAIN, "ranks=[2, 32]", "seeds=[1, 2, 3]")["ranks"]
    means: dict[tuple[str, int], list[float]] = {}
    for cell in cells(folder):
        method, r, seed = cell.settings.method.name, cell.settings.method.r, cell.settings.train.seed
        share = 0.8 if (method, r) == ("dude", 32) else 0.5
        right = {f"mini_mmlu/{subject}": answers(share, (method, r, seed, subject), 150) for subject in ("a", "b")}
        mean = sum(sum(one) / len(one) for one in right.values()) / 2
        means.setdefault((method, r), []).append(mean)
        groups = ("stem", "humanities", "social_sciences", "other")
        others = {f"mini_mmlu_{key}": mean for key in ("weighted", *groups)} | {"mini_mmlu": mean}
        finish(folder, cell, right, others=others)
    made = write_report(tmp_path)
    best, grows = made["table3"]["claims"]
    told = [one["word"] for one in best["compared"]]
    assert told[:3] == ["no significant difference"] * 3 and told[3:] == ["significantly higher"] * 3
    dude2, dude32, lora2, lora32 = (sum(means[method, r]) / 3 for method in ("dude", "lora") for r in (2, 32))
    assert grows["compared"][0]["value"] == pytest.approx((dude32 - lora32) - (dude2 - lora2))
    assert grows["word"] == "holds" and grows["compared"][0]["low"] > 0
    page = (tmp_path / "table3.md").read_text()
    assert (
        "Social science" in page
        and "| Qwen2.5-0.5B | DuDe | 32 | 50.44 | 53.84 | 42.85 | 49.26 | 48.35 | 46.52 |" in page
    )
    started(tmp_path, "figure3", *PLAIN, "ranks=[2, 32]", "seeds=[1, 2, 3]")
    assert write_report(tmp_path)["figure3"]["figures"] == ["figure3"]
    picture = (tmp_path / "figure3.svg").read_text()
    assert "Average and weighted accuracy" in picture and "(b)" not in picture  # one panel: the means are equal


@pytest.mark.parametrize(("ranks", "drawn"), [([2, 32], ["figure3-ranks-csqa"]), ([8], [])])
def test_any_column_is_drawn_against_the_rank_if_there_are_two(
    tmp_path: Path, ranks: list[int], drawn: list[str]
) -> None:
    folder = started(tmp_path, "figure3", *RATES, f"ranks={ranks}", "seeds=[1, 2]", scale="small")["ranks-csqa"]
    fill(folder, "commonsense_qa", {"lora": 0.4, "dora": 0.5, "pissa": 0.6, "dude": 0.7})
    assert write_report(tmp_path)["figure3"]["figures"] == drawn
    assert [path.stem for path in tmp_path.glob("figure3*.svg")] == drawn
    if drawn:
        assert "CommonsenseQA accuracy (%), 95% interval" in (tmp_path / f"{drawn[0]}.svg").read_text()


def test_everything_is_a_pure_function_of_the_folder(tmp_path: Path) -> None:
    for folder in started(tmp_path, "figure4", *PLAIN).values():
        fill(folder, "mini_gsm", {"lora": 0.4, "dora": 0.5, "pissa": 0.6, "dude": 0.7})
    write_report(tmp_path)
    pictures = [f"figure4-seeds-{data}.{kind}" for data in ("metamath", "gsm") for kind in ("png", "svg")]
    names = ("README.md", "figure4.json", "figure4.md", *pictures)
    first = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        (tmp_path / name).unlink()
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    tmp_path.rename(moved)
    write_report(moved)
    assert {name: (moved / name).read_bytes() for name in names} == first


def test_the_readme_says_what_how_sure_what_it_cost_and_how_again(tmp_path: Path) -> None:
    for folder in started(tmp_path, "seeds", *PLAIN).values():
        fill(folder, "mini_gsm", {"lora": 0.4, "dora": 0.4, "pissa": 0.4, "dude": 0.8})
    write_report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    heads = ["Questions", "Results", "Statistics", "Cost", "How to repeat it"]
    assert [text.index(f"## {head}\n") for head in heads] == sorted(text.index(f"## {head}\n") for head in heads)
    assert "- DuDe is more accurate than LoRA, DoRA and PiSSA: **holds**." in text
    assert "40 runs, 0.1 hours" in text and "a processor, 1 of 2 threads" in text
    assert "dude reproduce seeds --scale mini -o again" in text


def test_what_has_not_run_is_empty_and_nothing_is_drawn(tmp_path: Path) -> None:
    started(tmp_path, "all", *PLAIN, "seeds=[42]")
    made = write_report(tmp_path)
    assert {word for one in made for word in words(made, one).values()} == {"-"}
    assert not list(tmp_path.glob("*.png"))
    assert "Not complete: table1 (4 runs missing, 0 failed)" in (tmp_path / "README.md").read_text()
    rows = [row for one in made.values() for table in one["tables"] for row in table["rows"]]
    assert all(value is None for row in rows for value in row["values"].values())


@pytest.mark.parametrize(
    ("base", "low", "word"), [(0.4, 0.6, "holds"), (0.1, 0.6, "does not hold"), (0.6, 0.6, "no significant difference")]
)
def test_the_calibration_is_a_ladder(tmp_path: Path, base: float, low: float, word: str) -> None:
    folder = started(tmp_path, "calibration", *RATES)["calibration-gpqa"]
    whole = answers(base, "base")
    finish(folder, folder.grid().base_run, {"mini_gpqa": whole})
    for cell in cells(folder):
        method = cell.settings.method
        share = 0.8 if method.name == "full" else low if method.r == 2 else 0.7
        right = whole if share == base else answers(share, cell.name)
        finish(folder, cell, {"mini_gpqa": right})
    made = write_report(tmp_path)["calibration"]
    rungs = [one for one in made["claims"][0]["compared"] if one["part"] == "calibration-gpqa"]
    assert [one["what"] for one in rungs] == [
        "base model against guessing", "LoRA r=2 against base model", "full fine-tuning against LoRA r=2"
    ]  # fmt: skip
    assert rungs[0]["value"] == pytest.approx(sum(whole) / 300 - 0.25)
    words = [one["word"] for one in rungs]
    said = {"holds": "significantly higher", "does not hold": "significantly lower"}.get(word, word)
    assert words[2] == "significantly higher" and said in words and set(words) <= {"significantly higher", said}
    page = (tmp_path / "calibration.md").read_text()
    assert "| guessing |  |  | 25.0 |" in page and "| base model |" in page
    told, readme = f"gpqa: {'**' + word + '**' if 'hold' in word else word}", (tmp_path / "README.md").read_text()
    assert f"calibration-{told}" in page and "calibration-csqa: -;" in page
    assert f" mini_{told}" in readme and " mini_csqa: -;" in readme


def test_forgetting_is_a_column_in_words_and_a_claim(tmp_path: Path) -> None:
    one = ("learning_rates=[1e-3]", "seeds=[42, 78, 512]")
    comparison = started(tmp_path, "forgetting", *one, scale="small")["forgetting"]
    grid = comparison.grid()
    values = {"full": 45.0, "lora": 31.0, "dora": 30.0, "pissa": 33.0, "dude": 30.5}
    for row in grid.rows:
        for run in grid.runs(row, 1e-3):
            word = values[row.method.name] + run.settings.train.seed / 1e4
            tasks = {task: answers(0.5, task) for task in ("commonsense_qa", "arc_easy", "arc_challenge")}
            finish(comparison, run, tasks, others={"wikitext2": word, "average": 0.5})
    made = write_report(tmp_path)["forgetting"]
    found = {one["what"]: one for one in made["claims"][0]["compared"] if one["part"] == "forgetting"}
    assert found["word perplexity, Full fine-tuning minus DuDe"]["value"] == pytest.approx(14.5)
    assert found["word perplexity, DoRA minus DuDe"]["word"] == "significantly lower"
    assert found["word perplexity, PiSSA minus DuDe"]["word"] == "significantly higher"
    page = (tmp_path / "forgetting.md").read_text()
    assert "| WikiText-2, word perplexity |" in page and "| 30.5 |" in page
    readme = (tmp_path / "README.md").read_text()
    assert "with SmolLM2-135M-Instruct" in readme and "On the paper's models" not in readme
    assert "evaluated" not in page
    told = {line.partition(", 95%")[0].partition(": sig")[0] for line in page.splitlines() if "minus DuDe (f" in line}
    assert "- word perplexity, Full fine-tuning minus DuDe (forgetting): +14.5" in told
    assert "- word perplexity, PiSSA minus DuDe (forgetting): +2.500" in told
    # With one rate for all adapters full fine-tuning has no row.
    at_one_rate = {one["what"] for one in made["claims"][0]["compared"] if one["part"] == "forgetting-lr0.003"}
    assert at_one_rate == {f"word perplexity, {name} minus DuDe" for name in ("LoRA", "DoRA", "PiSSA")}


def section(folder: Path, name: str) -> list[str]:
    """The lines of an experiment in the README."""
    text = (folder / "README.md").read_text()
    return text.partition(f"]({name}.md)\n")[2].partition("\n##")[0].splitlines()


def test_the_readme_has_a_small_table_of_each_experiment(tmp_path: Path) -> None:
    """Comparisons and ranks are columns; the page has every seed and set."""
    shares = {"full": 0.7, "lora": 0.4, "dora": 0.4, "pissa": 0.4, "dude": 0.8}
    fill(started(tmp_path, "table1", *RATES, scale="small")["commonsense"], "boolq", shares, skip=("dora",))
    write_report(tmp_path)
    lines = section(tmp_path, "table1")
    assert "| accuracy, % | best rate | 0.003 for all |" in lines
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert [name for name in rows if "accuracy" not in name] == ["Full fine-tuning", "LoRA", "DoRA", "PiSSA", "DuDe"]
    assert rows["DoRA"] == "| DoRA | - (0.001) | - |"
    assert re.fullmatch(r"\| DuDe \| \d\d\.\d \(0\.001\) \| \d\d\.\d \|", rows["DuDe"])
    assert rows["Full fine-tuning"].endswith("(0.001) |  |")  # only in the first comparison
    assert len(lines) < 20 and len((tmp_path / "table1.md").read_text().splitlines()) > 30


def test_a_difference_has_the_decimals_it_needs() -> None:
    def shown(unit: str, value: float, low: float | None, high: float | None) -> tuple[str, str | None, str | None]:
        return difference_text({"unit": unit, "value": value, "low": low, "high": high})

    assert shown("nats", 0.00023, -0.00004, 0.0005) == ("+0.00023", "-0.00004", "+0.00050")
    assert shown("nats", 0.00023, -0.00004, 0.005) == ("+0.000", "-0.000", "+0.005")
    assert shown("", 14.51, 2.0, 27.0) == ("+14.5", "+2.0", "+27.0")
    assert shown("points", 0.0002, -0.0001, 0.0005) == ("+0.0", "+0.0", "+0.1")
    assert shown("points", 0.012, None, None) == ("+1.2", None, None)


def test_halves_are_rounded_up_whatever_their_last_bit() -> None:
    assert (percent(0.4195), percent(0.41949999999999), percent(0.8375), percent(-0.0005)) == (
        "42.0",
        "42.0",
        "83.8",
        "-0.1",
    )
    assert (percent(-0.0004, "+"), percent(0.0025, "+"), percent(None)) == ("+0.0", "+0.3", "-")


def test_ranks_are_columns_and_differences_a_table(tmp_path: Path) -> None:
    folder = started(tmp_path, "table3", *PLAIN, "ranks=[2, 8]")["ranks"]
    fill(folder, "mini_mmlu", {"lora": 0.4, "dora": 0.4, "pissa": 0.4, "dude": 0.8})
    write_report(tmp_path)
    lines = section(tmp_path, "table3")
    assert "| accuracy, % | MMLU, r=2 | MMLU, r=8 |" in lines
    assert "| points, 95% interval | difference |" in lines
    assert any(line.startswith("| margin over LoRA at r=8 against r=2 | ") for line in lines)
    assert not [line for line in lines if "DuDe r=8 against LoRA" in line]  # among the margins above
