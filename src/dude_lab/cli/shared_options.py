"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..folders import user_path


def expanded(value: Any) -> Any:
    """Return paths with `~` replaced by the home folder, which a shell does not do in `--output=~/x`."""
    if isinstance(value, (list, tuple)):
        return [user_path(one) for one in value]
    return None if value is None else user_path(value)


Config = Annotated[
    Path,
    typer.Argument(help="YAML file of the run.", metavar="CONFIG.yaml", show_default=False, callback=expanded),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the config, such as train.learning_rate=1e-4.", metavar="KEY=VALUE", show_default=False
    ),
]

Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
AnyModel = Annotated[
    str, typer.Argument(help="Folder of a run or of a model, `mini`, or a name on the hub.", metavar="RUN|MODEL")
]


def prepare() -> None:
    """Set the environment of the libraries that a command imports."""
    from ..training.reporter import prepare_environment

    prepare_environment()
