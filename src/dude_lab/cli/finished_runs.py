"""The commands on finished runs: `dude eval`, `dude merge` and `dude report`."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.markup import escape

from dude_peft.errors import DudeError
from dude_peft.files import json_values, write_json

from ..config.eval_settings import EvalSettings
from ..folders import check_folder, folder_bytes, sync_tree, user_path
from ..training.finished_run import is_run, load_any, open_run
from ..training.reporter import quiet
from .console import CHECKED, console, show_next, size
from .progress_bar import byte_progress, make_reporter

FILES = ("metrics.json", "metrics.md", "samples", "provenance.json")


def evaluate_model(
    model: str, settings: EvalSettings, output: Path | None, *, overwrite: bool, dtype: str, device: str
) -> int:
    """Evaluate, print the table and write every answer; return the exit code."""
    from ..evaluation.evaluator import evaluate
    from ..evaluation.tasks import build_units
    from ..training.base_model import choose_device, choose_dtype, identity
    from ..training.provenance import git_state, hardware, versions

    if model.startswith("~"):
        model = str(user_path(model))
    suite = "+".join(settings.names) if settings.suite is None else settings.suite
    if settings.file is not None and is_run(model):
        settings = _as_in_training(settings, model)
    folder = output or _place(model, suite)
    choose_dtype(dtype, choose_device(device))
    check_folder(folder, "-o", own=FILES)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise DudeError(f"{folder} already has results. Pass --overwrite to replace them, or -o for another folder.")
    quiet()
    out = console()
    reporter = make_reporter(out)
    if settings.metric == "loss":
        return _evaluate_loss(model, settings, folder, dtype=dtype, device=device)
    build_units(settings)  # the questions first: they are quicker to miss than a model is to load
    with reporter.stage(f"loading {model}"):
        base, loaded = load_any(model, dtype=dtype, device=device)
    with reporter.stage(f"evaluating on {suite}"):
        result = evaluate(loaded, base.tokenizer, settings, progress=reporter.asked)
    out.print()
    out.print(result.markdown(), markup=False, soft_wrap=True)  # first of all: a disk that is full must not lose it
    _clear(folder)
    result.write(folder)
    sync_tree(folder)
    about = {
        "model": identity(base) | {"run": str(model) if is_run(model) else None},
        "eval": settings.model_dump(mode="json"),
    }
    write_json(folder / "provenance.json", about | {"git": git_state(), "versions": versions(), "hardware": hardware()})
    out.print(f"\n{CHECKED} all answers are in {escape(str(folder / 'samples'))}", soft_wrap=True)
    show_next(["dude", "chat", model])
    return 0


def _evaluate_loss(model: str, settings: EvalSettings, folder: Path, *, dtype: str, device: str) -> int:
    """Print and write loss and perplexity on a file; return the exit code."""
    from ..data.data_files import existing
    from ..training.file_loss import file_loss
    from ..training.record import perplexity

    existing(str(settings.file))
    out = console()
    reporter = make_reporter(out)
    with reporter.stage(f"loading {model}"):
        base, loaded = load_any(model, dtype=dtype, device=device)
    with reporter.stage(f"computing the loss on {settings.file}"):
        found = file_loss(loaded, base, settings, reporter.asked, open_run(model)[1] if is_run(model) else None)
    values = {**found._asdict(), "perplexity": perplexity(found.loss)}
    dropped = f"; {found.dropped:,} longer ones are left out" if found.dropped else ""
    out.print(
        f"loss {found.loss:.4f}, perplexity {values['perplexity']:.4g} on {found.tokens:,} tokens of "
        f"{found.examples:,} examples{dropped}"
    )
    _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "metrics.json", json_values(values))
    out.print(f"{CHECKED} {escape(str(folder / 'metrics.json'))}", soft_wrap=True)
    return 0


def _clear(folder: Path) -> None:
    """Remove the results of an earlier evaluation, whose answers would lie beside the new ones."""
    for name in FILES:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)


def _as_in_training(settings: EvalSettings, run: str) -> EvalSettings:
    """Return the settings of a file that is read as the run's training data."""
    data = open_run(run)[1].data
    if data.name is not None:
        return settings
    keys = ("prompt",) if settings.metric == "choice" else ("prompt", "completion", "column", "chat_template")
    return settings.model_copy(update={key: getattr(data, key) for key in keys})


def _place(model: str, suite: str) -> Path:
    """Return a folder in the run, or under `runs/eval` for a model that has none."""
    name = suite.replace(":", "_").replace("/", "_")
    if is_run(model):
        return open_run(model)[0].evaluations / name
    return Path("runs") / "eval" / (Path(model).name or "model") / name


