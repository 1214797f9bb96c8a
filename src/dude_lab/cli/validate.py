"""`dude validate`: every check with its tick, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from dude_peft.errors import DudeError

from ..training.quiet import quiet
from ..training.run_folder import RunFolder
from ..training.run_plan import CHECKS, make_plan
from .boundary import USER_ERROR
from .console import console
from .progress_bar import PlainReporter, show_failure


def run(config: Path, overrides: list[str]) -> int:
    """Check a config; returns the exit code."""
    from ..config.yaml_file import load_config

    out = console()
    reporter = PlainReporter(out)
    settings = load_config(config, overrides)
    reporter.check("config", str(config), None)
    quiet()
    failed: list[str] = []
    done: list[str] = []

    def report(name: str, found: str, error: DudeError | None) -> None:
        done.append(name)
        if error is None:
            reporter.check(name, found, None)
        else:
            failed.append(name)
            show_failure(out, name, error)

    plan = make_plan(settings, report, keep_going=True)
    try:
        RunFolder(settings.output).check(settings, resume=False)
        report("output", str(settings.output), None)
    except DudeError as error:
        report("output", "", error)
    for text in plan.notes:
        reporter.note(text)
    if skipped := [name for name in CHECKS if name not in done]:
        out.print(f"[dim]not checked, because they rest on what failed: {', '.join(skipped)}[/]")
    if failed:
        out.print(f"\n[bold red]{len(failed)} of {len(done) + 1} checks failed[/]: {', '.join(failed)}")
        return USER_ERROR
    out.print("\n[bold green]ready[/]: dude train " + escape(str(config)), soft_wrap=True)
    return 0
