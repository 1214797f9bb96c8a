"""Promise: with DUDE_TRITON=1 fused Triton kernels compute what plain torch does.

On a machine with a GPU the kernels run there; elsewhere Triton's interpreter runs them. It rounds to bfloat16 towards
zero, where a GPU rounds to nearest: one spacing of error instead of half of one.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import tiny_models as models
import torch
from conftest import AXES, DTYPES, TOLERANCE, assert_close, relative_error
from kernel_tools import DEVICE, NAMES, numbers, output_arguments
from peft import get_peft_model
from torch import nn

from dude_peft import DudeConfig, autograd, functional, kernels

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton (1 GB) is not installed: 'pip install triton' runs these tests, without a GPU in its interpreter",
)
# One rounding to the dtype, of the largest entry; float32 sums differ in their order.
LIMIT = {torch.float32: TOLERANCE[torch.float32], **{t: torch.finfo(t).eps for t in functional.HALF}}


@pytest.fixture
def ran(ask_for_kernels, monkeypatch):
    """The kernels switched on, and the names of those that ran; a fall back to plain torch is an error."""
    from dude_peft.kernels import triton_kernels

    counted: Counter[str] = Counter()

    def counting(name, function):
        def call(*arguments):
            result = function(*arguments)
            counted[name] += result is not None
            return result

        return call

    for name in NAMES:
        monkeypatch.setattr(triton_kernels, name, counting(name, getattr(triton_kernels, name)))
    ask_for_kernels("1")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield counted


def spread(values: torch.Tensor) -> torch.Tensor:
    """The same values, none next to the other in memory, between others that are not a number."""
    wide = values.new_full([2 * n for n in values.shape], torch.nan)
    wide[tuple(slice(None, None, 2) for _ in values.shape)] = values
    return wide[tuple(slice(None, None, 2) for _ in values.shape)]


def in_float64(function, *arguments):
    """What plain torch makes of the same numbers in float64."""
    return function(*(a.double() if isinstance(a, torch.Tensor) else a for a in arguments))


@needs_triton
@pytest.mark.parametrize("bias", ["bias", "none"])
@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 16, 6), (70, 133, 40)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_output(ran, dtype, shape, bias):
    y0, b, *rest = output_arguments(*shape, dtype)
    arguments = y0, None if bias == "none" else b, *rest
    before = y0.clone()
    got = functional.output(*arguments)
    want = in_float64(functional.output, *arguments)
    assert ran == {"output": 1}  # float64 is plain torch's
    assert got.dtype == dtype and torch.equal(y0, before)
    assert relative_error(got, want) <= LIMIT[dtype]
    in_place = functional.output(*arguments, in_place=True)
    assert in_place.data_ptr() == y0.data_ptr() and torch.equal(in_place, got)
    spaced = [None if a is None else spread(a) for a in (before, *arguments[1:])]
    assert torch.equal(functional.output(*spaced), got)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (40, 33), (300, 130)], ids=str)
def test_sums_and_scaled(ran, shape, dtype):
    n, d = shape
    G, y, bias = numbers(n, d, dtype=dtype), numbers(n, d, dtype=dtype, seed=1), numbers(d, dtype=dtype, seed=2)
    gain, sums = numbers(d, dtype=dtype, seed=3, size=0.1), {}
    exact = G.double() + G.double() * gain.double()
    for name, b in (("bias", bias), ("none", None)):
        scaled = torch.empty_like(G)
        sums[name] = autograd.sums_and_scaled(G, y, b, gain, scaled, torch.float32)
        want = in_float64(autograd.column_sums, G, y, b, torch.float64)
        assert sums[name].dtype == torch.float32 and relative_error(sums[name], want) <= LIMIT[torch.float32]
        assert ((scaled - exact).abs() <= torch.finfo(dtype).eps * exact.abs()).all()  # each entry, not the largest
    assert torch.equal(autograd.sums_and_scaled(G, y, bias, gain, None, torch.float32), sums["bias"])
    alone, spaced = torch.empty_like(scaled), spread(torch.zeros_like(scaled))
    assert autograd.sums_and_scaled(G, None, bias, gain, alone, torch.float32) is None
    assert torch.equal(alone, scaled)
    again = autograd.sums_and_scaled(spread(G), spread(y), spread(bias), spread(gain), spaced, torch.float32)
    assert torch.equal(again, sums["bias"]) and torch.equal(spaced, scaled)
    ones = torch.ones((), dtype=dtype, device=DEVICE).expand(n, d)  # what sum().backward() hands on: stride 0
    want = in_float64(autograd.column_sums, ones, y, bias, torch.float64)
    assert relative_error(autograd.sums_and_scaled(ones, y, bias, gain, None, torch.float32), want) < 2e-6
    assert ran == {"sums_and_scaled": 6}


@needs_triton
def test_no_tokens(ran):
    y0, bias, gain, inner, outer = output_arguments(0, 20, 8, torch.float32)
    assert functional.output(y0, bias, gain, inner, outer).shape == (0, 20)
    sums = autograd.sums_and_scaled(y0, y0, bias, gain, torch.empty_like(y0), torch.float32)
    assert torch.equal(sums, torch.zeros(20, device=DEVICE))
    assert ran == {"output": 1, "sums_and_scaled": 1}


def norm_arguments(rank_rows, n, k):
    factor, other = numbers(rank_rows, n, size=0.1), numbers(rank_rows, k, seed=1, size=0.3)
    P, n0 = numbers(rank_rows, n, seed=2), numbers(n, seed=3).abs() + 3
    return factor, other, P, n0, n0 * (1 + numbers(n, seed=4, size=0.02)), 1.5


def by_plain_torch(factor, other, P, n0, magnitude, scaling):
    q, V_other = functional.norm_change(factor, other, P, scaling)
    gain, norm = functional.relative_gain(magnitude, n0, q, scaling)
    return V_other, norm, gain


@needs_triton
@pytest.mark.parametrize("shape", [(2, 1, 3), (6, 45, 7), (32, 100, 40), (64, 33, 50)], ids=str)
def test_product_norm_gain(ran, shape):
    arguments = norm_arguments(*shape)
    for case in (arguments, tuple(spread(a) if isinstance(a, torch.Tensor) else a for a in arguments)):
        got = kernels.attempt("product_norm_gain", *case)
        for value, want in zip(got, in_float64(by_plain_torch, *case), strict=True):
            assert relative_error(value, want) < TOLERANCE[torch.float32]
    assert ran == {"product_norm_gain": 2}


@needs_triton
def test_product_norm_gain_of_zero_rows_and_of_the_start(ran):
    factor, other, P, n0, _, s = norm_arguments(6, 45, 7)
    factor[3:], P[:3], other[:3] = 0, 0, 0  # dB, dA W0^T and dA
    n0[7], P[:, 7], factor[:, 7] = 0, 0, 0
    V_other, norm, gain = kernels.attempt("product_norm_gain", factor, other, P, n0, n0, s)
    alive = torch.arange(45, device=DEVICE) != 7
    assert torch.equal(gain, torch.where(alive, 0.0, -1.0))
    assert torch.equal(norm[alive], n0[alive].square().sqrt()) and norm[7] == torch.inf
    assert torch.equal(V_other[3:], P[3:])
    assert kernels.attempt("product_norm_gain", *norm_arguments(66, 5, 4)) is None  # plain torch's


def one_layer(dtype, axis, detach_norm=False, dropout=0.0, way="plain"):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(40, 70)).to(dtype)
    config = DudeConfig(
        r=3, target_modules=["0"], magnitude_axis=axis, detach_norm=detach_norm, lora_dropout=dropout, lora_alpha=4.5
    )
    model = get_peft_model(base, config)
    models.move(model, 0.1)
    if way == "hook":  # the base's own backward runs
        model.base_model.model[0].get_base_layer().register_forward_hook(lambda module, args, output: output)
    return model.to(DEVICE).train()


def gradients(model, dtype):
    x = numbers(150, 40, dtype=dtype, seed=7).requires_grad_()
    torch.manual_seed(3)
    y = model(x)
    (y * numbers(150, 70, dtype=dtype, seed=8)).sum().backward()
    return {"y": y, "x": x.grad, **{n: p.grad for n, p in model.named_parameters() if p.requires_grad}}


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"detach_norm": True}, {"dropout": 0.3}, {"way": "hook"}], ids=lambda o: str(o) if o else "plain"
)
@pytest.mark.parametrize("axis", AXES)
def test_the_whole_layers_gradients(ask_for_kernels, ran, axis, options, dtype):
    with_kernels = gradients(one_layer(dtype, axis), dtype)
    # Axis "in" has autograd's gradient, whose forward autograd must see.
    assert set(ran) == (NAMES if axis == "out" else set())
    ask_for_kernels("0")
    count = sum(ran.values())
    plain = gradients(one_layer(dtype, axis), dtype)
    assert sum(ran.values()) == count and len(plain) == 5
    for name, want in plain.items():
        assert_close(with_kernels[name], want, dtype)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_at_the_start_the_output_is_the_base_models_bit_for_bit(ran, family, axis, dtype):
    base = models.FAMILIES[family](dtype).to(DEVICE)
    ids = models.tokens().to(DEVICE)
    before = models.logits(base, ids)
    model = get_peft_model(base, models.config_for(family, magnitude_axis=axis, lora_alpha=3)).to(DEVICE)
    assert torch.equal(models.logits(model.eval(), ids), before)
    assert ran["product_norm_gain"] and bool(ran["output"]) == (axis == "out")


@needs_triton
def test_compiled_it_is_plain_torch_in_one_graph(ran):
    model = one_layer(torch.float32, "out")
    got = torch.compile(model, backend="eager", fullgraph=True)(numbers(9, 40))
    assert not ran
    assert_close(got, model(numbers(9, 40)))
    assert ran


COMPILE = """
import re, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dude_peft.kernels import triton_kernels as room

