"""Promise: the gradient is the paper's, exactly: Eq. 8 and 9 by name, gradcheck, autograd through the dense formula."""

from __future__ import annotations

import pytest
import tiny_models as models
import torch
from conftest import AXES, VARIANTS, relative_error
from peft import LoraConfig, get_peft_model
from torch import nn

from dude_peft import reference
from dude_peft.layer import DudeAdapter, init_from_svd

pytestmark = pytest.mark.usefixtures("way")


def make_layer(axis, variant="dude", bias=True, dropout=0.0, seed=0, d=7, k=5, r=3, scaling_alpha=2.0, **options):
    torch.manual_seed(seed)
    base = nn.Sequential(nn.Linear(k, d, bias=bias, dtype=torch.float64))
    config = models.config_for(
        "llama",
        r=r,
        target_modules=["0"],
        task_type=None,
        lora_alpha=scaling_alpha,
        magnitude_axis=axis,
        init_variant=variant,
        lora_dropout=dropout,
        **options,
    )
    model = get_peft_model(base, config)
    models.move(model, 0.2, seed)
    return model.base_model.model[0]


def trainable(layer):
    return [
        layer.lora_A["default"].weight,
        layer.lora_B["default"].weight,
        layer.lora_magnitude_vector["default"].weight,
    ]


def dense_weight_of(layer, dA, dB, m):
    start, s = layer.lora_dude["default"], layer.scaling["default"]
    W0 = layer.get_base_layer().weight
    Wf = W0 - s * start.lora_B0 @ start.lora_A0
    return reference.composed_weight(m, Wf, start.lora_A0 + dA, start.lora_B0 + dB, s, start.axis), Wf


def dense_direction(layer):
    """V (d, k) with the A, B, m and s that it is made of, detached."""
    dA, dB, m = (p.detach() for p in trainable(layer))
    _, Wf = dense_weight_of(layer, dA, dB, m)
    start, s = layer.lora_dude["default"], layer.scaling["default"]
    A, B = start.lora_A0 + dA, start.lora_B0 + dB
    return Wf + s * B @ A, A, B, m, s


