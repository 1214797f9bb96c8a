"""The pages of a study: one for each experiment, and its README."""

from __future__ import annotations

from typing import Any

from ..stats.significance import HIGHER, LOWER
from . import margins, rates
from .experiments import COMPARISONS, EXPERIMENTS, Scale, at
from .paper_tables import markdown
from .recipe import load_recipe

WORDS = {"holds": "**holds**", "does not hold": "**does not hold**"}
DECIDED = (HIGHER, LOWER, "holds", "does not hold")
STATISTICS = """\
- An accuracy is the mean over seeds with Student's 95% interval; with one seed, Wilson's interval over the questions,
  which says nothing about other seeds.
- Differences in accuracy are paired by seed and question, with a bootstrap over both; differences in loss and in mean
  accuracy during training are paired by seed (Student's t). Each interval is that of its difference by itself.
- A difference is *significantly higher* or *lower* at p < 0.05 after Holm's correction: for accuracies over all pairs
  of rows that the table compares, as in `dude compare`; for anything else over the differences of the claim in the
  table. *No significant difference* does not mean *equal*: a difference smaller than the interval is possible.
- A claim *holds* if every difference is significantly higher, and *does not hold* if at least one is significantly
  lower. The worst seed against the best, and rates above the best, are reported without a test.
- There is no correction across tables and claims: of twenty without a true difference, one is expected to be wrong.
- `-`: not run, or too few seeds."""


def experiment_page(made: dict[str, Any], *, level: int = 1) -> str:
    """Return the page of one experiment: question, verdicts, figures, tables, commands."""
    hashes = "#" * level
    lines = [f"{hashes} {made['title']}", "", made["question"], ""]
    lines += _claims(made["claims"])
    for name in made["figures"]:
        lines += [f"![{made['title']}]({name}.png)", "", f"[{name}.svg]({name}.svg)", ""]
    if not made["tables"]:
        lines += ["Not run yet.", ""]
    for table in made["tables"]:
        searched = any("rates" in row for row in table["rows"])
        unit = "accuracy on validation in %, the chosen rate in bold:" if searched else _unit
        model = "Model" if len(made["tables"]) == 1 else f"Comparison `{table['part']}`: model"
        lines += [f"{model} `{table['model']}` fine-tuned on `{table['trained_on']}`, {unit}", ""]
        lines += [rates.markdown(table) if searched else markdown(table)]
    lines += ["To repeat all of it, or one row:", "", "```", made["command"]]
    lines += list(dict.fromkeys(row["command"] for table in made["tables"] for row in table["rows"]))
    return "\n".join([*lines, "```"]) + "\n"


_unit = "accuracy in %, 95% interval in brackets:"


def _claims(claims: list[dict[str, Any]]) -> list[str]:
    if not claims:
        return []
    lines = ["| claim | verdict |", "|---|---|"]
    lines += [f"| {one['claim']} | {_word(one)} |" for one in claims]
    lines.append("")
    for one in claims:
        lines += [f"- {claim_text(compared)}" for compared in one["compared"]]
    return [*lines, ""]


def _word(claim: dict[str, Any]) -> str:
    """Return the verdict, or one for each comparison if they differ, with the number of differences that disagree."""
    words = {
        comparison: [one["word"] for one in claim["compared"] if one["part"] == comparison]
        for comparison in claim["by_part"]
    }
    comparisons = {
        comparison: WORDS.get(word, word) + _mixed(word, words[comparison])
        for comparison, word in claim["by_part"].items()
    }
    if len(set(comparisons.values())) < 2:
        return next(iter(comparisons.values()), WORDS.get(claim["word"], claim["word"]))
    return "; ".join(f"{comparison}: {word}" for comparison, word in comparisons.items())


def _mixed(word: str, words: list[str]) -> str:
    others = [one for one in DECIDED if one != word and one in words and len(set(words)) > 1]
    return f" ({', '.join(f'{one} {words.count(one)} of {len(words)}' for one in others)})" if others else ""


def claim_text(one: dict[str, Any]) -> str:
    """Return one difference as a line."""
    if one["value"] is None:
        return f"{one['what']} ({one['part']}): -"
    scale = 100 if one["unit"] == "points" else 1
    form = "{:+.1f}" if abs(scale * one["value"]) >= 10 or one["unit"] == "points" else "{:+.3f}"
    value = f"{form.format(scale * one['value'])} {one['unit']}".rstrip()
    text = f"{one['what']} ({one['part']}): {value}"
    if one["low"] is not None and one["low"] != one["high"]:
        text += f", 95% interval {form.format(scale * one['low'])} to {form.format(scale * one['high'])}"
    return f"{text}: {one['word']}"


