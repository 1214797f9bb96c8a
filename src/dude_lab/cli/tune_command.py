"""The options of `dude tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared_options import Overrides, expanded, prepare


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
