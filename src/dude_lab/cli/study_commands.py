"""The commands of several runs, `compare`, `tune`, `report`, `reproduce`, `pack` and `unpack`, and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dude_peft.errors import DudeError, did_you_mean

from ..paper.experiments import ALL, EXPERIMENTS, SCALES
from .shared_options import Overrides, expanded, prepare

Study = Annotated[
    Path,
    typer.Argument(
        help="Folder of a comparison or of a study.", metavar="STUDY", show_default=False, callback=expanded
    ),
]
NewStudy = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="New folder for the result; STUDY is then not changed.", callback=expanded),
]


def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            help="YAML file of a comparison and changes to it; or folders of finished runs and comparisons.",
            metavar="CONFIG.yaml [KEY=VALUE]... | FOLDER...",
            show_default=False,
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List all runs and which are finished; write nothing.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", callback=expanded, help="Folder for the table of finished runs."),
    ] = None,
) -> None:
    """Train and compare methods from a YAML file, or compare finished runs."""
    prepare()
    from .compare import run

    raise typer.Exit(run(what, dry_run=dry_run, retry_failed=retry_failed, output=output))


def tune(
    config: Annotated[
        Path,
        typer.Argument(
            help="YAML file of a run, or of a comparison.",
            metavar="CONFIG.yaml",
            show_default=False,
            callback=expanded,
        ),
    ],
    overrides: Overrides = None,
    budget: Annotated[str, typer.Option(help="Time to spend, such as 90s, 30m or 2h.", metavar="TIME")] = "30m",
    methods: Annotated[
        str | None, typer.Option(help="Methods, such as lora,dude. Default: that of the config.", metavar="NAME,...")
    ] = None,
    ranks: Annotated[
        str | None, typer.Option(help="Ranks, such as 4,16,64. Default: that of the config.", metavar="N,...")
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            help="Learning rates, such as 1e-4,3e-4,1e-3. Default: those of a comparison, or seven from 3e-5 to 3e-2, "
            "a tenth of that for full.",
            metavar="X,...",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="accuracy or loss, on validation data.", show_default="accuracy if eval has questions"),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs in parallel.", show_default="1", metavar="N")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Torch threads of a run.", show_default="cores / jobs", metavar="N")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, show the plan, write nothing.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", callback=expanded, help="Output folder. Default: the run's, with -tune added."),
    ] = None,
) -> None:
    """Choose learning rate, method and rank on validation data, within a budget of time."""
    prepare()
    from .tune import run

    code = run(
        config,
        overrides or [],
        budget=budget,
        methods=methods,
        ranks=ranks,
        rates=rates,
        metric=metric,
        output=output,
        jobs=jobs,
        threads=threads,
        dry_run=dry_run,
    )
    raise typer.Exit(code)


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs and comparisons, also parts/NAME of a study.",
            metavar="FOLDER...",
            show_default=False,
            callback=expanded,
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", callback=expanded, help="Output folder.", show_default=False)
    ],
) -> None:
    """Write an HTML page about finished runs: table, curves, costs, answers and configs."""
    prepare()
    from .finished_runs import report_page

    raise typer.Exit(report_page(runs, output))


def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(EXPERIMENTS)}, or {ALL}.",
            metavar="EXPERIMENT",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the comparisons, such as run.train.steps=20.", metavar="KEY=VALUE"),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="mini (a laptop, no network), small (a laptop, SmolLM2 and real data) or paper (the paper's models)."
        ),
    ] = "mini",
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show models, data, steps, memory, hours and what is finished; write nothing."),
    ] = False,
    row: Annotated[
        list[str] | None,
        typer.Option("--row", help="Run only this row, such as dude-r16. Can be repeated.", metavar="ROW"),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", callback=expanded, help="Folder of runs, tables and figures. Default: studies/SCALE."
        ),
    ] = None,
) -> None:
    """Reproduce the paper's tables and figures, at a small scale or at that of the paper."""
    prepare()
    if scale not in SCALES:
        raise DudeError(f"--scale must be {', '.join(SCALES)}, got {scale}.{did_you_mean(scale, SCALES)}")
    from .reproduce import run

    code = run(
        name,
        scale,  # type: ignore[arg-type]
        overrides or [],
        output=output or Path("studies") / scale,
        rows=row or [],
        dry_run=dry_run,
        retry_failed=retry_failed,
    )
    raise typer.Exit(code)


def pack(
    study: Study,
    output: NewStudy = None,
    discard_weights: Annotated[
        bool, typer.Option("--discard-weights", help="Delete trained weights, which a packed study does not contain.")
    ] = False,
) -> None:
    """Pack the finished runs of a study into three Parquet files, which every command reads like run folders."""
    prepare()
    from .pack import run_pack

    raise typer.Exit(run_pack(study, output, discard_weights=discard_weights))


def unpack(study: Study, output: NewStudy = None) -> None:
    """Restore the run folders of a packed study, without prompts and weights."""
    prepare()
    from .pack import run_unpack

    raise typer.Exit(run_unpack(study, output))
