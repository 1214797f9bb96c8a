"""Promise: in eval mode without a gradient the factors are computed once, and a cached one is never stale."""

from __future__ import annotations

import copy
import io
import pickle
from unittest import mock

import pytest
import tiny_models as models
import torch
from conftest import AXES, relative_error
from peft import get_peft_model
from torch import nn

from dude_peft import functional
from dude_peft.base_weight import dense_weight
from dude_peft.layer import trained_parameters


def make(axis="out", dtype=torch.float32, **options):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(24, 40).to(dtype))
    config = models.config_for("llama", r=3, target_modules=["0"], task_type=None, magnitude_axis=axis, **options)
    model = get_peft_model(base, config).eval()
    models.move(model, 0.1)
    return model, model.base_model.model[0]


def x_for(layer, n=5):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 24, generator=generator).to(layer.get_base_layer().weight.dtype)


def fresh(layer, adapter="default"):
    """x W'^T + b through the merged weight, which is never cached."""
    W0, s, axis = dense_weight(layer.base_layer), layer.scaling[adapter], layer.lora_dude[adapter].axis
    now = layer.lora_dude[adapter].compose(*trained_parameters(layer, adapter), W0, s)
    W = functional.merged_weight(W0, now.gain, now.Ah, now.Bt, s, axis)
    return x_for(layer) @ W.T + layer.base_layer.bias


class Counted:
    """How often a composition was computed."""

    def __enter__(self):
        self.calls = 0
        real = functional.composition

        def count(*args, **kwargs):
            self.calls += 1
            return real(*args, **kwargs)

        self.patch = mock.patch.object(functional, "composition", count)
        self.patch.start()
        return self

    def __exit__(self, *_):
        self.patch.stop()


@pytest.mark.parametrize("axis", AXES)
def test_generation_computes_it_once(axis):
    _, layer = make(axis)
    with torch.no_grad(), Counted() as counted:
        first, second = layer(x_for(layer)), layer(x_for(layer))
    assert counted.calls == 1 and torch.equal(first, second)
    assert relative_error(first, fresh(layer)) < 1e-5


def test_in_training_and_after_a_forward_with_a_gradient_nothing_is_cached():
    model, layer = make()
    model.train()
    with torch.no_grad(), Counted() as counted:
        layer(x_for(layer)), layer(x_for(layer))
    assert counted.calls == 2
    model.eval()
    layer(x_for(layer)).sum().backward()
    model.zero_grad()
    with torch.no_grad(), Counted() as counted:
        layer(x_for(layer)), layer(x_for(layer))
    assert counted.calls == 2
    model.eval()
    with torch.no_grad(), Counted() as counted:
        layer(x_for(layer)), layer(x_for(layer))
    assert counted.calls == 1


def test_training_in_eval_mode_with_steps_that_raise_no_version():
    """As 8-bit optimizers step, through bare pointers; the gradients are gone when the next forward comes."""
    _, layer = make()
    for _ in range(2):
        with torch.no_grad():
            before = layer(x_for(layer))
        layer(x_for(layer)).square().sum().backward()
        for parameter in trained_parameters(layer, "default"):
            parameter.data.sub_(parameter.grad, alpha=1e-3)
            parameter.grad = None
        with torch.no_grad():
            assert not torch.equal(layer(x_for(layer)), before)
            assert relative_error(layer(x_for(layer)), fresh(layer)) < 1e-5


def test_where_a_parameter_has_a_gradient_nothing_is_cached():
    _, layer = make()
    layer.lora_B["default"].weight.grad = torch.zeros(40, 3)
    with torch.no_grad(), Counted() as counted:
        layer(x_for(layer)), layer(x_for(layer))
    assert counted.calls == 2


def test_nothing_is_cached_while_compiling():
    _, layer = make()
    with torch.no_grad(), mock.patch("torch.compiler.is_compiling", return_value=True):
        layer(x_for(layer))
    assert layer.lora_dude["default"]._cache._entry is None


def test_a_base_weight_at_the_same_address_is_another_one():
    _, layer = make()
    with torch.no_grad():
        layer(x_for(layer))
        old = layer.base_layer.weight
        old.data.numpy()[:] *= 2  # the storage as a new parameter may find it: same address, version and type
        layer.base_layer.weight = nn.Parameter(old.data, requires_grad=False)
        assert layer.base_layer.weight.data_ptr() == old.data_ptr()
        assert relative_error(layer(x_for(layer)), fresh(layer)) < 1e-5


def no_grad_step(model, layer):
    with torch.no_grad():
        layer.lora_B["default"].weight.add_(0.05)


def data_step(model, layer):
    layer.lora_B["default"].weight.data.add_(0.05)


def data_step_of_one_entry(model, layer):
    layer.lora_A["default"].weight.data[1, 2] += 1e-3


def data_assignment_twice(model, layer):
    """The second copy may get the address of the storage that the first one freed."""
    weight = layer.lora_B["default"].weight
    weight.data = weight.data + 0.02
    weight.data = weight.data + 0.03


def numpy_write(model, layer):
    layer.lora_magnitude_vector["default"].weight.detach().numpy()[:] *= 1.5


