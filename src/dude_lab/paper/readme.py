"""The text of a reproduction: one page an experiment, and the README that a newcomer reads first."""

from __future__ import annotations

from typing import Any

from ..stats.significance import HIGHER, LOWER
from . import margins, rates
from .experiments import EXPERIMENTS, SELECTIONS, Scale, at
from .paper_tables import markdown
from .recipe import load_recipe

WORDS = {"holds": "**holds**", "does not hold": "**does not hold**"}
DECIDED = (HIGHER, LOWER, "holds", "does not hold")
HOW_SURE = """\
- An accuracy is the mean over the seeds with Student's 95% interval over them; with one seed, Wilson's over the
  questions, which says nothing about other seeds.
- A comparison is paired by seed and question, its error from a bootstrap over both; comparisons of losses and of mean
  accuracies along the training are paired by seed alone (Student's t). Each interval is of its comparison by itself.
- A difference is *significantly higher* or *lower* at p < 0.05 after Holm's correction: of accuracies among all pairs
  of rows that the table compares, as in `dude compare`; of anything else among the comparisons of the claim in the
  table. *No significant difference* does not mean *equal*: a difference smaller than the interval may be there.
- A claim *holds* where every comparison goes its way significantly, and *does not hold* where at least one goes the
  other way significantly. The lowest seed against the highest, and rates above the best, are looked up, not tested.
- Tables and claims are not corrected for each other: of twenty without a true difference one would be misjudged.
- `-`: not run, or too few seeds to say."""


def experiment_page(made: dict[str, Any], *, level: int = 1) -> str:
    """Question, verdicts, table, picture and commands of one experiment."""
    hashes = "#" * level
    lines = [f"{hashes} {made['title']}", "", made["question"], ""]
    lines += _claims(made["claims"])
    for name in made["figures"]:
        lines += [f"![{made['title']}]({name}.png)", "", f"[{name}.svg]({name}.svg)", ""]
    if not made["tables"]:
        lines += ["Not run yet.", ""]
    for table in made["tables"]:
        searched = any("rates" in row for row in table["rows"])
        unit = "per cent right on validation, the chosen rate in bold:" if searched else _unit
        lines += [f"Model `{table['model']}` fine-tuned on `{table['trained_on']}`, {unit}", ""]
        lines += [rates.markdown(table) if searched else markdown(table)]
    lines += ["Again, whole or a row of it:", "", "```", made["command"]]
    lines += list(dict.fromkeys(row["command"] for table in made["tables"] for row in table["rows"]))
    return "\n".join([*lines, "```"]) + "\n"


_unit = "per cent right, 95% interval in brackets:"


def _claims(claims: list[dict[str, Any]]) -> list[str]:
    if not claims:
        return []
    lines = ["| claim | here |", "|---|---|"]
    lines += [f"| {one['claim']} | {_word(one)} |" for one in claims]
    lines.append("")
    for one in claims:
        lines += [f"- {claim_text(compared)}" for compared in one["compared"]]
    return [*lines, ""]


def _word(claim: dict[str, Any]) -> str:
    """Of the whole, or of each part where they differ; and how many comparisons came to something else."""
    words = {part: [one["word"] for one in claim["compared"] if one["part"] == part] for part in claim["by_part"]}
    parts = {part: WORDS.get(word, word) + _mixed(word, words[part]) for part, word in claim["by_part"].items()}
    if len(set(parts.values())) < 2:
        return next(iter(parts.values()), WORDS.get(claim["word"], claim["word"]))
    return "; ".join(f"{part}: {word}" for part, word in parts.items())


def _mixed(word: str, words: list[str]) -> str:
    others = [one for one in DECIDED if one != word and one in words and len(set(words)) > 1]
    return f" ({', '.join(f'{one} {words.count(one)} of {len(words)}' for one in others)})" if others else ""


def claim_text(one: dict[str, Any]) -> str:
    """One comparison in a line."""
    if one["value"] is None:
        return f"{one['what']} ({one['part']}): -"
    scale, form = (100, "{:+.1f}") if one["unit"] == "points" else (1, "{:+.3f}")
    text = f"{one['what']} ({one['part']}): {form.format(scale * one['value'])} {one['unit']}"
    if one["low"] is not None and one["low"] != one["high"]:
        text += f", 95% interval {form.format(scale * one['low'])} to {form.format(scale * one['high'])}"
    return f"{text}: {one['word']}"


