"""Adapters on quantised bases, with the real libraries: exact at the initialisation, exact gradients, dense merges.

`make test-quantized` lays the libraries over the environment. bitsandbytes, torchao and quanto all run on a CPU.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import AXES, assert_close, relative_error
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dude_peft import DudeConfig, DudeError, base_weight, load_adapter, reference
from dude_peft.base_weight import DenseLinear, dense_weight, quantization, weight_shape
from dude_peft.layer import DudeLinear, trained_parameters

KINDS = {
    "nf4": "bitsandbytes",
    "int8": "bitsandbytes",
    "torchao_int8": "torchao",
    "quanto_int8": "optimum",
    "quanto_int4": "optimum",
}
TARGETS = ["first", "second"]


def need(kind: str) -> None:
    if importlib.util.find_spec(KINDS[kind]) is None:
        assert "EXPECTED_QUANTIZED" not in os.environ, f"{KINDS[kind]} is missing"
        pytest.skip(f"{KINDS[kind]} is not installed: make test-quantized runs these tests")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    need(request.param)
    return request.param


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(128, 192)
        self.second = nn.Linear(192, 128, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


def quantized(kind: str, dtype: torch.dtype = torch.float32, *, packs: bool = False) -> Any:
    """A small model of quantised layers; `packs`: as bitsandbytes repacks 4 bits for AVX512, which rounds scales."""
    torch.manual_seed(0)
    net = Net().to(dtype)
    if kind in ("nf4", "int8"):
        import bitsandbytes as bnb

        for name in TARGETS:
            layer = getattr(net, name)
            shape = layer.in_features, layer.out_features, layer.bias is not None
            if kind == "nf4":
                made = bnb.nn.Linear4bit(*shape, quant_type="nf4", compute_dtype=dtype, compress_statistics=True)
                made.support_avx512bf16_for_cpu &= packs
            else:
                made = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
            made.load_state_dict(layer.state_dict())
            setattr(net, name, made.to("cpu"))
    elif kind == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(net, Int8WeightOnlyConfig())
    else:
        from optimum.quanto import freeze, qint4, qint8, quantize

        quantize(net, weights=qint4 if kind == "quanto_int4" else qint8)
        freeze(net)
    return net.requires_grad_(False)


def adapted(net: Any, **options: Any) -> Any:
    config = DudeConfig(**{"r": 8, "target_modules": TARGETS, **options})
    with pytest.warns(UserWarning) if "Int8Tensor" in repr(net) else _nothing():  # PEFT's, on its own merge
        return get_peft_model(net, config)


def _nothing() -> Any:
    import contextlib

    return contextlib.nullcontext()


def move(model: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_((0.05 * torch.randn(parameter.shape)).to(parameter.dtype))
    return model


def layers(model: Any) -> list[DudeLinear]:
    found = [module for module in model.modules() if isinstance(module, DudeLinear)]
    assert [type(one) for one in found] == [DudeLinear] * 2
    return found


def dense_reference(model: Any, axis: str, x: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
    """The output of the dense reference in float64 on the dequantised weights, and its parameters A, B, m."""
    parameters, out = [], x
    for number, layer in enumerate(layers(model)):
        init, base = layer.lora_dude["default"], layer.get_base_layer()
        A0, B0 = init.lora_A0.double(), init.lora_B0.double()
        dA, dB, m = (t.detach().double() for t in trained_parameters(layer, "default"))
        A, B, m = own = [t.requires_grad_() for t in (A0 + dA, B0 + dB, m)]
        s = layer.scaling["default"]
        W = reference.composed_weight(m, dense_weight(base).double() - s * B0 @ A0, A, B, s, axis)
        out = F.linear(out, W, None if base.bias is None else base.bias.double())
        out = torch.tanh(out) if number == 0 else out
        parameters.append(own)
    return out, parameters


@pytest.mark.supports(
    base=["NF4", "bitsandbytes int8", "torchao int8", "quanto int8", "quanto int4"],
    engine="one process",
    method=["DuDe", "DuDe, axis in"],
)
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_adapted_model_is_the_quantised_one_bit_for_bit(kind: str, dtype: torch.dtype, axis: str) -> None:
    net, x = quantized(kind, dtype), torch.randn(24, 128).to(dtype)
    with torch.no_grad():
        evaluated, trained = net.eval()(x), net.train()(x)
    model = adapted(net, magnitude_axis=axis)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), evaluated)
        assert torch.equal(model.eval()(x), evaluated)  # from the cache
    assert torch.equal(model.train()(x.requires_grad_()), trained)


@pytest.mark.supports(
    base=["NF4", "bitsandbytes int8", "torchao int8", "quanto int8", "quanto int4"],
    engine="one process",
    method=["DuDe", "DuDe, axis in"],
)
@pytest.mark.parametrize("axis", AXES)
def test_output_and_gradients_are_those_of_the_dense_reference(kind: str, axis: str) -> None:
    model = move(adapted(quantized(kind), magnitude_axis=axis)).train()
    x = torch.randn(24, 128, requires_grad=True)
    y = model(x)
    G = torch.randn_like(y)
    y.backward(G)
    x64 = x.detach().double().requires_grad_()
    want, parameters = dense_reference(model, axis, x64)
    want.backward(G.double())
    assert_close(y, want)
    assert_close(x.grad, x64.grad)
    for layer, own in zip(layers(model), parameters, strict=True):
        for ours, theirs in zip(trained_parameters(layer, "default"), own, strict=True):
            assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("axis", AXES)
def test_no_dense_weight_is_saved_for_the_backward(axis: str) -> None:
    need("nf4")
    model = move(adapted(quantized("nf4"), magnitude_axis=axis)).train()
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel() if tensor.is_floating_point() else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(torch.randn(4, 128, requires_grad=True))
    assert saved and max(saved) < 128 * 192


class Operators(TorchDispatchMode):
    """How often bitsandbytes reads a weight of 4 bits: dequantises it, or multiplies with it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        self.reads += name.startswith("bitsandbytes::") and "4bit" in name
        return func(*args, **(kwargs or {}))


