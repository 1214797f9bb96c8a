"""`dude compare`: run a comparison, or compare finished runs; show the table and the outcome."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text

from dude_peft.errors import DudeError

from ..compare.comparison import LearningRates, Plan, compare, known_runs, plan_comparison
from ..compare.pool import Stopped
from ..folders import check_folder, user_path
from ..training.reporter import quiet
from . import FAILED_RUNS, INTERRUPTED
from .compare_progress import make_watcher
from .console import NOTE, console, show_notes, table

YAML = (".yaml", ".yml")
FILES = ("table.md", "table.json", "curves.png", "curves.svg")


def run(words: list[str], *, dry_run: bool, retry_failed: bool, output: Path | None) -> int:
    """Compare; return the exit code: 0 all finished, 1 some runs failed or are missing, 130 stopped."""
    if Path(words[0]).suffix.lower() in YAML and not Path(words[0]).is_dir():
        if output is not None:
            raise DudeError("-o is for finished runs; a comparison's folder is set by output=DIR.")
        return _run_config(words[0], words[1:], dry_run=dry_run, retry_failed=retry_failed)
    if dry_run or retry_failed:
        raise DudeError(f"{words[0]}: --dry-run and --retry-failed need a comparison's YAML file.")
    return _tabulate([user_path(word) for word in words], output)


def _run_config(config: str, overrides: list[str], *, dry_run: bool, retry_failed: bool) -> int:
    out = console()
    quiet()
    notes: list[str] = []
    try:
        with out.status("checking") if out.is_terminal else _nothing():
            plan = plan_comparison(config, overrides, notes)
    finally:
        show_notes(notes)
    if dry_run:
        return _show_plan(plan)
    try:
        compare(plan, make_watcher(out), retry_failed=retry_failed)
    except Stopped:
        again = shlex.join(["dude", "compare", config, *overrides])
        out.print(f"{NOTE} stopped; finished runs stay, unfinished ones have a checkpoint. Resume with")
        out.print(Text(f"  {again}"), soft_wrap=True)
        return INTERRUPTED
    from ..compare.comparison_report import report

    made = report(plan.folder, show_table)
    show_files(plan.folder.path)
    failed = sum(row["failed"] for row in made["rows"])
    missing = sum(row["missing"] for row in made["rows"])
    if failed:
        runs = "1 run" if failed == 1 else f"{failed} runs"
        out.print(f"{NOTE} {runs} failed and will not be retried by default:")
        out.print(Text(f"  errors  {plan.folder.state}/*.failed.json"), soft_wrap=True)
        again = shlex.join(["dude", "compare", config, *overrides, "--retry-failed"])
        out.print(Text(f"  retry   {again}"), soft_wrap=True)
    return FAILED_RUNS if failed or missing else 0


def _show_plan(plan: Plan) -> int:
    """Show all runs and their states; write nothing."""
    out, folder = console(), plan.folder
    rates = LearningRates(plan)
    known = {run.name: run for run in known_runs(plan, rates)}
    rows = table("run", "seed", "learning rate", "state", right=("seed", "learning rate"))
    done = failed = 0
    for run in known.values():
        train = run.settings.train
        state = "to do"
        if folder.is_done(run):
            state, done = "done", done + 1
        elif folder.failure(run) is not None:
            state, failed = "failed", failed + 1
        elif folder.state.is_dir() and folder.is_claimed(run):
            state = "running"
        number, rate = ("", "") if run.kind == "base" else (str(train.seed), f"{train.learning_rate:g}")
        rows.add_row(escape(run.name), number, rate, state)
    for row in plan.grid.rows:
        if rates.learning_rate(row) is None:
            for seed in plan.settings.seeds:
                rows.add_row(escape(row.name), str(seed), "from search", "to do")
    out.print(rows)
    total = plan.run_count
    out.print(
        f"{total} runs: {done} done, {failed} failed, {total - done - failed} to do; "
        f"{plan.settings.jobs} in parallel, {plan.settings.torch_threads} torch threads each"
    )
    out.print(f"folder: {escape(str(folder.path))}", soft_wrap=True)
    out.print("[dim]Dry run: nothing was written.[/]")
    return 0


def _tabulate(paths: list[Path], output: Path | None) -> int:
    from ..compare.comparison_report import report, write_report
    from ..compare.results import collect_paths
    from ..compare.table import make_table

    if output is not None:
        check_folder(output, "-o", own=FILES)
    results, folder = collect_paths(paths)
    if output is None and folder is not None:
        report(folder, show_table, results)
        show_files(folder.path)
        return 0
    table = make_table(results)
    show_table(table)  # before writing: the disk may be full
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_report(results, table, output)
        show_files(output)
    return 0


def show_table(made: dict[str, Any]) -> None:
    """Show the table, the outcome and the notes."""
    from ..compare.table import columns

    out = console()
    heads, body = columns(made)
    out.print()
    for block in blocks(heads, body, out.width if out.is_terminal else None):
        rows = table(*(escape(heads[k]) for k in block), right=tuple(escape(heads[k]) for k in block[1:]))
        for cells in body:
            rows.add_row(*(_bold(cells[k]) if k else escape(cells[k]) for k in block))
        out.print(rows, soft_wrap=not out.is_terminal)
    for text in made["outcome"]:
        out.print(escape(text), soft_wrap=not out.is_terminal)
    out.print()
    for text in made["notes"]:
        out.print(f"[dim]{escape(text)}[/]", soft_wrap=not out.is_terminal)


def show_files(folder: Path) -> None:
    """Show the paths of the files."""
    out = console()
    out.print()
    for what, name in (("table", "table.md"), ("figure", "curves.png"), ("data", "table.json")):
        out.print(Text(f"{what + ':':9}{folder / name}"), soft_wrap=True)  # on one line, so that it can be copied


def blocks(heads: list[str], body: list[list[str]], width: int | None) -> list[list[int]]:
    """Return blocks of columns that fit a terminal of `width` columns, each with the first two (method, rank).

    With None there is one block. A cell is never broken, since that makes numbers unreadable.
    """
    widths = [2 + max(len(line[k].replace("**", "")) for line in [heads, *body]) for k in range(len(heads))]
    made: list[list[int]] = [[0, 1]]
    for k in range(2, len(heads)):
        if width is not None and len(made[-1]) > 2 and sum(widths[j] for j in [*made[-1], k]) > width:
            made.append([0, 1])
        made[-1].append(k)
    return made


def _bold(cell: str) -> str:
    """Convert bold text from Markdown to rich."""
    before, mark, rest = escape(cell).partition("**")
    inside, _, after = rest.partition("**")
    return f"{before}[bold]{inside}[/]{after}" if mark else before


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()
