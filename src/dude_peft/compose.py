"""The composed weight W' = m V / ||V||_c and its product with an input, without ever building V (paper Eq. 7).

V = W0 + s (B A - B0 A0) = W0 + s Bh Ah   with   Ah = [dA; A0] (2r, k),  Bh = [B0 + dB, dB] (d, 2r)

The trainable parameters are the differences dA = A - A0 and dB = B - B0, which start at zero, and the magnitude m.
Two axes of ||.||_c: `"out"`, one magnitude per output (row of W0, as DoRA's code and PEFT have it), and `"in"`, one per
input (the paper's letter). Everything here is written so that dA = dB = 0 and m = n0 give the base layer's own output
bit for bit: all that the adapter changes is a sum of terms that are then exactly zero.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MagnitudeAxis = Literal["out", "in"]


def weight_norm(weight: Tensor, axis: MagnitudeAxis) -> Tensor:
    """n0 = ||W0||_c: (d,) for `"out"`, (k,) for `"in"`, in float32 (float64 for a float64 weight).

    Summed in float64 and rounded once, so that two machines get the same bits; by slices, so that no copy of the weight
    in float64 is made.
    """
    lines = weight.detach() if axis == "out" else weight.detach().T
    if weight.device.type == "mps":  # which has no float64
        lines = lines.cpu()
    norms = torch.cat([part.double().square().sum(dim=1).sqrt() for part in lines.split(256)])
    return (norms if weight.dtype == torch.float64 else norms.float()).to(weight.device)


def start_product(weight: Tensor, A0: Tensor, B0: Tensor, axis: MagnitudeAxis) -> Tensor:
    """P0, the product of W0 with the start that the norm needs: W0 A0^T (d, r), or B0^T W0 (r, k) for `"in"`."""
    W = weight.detach().to(A0.dtype)
    return W @ A0.T if axis == "out" else B0.T @ W


def factors(dA: Tensor, dB: Tensor, A0: Tensor, B0: Tensor) -> tuple[Tensor, Tensor]:
    """Ah = [dA; A0] (2r, k) and Bh = [B0 + dB, dB] (d, 2r) in the start's dtype: V = W0 + s Bh Ah."""
    dA, dB = dA.to(A0.dtype), dB.to(B0.dtype)
    return torch.cat([dA, A0]), torch.cat([B0 + dB, dB], dim=1)


def norm_change(
    Ah: Tensor, Bh: Tensor, n0: Tensor, P0: Tensor, product: Tensor, scaling: float, axis: MagnitudeAxis
) -> Tensor:
    """||V||_c - ||W0||_c, from the squares of the norms: nothing of size (d, k) is made but what W0 is.

        ||V_i||^2 = n0_i^2 + q_i,   q = 2 s rowsum(B * (W0 dA^T) + dB * P0) + s^2 rowsum((Bh (Ah Ah^T)) * Bh)

    and the same with columns for `"in"`. The difference is q / (n0 + ||V||): it keeps digits that ||V|| - n0 loses.

    Args:
        Ah: (2r, k) and Bh: (d, 2r), of `factors`.
        n0: (d,), or (k,) for `"in"`: `weight_norm` of W0.
        P0: `start_product`.
        product: W0 dA^T (d, r), or dB^T W0 (r, k) for `"in"`; differentiable, which makes the gradient that of Eq. 9.
        scaling: s.

    Returns:
        Like n0; exactly zero where dA and dB are. A line of V that is zero gives -n0.
    """
    r = Ah.shape[0] // 2
    if axis == "out":
        cross = (Bh[:, :r] * product + Bh[:, r:] * P0).sum(dim=1)
        square = ((Bh @ (Ah @ Ah.T)) * Bh).sum(dim=1)
    else:
        A = Ah[:r] + Ah[r:]
        cross = (product * A + P0 * Ah[:r]).sum(dim=0)
        square = (((Bh.T @ Bh) @ Ah) * Ah).sum(dim=0)
    q = 2 * scaling * cross + scaling**2 * square
    total = n0.square() + q
    # A line of zeros stays one: no gradient passes the square root there, rather than an infinite one.
    alive = total > 0
    norm = torch.where(alive, total, 1.0).sqrt()
    return torch.where(alive, q / (n0 + norm), -n0)


def relative_gain(magnitude: Tensor, n0: Tensor, change: Tensor) -> Tensor:
    """h = m / ||V||_c - 1, from the differences to the start: exactly 0 there, and -1 (no output) where V is zero.

    Args:
        magnitude: m, n0 and change = ||V||_c - n0: all (d,), or (k,) for `"in"`.
    """
    norm = n0 + change
    alive = norm > 0
    return torch.where(alive, (magnitude.to(n0.dtype) - n0 - change) / torch.where(alive, norm, 1.0), -1.0)


