"""What was computed from some tensors, as long as they hold the values that it was computed from.

A tensor's version tells of changes that PyTorch's own in-place operations make. It does not tell of a write through
`.data`, of `torch.optim`'s fused steps, of kernels called on bare pointers (8-bit optimizers), nor of a new storage put
under a parameter. So:

- on a CPU the trained values are compared byte by byte with a copy, which nothing escapes (10 us at d = k = 1024 and
  r = 16, where `torch.equal` takes 45 us);
- elsewhere a comparison would stop the device. There a result is used again only outside of training, and dropped by
  every step of any optimizer in the process, by `train()` and `eval()`, and by a change of version or of storage. What
  is left is a write through `.data` between two forwards in eval mode: call `eval()` after it;
- nothing is kept of inference tensors, which have no version.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

T = TypeVar("T")
Mark = tuple[Any, ...]

_memcmp = ctypes.CDLL("msvcrt" if os.name == "nt" else None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)

_steps = 0


def _count_step(*_: Any) -> None:
    global _steps
    _steps += 1


register_optimizer_step_post_hook(_count_step)


class Image(NamedTuple):
    """The values of a CPU tensor at some time: a contiguous copy, and what comparing it by bytes needs."""

    copy: Tensor
    address: int
    nbytes: int
    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> Image:
        """An image of `tensor`, whatever its strides."""
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        return cls(copy, copy.data_ptr(), copy.nbytes, copy.dtype, copy.shape)


def still_is(tensor: Tensor, image: Image) -> bool:
    """Whether a CPU tensor has the values of its image, bit for bit."""
    copy, address, nbytes, dtype, shape = image
    if tensor.dtype is not dtype or tensor.shape != shape:
        return False
    if tensor.is_contiguous():
        return _memcmp(tensor.data_ptr(), address, nbytes) == 0
    return torch.equal(tensor, copy)


def comparable(tensors: tuple[Tensor, ...]) -> bool:
    """Whether their values can be looked at without waiting for a device."""
    return all(t.device.type == "cpu" for t in tensors)


def _marks(tensors: tuple[Tensor, ...]) -> list[Mark]:
    return [(t.data_ptr(), t._version, t.dtype) for t in tensors]


class _Entry(NamedTuple):
    key: Mark
    marks: list[Mark]
    holds: tuple[Tensor, ...]  # keeps the storages alive, so that no address is given out a second time
    images: tuple[Image, ...]
    steps: int
    value: Any


class Kept(Generic[T]):
    """One value, with the tensors that it came from.

    Args of its methods:
        trained: small tensors that training changes.
        frozen: tensors that change by PyTorch's own operations alone, if at all; the last of them is the layer's
            weight, whose storage is not kept alive for this.
        key: everything else that the value depends on.
        training: the module's mode.
    """

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def get(self, trained: tuple[Tensor, ...], frozen: tuple[Tensor, ...], key: Mark, training: bool) -> T | None:
        """The value, or None where anything that it came from may have changed."""
        entry = self._entry
        if entry is None or entry.key != key:
            return None
        try:
            if entry.images:
                same = entry.marks == _marks(frozen) and all(map(still_is, trained, entry.images))
            else:
                same = not training and entry.steps == _steps and entry.marks == _marks((*trained, *frozen))
        except RuntimeError:  # no version or no storage: an inference tensor, or one without values
            return None
        return entry.value if same else None

    def put(self, value: T, trained: tuple[Tensor, ...], frozen: tuple[Tensor, ...], key: Mark, training: bool) -> None:
        """Keep `value`, if it can be told later whether it still holds."""
        before, self._entry = self._entry, None
        on_cpu = comparable(trained)
        if (training and not on_cpu) or frozen[-1].requires_grad:
            return
        compared = frozen if on_cpu else (*trained, *frozen)
        try:
            marks = _marks(compared)
        except RuntimeError:
            return
        if before is not None and before.marks == marks:
            holds = before.holds
        else:
            holds = tuple(t.detach() for t in compared[:-1])
        images = tuple(map(Image.of, trained)) if on_cpu else ()
        self._entry = _Entry(key, marks, holds, images, _steps, value)

    def drop(self) -> None:
        """Forget the value."""
        self._entry = None

    def __reduce__(self) -> Any:
        """Copies and pickles of a module start with nothing kept."""
        return type(self), ()