def merge_run(run_folder: Path, output: Path, dtype: str) -> int:
    """Merge a run into its base model; return the exit code."""
    from ..training.base_model import choose_dtype
    from ..training.merging import check_output, merge

    choose_dtype(dtype, "cpu")
    check_output(output)
    quiet()
    out = console()
    with make_reporter(out).stage(f"merging {run_folder}"):
        merged = merge(run_folder, output, dtype)
    out.print(
        f"{CHECKED} {escape(str(merged.folder))}: {merged.dtype}, {size(folder_bytes(merged.folder))}; largest "
        f"difference from the logits of the unmerged model: {merged.difference:.2e} (logits up to {merged.scale:.1f})",
        soft_wrap=True,
    )
    out.print(f'  AutoModelForCausalLM.from_pretrained("{merged.folder}")', markup=False, soft_wrap=True)
    show_next(["dude", "chat", str(output)], ["dude", "push", str(output), "OWNER/NAME"])
    return 0


def merge_run_by_tensor(run_folder: Path, output: Path) -> int:
    """Merge a run into the files of its base, one tensor at a time; return the exit code."""
    from ..training.merging import merge_stream

    quiet()
    out = console()
    with byte_progress(out, f"merging {run_folder}") as report:
        merge_stream(run_folder, output, report)
    out.print(f"{CHECKED} {escape(str(output))}: {size(folder_bytes(output))}", soft_wrap=True)
    show_next(["dude", "chat", str(output)], ["dude", "push", str(output), "OWNER/NAME"])
    return 0


def export_run(
    run_folder: Path,
    output: Path,
    form: str,
    *,
    rank: str,
    tolerance: float | None,
    evaluate: bool,
    device: str,
) -> int:
    """Export a run as a plain LoRA, also in GGUF, a stock DoRA adapter or a merged model; return the exit code."""
    from ..training.exporting import export_dora, export_lora, summary_table
    from ..training.merging import check_output

    check_output(output)
    if form == "merged" and (rank != "auto" or tolerance is not None):
        raise DudeError("--rank and --tolerance belong to --as lora and gguf-lora: a merged model has no rank.")
    if form == "merged":
        from ..training.merging import stored_dtype

        return merge_run(run_folder, output, stored_dtype(run_folder))
    if form == "dora" and (rank != "auto" or tolerance is not None):
        raise DudeError("--rank and --tolerance belong to --as lora: a DoRA adapter has the run's own rank, doubled.")
    if rank != "auto" and not rank.isdecimal():
        raise DudeError(f"--rank {rank}: give a number, or auto.")
    if rank != "auto" and tolerance is not None:
        raise DudeError(f"--tolerance chooses a rank: give it with --rank auto, not with --rank {rank}.")
    quiet()
    out = console()
    reporter = make_reporter(out)
    if form == "dora":
        with reporter.stage(f"exporting {run_folder}"):
            export_dora(run_folder, output)
        out.print(f"{CHECKED} {escape(str(output))}: a DoRA adapter for PEFT", soft_wrap=True)
    else:
        exported = export_lora(
            run_folder,
            output,
            rank="auto" if rank == "auto" else int(rank),
            tolerance=tolerance,
            gguf=form == "gguf-lora",
            evaluate=evaluate,
            device=device,
            reporter=reporter,
        )
        out.print()
        out.print(summary_table(exported), markup=False, soft_wrap=True)
        out.print(f"\n{CHECKED} {escape(str(output))}: a LoRA adapter, {size(folder_bytes(output))}", soft_wrap=True)
    out.print(f'  PeftModel.from_pretrained(base, "{output}")', markup=False, soft_wrap=True)
    show_next(["dude", "push", str(output), "OWNER/NAME"])
    return 0


def push_folder(source: Path, repository: str, *, private: bool) -> int:
    """Upload a run's adapter, an adapter or a model; return the exit code."""
    from ..training.publishing import folder_to_push, push

    folder_to_push(source)
    quiet()
    out = console()
    with make_reporter(out).stage(f"uploading {source}"):
        address = push(source, repository, private=private)
    out.print(f"{CHECKED} {escape(address)}", soft_wrap=True)
    return 0


def decompose_model(model: Path, output: Path, rank: int, target_modules: str, jobs: int | None) -> int:
    """Decompose every target of a checkpoint; return the exit code."""
    from dude_peft import DudeConfig
    from dude_peft.streaming import decompose_checkpoint

    quiet()
    out = console()
    names = [one.strip() for one in target_modules.split(",")] if "," in target_modules else target_modules
    if isinstance(names, str) and names != "all-linear":
        names = [names]
    config = DudeConfig(r=rank, target_modules=names, task_type="CAUSAL_LM")
    with byte_progress(out, f"decomposing {model}") as report:
        count = decompose_checkpoint(model, output, config, jobs=jobs, report=report)
    out.print(f"{CHECKED} {escape(str(output))}: {count} weights at rank {rank}", soft_wrap=True)
    out.print(f'  DudeConfig(r={rank}, factors="{output}")', markup=False, soft_wrap=True)
    return 0


def report_page(paths: list[Path], output: Path) -> int:
    """Write the HTML page; return the exit code."""
    from ..report import write_page

    file = write_page(paths, output)
    console().print(
        f"{CHECKED} {escape(str(file))} ({size(file.stat().st_size)}): one file that opens in any browser",
        soft_wrap=True,
    )
    return 0
