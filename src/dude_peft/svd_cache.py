"""Singular triplets kept on disk between processes, so that a sweep decomposes each weight once. Off unless asked for.

A file is named by the SHA-256 of everything that the triplets depend on: the weight's bytes, type and shape, the
method, the seed and the version of the algorithm; and by the rank. A smaller rank takes the leading triplets of the
smallest larger one that is there. These are the same directions to the accuracy of `decompose`, not the same bits as
without the cache: another rank is another Krylov space. So where bits matter, keep the cache off, or start a sweep with
its largest rank. A file that cannot be read, is damaged or was written for something else counts as not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .decompose import ALGORITHM, SingularTriplets, SvdMethod, top_singular_triplets
from .files import write_bytes

ENVIRONMENT = "DUDE_CACHE_DIR"


def cached_triplets(
    weight: Tensor, r: int, *, method: SvdMethod = "krylov", seed: int = 0, folder: str | Path | None = None
) -> SingularTriplets:
    """`decompose.top_singular_triplets`, from the cache where it holds them.

    Args:
        weight: (d, k). r, method, seed: as there.
        folder: of the cache; None for the environment's DUDE_CACHE_DIR, and without that no cache.
    """
    folder = folder or os.environ.get(ENVIRONMENT)
    if not folder:
        return top_singular_triplets(weight, r, method=method, seed=seed)
    where, key = Path(folder) / "svd", _key(weight, method, seed)
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    for rank, path in sorted(_candidates(where, key, r)):
        found = _read(path, key, rank, tuple(weight.shape), wide)
        if found is not None:
            U, S, Vh = (t.to(weight.device) for t in found)
            return SingularTriplets(U[:, :r].contiguous(), S[:r].contiguous(), Vh[:r].contiguous())
    triplets = top_singular_triplets(weight, r, method=method, seed=seed)
    _write(where / f"{key}-r{r}.safetensors", triplets, key)
    return triplets


def _key(weight: Tensor, method: str, seed: int) -> str:
    held = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{ALGORITHM}:{method}:{seed}:{held.dtype}:{tuple(held.shape)}:".encode())
    digest.update(_bytes(held))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.view(torch.uint8).numpy()  # a view, not a copy


def _candidates(where: Path, key: str, r: int) -> list[tuple[int, Path]]:
    found = []
    for path in where.glob(f"{key}-r*.safetensors"):
        rank = path.stem.rpartition("-r")[2]
        if rank.isdecimal() and int(rank) >= r:
            found.append((int(rank), path))
    return found


def _sum(triplets: SingularTriplets) -> str:
    digest = hashlib.sha256()
    for tensor in triplets:
        digest.update(_bytes(tensor.contiguous()))
    return digest.hexdigest()


def _read(path: Path, key: str, rank: int, shape: tuple[int, ...], wide: torch.dtype) -> SingularTriplets | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            triplets = SingularTriplets(*(file.get_tensor(name) for name in SingularTriplets._fields))
    except (SafetensorError, OSError, RuntimeError):  # RuntimeError: torch cannot open the file
        return None
    shapes = ((shape[0], rank), (rank,), (rank, shape[1]))
    fits = all(t.dtype == wide and tuple(t.shape) == s for t, s in zip(triplets, shapes, strict=True))
    return triplets if fits and about.get("key") == key and about.get("sha256") == _sum(triplets) else None


def _write(path: Path, triplets: SingularTriplets, key: str) -> None:
    """Whole or not at all; a folder that cannot be written to costs the next process a decomposition, no more."""
    from safetensors.torch import save

    held = SingularTriplets(*(t.cpu().contiguous() for t in triplets))
    data = save(held._asdict(), metadata={"key": key, "sha256": _sum(held)})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
