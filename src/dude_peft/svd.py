"""Initial factors: top-r singular triplets of a weight, split into A0 and B0 (Eq. 3, 5, 6, 10, 11).

The triplets can be cached on disk (`DUDE_CACHE_DIR`), so that a sweep decomposes each weight once.

A file is named by the SHA-256 of everything that the triplets depend on: the weight's values and shape, the
method, the seed and the version of the algorithm; and by the rank. A smaller rank takes the leading triplets of the
smallest larger one that is there. These are the same directions to the accuracy of the decomposition, but not the
same bits as without the cache: another rank is another Krylov space. Where bits matter, leave the cache off, or begin
a sweep with its largest rank. A file that cannot be read, is damaged or was written for something else counts as not
there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .files import write_bytes

Variant = Literal["dude", "dude_a", "dude_b", "random"]
SvdMethod = Literal["krylov", "exact"]

# The share of the singular values that A0 takes: sqrt(S) in Eq. 5, all of S in Eq. 10, none in Eq. 11.
A_EXPONENT: dict[str, float] = {"dude": 0.5, "dude_a": 1.0, "dude_b": 0.0, "random": 0.5}

# A step multiplies with W twice. The last one is that which adds less than SETTLED to the captured energy.
KRYLOV_STEPS = 16
UNCHECKED_STEPS = 3
SETTLED = 1e-9
OVERSAMPLING = 8
GRAM_STEPS = 9  # up to so many blocks in the smaller side, its full Gram matrix costs no more
GRID_BITS = 18
ALGORITHM = 2  # raised with every change that moves a bit of the triplets
ONE_THREAD = 1024 * 4096  # weights of up to so many entries are decomposed on one CPU thread


class SingularTriplets(NamedTuple):
    """The top-r part of W = U diag(S) Vh: `U` (d, r), `S` (r,) descending, `Vh` (r, k)."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def top_singular_triplets(weight: Tensor, r: int, *, method: SvdMethod = "krylov", seed: int = 0) -> SingularTriplets:
    """Return the r largest singular triplets of `weight` (Eq. 3) with a fixed sign, reproducible bit for bit.

    Args:
        weight: (d, k), any floating dtype; read, never written. Computed in float32, or in float64 if it is float64.
        r: how many, 1 <= r <= min(d, k).
        method: `"krylov"`, block Krylov with a Rayleigh-Ritz step in float64, or `"exact"`, LAPACK's full SVD.
        seed: of the Krylov block. `module_seed` derives one from a module's name.

    Returns:
        The triplets in float32 (float64 for a float64 weight); the largest entry of each row of Vh is positive.
    """
    W = weight.detach()
    if W.device.type == "mps":  # which has no float64
        return SingularTriplets(*(t.to(W.device) for t in top_singular_triplets(W.cpu(), r, method=method, seed=seed)))
    W = W if W.dtype == torch.float64 else W.float()
    block = min(r + OVERSAMPLING, *W.shape)
    # Where the Krylov space would fill a large part of the smaller side, its Gram matrix is as fast, and exact.
    small = 2 * block * GRAM_STEPS >= min(W.shape)
    with one_thread(W.numel() <= ONE_THREAD):
        if method == "exact":
            U, S, Vh = torch.linalg.svd(W, full_matrices=False)
            U, S, Vh = U[:, :r], S[:r], Vh[:r]
        else:
            transposed = W.shape[0] > W.shape[1]
            M = W.T if transposed else W  # (p, q) with p <= q: the basis lives on the short side
            left, S, right = _gram(M, r) if small else _block_krylov(M, r, block, seed)
            U, Vh = (right.T, left.T) if transposed else (left, right)
    largest = Vh.gather(1, Vh.abs().argmax(dim=1, keepdim=True))
    sign = torch.where(largest < 0, -1.0, 1.0).to(Vh.dtype)
    return SingularTriplets((U * sign.T).contiguous(), S.contiguous(), (Vh * sign).contiguous())


