"""The composed weight W' = m V / ||V||_c and its product with an input, without ever building V (paper Eq. 7).

V = W0 + s (B A - B0 A0) = W0 + s Bh Ah   with   Ah = [dA; A0] (2r, k),  Bh = [B0 + dB, dB] (d, 2r)

The trainable parameters are the differences dA = A - A0 and dB = B - B0, initialised to zero, and the magnitude m.
Two axes of ||.||_c: `"out"`, one magnitude per output (row of W0, as DoRA's code and PEFT have it), and `"in"`, one per
input (the paper's letter). Everything here is written so that dA = dB = 0 and m = n0 give the base layer's output
bit for bit: every term that the adapter adds is then exactly zero.

Bh is stored as its transpose Bt (2r, d): then both axes have one formula, and values per output lie along the last,
contiguous dimension.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels

MagnitudeAxis = Literal["out", "in"]
HALF = (torch.bfloat16, torch.float16)
SLICE = 1024  # columns of a thin product at a time on a CPU


def without_autocast(device: torch.device) -> Any:
    """Return a context without autocast: half-precision products of the small factors would lose digits of the norm."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else contextlib.nullcontext()


def weight_norm(weight: Tensor, axis: MagnitudeAxis) -> Tensor:
    """Return n0 = ||W0||_c: (d,) for `"out"`, (k,) for `"in"`, in float32 (float64 for a float64 weight).

    Summed in float64 and rounded once, so that two machines get the same bits; by slices, so that no copy of the weight
    in float64 is made.
    """
    lines = weight.detach() if axis == "out" else weight.detach().T
    if weight.device.type == "mps":  # which has no float64
        lines = lines.cpu()
    norms = torch.cat([part.double().square().sum(dim=1).sqrt() for part in lines.split(256)])
    return (norms if weight.dtype == torch.float64 else norms.float()).to(weight.device)


def init_product(weight: Tensor, A0: Tensor, B0: Tensor, axis: MagnitudeAxis) -> Tensor:
    """Return P0, the product of W0 with the initial factors: A0 W0^T (r, d), or B0^T W0 (r, k) for `"in"`."""
    W = weight.detach().to(A0.dtype)
    return A0 @ W.T if axis == "out" else B0.T @ W


def factors(dA: Tensor, dB: Tensor, A0: Tensor, B0: Tensor) -> tuple[Tensor, Tensor]:
    """Return Ah = [dA; A0] (2r, k) and Bt = [B0 + dB, dB]^T (2r, d) in the dtype of A0: V = W0 + s Bt^T Ah."""
    dA, dB = dA.to(A0.dtype), dB.to(B0.dtype)
    return torch.cat([dA, A0], dim=-2), torch.cat([(B0 + dB).mT, dB.mT], dim=-2)


