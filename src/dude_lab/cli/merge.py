"""`dude merge`: a plain transformers model from a run."""

from __future__ import annotations

from pathlib import Path

from rich.markup import escape

from dude_peft.files import folder_bytes

from ..training.base_model import choose_dtype
from ..training.merging import check_output, merge
from ..training.quiet import quiet
from .console import CHECKED, console, size
from .progress_bar import make_reporter


def run(run_folder: Path, output: Path, dtype: str) -> int:
    """Merge; returns the exit code."""
    choose_dtype(dtype, "cpu")
    check_output(output)
    quiet()
    out = console()
    with make_reporter(out).stage(f"merging {run_folder}"):
        merged = merge(run_folder, output, dtype)
    out.print(
        f"{CHECKED} {escape(str(merged.folder))}: {merged.dtype}, {size(folder_bytes(merged.folder))}; the largest "
        f"difference of a logit to the unmerged model is {merged.difference:.2e} (logits up to {merged.scale:.1f})",
        soft_wrap=True,
    )
    out.print(f'  AutoModelForCausalLM.from_pretrained("{merged.folder}")', markup=False, soft_wrap=True)
    return 0
