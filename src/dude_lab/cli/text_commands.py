"""The commands `chat` and `generate` and their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .shared_options import AnyModel, Device, Dtype, expanded, prepare

NewTokens = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.", metavar="N")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.", metavar="T")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of sampling.", metavar="N")]
System = Annotated[str | None, typer.Option("--system", help="System message.", show_default=False)]
Template = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="Prompt with one field, such as 'Question: {}\\nAnswer:'. Default: the model's chat template, else that "
        "of the run's data.prompt.",
        show_default=False,
    ),
]


def chat(
    model: AnyModel,
    base: Annotated[bool, typer.Option("--base", help="Show the answer of the base model as well.")] = False,
    system: System = None,
    template: Template = None,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 42,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Talk to a run or a model, through its chat template."""
    prepare()
    from .generate import Sampling, Talker
    from .generate import chat as talk

    sampling = Sampling(max_new_tokens, temperature, seed)
    talker = Talker(model, dtype=dtype, device=device, template=template, system=system)
    raise typer.Exit(talk(talker, sampling, base=base))


def generate(
    model: AnyModel,
    file: Annotated[Path, typer.Argument(help="File of prompts or messages.", metavar="FILE", callback=expanded)],
    output: Annotated[
        Path, typer.Option("-o", "--output", callback=expanded, help="New .jsonl file.", show_default=False)
    ],
    prompt: Annotated[str, typer.Option(help="Column of prompts, where there is no column messages.")] = "prompt",
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per forward pass.", metavar="N")] = 8,
    system: System = None,
    template: Template = None,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    seed: Seed = 42,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Add an answer to every record of a file. An interrupted call is resumed by the same call."""
    prepare()
    from .generate import Sampling, Talker, check_files, generate_file

    check_files(file, output)
    sampling = Sampling(max_new_tokens, temperature, seed)
    talker = Talker(model, dtype=dtype, device=device, template=template, system=system)
    code = generate_file(talker, model, file, output, sampling, prompt=prompt, batch_size=batch_size)
    raise typer.Exit(code)
