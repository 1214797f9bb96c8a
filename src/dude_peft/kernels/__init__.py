"""Fused Triton kernels: on request, on CUDA devices; plain torch everywhere else.

`DUDE_TRITON=1` enables the kernels of `triton_kernels`; unset, empty or `0` does not. The variable is read once, when
the first layer runs. They are opt-in because they were tested in Triton's interpreter on a CPU and compiled for GPUs,
but not run or timed on one.

Plain torch computes where the tensors are not on a CUDA device (or, with `TRITON_INTERPRET=1`, on a CPU), are float64
or of a subclass, where autograd has to record, and under `torch.compile`, whose compiler fuses these steps itself. A
kernel that cannot be compiled or launched raises its error.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DudeError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def enabled() -> bool:
    """Return whether `DUDE_TRITON` enables the kernels.

    Raises:
        DudeError: it is neither 1 nor 0, or it is 1 and Triton is not installed.
    """
    value = os.environ.get("DUDE_TRITON", "")
    if value not in ("", "0", "1"):
        raise DudeError(f"DUDE_TRITON is '{value}': set it to 1 (fused Triton kernels on GPUs) or to 0 (plain torch)")
    if value == "1" and importlib.util.find_spec("triton") is None:
        raise DudeError("DUDE_TRITON is 1, but Triton is not installed: pip install triton, or set DUDE_TRITON to 0")
    return value == "1"


@functools.cache
def interpreted() -> bool:
    """Return whether kernels run on a CPU in Triton's interpreter (`TRITON_INTERPRET=1`)."""
    return os.environ.get("TRITON_INTERPRET", "") == "1"


def fits(tensor: Tensor) -> bool:
    """Return whether a kernel can read this tensor without hiding it from autograd."""
    placed = tensor.is_cuda or (interpreted() and tensor.device.type == "cpu")
    readable = placed and tensor.dtype in DTYPES and type(tensor) in (Tensor, nn.Parameter)
    return readable and not (tensor.requires_grad and torch.is_grad_enabled())


def attempt(name: str, *arguments: Any) -> Any:
    """Return what the function `name` of `triton_kernels` returns, or None where plain torch has to compute it."""
    if torch.compiler.is_compiling() or not enabled():
        return None
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    if not all(map(fits, tensors)):
        return None
    from . import triton_kernels

    with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device
        return getattr(triton_kernels, name)(*arguments)
