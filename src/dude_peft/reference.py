"""The paper's Eq. 3-11 as they are written: dense, in float64, with a full SVD: the tests' oracle."""

from __future__ import annotations

import torch
from torch import Tensor

from .functional import MagnitudeAxis
from .svd import Variant


def top_part(W0: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U_r (d, r), S_r (r,), V_r^T (r, k) of W0 (d, k): the Delta W of Eq. 3 is U_r diag(S_r) V_r^T."""
    U, S, Vh = torch.linalg.svd(W0.double(), full_matrices=False)
    return U[:, :r], S[:r], Vh[:r]


def residual(W0: Tensor, r: int) -> Tensor:
    """Return W_f = W0 - U_r S_r V_r^T (d, k): Eq. 4."""
    U, S, Vh = top_part(W0, r)
    return W0.double() - U @ torch.diag(S) @ Vh


def initial_factors(W0: Tensor, r: int, scaling: float = 1.0, variant: Variant = "dude") -> tuple[Tensor, Tensor]:
    """Return A (r, k) and B (d, r): Eq. 5, 6, Eq. 10 (`dude_a`) or Eq. 11 (`dude_b`); S is divided by `scaling`."""
    U, S, Vh = top_part(W0, r)
    S = S / scaling
    if variant == "dude":
        return torch.diag(S.sqrt()) @ Vh, U @ torch.diag(S.sqrt())
    if variant == "dude_a":
        return torch.diag(S) @ Vh, U
    return Vh, U @ torch.diag(S)


def column_norm(V: Tensor, axis: MagnitudeAxis) -> Tensor:
    """Return ||V||_c with the shape that broadcasts against V (d, k): (d, 1) for `"out"`, (1, k) for `"in"`."""
    return V.norm(dim=1 if axis == "out" else 0, keepdim=True)


def composed_weight(m: Tensor, Wf: Tensor, A: Tensor, B: Tensor, scaling: float, axis: MagnitudeAxis) -> Tensor:
    """Return W' = m (W_f + s B A) / ||W_f + s B A||_c (d, k): Eq. 7. m is (d,), or (k,) for `"in"`."""
    V = Wf + scaling * B @ A
    return m.reshape(column_norm(V, axis).shape) * V / column_norm(V, axis)


def gradient_of_magnitude(dW: Tensor, V: Tensor, axis: MagnitudeAxis) -> Tensor:
    """Return dL/dm = (dL/dW' . V) / ||V||_c, summed along each line: Eq. 8. dW = dL/dW' and V: (d, k)."""
    return (dW * V / column_norm(V, axis)).sum(dim=1 if axis == "out" else 0)


def gradient_of_direction(dW: Tensor, V: Tensor, m: Tensor, axis: MagnitudeAxis) -> Tensor:
    """Return dL/dV = m / ||V||_c (I - v v^T / ||v||^2) dL/dW', line by line: Eq. 9. dW = dL/dW' and V: (d, k)."""
    dim = 1 if axis == "out" else 0
    n = column_norm(V, axis)
    projected = dW - V * (V * dW).sum(dim=dim, keepdim=True) / n.square()
    return m.reshape(n.shape) / n * projected