def test_a_weight_is_read_once_in_each_direction() -> None:
    need("nf4")
    model, operators = move(adapted(quantized("nf4"))).train(), Operators()
    with operators:
        y = model(torch.randn(4, 128, requires_grad=True))
        assert operators.reads == 2  # two layers
        y.sum().backward()
        assert operators.reads == 4


def test_a_forward_of_its_own_is_called_where_it_may_be_another_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU bitsandbytes has a fused forward: its bits are kept, and the backward is still one product."""
    need("nf4")
    formats = base_weight._QUANTIZED_LAYERS
    gpu = formats["bitsandbytes.Linear4bit"]._replace(dense_on=())
    monkeypatch.setitem(formats, "bitsandbytes.Linear4bit", gpu)
    net, x = quantized("nf4"), torch.randn(24, 128, requires_grad=True)
    base = net.train()(x).detach()
    model, operators = adapted(net).train(), Operators()
    assert torch.equal(model(x), base)
    move(model)
    with operators:
        y = model(x)
        assert operators.reads == 4  # each of two layers: its own forward, and the norm
        y.square().sum().backward()
        assert operators.reads == 6
    x64 = x.detach().double().requires_grad_()
    want, parameters = dense_reference(model, "out", x64)
    want.square().sum().backward()
    assert_close(y, want)
    assert_close(x.grad, x64.grad)
    for layer, own in zip(layers(model), parameters, strict=True):
        for ours, theirs in zip(trained_parameters(layer, "default"), own, strict=True):
            assert_close(ours.grad, theirs.grad)


def test_generation_dequantises_only_for_the_base_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    need("nf4")
    from dude_peft import layer as module

    model, calls = move(adapted(quantized("nf4"))).eval(), []
    monkeypatch.setattr(module, "dense_weight", lambda *a: calls.append(1) or dense_weight(*a))
    with torch.no_grad():
        first = model(torch.randn(1, 128))
        assert len(calls) == 2
        model(first)
    assert len(calls) == 2


def test_the_gradient_is_right_after_bitsandbytes_has_repacked_a_weight() -> None:
    """The kernel for AVX512 has no gradient, so that after an evaluation nothing below a layer would be trained."""
    need("nf4")
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("this CPU has no AVX512 for bfloat16: bitsandbytes repacks nothing")
    model = move(adapted(quantized("nf4", packs=True)))
    with torch.no_grad():
        model.eval()(torch.randn(4, 128))
    assert all(one.get_base_layer().weight.quant_state.packing_format_for_cpu for one in layers(model))
    x = torch.randn(24, 128, requires_grad=True)
    model.train()(x).square().sum().backward()
    x64 = x.detach().double().requires_grad_()
    want, parameters = dense_reference(model, "out", x64)
    want.square().sum().backward()
    # The scales were rounded after the adapter was initialised: 1.4e-3 here.
    assert relative_error(x.grad, x64.grad) < 5e-3
    assert relative_error(trained_parameters(layers(model)[0], "default")[0].grad, parameters[0][0].grad) < 5e-3


@pytest.mark.supports(
    base=["NF4", "bitsandbytes int8", "torchao int8", "quanto int8", "quanto int4"],
    engine="one process",
    method=["DuDe", "DuDe, axis in"],
)
@pytest.mark.parametrize("axis", AXES)
def test_a_saved_adapter_is_loaded_to_the_same_bits(kind: str, axis: str, tmp_path: Path) -> None:
    model, x = move(adapted(quantized(kind), magnitude_axis=axis)).eval(), torch.randn(8, 128)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        want = model(x)
        got = load_adapter(quantized(kind), tmp_path)(x)
    assert torch.equal(got, want)


def test_stock_peft_loads_it_on_a_base_of_4_bits(tmp_path: Path) -> None:
    need("nf4")
    model, x = move(adapted(quantized("nf4"))).eval(), torch.randn(8, 128)
    model.save_pretrained(tmp_path)
    (tmp_path / "dude_config.json").unlink()
    with torch.no_grad():
        assert_close(PeftModel.from_pretrained(quantized("nf4"), tmp_path).eval()(x), model(x))


@pytest.mark.supports(
    base=["NF4", "bitsandbytes int8", "torchao int8", "quanto int8", "quanto int4"],
    engine="one process",
    method=["DuDe", "DuDe, axis in"],
)
@pytest.mark.parametrize("axis", AXES)
def test_merging_makes_the_layers_dense_and_unmerging_restores_them(kind: str, axis: str) -> None:
    model, x = move(adapted(quantized(kind), magnitude_axis=axis)).eval(), torch.randn(8, 128)
    want, _ = dense_reference(model, axis, x.double())
    with torch.no_grad():
        before = model(x)
        base = [one.get_base_layer() for one in layers(model)]
        state = copy.deepcopy([one.state_dict() for one in base])
        model.merge_adapter()
        assert {type(one.get_base_layer()) for one in layers(model)} == {DenseLinear}
        assert_close(model(x), want)
        model.unmerge_adapter()
        assert all(one.get_base_layer() is old for one, old in zip(layers(model), base, strict=True))
        assert torch.equal(model(x), before)
        for old, layer in zip(state, base, strict=True):
            for key, value in layer.state_dict().items():
                assert value is old[key] or not isinstance(value, Tensor) or torch.equal(_raw(value), _raw(old[key]))
        assert_close(model.merge_and_unload()(x), want)


def _raw(tensor: Tensor) -> Tensor:
    return tensor.dequantize() if type(tensor) is not Tensor and hasattr(tensor, "dequantize") else tensor


def test_a_merge_that_fails_leaves_the_quantised_layer(kind: str) -> None:
    model = move(adapted(quantized(kind))).eval()
    with torch.no_grad():
        layers(model)[0].lora_magnitude_vector["default"].weight.fill_(torch.inf)
    base = layers(model)[0].get_base_layer()
    with pytest.raises(ValueError, match="NaN"):
        model.merge_adapter(safe_merge=True)
    assert layers(model)[0].get_base_layer() is base


def test_two_adapters_dropout_and_a_plain_lora_beside(kind: str) -> None:
    model, x = move(adapted(quantized(kind), lora_dropout=0.5)), torch.randn(8, 128)
    model.add_adapter("other", DudeConfig(r=4, target_modules=TARGETS))
    model.set_adapter("other")
    with torch.no_grad():
        model.eval()
        with model.disable_adapter():
            base = model(x)
        assert torch.equal(model(x), base)
        model.set_adapter("default")
        assert relative_error(model(x), base) > 0.05
    model.train()(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.rejects(base="other formats", engine="one process", method="DuDe")
def test_formats_and_baselines_that_are_not_supported_are_refused_by_name() -> None:
    class Odd(nn.Linear):
        pass

    odd = Odd(8, 8)
    odd.weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(DudeError, match=r"module 'x' .*int8.*bitsandbytes, torchao or quanto"):
        dense_weight(odd, "x")
    need("nf4")
    from dude_peft.baselines.lora_xs import LoraXsConfig

    with pytest.raises(DudeError, match="'first' is quantised"):
        get_peft_model(quantized("nf4"), LoraXsConfig(r=2, target_modules=["first"]))


def test_shapes_are_read_without_values(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = quantized(kind)
    assert weight_shape(net.first) == (192, 128) == tuple(dense_weight(net.first).shape)
    assert quantization(net.first) is not None and quantization(nn.Linear(2, 2)) is None


@pytest.mark.supports(base=["NF4", "bitsandbytes int8"], engine="one process", method="DuDe")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_transformers_model(bits: int, tmp_path: Path) -> None:
    """Loaded by transformers, prepared and trained as PEFT's users do, merged and saved as a plain model."""
    need("nf4" if bits == 4 else "int8")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from dude_lab.mini import model_dir

    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"} if bits == 4 else {"load_in_8bit": True}

    def base() -> Any:
        made = AutoModelForCausalLM.from_pretrained(
            model_dir(), quantization_config=BitsAndBytesConfig(**options), dtype=torch.float32, device_map="cpu"
        )
        for module in made.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        return made

    ids = torch.arange(3, 43).view(2, 20)
    prepared = prepare_model_for_kbit_training(base())
    with torch.no_grad():
        start = prepared.eval()(ids).logits
    model = get_peft_model(prepared, DudeConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, start)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(6):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.eval().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        tuned = model(ids).logits
        loaded = load_adapter(base(), tmp_path / "adapter")
        assert torch.equal(loaded(ids).logits, tuned)
        loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
        assert not hasattr(plain.config, "quantization_config")
        assert relative_error(plain(ids).logits, tuned) < (1e-5 if bits == 4 else 0.2)  # int8 rounds its inputs


def test_a_model_merged_in_part_is_saved_and_loaded(tmp_path: Path) -> None:
    need("nf4")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from dude_lab.mini import model_dir

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    base = AutoModelForCausalLM.from_pretrained(
        model_dir(), quantization_config=config, dtype=torch.float32, device_map="cpu"
    )
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    ids = torch.arange(3, 43).view(2, 20)
    model = move(get_peft_model(base, DudeConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))).eval()
    with torch.no_grad():
        tuned = model(ids).logits
        model.merge_and_unload().save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, device_map="cpu").train()
        assert type(again.model.layers[0].self_attn.k_proj).__name__ == "Linear4bit"
        assert relative_error(again(ids).logits, tuned) < 1e-5


def test_plain_lora_on_a_quantised_base_is_untouched() -> None:
    need("nf4")
    model = get_peft_model(quantized("nf4"), LoraConfig(r=4, target_modules=TARGETS))
    assert not any(isinstance(module, DudeLinear) for module in model.modules())