@contextlib.contextmanager
def one_thread(wanted: bool) -> Iterator[None]:
    """Use one CPU thread where `wanted`: on a busy machine several take 50 times as long for a small factorisation."""
    threads = torch.get_num_threads()
    if wanted and threads > 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _gram(M: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (p, r), S (r,), Vh (r, q) of M (p, q) from the leading eigenvectors of M M^T, in float64."""
    wide = M.double()
    left = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -r:].flip(1)
    return _from_left(left, left.T @ wide, M.dtype)


def _from_left(left: Tensor, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return U, S, Vh from U (p, r) and the rows U^T M (r, q), in float64.

    S are the lengths of the rows, not the square roots of the eigenvalues, which are noise below 1e-8 of the first.
    """
    S = rows.norm(dim=1)
    return left.to(dtype), S.to(dtype), torch.nn.functional.normalize(rows, dim=1).to(dtype)


def _block_krylov(M: Tensor, r: int, block: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Apply Rayleigh-Ritz to span[M X, (M M^T) M X, ...], X Gaussian (Musco and Musco, arXiv 1504.05477).

    The rows Q^T M that the Rayleigh-Ritz step needs are half of the next step's product, so what the space captures is
    known after every step, for a Gram matrix as small as the space.
    """
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device has the same block
    X = torch.randn(M.shape[1], block, generator=generator, dtype=torch.float64, device="cpu").to(M)
    Y, basis = M @ X, M.new_empty(M.shape[0], 0)
    rows = M.new_empty(0, M.shape[1], dtype=torch.float64)
    gram = rows @ rows.T
    captured = 0.0
    for step in range(KRYLOV_STEPS + 1):
        for _ in range(2):  # twice is enough: one pass leaves components of the earlier blocks behind
            Y = Y - basis @ (basis.T @ Y)
        Q = torch.linalg.qr(Y).Q
        new = Q.T @ M
        basis, rows = torch.cat([basis, Q], dim=1), torch.cat([rows, new.double()])
        added = rows[-block:] @ rows.T
        gram = torch.cat([torch.cat([gram, added[:, :-block].T], dim=1), added])
        if step >= UNCHECKED_STEPS:
            before, captured = captured, float(torch.linalg.eigvalsh(gram)[-r:].sum())
            if captured - before <= SETTLED * captured:
                break
        Y = M @ new.T
    # The basis is orthonormal to float32 alone, and where M has no more rank its last columns repeat others.
    wide = basis.double()
    length, direction = torch.linalg.eigh(wide.T @ wide)
    direction = (direction / length.sqrt())[:, length > 0.5]
    top = torch.linalg.eigh(direction.T @ gram @ direction).eigenvectors[:, -r:].flip(1)
    mix = direction @ top
    return _from_left(wide @ mix, mix.T @ rows, M.dtype)


def module_seed(name: str, seed: int = 0) -> int:
    """Return a seed for the module `name`: the same in every process and on every platform."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


def random_vectors(triplets: SingularTriplets, seed: int) -> SingularTriplets:
    """Return triplets of the same shapes and singular values, whose vectors are random and orthonormal (QR of normals).

    For ablations: what the directions of the weight contribute, apart from the size of the initial factors.
    """
    generator = torch.Generator().manual_seed(seed)

    def drawn(rows: int, r: int) -> Tensor:
        return torch.linalg.qr(torch.randn(rows, r, generator=generator, dtype=torch.float64, device="cpu"))[0]

    U, S, Vh = triplets
    left, right = drawn(U.shape[0], S.numel()), drawn(Vh.shape[1], S.numel()).T
    return SingularTriplets(left.to(U), S, right.contiguous().to(Vh))


def initial_factors(triplets: SingularTriplets, scaling: float, variant: Variant = "dude") -> tuple[Tensor, Tensor]:
    """Return A0 (r, k) and B0 (d, r) with scaling * B0 A0 = U diag(S) Vh: Eq. 5, 6; 10 (`dude_a`); 11 (`dude_b`).

    B0 is put on a fixed-point grid of 18 bits (see `on_grid`), so that the saved form gives it back bit for bit.
    """
    U, S, Vh = triplets
    S = S / scaling
    alpha = A_EXPONENT[variant]
    return S[:, None].pow(alpha) * Vh, on_grid(U * S.pow(1 - alpha))


def on_grid(B0: Tensor) -> Tensor:
    """Round each column of B0 (d, r) to multiples of 2^-18 of the power of two above its largest entry.

    The layer is exact for any B0, so this only moves the initial direction by 5e-6. In return
    `recover_b0` finds B0 in the float32 sum B0 + dB bit for bit.
    """
    peak = B0.abs().amax(dim=0, keepdim=True)
    _, exponent = torch.frexp(peak)  # peak = mantissa * 2^exponent, mantissa in [0.5, 1)
    return torch.ldexp(torch.round(torch.ldexp(B0, GRID_BITS - exponent)), exponent - GRID_BITS)


def recover_b0(B: Tensor, dB: Tensor) -> Tensor:
    """Return B0 (d, r), bit for bit, from B = B0 + dB as rounded to float32, and dB: the inverse of saving.

    Exact unless a column of B outgrew that of B0 by 2^5; beyond that, right to the rounding of B.
    """
    return on_grid(B.double() - dB.double()).to(B.dtype)


ENVIRONMENT = "DUDE_CACHE_DIR"


def cached_triplets(
    weight: Tensor, r: int, *, method: SvdMethod = "krylov", seed: int = 0, folder: str | Path | None = None
) -> SingularTriplets:
    """Return `top_singular_triplets`, from the cache on disk where they are there.

    Args:
        weight: (d, k). r, method, seed: as there.
        folder: of the cache; None for the environment's DUDE_CACHE_DIR, and without that no cache.
    """
    folder = folder or os.environ.get(ENVIRONMENT)
    if not folder:
        return top_singular_triplets(weight, r, method=method, seed=seed)
    found = find_triplets(folder, weight, r, method=method, seed=seed)
    if found is None:
        found = top_singular_triplets(weight, r, method=method, seed=seed)
        with contextlib.suppress(OSError):  # that costs the next process a decomposition, no more
            store_triplets(folder, weight, found, method=method, seed=seed)
    return found


def find_triplets(
    folder: str | Path, weight: Tensor, r: int, *, method: SvdMethod, seed: int
) -> SingularTriplets | None:
    """Return the triplets of `weight` that `folder` has, or None."""
    key, wide = _key(weight, method, seed), torch.float64 if weight.dtype == torch.float64 else torch.float32
    for rank, path in sorted(_candidates(Path(folder) / "svd", key, r)):
        found = _read(path, key, rank, tuple(weight.shape), wide)
        if found is not None:
            U, S, Vh = (t.to(weight.device) for t in found)
            return SingularTriplets(U[:, :r].contiguous(), S[:r].contiguous(), Vh[:r].contiguous())
    return None


def store_triplets(
    folder: str | Path, weight: Tensor, triplets: SingularTriplets, *, method: SvdMethod, seed: int
) -> None:
    """Write the triplets of `weight` into `folder` atomically.

    Raises:
        OSError: the folder cannot be written.
    """
    from safetensors.torch import save

    key, on_cpu = _key(weight, method, seed), SingularTriplets(*(t.cpu().contiguous() for t in triplets))
    path = Path(folder) / "svd" / f"{key}-r{len(triplets.S)}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, save(on_cpu._asdict(), metadata={"key": key, "sha256": _sum(on_cpu)}))


def _key(weight: Tensor, method: str, seed: int) -> str:
    W = weight.detach().cpu()
    W = (W if W.dtype == torch.float64 else W.float()).contiguous()  # what the triplets are computed from
    digest = hashlib.sha256(f"{ALGORITHM}:{method}:{seed}:{W.dtype}:{tuple(W.shape)}:".encode())
    digest.update(_bytes(W))
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
