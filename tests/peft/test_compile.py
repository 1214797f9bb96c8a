"""Promise: the layer compiles as one graph, forward and backward, and gives what it gives uncompiled."""

from __future__ import annotations

import pytest
import tiny_models as models
import torch
from conftest import AXES, relative_error
from peft import get_peft_model
from torch import nn

from dude_peft.layer import trained_parameters


def layer_of(axis, bias=True):
    torch.manual_seed(0)
    config = models.config_for("llama", r=3, target_modules=["0"], task_type=None, magnitude_axis=axis)
    model = get_peft_model(nn.Sequential(nn.Linear(24, 40, bias=bias)), config)
    models.move(model, 0.1)
    return model.base_model.model[0]


def compiled(layer, backend):
    torch.compiler.reset()
    return torch.compile(layer, backend=backend, fullgraph=True)


def gradients(call, layer):
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y = call(x)
    return [y, *torch.autograd.grad(y.square().sum(), (x, *trained_parameters(layer, "default")))]


def assert_same(got, want):
    for some, other in zip(got, want, strict=True):
        assert relative_error(some, other) < 1e-5


@pytest.mark.parametrize("axis", AXES)
def test_training_is_one_graph_with_the_same_gradients(axis):
    layer = layer_of(axis).train()
    assert_same(gradients(compiled(layer, "aot_eager"), layer), gradients(layer, layer))


@pytest.mark.parametrize("axis", AXES)
def test_after_a_step_the_graph_uses_the_new_values(axis):
    layer = layer_of(axis).eval()
    call = compiled(layer, "eager")
    x = torch.randn(5, 24)
    with torch.no_grad():
        assert relative_error(call(x), layer(x)) < 1e-6
        for p in trained_parameters(layer, "default"):
            p.mul_(1.1)
        assert relative_error(call(x), layer(x)) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("axis", AXES)
def test_inductor(axis):
    layer = layer_of(axis, bias=False).train()
    assert_same(gradients(compiled(layer, "inductor"), layer), gradients(layer, layer))