def readme(facts: dict[str, Any], written: dict[str, Any], found: list[margins.Margin], cost: dict[str, Any]) -> str:
    """Return the README: questions, results, statistics, cost, how to repeat it."""
    scale = facts["scale"]
    lines = [
        f"# The paper's experiments, scale `{scale}`",
        "",
        "Written by `dude reproduce` from the runs in `runs/`, or packed in `runs.parquet`, `curves.parquet` and "
        "`answers.parquet`. Writing them again gives the same files.",
        "",
        "## Questions",
        "",
        "Is DuDe (arXiv 2505.14367) better than LoRA, DoRA and PiSSA, as its paper claims? Table by table.",
        _scale_text(scale),
        "",
        "## Results",
        "",
    ]
    if found:
        lines += [margins.sentence(found), "", "![DuDe's margin in each experiment](margins.png)", ""]
        lines += [
            margins.markdown(found),
            "",
            "Bold: significant after Holm's correction. In brackets: the experiments that share the runs.",
            "",
        ]
        lines += ["The paper's claims:", ""]
    lines += ["| experiment | claim | verdict |", "|---|---|---|"]
    for name, one in written.items():
        for claim in one["claims"]:
            lines.append(f"| [{EXPERIMENTS[name].title}]({name}.md) | {claim['claim']} | {_word(claim)} |")
    figures = [f"[{name}]({name}.png)" for one in written.values() for name in one["figures"]]
    if figures:
        lines += ["", f"Figures: {', '.join(figures)}."]
    if open_runs := _left(written):
        lines += ["", f"Not complete: {open_runs}."]
    if later := [one.name for one in at(scale) if one.name not in written]:
        lines += ["", f"Not begun: {', '.join(later)}."]
    lines += ["", "## Statistics", "", STATISTICS, "", "## Cost", ""]
    hours = cost["seconds"] / 3600
    lines += [
        f"{cost['runs']} runs, {hours:.1f} hours in total (several ran in parallel), at most "
        f"{cost['memory'] / 2**30:.2f} GiB each. {cost['in_tables']} of them are in the tables; the others are "
        "searches for learning rates and the untrained model.",
        "",
        *(f"- {key}: {'; '.join(cost[key])}" for key in ("hardware", "versions", "commits") if cost[key]),
    ]
    lines += ["", "## How to repeat it", "", "```", *_commands(facts, written), "```", ""]
    lines += [
        "The same command resumes a study that was stopped. The command of each row is below its table. What the paper",
        "leaves open, and what was chosen:",
        "",
    ]
    lines += _chosen(scale, written)
    for one in written.values():
        lines += ["", experiment_page(one, level=2).rstrip()]
    return "\n".join(lines) + "\n"


def _scale_text(scale: str) -> str:
    if scale == "mini":
        return (
            "Here on `mini`, a language model of 4.5 million parameters, and on generated data sets in place of the "
            "real ones. The paper's values are those of its own models and data sets: compare the order of the "
            "methods, not the values."
        )
    if scale == "small":
        return (
            "Here with SmolLM2-135M-Instruct, read from 4-bit weights, on the real data sets, with few steps and "
            "questions. The paper's values are those of models from 0.5 to 32 billion parameters: compare the order of "
            "the methods, not the values."
        )
    return "On the paper's models and data. Answers are scored by lm-evaluation-harness, in the paper by OpenCompass."


def _left(written: dict[str, Any]) -> str:
    """Return the experiments with failed or missing runs."""
    found = []
    for name, one in written.items():
        rows = [row for table in one["tables"] for row in table["rows"]]
        failed, missing = (sum(row[key] for row in rows) for key in ("failed", "missing"))
        if failed or missing:
            found.append(f"{name} ({missing} runs missing, {failed} failed)")
    return ", ".join(found)


def _commands(facts: dict[str, Any], written: dict[str, Any]) -> list[str]:
    if set(written) == {one.name for one in at(facts["scale"])}:
        return [next(iter(written.values()))["command"].replace(f"reproduce {next(iter(written))}", "reproduce all", 1)]
    return [one["command"] for one in written.values()]


def _chosen(scale: Scale, written: dict[str, Any]) -> list[str]:
    studies = dict.fromkeys(
        COMPARISONS[spec].recipes[scale] for one in at(scale) if one.name in written for spec in one.comparisons
    )
    lines = []
    for study in studies:
        recipe = load_recipe(scale, study)
        lines += [f"- {recipe.title}", *(f"  - {text}" for text in recipe.chosen)]
    return lines