def readme(facts: dict[str, Any], written: dict[str, Any], found: list[margins.Lead], cost: dict[str, Any]) -> str:
    """What was asked, what was found, how sure, what it cost, how to repeat it."""
    scale = facts["scale"]
    lines = [
        f"# The paper's experiments, scale `{scale}`",
        "",
        "Made by `dude reproduce` from the runs in `runs/`, or packed in `runs.parquet`, `curves.parquet` and "
        "`answers.parquet`; written again the files are the same.",
        "",
        "## What was asked",
        "",
        "Whether DuDe (arXiv 2505.14367) does better than LoRA, DoRA and PiSSA, and as its paper says: table by table.",
        _scale_text(scale),
        "",
        "## What was found",
        "",
    ]
    if found:
        lines += [margins.sentence(found), "", "![DuDe's lead in each experiment](leads.png)", ""]
        lines += [
            margins.markdown(found),
            "",
            "Bold: significant after Holm's correction. In brackets: model or training data, if there are several.",
            "",
        ]
        lines += ["The paper's claims:", ""]
    lines += ["| experiment | claim | here |", "|---|---|---|"]
    for name, one in written.items():
        for claim in one["claims"]:
            lines.append(f"| [{EXPERIMENTS[name].title}]({name}.md) | {claim['claim']} | {_word(claim)} |")
    pictures = [f"[{name}]({name}.png)" for one in written.values() for name in one["figures"]]
    if pictures:
        lines += ["", f"Pictures: {', '.join(pictures)}."]
    open_runs = _left(written)
    if open_runs:
        lines += ["", f"Not complete: {open_runs}."]
    lines += ["", "## How sure", "", HOW_SURE, "", "## What it cost", ""]
    hours = cost["seconds"] / 3600
    lines += [
        f"{cost['runs']} runs, {hours:.1f} hours of them in all (several went side by side), at most "
        f"{cost['memory'] / 2**30:.2f} GiB each. {cost['in_tables']} of them stand in the tables; the others chose "
        "learning rates, or are the untrained model.",
        "",
        *(f"- {key}: {'; '.join(cost[key])}" for key in ("hardware", "versions", "commits") if cost[key]),
    ]
    lines += ["", "## How to repeat it", "", "```", *_commands(facts, written), "```", ""]
    lines += [
        "A second start goes on where the first was stopped, and does nothing where all is done. The command of each",
        "row stands under its table. What the paper leaves open, and what was chosen:",
        "",
    ]
    lines += _chosen(scale, written)
    for one in written.values():
        lines += ["", experiment_page(one, level=2).rstrip()]
    return "\n".join(lines) + "\n"


def _scale_text(scale: str) -> str:
    if scale == "mini":
        return (
            "Here on `mini`, a language model of 4.5 million parameters, and on generated sets that stand for the real "
            "ones: the paper's values beside ours are those of its own models and sets, for comparison of the order, "
            "not of the height."
        )
    return (
        "On the paper's models and data. What scores answers differs (lm-evaluation-harness here, OpenCompass there)."
    )


def _left(written: dict[str, Any]) -> str:
    """Rows with runs that are failed or missing."""
    told = []
    for name, one in written.items():
        rows = [row for table in one["tables"] for row in table["rows"]]
        failed, missing = (sum(row[key] for row in rows) for key in ("failed", "missing"))
        if failed or missing:
            told.append(f"{name} ({missing} runs missing, {failed} failed)")
    return ", ".join(told)


def _commands(facts: dict[str, Any], written: dict[str, Any]) -> list[str]:
    if set(written) == {one.name for one in at(facts["scale"])}:
        return [next(iter(written.values()))["command"].replace(f"reproduce {next(iter(written))}", "reproduce all", 1)]
    return [one["command"] for one in written.values()]


def _chosen(scale: Scale, written: dict[str, Any]) -> list[str]:
    studies = dict.fromkeys(
        SELECTIONS[selection].studies[scale] for one in at(scale) if one.name in written for selection in one.selections
    )
    lines = []
    for study in studies:
        recipe = load_recipe(scale, study)
        lines += [f"- {recipe.title}", *(f"  - {text}" for text in recipe.chosen)]
    return lines
