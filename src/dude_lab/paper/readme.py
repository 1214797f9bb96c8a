"""The README of a study: a short answer to each question, what the words mean, the cost, and how to repeat it."""

from __future__ import annotations

from typing import Any

from . import margins
from .experiment_summary import experiment_summary
from .experiments import COMPARISONS, Scale, at
from .recipe import load_recipe

STATISTICS = """\
- An accuracy is the mean over seeds with Student's 95% interval; with one seed, or where all seeds have one value,
  Wilson's interval over the questions, which says nothing about other seeds.
- Differences in accuracy are paired by seed and question. Their variance is that of a bootstrap over both, corrected
  for few seeds; interval and p-value are Student's with Satterthwaite's degrees of freedom. Differences in loss and in
  mean accuracy during training are paired by seed (Student's t). Each interval is that of its difference by itself.
- A difference is *significantly higher* or *lower* at p < 0.05 after Holm's correction: for accuracies over all pairs
  of rows that the table compares, as in `dude compare`; for anything else over the differences of the claim in the
  table. *No significant difference* does not mean *equal*: a difference smaller than the interval is possible.
- A claim *holds* if every difference is significantly higher, and *does not hold* if at least one is significantly
  lower. The worst seed against the best, and rates above the best, are reported without a test.
- There is no correction across tables and claims: of twenty without a true difference, one is expected to be wrong.
- `-`: not run, or too few seeds."""


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
            "Bold: significant after Holm's correction. In brackets: the experiments that share the runs; a difference "
            "is counted once, and as significant if it is so in each of their tables.",
            "",
        ]
    for name, one in written.items():
        lines += experiment_summary(name, one)
    if open_runs := _left(written):
        lines += [f"Not complete: {open_runs}.", ""]
    if later := [one.name for one in at(scale) if one.name not in written]:
        lines += [f"Not begun: {', '.join(later)}.", ""]
    lines += ["## Statistics", "", STATISTICS, "", "## Cost", ""]
    hours = cost["seconds"] / 3600
    lines += [
        f"{cost['runs']} runs, {hours:.1f} hours in total (several ran in parallel), at most "
        f"{cost['memory'] / 2**30:.2f} GiB each. {cost['in_tables']} of them are in the tables; the others are "
        "searches for learning rates and the base model.",
        "",
        *(f"- {key}: {'; '.join(cost[key])}" for key in ("hardware", "versions", "commits") if cost[key]),
    ]
    lines += ["", "## How to repeat it", "", "```", *_commands(facts, written), "```", ""]
    lines += [
        "The same command resumes a study that was stopped. The page of an experiment has the command of each row.",
        "What the paper leaves open, and what was chosen:",
        "",
    ]
    lines += _chosen(scale, written)
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
            found.append(f"{name} ({missing} {'run' if missing == 1 else 'runs'} missing, {failed} failed)")
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
