"""Caches of one adapter on one layer: in evaluation, and for the micro-steps of gradient accumulation."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import functional
from .functional import Composition, Factors

Tensors = Sequence[Tensor]

CACHED_WEIGHT = 1 << 20  # largest cached W', in entries: 4 MiB a layer


class FactorCache:
    """The factors of the latest forward without a gradient in eval mode, for the next one (generation, scoring).

    W' of a narrow layer is cached with them, and then used for inputs of any length.

    No optimizer step can make it stale: a step needs a `.grad`, which comes from a backward and so from a forward with
    a gradient. After such a forward nothing is cached until `train()` or `eval()` is called, nor while a trained
    parameter has a `.grad`. Every other write is detected by storage, version and dtype, except for one that raises no
    version (through `.data` or NumPy, or into the shards of FSDP2) between two forwards in eval mode: call `eval()`
    after it.
    """

    def __init__(self) -> None:
        self._entry: tuple[Any, Any, Any, Any, Factors] | None = None
        self._weight: Tensor | None = None  # W' of the entry

    def get(self, key: Any, trained: Tensors, init: Tensors, weight: Tensor) -> Factors | None:
        """Return the cached factors, or None where `key` or a tensor they were computed from may have changed."""
        if self._entry is None:
            return None
        old_key, old_state, _, old_weight, factors = self._entry
        same = old_key == key and old_weight() is weight and old_state == self._state(trained, init, weight)
        return factors if same else None

    def put(self, key: Any, trained: Tensors, init: Tensors, weight: Tensor, factors: Factors) -> None:
        """Cache `factors`. Storages are referenced, so that no address is reused; that of `weight` may be offloaded."""
        state = self._state(trained, init, weight)
        storages = tuple(t.detach() for t in (*trained, *init))
        self._entry = None if state is None else (key, state, storages, weakref.ref(weight), factors)
        self._weight = None

    @staticmethod
    def holds_weight(trained: Tensors, weight: Tensor) -> bool:
        """Return whether W' of `weight` (d, k) would be cached, so that it is made once for many forwards."""
        return weight.numel() <= CACHED_WEIGHT and all(t.grad is None for t in trained)

    def temporary_weight(self, weight: Tensor, factors: Factors) -> Tensor:
        """Return `functional.temporary_weight` (d, k) of the factors of `get` or `put`, cached with them if narrow."""
        if self._weight is not None:
            return self._weight
        made = functional.temporary_weight(weight, factors)
        if self._entry is not None and made.numel() <= CACHED_WEIGHT:
            self._weight = made
        return made

    @staticmethod
    def _state(trained: Tensors, init: Tensors, weight: Tensor) -> list[Any] | None:
        if any(not t.is_leaf or t.grad is not None for t in trained):
            return None
        return versions((*trained, *init, weight))

    def __reduce__(self) -> Any:
        """Copy and pickle as an empty cache."""
        return FactorCache, ()


def versions(tensors: Iterable[Tensor]) -> list[Any] | None:
    """Return address, version and dtype of each tensor; None where one is an inference tensor, which has no version."""
    try:
        return [(t.data_ptr(), t._version, t.dtype) for t in tensors]
    except RuntimeError:
        return None


class MicroStepCache:
    """The composition and the factors of the latest forward in training, for the micro-steps of gradient accumulation.

    No step of an optimizer can make it stale: dA, dB and the magnitude are compared by value, for fused optimizers and
    writes through `.data` raise no version. The composition holds copies of dA and dB. Frozen tensors are compared by
    identity or address, version and dtype.
    """

    def __init__(self) -> None:
        self._entry: tuple[Any, Any, Any, Any, Tensor, Composition, Factors] | None = None

    def get(self, key: Any, trained: Tensors, init: Tensors, weight: Tensor) -> tuple[Composition, Factors] | None:
        """Return what is cached, or None, and free it, where `key`, a parameter or `weight` may have changed.

        Parameters are compared as they enter the composition, in its dtype.
        """
        if self._entry is None:
            return None
        old_key, old_state, _, old_weight, magnitude, composition, factors = self._entry
        if old_key == key and old_weight() is weight and old_state == versions((*init, weight)):
            (dA, dB, m), (Ah, Bt), r = trained, composition[:2], len(init[0])
            # The magnitude first: it is short, and a step changes it.
            pairs = (m.to(magnitude.dtype), magnitude), (dA.to(Ah.dtype), Ah[:r]), (dB.to(Bt.dtype), Bt[r:].T)
            if all(torch.equal(*pair) for pair in pairs):
                return composition, factors
        self._entry = None
        return None

    def put(
        self,
        key: Any,
        trained: Tensors,
        init: Tensors,
        weight: Tensor,
        composition: Composition,
        factors: Factors,
    ) -> None:
        """Cache both, computed from these tensors without a graph."""
        state = versions((*init, weight))
        storages = tuple(t.detach() for t in init)  # so that no address is reused
        magnitude = trained[2].detach().to(composition.norm.dtype, copy=True)
        entry = key, state, storages, weakref.ref(weight), magnitude, composition, factors
        self._entry = None if state is None else entry

    def __reduce__(self) -> Any:
        """Copy and pickle as an empty cache."""
        return MicroStepCache, ()
