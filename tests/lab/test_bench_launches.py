"""Promise: `dude bench launches` counts the kernels, bytes and operations of a layer that has no values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dude_lab.bench import launches
from dude_lab.bench.bench_plan import Plan
from dude_lab.bench.bench_results import BASELINE, DORA, DUDE, HALF_LORA
from dude_lab.bench.launches import BANDWIDTH, BASES, LAUNCH, WAYS, Recorder, fused, meta_layers, predicted, record
from dude_lab.bench.layer_time import Shape
from dude_peft import base_weight

SHAPE, TOKENS = Shape(128, 256, 4, torch.bfloat16), 64


def recorded(function, *tensors):
    with Recorder() as recorder:
        function(*tensors)
    return recorder.kernels


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def test_bytes_and_operations_are_those_of_the_tensors():
    x, W, b = meta(8, 16, dtype=torch.bfloat16), meta(32, 16, dtype=torch.bfloat16), meta(32, dtype=torch.bfloat16)
    product, add, total = recorded(lambda x, W, b: ((x @ W.T) + b.expand(8, 32)).view(-1).sum(), x, W, b)
    assert (product.name, product.operations, product.bytes) == ("mm", 2 * 8 * 16 * 32, 2 * (8 * 16 + 16 * 32 + 8 * 32))
    assert (add.name, add.operations, add.bytes) == ("add", 8 * 32, 2 * (8 * 32 + 32 + 8 * 32))
    assert (total.name, total.bytes) == ("sum", 2 * (8 * 32 + 1))


def test_a_kernel_takes_its_launch_or_its_work():
    [small], [large] = (recorded(torch.relu, meta(n)) for n in (10, 10**9))
    assert small.seconds == LAUNCH > small.work
    assert large.seconds == large.work == pytest.approx(8e9 / (0.8 * BANDWIDTH))
    [product] = recorded(torch.mm, meta(8192, 8192), meta(8192, 8192))
    assert product.seconds == pytest.approx(2 * 8192**3 / (0.7 * 67e12))


def test_operations_fuse_up_to_a_product_and_what_is_used_inside_is_not_written():
    def chain(x, W):
        y = (x + 1) * 2 - x
        return torch.relu((y @ W) * 3)

    graph = recorded(chain, meta(64, 64), meta(64, 64))
    assert [one.name for one in graph] == ["add", "mul", "sub", "mm", "mul", "relu"]
    first, product, last = fused(graph)
    assert [first.closed, product.closed, last.closed] == [False, True, False]
    assert first.bytes == last.bytes == 2 * 4 * 64 * 64 and first.operations == 3 * 64 * 64
    assert sum(one.operations for one in fused(graph)) == sum(one.operations for one in graph)
    separate = recorded(lambda x, v: ((x * 2).sum(dim=0) + v, v.view(4, 16) + 1), meta(64, 64), meta(64))
    assert [one.name for one in fused(separate)] == ["mul"]  # the sum's kernel goes on over its 64 results
    assert len(fused(recorded(lambda x, v: (x * 2, v + 1), meta(64, 64), meta(64)))) == 2


@pytest.mark.parametrize("base", BASES)
def test_the_products_with_the_weight_are_counted(base):
    n, (d, k, r, _) = TOKENS, SHAPE
    large = 2 * n * d * k
    for way in WAYS:
        found = predicted(SHAPE, n, base, way)
        assert set(found) == {BASELINE, HALF_LORA, DORA, DUDE}
        products = {name: sum(one.operations for one in some if one.name == "mm") for name, some in found.items()}
        lora = 2 * large + 2 * n * r * (3 * d + 3 * k)
        assert products[BASELINE] == products[HALF_LORA] == lora
        assert lora < products[DUDE] < lora + 2 * d * k * r * 3 + 2 * n * r * (5 * d + 5 * k)
        unpacked = {name: sum(one.name == "dequantize" for one in some) for name, some in found.items()}
        expected = {BASELINE: 2, DUDE: 3}  # the base layer's forward and backward; DuDe's norm
        assert all(unpacked[name] == (0 if base == "bf16" else count) for name, count in expected.items())
        if way == "eager":  # no number is written to a tensor, no tensor with a row for each token converted
            kernels = found[DUDE]
            assert "scalar_tensor" not in {one.name for one in kernels}
            assert not any(one.name == "_to_copy" and max(one.sizes) >= n * min(d, k) for one in kernels)
    assert "dude_lab.FourBit" not in base_weight._QUANTIZED_LAYERS
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.is_autocast_enabled("cpu")


def test_each_fused_triton_kernel_is_one_launch():
    names = [one.name for one in predicted(SHAPE, TOKENS, "bf16", "Triton")[DUDE]]
    assert [names.count(name) for name in ("output", "sums_and_scaled", "product_norm_gain")] == [1, 1, 1]
    counts = {way: {m: len(k) for m, k in predicted(SHAPE, TOKENS, "bf16", way).items()} for way in WAYS}
    assert counts["Triton"][BASELINE] == counts["eager"][BASELINE] > counts["fused"][BASELINE]
    assert counts["eager"][DUDE] > counts["Triton"][DUDE] > counts["fused"][DUDE]


def test_a_layer_with_values_launches_the_same_kernels():
    with launches._models():
        made = meta_layers(SHAPE, "bf16")
        for name in (BASELINE, HALF_LORA, DORA):
            want = [one.name for one in record(made[name], SHAPE, TOKENS, "eager")]
            for module in made[name].modules():
                for key, old in module._parameters.items():
                    if old is not None:
                        module._parameters[key] = nn.Parameter(
                            torch.ones(old.shape, dtype=old.dtype), old.requires_grad
                        )
            x, G = torch.ones(TOKENS, SHAPE.k).bfloat16().requires_grad_(), torch.ones(TOKENS, SHAPE.d).bfloat16()
            assert [one.name for one in recorded(lambda x, G, m=made[name]: m(x).backward(G), x, G)] == want


def test_the_rows_have_targets_and_counts_and_no_measurement_without_a_gpu():
    rows = [row for case in launches.cases(Plan(tiny=True)) for row in case.measure()]
    assert len(rows) == 3 * len(BASES) * len(WAYS)
    predictions = [row for row in rows if row.target]
    assert [row.target for row in predictions] == [1.10, 1.0, 1.0] * 2
    assert all(row.verdict and row.group.startswith("predicted time") and "kernels" in row.note for row in predictions)
    assert {row.group for row in rows if not row.target} == {launches.COUNT, launches.BYTES}
