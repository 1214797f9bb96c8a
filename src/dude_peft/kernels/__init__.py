"""Whether a step runs as one fused Triton kernel: on request, on CUDA devices, and plain torch everywhere else.

`DUDE_TRITON=1` asks for the kernels of `triton_kernels`; unset, empty or `0` does not. The variable is read once, when
the first layer runs. They are opt-in because they were tested in Triton's interpreter on a CPU and compiled for GPUs,
but have not been run or timed on one.

Plain torch computes, without a word, where the tensors are not on a CUDA device (or, with `TRITON_INTERPRET=1`, on a
CPU), are float64 or of a subclass, where autograd is to look inside, and under `torch.compile`, whose compiler fuses
these steps itself. Where Triton cannot be imported, or a kernel not be compiled or launched, it does after one warning.
"""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DudeError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_failed = False


@functools.cache
def asked_for() -> bool:
    """Whether `DUDE_TRITON` asks for the kernels.

    Raises:
        DudeError: it is set to something else than 1 or 0.
    """
    value = os.environ.get("DUDE_TRITON", "")
    if value not in ("", "0", "1"):
        raise DudeError(f"DUDE_TRITON is '{value}': set it to 1 (fused Triton kernels on GPUs) or to 0 (plain torch)")
    return value == "1"


@functools.cache
def interpreted() -> bool:
    """Whether Triton's interpreter is asked for, which runs kernels on a CPU."""
    return os.environ.get("TRITON_INTERPRET", "") == "1"


def fits(tensor: Tensor) -> bool:
    """Whether a kernel can read this tensor, and hides nothing from autograd by it."""
    placed = tensor.is_cuda or (interpreted() and tensor.device.type == "cpu")
    whole = placed and tensor.dtype in DTYPES and type(tensor) in (Tensor, nn.Parameter)
    return whole and not (tensor.requires_grad and torch.is_grad_enabled())


def attempt(name: str, *arguments: Any) -> Any:
    """What the function `name` of `triton_kernels` returns, or None where plain torch is to compute it."""
    global _failed
    if torch.compiler.is_compiling() or _failed or not asked_for():
        return None
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if not all(map(fits, tensors)):
        return None
    try:
        from . import triton_kernels

        with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device
            return getattr(triton_kernels, name)(*arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, a driver or a missing file raises
        _failed = True
        warnings.warn(
            f"DUDE_TRITON=1, but the Triton kernels cannot be used here ({type(error).__name__}: {error}). "
            "From now on plain torch computes the same",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