def fit_range(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return `rows` (r, n) in `dtype`, divided by powers of two (r, 1) so that nothing underflows, and these.

    Float16 alone needs it: a row of small differences lies below its smallest normal number. Exact, then, but for the
    rounding to `dtype` itself. None where nothing was divided.
    """
    if dtype != torch.float16:
        return rows.to(dtype), None
    rows = rows.float()
    _, exponent = torch.frexp(rows.abs().amax(dim=-1, keepdim=True))
    return scaled_by_power(rows, -exponent).to(dtype), exponent


def scaled_by_power(rows: Tensor, exponent: Tensor) -> Tensor:
    """Return rows * 2^exponent in two steps, since the power alone may overflow where the result does not."""
    half = exponent // 2
    return torch.ldexp(torch.ldexp(rows, half), exponent - half)


def undo_range(product: Tensor, exponent: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return the product (r, n) of `fit_range`'s rows in `dtype`, as if nothing had been divided."""
    return product.to(dtype) if exponent is None else scaled_by_power(product.to(dtype), exponent)


class RangedProduct(torch.autograd.Function):
    """rows @ matrix (r, n) in `wide`, multiplied in the dtype of `matrix` (m, n), with `fit_range` in both directions.

    Autograd would round the incoming gradient to float16 after `fit_range` has multiplied it by the power of two of the
    rows, where it underflows, or overflows for small weights. `matrix` is a constant.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, matrix: Tensor, wide: torch.dtype) -> Tensor:
        """Return the product (r, n) for rows (r, m)."""
        ctx.save_for_backward(matrix)
        ctx.dtype = rows.dtype
        return ranged_product(rows, matrix, wide)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        """Return dL/drows (r, m) for dL/dproduct (r, n): the same product with the transpose."""
        (matrix,) = ctx.saved_tensors
        with without_autocast(gradient.device):
            return RangedProduct.apply(gradient, matrix.mT, ctx.dtype), None, None


def ranged_product(rows: Tensor, matrix: Tensor, wide: torch.dtype) -> Tensor:
    """Return rows @ matrix (r, n) in `wide`, for rows (r, m) and a matrix (m, n) in whose dtype the product is made.

    On a CPU it is (matrix^T rows^T)^T, by slices of the matrix: 0.7 of the time for 16 rows and 4096 x 4096, 0.55 for
    1024 x 1024.
    """
    scaled, exponent = fit_range(rows, matrix.dtype)
    if matrix.device.type != "cpu" or matrix.ndim > 2 or torch.compiler.is_compiling():
        return undo_range(scaled @ matrix, exponent, wide)
    if matrix.shape[1] <= SLICE:
        return undo_range((matrix.T @ scaled.T).T, exponent, wide)
    parts = [part.T @ scaled.T for part in matrix.split(SLICE, dim=1)]
    return undo_range(torch.cat(parts).T, exponent, wide)


def difference_product(dA: Tensor, dB: Tensor, weight: Tensor, wide: torch.dtype, axis: MagnitudeAxis) -> Tensor:
    """Return dA W0^T (r, d), or dB^T W0 (r, k) for `"in"`, in `wide`: the only part of the norm as large as W0."""
    W = weight.detach()
    rows, matrix = (dA, W.mT) if axis == "out" else (dB.mT, W)
    if W.dtype == torch.float16 and torch.is_grad_enabled() and rows.requires_grad:
        return cast(Tensor, RangedProduct.apply(rows, matrix, wide))
    return ranged_product(rows, matrix, wide)


def norm_change(factor: Tensor, other: Tensor, P: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return what the update adds to the squared norms, without a matrix of the size of W0.

        ||V_i||^2 = n0_i^2 + s q_i,   q = colsum((P + V_other) * factor),   V_other = P + s (other other^T) factor

    | axis | factor | other | P | V_other |
    |---|---|---|---|---|
    | `"out"` | Bt (2r, d) | Ah (2r, k) | Ah W0^T (2r, d) | Ah V^T (2r, d) |
    | `"in"` | Ah (2r, k) | Bt (2r, d) | Bt W0 (2r, k) | Bt V (2r, k) |

    All are differentiable, and their gradient is that of Eq. 9.

    Returns:
        q (n,), exactly zero where dA and dB are, and V_other (2r, n).
    """
    product = torch.addmm if P.ndim == 2 else torch.baddbmm
    V_other = product(P, other @ other.mT, factor, alpha=scaling)
    return ((P + V_other) * factor).sum(dim=-2), V_other


def relative_gain(magnitude: Tensor, n0: Tensor, q: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return h = m / ||V||_c - 1, from differences: exactly 0 at the initialisation, and -1 (no output) where V is 0.

        ||V|| - n0 = s q / (n0 + ||V||),   h = (m - n0 - (||V|| - n0)) / ||V||

    keep digits that a difference of the norms would lose.

    Args:
        magnitude: m and n0: (d,), or (k,) for `"in"`. q: of `norm_change`, like them. scaling: s.

    Returns:
        h, and ||V||_c, infinite where V is zero: then what is divided by it is zero, and no gradient passes.
    """
    squares = torch.add(n0 * n0, q, alpha=scaling)
    zero = None if all_positive(squares) else squares <= 0
    # In place: `torch.where` with a number launches a second kernel, which writes that number to a tensor.
    norm = (squares if zero is None else squares.masked_fill_(zero, torch.inf)).sqrt()
    gain = torch.addcdiv(magnitude.to(n0.dtype) - n0, q, n0 + norm, value=-scaling) / norm
    return gain if zero is None else gain.masked_fill_(zero, -1.0), norm


def all_positive(values: Tensor) -> bool:
    """Return whether all entries are known to be above 0, so that no mask is needed; False if not on a CPU.

    On a CPU looking costs less than the operations that it saves; elsewhere it would wait for the device.
    """
    known = values.device.type == "cpu" and not torch.compiler.is_compiling()
    return known and float(values.detach().min()) > 0  # False with a NaN


def gain_of_norm(magnitude: Tensor, squares: Tensor) -> Tensor:
    """Return h = m / ||V||_c - 1 of a dense V, as `relative_gain` has it; -1 where V is 0.

    The norm is rounded as n0 is in `weight_norm`, so that h is exactly 0 at the initialisation.

    Args:
        magnitude: m, (d,), or (k,) for `"in"`. squares: ||V||_c^2 in float64, like it.
    """
    norm = squares.sqrt().to(magnitude.dtype)
    return torch.where(norm > 0, (magnitude - norm) / norm, -1.0)


class Composition(NamedTuple):
    """Ah (2r, k), Bt (2r, d), V_other of `norm_change`; ||V||_c and the gain h, (d,) or (k,), of `relative_gain`."""

    Ah: Tensor
    Bt: Tensor
    V_other: Tensor
    norm: Tensor
    gain: Tensor


def composition(
    dA: Tensor,
    dB: Tensor,
    magnitude: Tensor,
    init: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor,
    scaling: float,
    axis: MagnitudeAxis,
    detach_norm: bool = False,
) -> Composition:
    """Compute ||V||_c and h from the parameters, in float32 or wider; differentiable, by Eq. 9 unless `detach_norm`.

    All tensors may have a first dimension more, over the experts of a mixture.

    Args:
        dA: (r, k), dB: (d, r), magnitude: m, the trainable parameters.
        init: A0 (r, k), B0 (d, r), n0 (d,) or (k,), P0 (r, d) or (r, k).
        weight: W0 (d, k).
        scaling: s.
    """
    A0, B0, n0, P0 = (tensor.detach() for tensor in init)  # frozen, also in a script that trains every "lora_"
    with without_autocast(weight.device):
        Ah, Bt = factors(dA, dB, A0, B0)
        product = difference_product(dA, dB, weight, Ah.dtype, axis)
        if axis == "out":
            factor, other, P = Bt, Ah, torch.cat([product, P0], dim=-2)
        else:
            factor, other, P = Ah, Bt, torch.cat([P0 + product, product], dim=-2)
        one = factor.ndim == 2
        fused = kernels.attempt("product_norm_gain", factor, other, P, n0, magnitude, scaling) if one else None
        if fused is not None:
            return Composition(Ah, Bt, *fused)
        q, V_other = norm_change(factor, other, P, scaling)
        gain, norm = relative_gain(magnitude, n0, q.detach() if detach_norm else q, scaling)
        return Composition(Ah, Bt, V_other, norm, gain)


class Factors(NamedTuple):
    """The factors of a forward in the dtype of its input: Ah (2r, k), outer (2r, d) and the gain h."""

    Ah: Tensor
    outer: Tensor
    gain: Tensor


def forward_factors(composition: Composition, scaling: float, axis: MagnitudeAxis, dtype: torch.dtype) -> Factors:
    """Return Ah, outer = s (1 + h) Bt for `"out"` or s Bt for `"in"`, and h: in float32 or wider, rounded once."""
    Bt = composition.Bt
    outer = torch.addcmul(Bt, Bt, composition.gain.unsqueeze(-2)) if axis == "out" else Bt
    outer = outer if scaling == 1 else scaling * outer
    return Factors(composition.Ah.to(dtype), outer.to(dtype), composition.gain.to(dtype))


def output(
    y0: Tensor, bias: Tensor | None, gain: Tensor, inner: Tensor, outer: Tensor, *, in_place: bool = False
) -> Tensor:
    """Return y = y0 + h (y0 - b) + (x Ah^T) outer, which is x W'^T + b of axis `"out"` (Eq. 7); the bias is not scaled.

    In half precision the change is summed before y0 is added, so that a change below the spacing of y0 is not lost term
    by term; in float32 both terms are added to y0 directly, which saves two tensors of its size.

    Args:
        y0: (n, d), the base layer's output.
        bias: (d,), in the dtype of y0, or None.
        gain, outer: of `forward_factors`.
        inner: x Ah^T (n, 2r), of the input after dropout.
        in_place: overwrite y0.
    """
    fused = kernels.attempt("output", y0, bias, gain, inner, outer, in_place)
    if fused is not None:
        return fused
    if y0.dtype in HALF:
        change = output_change(y0 if bias is None else y0 - bias, gain, inner, outer)
        return y0.add_(change) if in_place else y0 + change
    y = y0.addcmul_(y0, gain) if in_place else torch.addcmul(y0, y0, gain)
    if bias is not None:
        y.sub_(gain * bias)
    return y.addmm_(inner, outer)


def output_change(base: Tensor, gain: Tensor, inner: Tensor, outer: Tensor) -> Tensor:
    """Return h x W0^T + (x Ah^T) outer, what `output` adds; base = x W0^T (n, d), the rest as there."""
    return (base * gain).addmm_(inner, outer)


def scaled_input_output(
    y0: Tensor, x: Tensor, x_update: Tensor, weight: Tensor, gain: Tensor, Ah: Tensor, outer: Tensor
) -> Tensor:
    """Return y = y0 + (x * h) W0^T + ((x_update * (1 + h)) Ah^T) outer: `x W'^T + b` for axis `"in"` (Eq. 7).

    A second product with W0, so that a small h survives the rounding of a half-precision x * (1 + h).

    Args:
        y0: (..., d), the base layer's output; x: (..., k), and x_update: the same after dropout.
        weight: W0 (d, k), in the dtype of x. gain: h (k,). Ah (2r, k), outer (2r, d): of `forward_factors`.
    """
    inner = F.linear(torch.addcmul(x_update, x_update, gain), Ah)
    return y0 + (F.linear(x * gain, weight) + inner @ outer)


def scaled_input_product(
    x: Tensor, x_update: Tensor, weight: Tensor, bias: Tensor | None, gain: Tensor, Ah: Tensor, outer: Tensor
) -> Tensor:
    """Return the same y in float32 and wider, from one product with W0: (x + x * h) W0^T + b + ...

    Args:
        bias: (d,) or None; the rest as in `scaled_input_output`.
    """
    scaled = torch.addcmul(x, x, gain)
    inner = F.linear(scaled if x_update is x else torch.addcmul(x_update, x_update, gain), Ah)
    return F.linear(scaled, weight, bias) + inner @ outer


def updated_weight(weight: Tensor, Ah: Tensor, Bt: Tensor, scaling: float) -> Tensor:
    """Return V = W0 + s Bt^T Ah (d, k), in float32 or wider; the bits of W0 where the update is zero."""
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    return weight.detach().to(wide) + scaling * (Bt.to(wide).T @ Ah.to(wide))


def merged_weight(weight: Tensor, gain: Tensor, Ah: Tensor, Bt: Tensor, scaling: float, axis: MagnitudeAxis) -> Tensor:
    """Return W' (d, k) of Eq. 7, computed in float32 or wider and rounded once to the dtype of `weight`.

    Args:
        weight: W0 (d, k), or for `"out"` the weight that earlier adapters left. gain: h (d,), or (k,) for `"in"`.
    """
    V = updated_weight(weight, Ah, Bt, scaling)
    h = gain.to(V.dtype)
    # The part that h scales is added, so that h = 0 and an update of zero return the bits of W0.
    return (V + V * (h[:, None] if axis == "out" else h)).to(weight.dtype)


def weight_change(weight: Tensor, gain: Tensor, Ah: Tensor, Bt: Tensor, scaling: float, axis: MagnitudeAxis) -> Tensor:
    """Return W' - W0 (d, k) in float32 or wider, without the digits that a difference of the two would lose.

    Args are those of `merged_weight`.
    """
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    update = (scaling * Bt.to(wide).T) @ Ah.to(wide)
    V, h = weight.detach().to(wide) + update, gain.to(wide)
    return update.addcmul_(V, h[:, None] if axis == "out" else h)


def temporary_weight(weight: Tensor, factors: Factors) -> Tensor:
    """Return W' (d, k) of axis `"out"` in the dtype of `weight`, from the factors of a forward in that dtype."""
    return output(weight.detach().T, None, factors.gain, factors.Ah.T, factors.outer).T


def temporary_weight_pays(tokens: int, d: int, k: int) -> bool:
    """Return whether W' (4 r d k operations) costs less than the thin products of all tokens (4 r (d + k) each).

    Up to 16 MiB: on wider layers the gain is below 3%.
    """
    return d * k <= tokens * (d + k) and d * k <= 1 << 22
