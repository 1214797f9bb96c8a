"""Random layers of any shape, rank, scale and variant: output, merge and gradients are the paper's equations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import tiny_models as models
import torch
from conftest import AXES, TOLERANCE, VARIANTS
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from peft import get_peft_model
from tally import tally  # noqa: F401
from torch import Tensor, nn

from dude_peft import reference


@dataclass(frozen=True)
class Shape:
    """One random layer: weight (d, k) with entries about `scale`, rank r, `rows` inputs, moved by `step` (relative)."""

    d: int
    k: int
    r: int
    rows: int
    axis: str
    variant: str
    dtype: torch.dtype
    alpha: float
    scale: float
    step: float
    bias: bool
    seed: int


@st.composite
def shapes(draw: st.DrawFn) -> Shape:
    d, k = draw(st.integers(2, 64)), draw(st.integers(2, 64))
    return Shape(
        d=d,
        k=k,
        r=draw(st.integers(1, min(d, k))),
        rows=draw(st.integers(1, 80)),
        axis=draw(st.sampled_from(AXES)),
        variant=draw(st.sampled_from(VARIANTS)),
        dtype=draw(st.sampled_from((torch.float32, torch.float64))),
        alpha=draw(st.sampled_from((0.5, 1.0, 3.0, 16.0, 64.0))),
        scale=10.0 ** draw(st.integers(-4, 2)),
        step=draw(st.sampled_from((0.0, 1e-4, 1e-2, 0.3))),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


def error(got: Tensor, want: Tensor, scale: float) -> float:
    """The largest difference over `scale`, the size of what was added up."""
    return float((got.detach().double() - want).abs().max()) / max(scale, 1e-300)


def worst_error(shape: Shape) -> float:
    """The largest error of output, merged weight and gradients, relative to the terms that each is a sum of.

    Returns:
        The error over the tolerance of the dtype times the condition number of V's lines.
    """
    torch.manual_seed(shape.seed)
    linear = nn.Linear(shape.k, shape.d, bias=shape.bias, dtype=shape.dtype)
    with torch.no_grad():
        linear.weight.normal_(std=shape.scale)
    config = models.config_for(
        "llama",
        r=shape.r,
        target_modules=["0"],
        task_type=None,
        lora_alpha=shape.alpha,
        magnitude_axis=shape.axis,
        init_variant=shape.variant,
    )
    model = get_peft_model(nn.Sequential(linear), config)
    models.move(model, shape.step, shape.seed)
    layer = model.base_model.model[0]
    init, s = layer.lora_dude["default"], layer.scaling["default"]
    parameters = [
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.lora_magnitude_vector["default"].weight,
    ]
    x = torch.randn(shape.rows, shape.k, dtype=shape.dtype, requires_grad=True)
    dy = torch.randn(shape.rows, shape.d, dtype=shape.dtype)

    x64 = x.detach().double().requires_grad_()
    dA, dB, m = (p.detach().double().requires_grad_() for p in parameters)
    A0, B0, W0 = init.lora_A0.double(), init.lora_B0.double(), linear.weight.detach().double()
    Wf = W0 - s * B0 @ A0
    V = Wf + s * (B0 + dB) @ (A0 + dA)
    W = reference.composed_weight(m, Wf, A0 + dA, B0 + dB, s, shape.axis)
    bias = linear.bias.detach().double() if shape.bias else torch.zeros(shape.d, dtype=torch.float64)
    y = x64 @ W.T + bias
    wanted = torch.autograd.grad((y * dy.double()).sum(), (x64, dA, dB, m))
    # Each gradient is a sum whose terms may cancel (Eq. 9 removes most of dW for small d or k): their size is what
    # counts. With axis "out" the sum of Eq. 8 is that of dy (y - bias): the bias is one of them.
    with torch.no_grad():
        dim, norm = (1 if shape.axis == "out" else 0), reference.column_norm(V, shape.axis)
        dW = dy.double().T @ x64
        of_bias = (dy.double().abs() * bias.abs()).sum(0)[:, None] * (shape.axis == "out")
        b = m.reshape(norm.shape) / norm * dW.abs() + of_bias / norm.square() * V.abs()
        A, B = (A0 + dA).abs(), (B0 + dB).abs()
        size = float((x64.abs() @ W.abs().T + bias.abs()).max())
        sizes = [
            float((dy.double().abs() @ W.abs()).max()),
            float((s * B.T @ b).max()),
            float((s * b @ A.T).max()),
            float(((dW * V).abs() / norm).sum(dim).max() + (of_bias / m.reshape(norm.shape)).max()),
        ]

    out = layer(x)
    got = torch.autograd.grad((out * dy).sum(), (x, *parameters))
    errors = [error(out, y.detach(), size)]
    errors += [error(g, w, size) for g, w, size in zip(got, wanted, sizes, strict=True)]
    merged = model.merge_and_unload()[0].weight
    errors.append(error(merged, W.detach(), float(W.detach().abs().max())))
    assert all(map(math.isfinite, errors)), errors
    # A line of V that nearly vanishes is the difference of large terms, whose rounding the division by ||V|| enlarges.
    # W0 is one of them, for V = W0 + s (B A - B0 A0) is computed from it; W_f alone can be small where W0 is not. Its
    # squared norm is n0^2 + s q, whose rounding is that of n0^2.
    terms = W0.abs() + s * (B0.abs() @ A0.abs() + (B0 + dB).detach().abs() @ (A0 + dA).detach().abs())
    lines = (reference.column_norm(part, shape.axis) / norm for part in (terms, W0))
    condition = float(torch.maximum(next(lines), next(lines).square()).max())
    return max(errors) / (TOLERANCE[shape.dtype] * condition)


def try_shapes(examples: int) -> tuple[int, float]:
    """Returns how many layers were tried, and the largest error over its tolerance."""
    tried, worst = 0, 0.0

    @seed(0)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(shapes())
    def trial(shape: Shape) -> None:
        nonlocal tried, worst
        tried += 1
        found = worst_error(shape)
        worst = max(worst, found)
        assert found <= 1, f"{found:.2f} times the tolerance"

    trial()
    return tried, worst


def test_a_line_that_loses_most_of_its_length() -> None:
    """W0's column lies in B0 A0 but for a twentieth, and the update takes that away: rounding of W0 is what is left."""
    shape = Shape(2, 27, 1, 1, "in", "dude", torch.float32, 0.5, 1.0, 0.3, False, 18937)
    assert worst_error(shape) <= 1


def test_some_random_layers(tally: Callable[..., None]) -> None:  # noqa: F811
    tried, _ = try_shapes(150)
    tally("random layer against the equations (part that CI runs)", "float32, float64", tried, tried)


@pytest.mark.reliability
def test_many_random_layers(tally: Callable[..., None]) -> None:  # noqa: F811
    tried, _ = try_shapes(4000)
    tally("random layer against the equations", "float32, float64", tried, tried)
