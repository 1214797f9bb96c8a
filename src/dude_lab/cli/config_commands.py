"""The commands `init`, `keys` and `schema`: write a config, and show what can be in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dude_peft.errors import DudeError, did_you_mean, quote

from .shared_options import expanded, prepare


def init(
    data: Annotated[str, typer.Argument(help="File, named data set, or owner/name on the hub.", metavar="DATA")],
    model: Annotated[str, typer.Argument(help="Folder, `mini`, or a name on the hub.", metavar="MODEL")],
    output: Annotated[
        Path, typer.Option("-o", "--output", callback=expanded, help="New YAML file.", show_default=False)
    ],
    method: Annotated[str, typer.Option(help="Name of the method; `dude methods` lists them.")] = "dude",
) -> None:
    """Write a commented YAML file to train a model on your data."""
    prepare()
    from dude_peft.files import write_text

    from ..training.reporter import quiet
    from .console import console
    from .first_config import first_config

    if output.exists():
        raise DudeError(f"{output} exists. Name another file, or delete it.")
    if not output.parent.is_dir():
        raise DudeError(f"{output}: there is no folder {output.parent}.")
    quiet()
    text = first_config(data, model, method, f"runs/{output.stem}")
    write_text(output, text)
    console().print(text.rstrip(), markup=False, soft_wrap=True)
    console().print(f"\nwritten to {output}\nnext: dude validate {output}", markup=False, soft_wrap=True)


def keys(
    section: Annotated[
        str | None,
        typer.Argument(
            help="run, model, method, data, train, eval, comparison, search, or the name of a method.",
            metavar="SECTION",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the keys of the YAML files with type, default and meaning."""
    from rich.markup import escape

    from ..config.yaml_keys import keys as all_keys
    from .console import console, table

    found = all_keys()
    sections = list(dict.fromkeys(key.section for key in found))
    methods = {name: one for one in sections if ": " in one for name in one.partition(": ")[2].split(", ")}
    chosen = sections
    if section is not None:
        chosen = [one for one in sections if one == section] + ([methods[section]] if section in methods else [])
        chosen = ["method", *chosen] if section in methods and section != "full" else chosen
    if not chosen:
        known = [one for one in sections if ": " not in one] + list(methods)
        hint = did_you_mean(section or "", known) or f" Sections: {', '.join(known)}."
        raise DudeError(f"no section is called {quote(section)}.{hint}")
    out = console()
    for one in chosen:
        rows = table("key", "type", "default", "meaning", title=f"\n{one}")
        for key in found:
            if key.section == one:
                rows.add_row(*(escape(text) for text in (key.key, key.type, key.default, key.meaning)))
        out.print(rows)


def schema(
    comparison: Annotated[bool, typer.Option("--comparison", help="Of a comparison's YAML, not of a run's.")] = False,
) -> None:
    """Print the JSON schema of the YAML files, by which editors complete and check them."""
    import json

    from ..config.json_schema import comparison_schema, run_schema

    typer.echo(json.dumps(comparison_schema() if comparison else run_schema(), indent=2, ensure_ascii=False))
