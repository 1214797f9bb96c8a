"""`dude train` and `dude validate`: check a config, show the plan, train, and show the result."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text

from dude_peft.errors import DudeError

from ..config.run_settings import RunSettings
from ..text import percent
from ..training.distributed import process_count
from ..training.examples import Parts
from ..training.record import perplexity
from ..training.reporter import quiet
from ..training.run_checkpoint import step_of
from ..training.run_folder import RunFolder
from ..training.run_plan import CHECKS, Plan, as_table, make_plan
from ..training.train_run import Interrupted, RunResult, train
from . import INTERRUPTED, USER_ERROR
from .console import NOTE, console, duration, facts, show_next, size, table
from .progress_bar import CheckProgress, PlainReporter, make_reporter, show_failure

VALIDATED = 500  # examples that `dude validate` tokenises of a larger data set


def run(settings: RunSettings, config: Path, overrides: list[str], resume: str | None) -> int:
    """Train; return the exit code."""
    out = console()
    reporter = make_reporter(out)
    with reporter.stage("loading libraries"):
        quiet()
    try:
        result = train(settings, resume=resume, reporter=reporter)
    except Interrupted as stopped:
        count = process_count()
        together = ["torchrun", "--nproc_per_node", str(count), "--no-python"] if count > 1 else []
        again = shlex.join([*together, "dude", "train", str(config), *overrides, "--resume", "auto"])
        then = (
            f"the checkpoint of step {stopped.step} is saved. Resume"
            if stopped.step
            else "no checkpoint is saved. Restart"
        )
        out.print(f"{NOTE} {escape(str(stopped))}; {then} with")
        out.print(Text(f"  {again}"), soft_wrap=True)
        return INTERRUPTED
    if result.already:
        out.print(f"{NOTE} {escape(str(result.folder.path))} is already finished; nothing was done.")
    show_summary(result)
    folder = str(result.folder.path)
    export = ["dude", "export", folder, "-o", f"{folder.rstrip('/')}-lora"]
    full = result.folder.model.is_dir()
    show_next(["dude", "chat", folder], ["dude", "push", folder, "OWNER/NAME"] if full else export)
    return 0


def dry_run(settings: RunSettings, resume: str | None = None) -> int:
    """Show the plan, and with `resume` where the run would resume; write nothing."""
    from ..config.yaml_file import to_yaml
    from ..training.examples import shown

    out = console()
    reporter = make_reporter(out)
    begin = _beginning(RunFolder(settings.output), settings, resume, reporter.note)
    with CheckProgress(out) as progress:
        quiet()
        plan = make_plan(settings, reporter.check, started=progress.started, progress=progress.moved)
    for text in plan.notes:
        reporter.note(text)
    out.print("\n[bold]Config, as resolved[/]")
    out.print(Text(to_yaml(settings).rstrip()), soft_wrap=True)
    _show_targets(plan)
    _show_memory(plan)
    _show_example("First example", shown(plan.train, plan.base.tokenizer))
    _show_renderings(plan)
    if begin:
        out.print(f"\n{escape(begin)}", soft_wrap=True)
    out.print("\n[dim]A dry run: nothing was written.[/]")
    return 0


def _show_example(title: str, parts: Parts) -> None:
    """Print an example with its loss mask: in green on a terminal, elsewhere between >>> and <<<."""
    out = console()
    out.print(f"\n[bold]{title}[/] [dim]({'green' if out.is_terminal else '>>> <<<'}: trained on)[/]")
    if out.is_terminal:
        out.print(Text.assemble(*((text, "green" if trained else "dim") for text, trained in parts)))
    else:
        out.print("".join(f">>>{text}<<<" if trained else text for text, trained in parts), markup=False)


def _show_renderings(plan: Plan) -> None:
    if plan.renderings is not None:
        _show_example("First record as text, as it is now", plan.renderings[0])
        _show_example("First record with data.chat_template=true", plan.renderings[1])


def _beginning(folder: RunFolder, settings: RunSettings, resume: str | None, note: Callable[[str], None]) -> str:
    """Check the folder; what `--resume` would do there, empty without it."""
    folder.check(settings, resume=resume is not None, retry=resume not in (None, "auto", "must"))
    if resume is None:
        return ""
    if folder.record.is_file():
        return f"--resume: {folder.path} is already finished; nothing would be done."
    checkpoint = folder.find_checkpoint(resume, note)
    if checkpoint is None:
        return f"--resume: there is no checkpoint in {folder.path}; the run would start from the beginning."
    return f"--resume: the run would resume after step {step_of(checkpoint)}, from {checkpoint}."


def _show_targets(plan: Plan) -> None:
    out = console()
    if plan.part.targets:
        rows = table(
            "module",
            "shape (d, k)",
            "r",
            "count",
            "trainable",
            title="\nAdapted modules",
            right=("r", "count", "trainable"),
        )
        for row in as_table(plan):
            d, k = row["shape"]
            numbers = str(row["r"] or "-"), str(row["count"]), f"{row['trainable']:,}"
            rows.add_row(escape(row["module"]), f"({d:,}, {k:,})", *numbers)
        out.print(rows)
    share = plan.part.trainable / plan.part.total
    out.print(f"trainable: {plan.part.trainable:,} of {plan.part.total:,} parameters ({share:.3%})")
    out.print(f"steps: {plan.steps:,} ({plan.epochs:.2f} epochs of {plan.train.count:,} examples)")


def _show_memory(plan: Plan) -> None:
    memory = plan.memory
    rows = table("memory, estimated", "", right=("",))
    for name in ("weights", "adapter", "optimizer", "activations", "process", "total", "available"):
        rows.add_row(name, size(getattr(memory, name)))
    console().print(rows)


def show_summary(result: RunResult) -> None:
    """Print the numbers of a finished run, and its files."""
    out, record, folder = console(), result.record, result.folder
    cost, training = record["cost"], record["training"]
    rank = f", r = {record['r']}" if record["r"] else ""
    share = cost["trainable_parameters"] / cost["total_parameters"]
    memory = cost["peak_memory"]
    rows = [
        ("method", f"{record['title']}{rank}"),
        ("trained", f"{cost['trainable_parameters']:,} of {cost['total_parameters']:,} parameters ({share:.2%})"),
        ("steps", f"{training['steps']:,} ({training['epochs']:.2f} epochs)"),
        *([("best step", _best(training))] if training.get("best_step") else []),
        ("loss", f"{training['first_loss']:.4f} at first, {training['last_tenth_loss']:.4f} over the last tenth"),
        *_metrics(record),
        ("time", f"{duration(cost['train_seconds'])} training, {duration(cost['eval_seconds'])} evaluation, "
                 f"{duration(cost['init_seconds'])} initialisation"),
        ("speed", f"{cost['tokens_per_second'] or 0:,.0f} tokens/s"),
        ("peak memory", f"{size(memory['bytes'])} ({memory['kind'].replace('_', ' ')})"),
        ("result", f"{folder.model if folder.model.is_dir() else folder.adapter} ({size(cost['adapter_bytes'])})"),
        ("picture", str(folder.picture)),
        ("record", str(folder.record)),
    ]  # fmt: skip
    out.print()
    out.print(facts(rows))


def _best(training: dict[str, Any]) -> str:
    """Return the best step with its value, and why the run ended."""
    value, loaded = training["best_value"], ", loaded" if training["best_loaded"] else ""
    name = "accuracy" if training["best_metric"] == "accuracy" else "validation loss"
    shown = f"{percent(value)}%" if name == "accuracy" else f"{value:.4f}"
    return f"{training['best_step']:,} ({name} {shown}{loaded}); {training['ended']}"


def _metrics(record: dict[str, Any]) -> list[tuple[str, str]]:
    before, after = record["metrics"]["before"] or {}, record["metrics"]["after"] or {}
    rows = []
    if "accuracy" in after:
        row = after["tasks"][after["headline"]]
        error = f" ± {percent(row['stderr'])}%" if row.get("stderr") is not None else ""
        was = f"{percent(before['accuracy'])}% -> " if "accuracy" in before else ""
        if was and (n := before["tasks"][before["headline"]]["n"]) != row["n"]:
            was = f"{percent(before['accuracy'])}% (n = {n:,}) -> "
        now = f"{percent(after['accuracy'])}%{error} on {after['headline']} (n = {row['n']:,})"
        rows.append(("accuracy", was + now))
    if "validation_loss" in after:
        losses = [one["validation_loss"] for one in (before, after) if "validation_loss" in one]
        rows.append(("validation loss", " -> ".join(f"{loss:.4f}" for loss in losses)))
        rows.append(("perplexity", " -> ".join(f"{perplexity(loss):.4g}" for loss in losses)))
    return rows


def validate(settings: RunSettings, config: Path, overrides: list[str]) -> int:
    """Check a config, and report every mistake at once; return the exit code."""
    out = console()
    reporter = PlainReporter(out)
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

    with CheckProgress(out) as shown:
        plan = make_plan(
            settings, report, keep_going=True, started=shown.started, progress=shown.moved, sample=VALIDATED
        )
    try:
        RunFolder(settings.output).check(settings, resume=False)
        report("output", str(settings.output), None)
    except DudeError as error:
        report("output", "", error)
    for text in plan.notes:
        reporter.note(text)
    _show_renderings(plan)
    if skipped := [name for name in CHECKS if name not in done]:
        out.print(f"[dim]not checked because an earlier check failed: {', '.join(skipped)}[/]")
    if failed:
        out.print(f"\n[bold red]{len(failed)} of {len(done) + 1} checks failed[/]: {', '.join(failed)}")
        return USER_ERROR
    command = shlex.join(["dude", "train", str(config), *overrides])
    out.print(f"\n[bold green]all checks passed[/]: {escape(command)}", soft_wrap=True)
    return 0
