"""Merge a run into a plain transformers model and check it before it is moved to its folder."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError

from ..folders import atomic_folder, check_folder
from .base_model import Base
from .base_weights import load_weights
from .finished_run import load_run, run_base

if TYPE_CHECKING:
    import torch

PROBE = "Question: A farmer has 12 hens and buys 5 more. How many hens has he now?\nAnswer: 12 + 5 = 17"
# Largest difference of logits from rounding the merged weights, relative to the largest logit.
TOLERANCE = {"float32": 1e-3, "bfloat16": 8e-2, "float16": 1e-2}

# In eval mode the first rounds its input to 8 bits, too, which the merged model does not, and the second caches W'.
TRAINING = ("Linear8bitLt", "DudeAdapter")


@dataclass(frozen=True)
class Merged:
    """The merged model and its accuracy.

    Attributes:
        folder: the model's folder.
        dtype: of its weights.
        difference: largest absolute difference of a logit between adapter and merged model, read back from disk.
        scale: the largest absolute logit.
    """

    folder: Path
    dtype: str
    difference: float
    scale: float


def check_output(output: Path) -> None:
    """Check that the folder is empty and can be written.

    Raises:
        DudeError: the folder is not empty, or cannot be written.
    """
    check_folder(output, "-o")
    if output.resolve() == Path.cwd():
        raise DudeError(f"-o {output}: this is the current folder, and a new one takes its place. Give another name.")
    if output.is_dir() and any(output.iterdir()):
        raise DudeError(f"-o {output}: this folder is not empty. Choose a new one.")


def merge(run: Path, output: Path, dtype: str = "auto") -> Merged:
    """Merge a finished run's adapter into its base and write the model and its tokenizer.

    The files are read back with plain transformers and compared with the unmerged model on a probe before they are
    moved to `output`, so that the folder has the correct model or does not exist. The peak of memory is twice the
    weights: the mapped file of the base and the merged weights. `merge_stream` needs a fraction of them.

    Raises:
        DudeError: not a finished run, `output` is not empty, or the merged model differs from the unmerged one.
    """
    import torch

    check_output(output)
    base, wanted, plain = _merged(run, dtype)
    with atomic_folder(output) as part:
        plain.save_pretrained(part)
        base.tokenizer.save_pretrained(part)
        del plain
        gc.collect()  # so that the merged model is freed before its files are read
        again = load_weights(part, dtype=base.dtype).eval()
        merged = _logits(again, base)
        difference, scale = float((merged - wanted).abs().max()), float(wanted.abs().max())
        name = str(base.dtype).removeprefix("torch.")
        if not torch.isfinite(merged).all() or difference > TOLERANCE[name] * scale:
            raise DudeError(
                f"merged and unmerged model differ by up to {difference:.3g} in a logit (of {scale:.3g}), "
                f"more than {name} explains; nothing was written."
            )
    return Merged(output, name, difference, scale)


def stored_dtype(run: Path) -> str:
    """Return the dtype of the files of a finished run's base; `auto` where its config.json does not say."""
    dtype = getattr(run_base(run, device="cpu")[1].config, "dtype", None)
    return "auto" if dtype is None else str(dtype).removeprefix("torch.")


def _merged(run: Path, dtype: str) -> tuple[Base, torch.Tensor, Any]:
    """Return a run's base, its logits on the probe, and the merged model; nothing else stays in memory."""
    base, model = load_run(run, dtype=dtype, device="cpu")
    model.eval()
    for module in model.modules():
        if type(module).__name__ in TRAINING:
            module.train()
    wanted = _logits(model, base)
    return base, wanted, model.merge_and_unload() if hasattr(model, "merge_and_unload") else model  # type: ignore[operator]


def merge_stream(run: Path, output: Path, report: Callable[[int, int, str], None] | None = None) -> Path:
    """Merge a finished run's DuDe adapter into its base's files, one tensor at a time, in the dtype of the files.

    Needs a few hundred rows of one weight in memory. An interrupted call is resumed by the same call.

    Args:
        run: the run's folder.
        output: a new folder, or that of an interrupted call.
        report: called with the bytes done, all bytes, and the tensor's name.

    Raises:
        DudeError: no finished run, another method than DuDe, a base that is no local folder, a folder in the way.
    """
    from dude_peft.streaming import merge_checkpoint

    folder, base = run_base(run, device="cpu")
    if not (folder.adapter / "dude_config.json").is_file():
        raise DudeError(f"{run}: --stream merges adapters of dude, dude_a and dude_b. Merge this run without it.")
    if not Path(base.source).is_dir():
        raise DudeError(f"--stream: the base '{base.name}' is not a local folder. Download it and train on the folder.")
    merge_checkpoint(base.source, folder.adapter, output, report=report)
    base.tokenizer.save_pretrained(output)  # with the run's chat template
    return output


def _logits(model: Any, base: Base) -> torch.Tensor:
    import torch

    ids = base.tokenizer(PROBE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids).logits.float()
