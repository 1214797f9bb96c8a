"""`dude reproduce`: run the paper's experiments, or estimate their cost; show the verdicts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.text import Text

from ..paper.experiments import Experiment, Scale, chosen
from ..paper.recipe import StudyComparison, comparisons_of
from ..paper.study_folder import StudyFolder
from . import FAILED_RUNS, INTERRUPTED
from .console import NOTE, console, table

if TYPE_CHECKING:
    from ..paper.study import Study


def run(
    name: str, scale: Scale, overrides: list[str], *, output: Path, rows: list[str], dry_run: bool, retry_failed: bool
) -> int:
    """Reproduce; return the exit code: 0 all finished, 1 some runs failed or are missing, 130 stopped."""
    experiments = chosen(name, scale)
    folder = StudyFolder(output)
    comparisons = comparisons_of(experiments, scale, output, overrides, rows)
    if dry_run:
        folder.check(scale)
        return _show_costs(scale, comparisons, folder)
    from ..paper.study import plan_study
    from ..training.reporter import quiet

    quiet()
    study = plan_study(folder, scale, experiments, comparisons, tuple(overrides))
    picked = [word for row in rows for word in ("--row", row)]
    command = ["dude", "reproduce", name, "--scale", scale, *picked, "-o", str(output), *overrides]
    return _work(study, command, retry_failed)


def _work(study: Study, command: list[str], retry_failed: bool) -> int:
    from ..compare.pool import Stopped
    from ..paper.study import progress
    from ..paper.study_report import write_report
    from .compare_progress import make_watcher

    out, folder, number_of = console(), study.folder, len(study.comparisons)
    place = escape(str(folder.path))
    done, total = progress(study.plans)
    out.print(f"{total} runs in {number_of} comparisons, {done} done; folder: {place}", soft_wrap=True)

    def starting(comparison: StudyComparison, number: int) -> None:
        text = f"[bold]comparison {number} of {number_of}: {escape(comparison.name)}[/]"
        out.print(f"{text} [dim]{escape(comparison.recipe.title)}[/]", soft_wrap=True)

    try:
        study.run(lambda: make_watcher(out), retry_failed=retry_failed, starting=starting)
    except Stopped:
        write_report(folder.path)
        out.print(f"{NOTE} stopped; finished runs stay, unfinished ones have a checkpoint. Resume with")
        out.print(Text(f"  {shlex.join(command)}"), soft_wrap=True)
        return INTERRUPTED
    written = write_report(folder.path)
    _show(study.experiments, written, folder)
    rows = [row for one in study.experiments for made in written[one.name]["tables"] for row in made["rows"]]
    if failed := sum(row["failed"] for row in rows):
        out.print(f"{NOTE} {failed} runs failed; the errors are in {place}/state/*.failed.json. Retry them with")
        out.print(Text(f"  {shlex.join([*command, '--retry-failed'])}"), soft_wrap=True)
    done, total = progress(study.plans)
    return FAILED_RUNS if done < total else 0


def _show(experiments: tuple[Experiment, ...], written: dict[str, Any], folder: StudyFolder) -> None:
    """Show every claim with its verdict, and the path of the README."""
    from ..paper.experiment_page import claim_text

    out = console()
    rows = table("experiment", "claim", "verdict")
    for one in experiments:
        for claim in written[one.name]["claims"]:
            rows.add_row(one.name, escape(claim["claim"]), claim["word"])
    if rows.row_count:
        out.print(rows)
    for one in experiments:
        for claim in written[one.name]["claims"]:
            for compared in claim["compared"]:
                out.print(f"[dim]{one.name}: {escape(claim_text(compared))}[/]", soft_wrap=True)
    out.print(f"\nresults: {escape(str(folder.path / 'README.md'))}", soft_wrap=True)


def _show_costs(scale: Scale, comparisons: tuple[StudyComparison, ...], folder: StudyFolder) -> int:
    """Show models, data, steps, memory, hours and progress; write nothing."""
    from ..paper import budget
    from ..paper.study import stored_progress

    out = console()
    costs = [budget.cost(comparison) for comparison in comparisons]
    numbers = ("runs", "steps", "trained", "memory", "hours")
    rows = table("comparison", "model", "trained on", "evaluated on", *numbers[:4], "GPU", "hours", right=numbers)
    for comparison, cost in zip(comparisons, costs, strict=True):
        run = comparison.settings.run
        asked = run["eval"].get("suite") or ", ".join(run["eval"].get("tasks", ()))
        searches = f" + {cost.searches}" if cost.searches else ""
        memory = f"{cost.memory / 1e9:.1f} GB"
        gpu = cost.gpu if scale == "paper" else "-"
        what = (comparison.spec.name, comparison.model.name.rsplit("/", 1)[-1], run["data"]["name"], asked)
        count = (f"{cost.runs}{searches}", f"{cost.steps:,}", f"{cost.trainable / 1e6:,.2f} M", memory)
        rows.add_row(*what, *count, gpu, f"{cost.hours:.1f}")
    out.print(rows, soft_wrap=not out.is_terminal)
    hours = sum({name: one for cost in costs for name, one in cost.run_hours.items()}.values())
    unit = "GPU-hours on an H100" if scale == "paper" else "core-hours"
    out.print(f"total {hours:.1f} {unit}; shared runs are counted once; '+': search runs for learning rates")
    if (progress := stored_progress(folder, comparisons)) is not None:
        out.print(f"{progress[0]} of {progress[1]} runs are finished in {escape(str(folder.path))}", soft_wrap=True)
    if scale == "paper":
        out.print(f"[dim]Assumed: {budget.MFU:.0%} of the peak, {budget.BANDWIDTH_SHARE:.0%} of the bandwidth, and "
                  f"{1000 * budget.LAUNCH:.1f} ms a layer and pass at least; tokens per example as in the recipes. An "
                  "estimate, not a measurement.[/]", soft_wrap=True)  # fmt: skip
    else:
        jobs = max(comparison.settings.jobs for comparison in comparisons)
        speed = budget.CPU_TOKENS[comparisons[0].model.name]
        speeds = ", ".join(f"{value:,.0f} tokens/s to {what}" for what, value in speed.items())
        out.print(f"about {hours / jobs:.1f} hours with {jobs} runs in parallel, one core each", soft_wrap=True)
        out.print(f"[dim]Assumed: {speeds}, on one core.[/]", soft_wrap=True)
    out.print("[bold]What the paper leaves open, and what was chosen[/]")
    for title, texts in {comparison.recipe.title: comparison.recipe.chosen for comparison in comparisons}.items():
        out.print(escape(title), soft_wrap=True)
        for text in texts:
            out.print(f"  - [dim]{escape(text)}[/]", soft_wrap=True)
    out.print("[dim]Dry run: nothing was written or downloaded.[/]")
    return 0