def build(kernel, target, wide, narrow, **constants):
    types = dict.fromkeys(wide, "*fp32") | dict.fromkeys(narrow, "*bf16") | {"s": "fp32"}
    types |= dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    return triton.compile(source, target=target, options={"enable_fp_fusion": True})

for target in (GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32)):
    out = build(room._output_kernel, target, [], ["y0", "bias", "gain", "inner", "outer", "y"], BIAS=True,
                WIDEN=False, M=64, N=room.COLUMNS, K=room.INNER)
    assert "mma" in out.asm["ptx"], "no tensor cores"
    sums = build(room._sums_and_scaled_kernel, target, ["partial"], ["G", "y", "bias", "gain", "scaled"], SUM=True,
                 SCALE=True, BIAS=True, ROWS=room.REDUCED, M=32, N=room.COLUMNS)
    norm = build(room._product_norm_gain_kernel, target, ["factor", "gram", "P", "n0", "magnitude", "V_other", "norm",
                 "gain"], [], R=32, N=32)
    for kernel in (out, sums, norm):
        assert kernel.asm["cubin"] and not re.search(r"\\b(atom|red)\\.", kernel.asm["ptx"])
print("compiled")
"""


@needs_triton
@pytest.mark.slow
def test_every_kernel_compiles_for_an_a100_and_an_h100(tmp_path, monkeypatch):
    """To machine code, without a GPU; without atomic additions, whose order is never the same twice."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    script = tmp_path / "build.py"  # Triton reads the sources of functions
    script.write_text(COMPILE)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stdout.strip() == "compiled", done.stderr