def inference_mode_write(model, layer):
    with torch.inference_mode():
        layer.lora_A["default"].weight.add_(0.05)


def optimizer_step(kind, **options):
    def step(model, layer):
        for p in trained_parameters(layer, "default"):
            p.grad = torch.ones_like(p)
        kind([p for p in model.parameters() if p.requires_grad], lr=0.05, **options).step()

    return step


def loading(**options):
    def load(model, layer):
        state = {k: v + 0.05 if "lora_B.default" in k else v.clone() for k, v in model.state_dict().items()}
        model.load_state_dict(state, **options)

    return load


def other_init(model, layer):
    with torch.no_grad():
        layer.lora_dude["default"].lora_A0.mul_(1.1)


def other_scaling(model, layer):
    layer.set_scale("default", 2.0)


def double_precision(model, layer):
    model.double()


def there_and_back(model, layer):
    model.bfloat16().float()


WAYS = {
    "in place": no_grad_step,
    ".data": data_step,
    ".data, one entry": data_step_of_one_entry,
    ".data assigned twice": data_assignment_twice,
    "numpy": numpy_write,
    "inference mode": inference_mode_write,
    "fused AdamW": optimizer_step(torch.optim.AdamW, fused=True),
    "foreach SGD": optimizer_step(torch.optim.SGD, foreach=True),
    "load_state_dict": loading(),
    "load_state_dict, assigned": loading(assign=True),
    "the initial values": other_init,
    "scaling": other_scaling,
    "to(double)": double_precision,
    "to(bfloat16) and back": there_and_back,
}


UNSEEN = {".data", ".data, one entry", "numpy"}  # they raise no version: in eval mode `eval()` has to follow


@pytest.mark.parametrize("temporary", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_change_a_layer_leaves_it_stale(way, training, temporary, monkeypatch):
    monkeypatch.setattr("dude_peft.cache.CACHED_WEIGHT", 1 << 20 if temporary else 0)
    model, layer = make()
    model.train(training)
    with torch.no_grad():
        before = layer(x_for(layer))
    WAYS[way](model, layer)
    if way in UNSEEN and not training:
        model.eval()
    with torch.no_grad():
        after = layer(x_for(layer))
    assert not torch.equal(after, before)
    assert relative_error(after, fresh(layer)) < 1e-5


def test_what_inference_mode_computed_is_not_saved_for_a_backward():
    _, layer = make()
    with torch.inference_mode():
        layer(x_for(layer))
    layer(x_for(layer)).sum().backward()
    assert layer.lora_A["default"].weight.grad is not None


def test_parameters_made_in_inference_mode_have_no_version_and_work():
    with torch.inference_mode():
        _, layer = make()
        first = layer(x_for(layer))
        layer.lora_B["default"].weight.add_(0.05)
        assert not torch.equal(layer(x_for(layer)), first)
        assert relative_error(layer(x_for(layer)), fresh(layer)) < 1e-5


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "torch.save"])
def test_a_copy_has_an_empty_cache(copied):
    _, layer = make()
    with torch.no_grad():
        before = layer(x_for(layer))
        if copied == "torch.save":
            buffer = io.BytesIO()
            torch.save(layer, buffer)
            other = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
        else:
            other = copied(layer)
        assert other.lora_dude["default"]._cache._entry is None
        assert torch.equal(other(x_for(layer)), before)
        no_grad_step(None, other)
        assert not torch.equal(other(x_for(layer)), before)
        assert torch.equal(layer(x_for(layer)), before)


def test_two_adapters_have_a_cache_each():
    model, layer = make()
    model.add_adapter("second", models.config_for("llama", r=2, target_modules=["0"], task_type=None))
    models.move(model, 0.3, adapter="second")
    model.eval()
    outputs = {}
    with torch.no_grad():
        for _ in range(2):
            for name in ("default", "second"):
                model.set_adapter(name)
                outputs.setdefault(name, []).append(layer(x_for(layer)))
                assert relative_error(outputs[name][-1], fresh(layer, name)) < 1e-5
    assert all(torch.equal(*pair) for pair in outputs.values())
    assert not torch.equal(outputs["default"][0], outputs["second"][0])


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    from torch.utils.checkpoint import checkpoint

    gradients = []
    for checkpointed in (False, True):
        model, layer = make()
        model.train()
        for _ in range(2):
            x = x_for(layer).requires_grad_()
            y = checkpoint(layer, x, use_reentrant=reentrant) if checkpointed else layer(x)
            y.square().sum().backward()
            if checkpointed is False or _ == 0:
                data_step(model, layer)
        gradients.append([p.grad for p in trained_parameters(layer, "default")])
    for plain, recomputed in zip(*gradients, strict=True):
        assert relative_error(recomputed, plain) < 1e-5


def test_the_output_may_be_changed_in_place_where_nothing_of_it_is_saved():
    _, layer = make()
    with torch.no_grad():
        y = layer(x_for(layer))
        again = y.clone()
        y += 1
        assert torch.equal(layer(x_for(layer)), again)