class Composition(NamedTuple):
    """Ah (2r, k), Bh (d, 2r), the product W0 dA^T (d, r) or dB^T W0 (r, k), ||V||_c (d,) or (k,), and the gain h."""

    Ah: Tensor
    Bh: Tensor
    product: Tensor
    norm: Tensor
    gain: Tensor


def composition(
    dA: Tensor,
    dB: Tensor,
    magnitude: Tensor,
    start: tuple[Tensor, Tensor, Tensor, Tensor],
    weight: Tensor,
    scaling: float,
    axis: MagnitudeAxis,
    detach_norm: bool = False,
) -> Composition:
    """From the parameters to ||V||_c and h, in float32 or wider; differentiable, by Eq. 9 unless `detach_norm`.

    Args:
        dA: (r, k), dB: (d, r), magnitude: m, the trainable parameters. start: A0, B0, n0, P0.
        weight: W0 (d, k). scaling: s.
    """
    A0, B0, n0, P0 = start
    # Half-precision products of the small factors would cost the norm its digits, so autocast stays out.
    with torch.autocast(weight.device.type, enabled=False):
        Ah, Bh = factors(dA, dB, A0, B0)
        W = weight.detach()
        product = (W @ dA.T.to(W.dtype) if axis == "out" else dB.T.to(W.dtype) @ W).to(Ah.dtype)
        change = norm_change(Ah, Bh, n0, P0, product, scaling, axis)
        change = change.detach() if detach_norm else change
        return Composition(Ah, Bh, product, n0 + change, relative_gain(magnitude, n0, change))


def output(y0: Tensor, bias: Tensor | None, gain: Tensor, inner: Tensor, Bh: Tensor, scaling: float) -> Tensor:
    """y = y0 + h (y0 - b) + (1 + h) s (x Ah^T) Bh^T: `x W'^T + b` for axis `"out"`, the bias left alone (Eq. 7).

    The gain is multiplied into Bh, which is small, and the change is summed before y0 is added, so that a change below
    the spacing of a half-precision y0 is not lost term by term.

    Args:
        y0: (n, d), the base layer's own output, bias included.
        bias: (d,) or None.
        gain: h (d,), `relative_gain`.
        inner: x Ah^T (n, 2r), of the input after dropout.
        Bh: (d, 2r), in float32 or wider: cast once.
    """
    return y0 + output_change(y0 if bias is None else y0 - bias, gain, inner, Bh, scaling)


def output_change(base: Tensor, gain: Tensor, inner: Tensor, Bh: Tensor, scaling: float) -> Tensor:
    """h x W0^T + (1 + h) s (x Ah^T) Bh^T, what `output` adds; base = x W0^T (n, d), the rest as there."""
    scaled = ((scaling * (1 + gain))[:, None] * Bh).to(base.dtype)
    return torch.addmm(base * gain.to(base.dtype), inner, scaled.T)


def scaled_input_output(
    y0: Tensor, x: Tensor, x_update: Tensor, weight: Tensor, gain: Tensor, Ah: Tensor, Bh: Tensor, scaling: float
) -> Tensor:
    """y = y0 + (x * h) W0^T + s ((x_update * (1 + h)) Ah^T) Bh^T: `x W'^T + b` for axis `"in"` (Eq. 7).

    A second product with W0, so that a small h survives the rounding of a half-precision x * (1 + h).

    Args:
        y0: (..., d), the base layer's own output; x: (..., k), and x_update: the same after dropout.
        weight: W0 (d, k), in the dtype of x. gain: h (k,).
    """
    inner = F.linear(x_update * (1 + gain).to(x.dtype), Ah.to(x.dtype))
    return y0 + (F.linear(x * gain.to(x.dtype), weight) + F.linear(inner, (scaling * Bh).to(x.dtype)))


def merged_weight(weight: Tensor, gain: Tensor, Ah: Tensor, Bh: Tensor, scaling: float, axis: MagnitudeAxis) -> Tensor:
    """W' (d, k) of Eq. 7, computed in float32 or wider and rounded once to the dtype of `weight`.

    Args:
        weight: W0 (d, k), or for `"out"` the weight that earlier adapters left. gain: h (d,), or (k,) for `"in"`.
    """
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    delta = scaling * (Bh.to(wide) @ Ah.to(wide))
    V = weight.detach().to(wide) + delta
    h = gain.to(wide)
    # The part that h scales is added, so that h = 0 and delta = 0 return the bits of W0.
    return (V + V * (h[:, None] if axis == "out" else h)).to(weight.dtype)
