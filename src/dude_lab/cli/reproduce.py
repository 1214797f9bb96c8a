"""`dude reproduce`: work through the paper's experiments, or say what they would cost; show the verdicts."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text

from ..paper.experiments import Experiment, Scale, chosen
from ..paper.recipe import Part, parts_of
from ..paper.study_folder import StudyFolder
from . import INTERRUPTED
from .console import NOTE, console, table

FAILED = 1


def run(
    name: str, scale: Scale, overrides: list[str], *, output: Path, rows: list[str], dry_run: bool, retry_failed: bool
) -> int:
    """Reproduce; returns the exit code: 0 all finished, 1 some runs failed or are missing, 130 stopped."""
    experiments = chosen(name, scale)
    root = StudyFolder(output)
    parts = parts_of(experiments, scale, output, overrides, rows)
    if dry_run:
        root.check(scale)
        return _show_costs(scale, parts, root)
    return _work(
        experiments, scale, root, parts, overrides, [name, *_again(scale, output, rows, overrides)], retry_failed
    )


def _again(scale: str, output: Path, rows: list[str], overrides: list[str]) -> list[str]:
    return ["--scale", scale, *(word for row in rows for word in ("--row", row)), "-o", str(output), *overrides]


def _work(
    experiments: tuple[Experiment, ...],
    scale: Scale,
    root: StudyFolder,
    parts: tuple[Part, ...],
    overrides: list[str],
    again: list[str],
    retry_failed: bool,
) -> int:
    from ..compare.pool import Stopped
    from ..paper.reproduce_run import plan_reproduction, reproduce
    from ..paper.study_report import write_report
    from ..training.reporter import quiet
    from .compare_progress import make_watcher

    out = console()
    quiet()
    place = escape(str(root.path))
    whole = plan_reproduction(experiments, scale, root, parts, tuple(overrides))
    done, total = whole.progress()
    out.print(f"{total} runs in {len(parts)} parts, {done} done already; folder: {place}", soft_wrap=True)

    def starting(part: Part, number: int) -> None:
        out.print(f"[bold]part {number} of {len(parts)}: {escape(part.name)}[/] [dim]{escape(part.recipe.title)}[/]",
                  soft_wrap=True)  # fmt: skip

    try:
        reproduce(whole, lambda: make_watcher(out), retry_failed=retry_failed, starting=starting)
    except Stopped:
        write_report(root.path)
        out.print(f"{NOTE} stopped; finished runs are kept, and what was training has a checkpoint. Go on with")
        out.print(Text(f"  {shlex.join(['dude', 'reproduce', *again])}"), soft_wrap=True)
        return INTERRUPTED
    written = write_report(root.path)
    _show(experiments, written, root)
    rows = [row for one in experiments for made in written[one.name]["tables"] for row in made["rows"]]
    if failed := sum(row["failed"] for row in rows):
        out.print(f"{NOTE} {failed} runs failed: why is in {place}/state/*.failed.json. They are not tried again")
        out.print(Text(f"  unless by  {shlex.join(['dude', 'reproduce', *again, '--retry-failed'])}"), soft_wrap=True)
    return FAILED if any(row["failed"] or row["missing"] for row in rows) else 0


def _show(experiments: tuple[Experiment, ...], written: dict[str, Any], root: StudyFolder) -> None:
    """Every claim with its verdict, and where the rest is."""
    from ..paper.readme import claim_text

    out = console()
    rows = table("experiment", "claim", "here")
    for one in experiments:
        for claim in written[one.name]["claims"]:
            rows.add_row(one.name, escape(claim["claim"]), claim["word"])
    if rows.row_count:
        out.print(rows)
    for one in experiments:
        for claim in written[one.name]["claims"]:
            for compared in claim["compared"]:
                out.print(f"[dim]{one.name}: {escape(claim_text(compared))}[/]", soft_wrap=True)
    out.print(f"\nread first: {escape(str(root.path / 'README.md'))}", soft_wrap=True)


def _show_costs(scale: Scale, parts: tuple[Part, ...], root: StudyFolder) -> int:
    """Models, data, steps, memory and hours, and how much of it is done; writes nothing."""
    from ..paper import budget
    from ..paper.reproduce_run import stored_progress

    out = console()
    costs = [budget.cost(part) for part in parts]
    numbers = ("runs", "steps", "trained", "memory", "hours")
    rows = table("part", "model", "trained on", "asked", *numbers[:4], "GPU", "hours", right=numbers)
    for part, cost in zip(parts, costs, strict=True):
        run = part.settings.run
        asked = run["eval"].get("suite", "")
        searches = f" + {cost.searches}" if cost.searches else ""
        memory = f"{cost.memory / 1e9:.1f} GB"
        gpu = cost.gpu if scale == "paper" else "-"
        what = (part.selection.name, part.model.name.rsplit("/", 1)[-1], run["data"]["name"], asked)
        count = (f"{cost.runs}{searches}", f"{cost.steps:,}", f"{cost.trainable / 1e6:,.2f} M", memory)
        rows.add_row(*what, *count, gpu, f"{cost.hours:.1f}")
    out.print(rows, soft_wrap=not out.is_terminal)
    hours = sum({name: one for cost in costs for name, one in cost.cells.items()}.values())
    unit = "GPU-hours on an H100" if scale == "paper" else "core-hours"
    out.print(f"in all {hours:.1f} {unit}; runs that several parts share are counted once, '+' are searches for a rate")
    if (progress := stored_progress(root, parts)) is not None:
        out.print(f"{progress[0]} of {progress[1]} runs are finished in {escape(str(root.path))}", soft_wrap=True)
    if scale == "paper":
        out.print(f"[dim]Assumed: {budget.MFU:.0%} of the peak, {budget.BANDWIDTH_SHARE:.0%} of the bandwidth, and "
                  f"{1000 * budget.LAUNCH:.1f} ms a layer and pass at least; tokens an example as in the recipes. A "
                  "model, not a measurement.[/]", soft_wrap=True)  # fmt: skip
    else:
        jobs = max(part.settings.jobs for part in parts)
        speeds = ", ".join(f"{value:,.0f} tokens/s to {what}" for what, value in budget.CPU_TOKENS.items())
        out.print(f"about {hours / jobs:.1f} hours with {jobs} runs side by side, one core each", soft_wrap=True)
        out.print(f"[dim]Assumed: {speeds}, on one core.[/]", soft_wrap=True)
    out.print("[bold]What the paper leaves open, and what was chosen[/]")
    for title, texts in {part.recipe.title: part.recipe.chosen for part in parts}.items():
        out.print(escape(title), soft_wrap=True)
        for text in texts:
            out.print(f"  - [dim]{escape(text)}[/]", soft_wrap=True)
    out.print("[dim]A dry run: nothing was written, nothing downloaded.[/]")
    return 0