@pytest.mark.supports(base="float64", engine="one process", method=["DuDe", "DuDe, axis in", "DuDe-A", "DuDe-B"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("variant", [*VARIANTS, "random"])
@pytest.mark.parametrize("axis", AXES)
def test_equal_to_autograd_through_the_dense_formula(axis, variant, bias):
    layer = make_layer(axis, variant, bias)
    x = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 6, 7, dtype=torch.float64)
    got = torch.autograd.grad((layer(x) * weights).sum(), (x, *trainable(layer)))
    W, _ = dense_weight_of(layer, *trainable(layer))
    y = x @ W.T + (layer.get_base_layer().bias if bias else 0)
    want = torch.autograd.grad((y * weights).sum(), (x, *trainable(layer)))
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < 1e-12


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("at_start", [True, False])
def test_gradcheck(axis, at_start):
    layer = make_layer(axis)
    parameters = trainable(layer)
    if at_start:
        with torch.no_grad():
            for p in parameters[:2]:
                p.zero_()
            parameters[2].copy_(layer.lora_dude["default"].lora_n0)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def call(x, dA, dB, m):
        names = ("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight")
        return torch.func.functional_call(layer, dict(zip(names, (dA, dB, m), strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *parameters), eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("axis", AXES)
def test_eq_8_the_gradient_of_the_magnitude(axis):
    layer = make_layer(axis)
    x, G = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    (layer(x) * G).sum().backward()
    V, _, _, _, _ = dense_direction(layer)
    want = reference.gradient_of_magnitude(G.T @ x, V, axis)
    assert relative_error(trainable(layer)[2].grad, want) < 1e-12


@pytest.mark.parametrize("axis", AXES)
def test_eq_9_the_gradient_of_the_direction(axis):
    """dL/dB = s dL/dV A^T and dL/dA = s B^T dL/dV with dL/dV of Eq. 9: scaled, and projected off V."""
    layer = make_layer(axis)
    x, G = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    (layer(x) * G).sum().backward()
    V, A, B, m, s = dense_direction(layer)
    dV = reference.gradient_of_direction(G.T @ x, V, m, axis)
    assert float((dV * V).sum(dim=1 if axis == "out" else 0).abs().max()) < 1e-12  # orthogonal to V, line by line
    assert relative_error(trainable(layer)[1].grad, s * dV @ A.T) < 1e-12
    assert relative_error(trainable(layer)[0].grad, s * B.T @ dV) < 1e-12


@pytest.mark.parametrize("axis", AXES)
def test_detach_norm_is_doras_rule_and_differs(axis):
    exact, detached = make_layer(axis), make_layer(axis, detach_norm=True)
    x, G = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    gradients = []
    for layer in (exact, detached):
        (layer(x) * G).sum().backward()
        gradients.append([p.grad for p in trainable(layer)])
    V, A, B, m, s = dense_direction(detached)
    n = reference.column_norm(V, axis)
    dV = m.reshape(n.shape) / n * (G.T @ x)  # Eq. 9 without the projection
    assert relative_error(gradients[1][1], s * dV @ A.T) < 1e-12
    assert relative_error(gradients[1][0], s * B.T @ dV) < 1e-12
    assert relative_error(gradients[1][2], gradients[0][2]) < 1e-12
    assert relative_error(gradients[1][0], gradients[0][0]) > 1e-2


@pytest.mark.parametrize("axis", AXES)
def test_dropout_reaches_the_update_alone(axis):
    layer = make_layer(axis, dropout=0.5)
    x = torch.randn(400, 5, dtype=torch.float64)
    torch.manual_seed(5)
    with torch.no_grad():
        y = layer.train()(x)
        torch.manual_seed(5)
        dropped = nn.functional.dropout(x, 0.5)
        W, _ = dense_weight_of(layer, *trainable(layer))
        start, s = layer.lora_dude["default"], layer.scaling["default"]
        dA, dB, m = trainable(layer)
        base = layer.get_base_layer()
        update = s * ((start.lora_B0 + dB) @ (start.lora_A0 + dA) - start.lora_B0 @ start.lora_A0)
        n = reference.column_norm(base.weight + update, axis)
        g = m.reshape(n.shape) / n
        assert relative_error(W, g * (base.weight + update)) < 1e-12
        want = x @ (g * base.weight).T + dropped @ (g * update).T + base.bias
        assert relative_error(y, want) < 1e-12
        assert relative_error(layer.eval()(x), x @ W.T + base.bias) < 1e-12


@pytest.mark.parametrize("axis", AXES)
def test_gradients_with_dropout(axis):
    """With the dropout mask fixed, by finite differences: x reaches the output by two ways."""
    layer = make_layer(axis, dropout=0.5).train()
    parameters = trainable(layer)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)

    def call(x, dA, dB, m):
        torch.manual_seed(11)
        names = ("lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight")
        return torch.func.functional_call(layer, dict(zip(names, (dA, dB, m), strict=True)), x)

    assert torch.autograd.gradcheck(call, (x, *parameters), eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("way", ["second adapter", "hook", "trainable base", "subclass"])
def test_gradients_where_the_base_layers_own_backward_runs(way):
    """The layer takes over the base's backward only where it may; everywhere else the gradients are the same."""
    x, G = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 7, dtype=torch.float64)
    results = []
    for plain in (True, False):
        layer = make_layer("out")
        base = layer.get_base_layer()
        if not plain and way == "hook":
            base.register_forward_hook(lambda module, args, output: output)
        if not plain and way == "trainable base":
            base.weight.requires_grad_()
        if not plain and way == "subclass":
            base.__class__ = type("Own", (nn.Linear,), {})
        if not plain and way == "second adapter":
            layer._active_adapter = ["default", "second"]
            layer.update_layer("second", 2, lora_alpha=2, config=LoraConfig())  # adds nothing: its B is zero
        each = x.clone().requires_grad_()
        results.append(torch.autograd.grad((layer(each) * G).sum(), (each, *trainable(layer))))
    for with_base, without in zip(*results, strict=True):
        assert relative_error(without, with_base) < 1e-13


def test_axis_out_equals_a_gradient_of_float32_within_its_rounding():
    torch.manual_seed(0)
    W = torch.randn(64, 48)
    start = init_from_svd(W, "x", 4, 1.0, "dude", "out", "exact", 0)
    wide = [t.double() for t in start]
    results = []
    for weight, parts in ((W, start), (W.double(), wide)):
        frozen = DudeAdapter(type(start)(*parts), "out", False)
        dA = torch.full((4, 48), 0.01, dtype=weight.dtype, requires_grad=True)
        dB = torch.full((64, 4), 0.02, dtype=weight.dtype, requires_grad=True)
        gain = frozen.compose(dA, dB, frozen.lora_n0 * 1.01, weight, 1.0).gain
        results.append(torch.autograd.grad((gain * torch.arange(64)).sum(), (dA, dB)))
    for narrow, exact in zip(*results, strict=True):
        assert relative_error(narrow, exact) < 2e-6
