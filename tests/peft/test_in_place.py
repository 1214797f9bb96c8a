"""Promise: what is done in place to a layer's output changes no gradient, however the layer computed it."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from conftest import AXES, DTYPES, assert_close, relative_error
from peft import LoraConfig, get_peft_model
from test_gradients import make_layer, trainable
from torch import nn
from torch.utils.checkpoint import checkpoint

from dude_peft import DudeConfig

OPERATIONS = {
    "relu_": (lambda y, x: y.relu_(), lambda y, x: y.relu()),
    "+=": (lambda y, x: y.__iadd__(x.sum(-1, keepdim=True)), lambda y, x: y + x.sum(-1, keepdim=True)),
    "view": (lambda y, x: (y.view(-1, y.shape[-1])[:, 1:3].mul_(3), y)[1], lambda y, x: _scaled(y)),
    "masked": (lambda y, x: y.masked_fill_(y > 0.5, 0), lambda y, x: y.masked_fill(y > 0.5, 0)),
    "zeroed": (lambda y, x: y.mul_(0).add_(x.sum()), lambda y, x: y * 0 + x.sum()),
}


def _scaled(y):
    factors = torch.ones_like(y)
    factors[..., 1:3] = 3
    return y * factors


def gradients(layer, x, operation, wrap=None):
    x = x.clone().requires_grad_()
    torch.manual_seed(3)  # of a dropout

    def call(x):
        return operation(layer(x), x)

    y = call(x) if wrap is None else wrap(call, x)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    return y.detach(), torch.autograd.grad((y * weights).sum(), (x, *trainable(layer)))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("rows", [1, 3, 40])  # joined with the norm's product, apart from it, through the whole weight
@pytest.mark.parametrize("axis", AXES)
def test_gradients_are_those_without_in_place_operations(axis, rows, dropout, operation):
    in_place, out_of_place = OPERATIONS[operation]
    layer = make_layer(axis, dropout=dropout).train()
    x = torch.randn(2, rows, 5, dtype=torch.float64)
    got, want = gradients(layer, x, in_place), gradients(layer, x, out_of_place)
    assert relative_error(got[0], want[0]) < 1e-14
    for g, w in zip(got[1], want[1], strict=True):
        assert relative_error(g, w) < 1e-12


class RawDouble(torch.autograd.Function):
    """Doubles y and writes over it as Liger's kernels do, through a pointer: no version is raised."""

    @staticmethod
    def forward(ctx, y):
        doubled = 2 * y
        y.detach().numpy()[...] = 0
        return doubled

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.mark.parametrize("library", ["liger_kernel", "unsloth"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("rows", [1, 3, 40])
@pytest.mark.parametrize("axis", AXES)
def test_a_library_that_writes_through_raw_pointers(axis, rows, dropout, library, monkeypatch):
    layer = make_layer(axis, dropout=dropout).train()
    x = torch.randn(2, rows, 5, dtype=torch.float64)
    want = gradients(layer, x, lambda y, x: 2 * y)
    monkeypatch.setitem(sys.modules, library, types.ModuleType(library))
    got = gradients(layer, x, lambda y, x: RawDouble.apply(y))
    assert relative_error(got[0], want[0]) < 1e-14
    for g, w in zip(got[1], want[1], strict=True):
        assert relative_error(g, w) < 1e-12


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("rows", [3, 40])
def test_under_checkpointing(rows, reentrant):
    in_place, out_of_place = OPERATIONS["relu_"]
    layer = make_layer("out").train()
    x = torch.randn(2, rows, 5, dtype=torch.float64)

    def wrap(call, x):
        return checkpoint(call, x, use_reentrant=reentrant)

    if reentrant:  # which torch.autograd.grad does not support
        results = []
        for operation, wrapped in ((in_place, wrap), (out_of_place, None)):
            each = x.clone().requires_grad_()
            layer.zero_grad()
            y = wrap(lambda x: in_place(layer(x), x), each) if wrapped else operation(layer(each), each)
            (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
            results.append([each.grad, *(p.grad for p in trainable(layer))])
        got, want = results
    else:
        got, want = gradients(layer, x, in_place, wrap)[1], gradients(layer, x, out_of_place)[1]
    for g, w in zip(got, want, strict=True):
        assert relative_error(g, w) < 1e-12


@pytest.mark.parametrize("way", ["second adapter", "hook", "trainable base"])
def test_where_the_base_layers_own_backward_runs(way):
    in_place, out_of_place = OPERATIONS["relu_"]
    layer = make_layer("out").train()
    base = layer.get_base_layer()
    if way == "hook":
        base.register_forward_hook(lambda module, args, output: output)
    if way == "trainable base":
        base.weight.requires_grad_()
    if way == "second adapter":
        layer._active_adapter = ["default", "second"]
        layer.update_layer("second", 2, lora_alpha=2, config=LoraConfig())
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    for g, w in zip(gradients(layer, x, in_place)[1], gradients(layer, x, out_of_place)[1], strict=True):
        assert relative_error(g, w) < 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_to_the_precision_of_the_dtype(dtype):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(48, 64)).to(dtype)
    layer = get_peft_model(base, DudeConfig(r=4, target_modules=["0"])).base_model.model[0].train()
    with torch.no_grad():
        for parameter in trainable(layer)[:2]:
            parameter.normal_(std=0.01)
    x = torch.randn(2, 12, 48).to(dtype)
    in_place, out_of_place = OPERATIONS["relu_"]
    for g, w in zip(gradients(layer, x, in_place)[1], gradients(layer, x, out_of_place)[1], strict=True):
        assert_close(g, w, dtype)


def test_in_eval_mode_and_with_a_frozen_adapter():
    layer = make_layer("out").eval()
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(2):  # computed anew, and from what is cached
            assert torch.equal(layer(x).relu_(), layer(x).relu())
    for parameter in trainable(layer):
        parameter.requires_grad_(False)
    results = []
    for operation in OPERATIONS["relu_"]:
        each = x.clone().requires_grad_()
        results.append(torch.autograd.grad(operation(layer(each), each).sum(), each)[0])
    assert torch.equal(*results)


def test_the_output_is_not_kept_alive_by_the_check():
    """Hooks on saved tensors see all that a backward needs: after they have packed it the output can go."""
    import weakref

    layer = make_layer("out").train()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.detach().clone(), lambda t: t):
        y = layer(torch.randn(2, 3, 5, dtype=torch.float64))
    storage = weakref.ref(y.untyped_storage())
    total = y.sum()
    del y
    assert storage() is None
    total.backward()


def test_a_falcon_layer_trains():
    """Its attention and its feed-forward part are added in place where they run side by side."""
    from transformers import FalconConfig, FalconForCausalLM

    torch.manual_seed(0)
    config = FalconConfig(
        vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, new_decoder_architecture=False
    )
    model = FalconForCausalLM(config)
    adapted = get_peft_model(model, DudeConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).train()
    for length in (1, 9, 70):
        ids = torch.arange(2 * length).view(2, length) % 61
        adapted(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in adapted.parameters() if p.requires_grad)
