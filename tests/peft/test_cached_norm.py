"""Promise: the norm is computed once for as long as nothing that it depends on changes, and never used when stale."""

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
    """x W'^T + b through the merged weight, which is never kept."""
    now = layer.lora_dude[adapter].compose(
        *trained_parameters(layer, adapter), dense_weight(layer.base_layer), layer.scaling[adapter]
    )
    axis = layer.lora_dude[adapter].axis
    W = functional.merged_weight(dense_weight(layer.base_layer), now.gain, now.Ah, now.Bt, layer.scaling[adapter], axis)
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


def test_the_micro_steps_of_an_optimizer_step_compute_it_once_and_add_up_to_the_whole_batch():
    model, layer = make()
    model.train()
    x, G = x_for(layer, 8), torch.randn(8, 40)
    gradients = []
    for parts in (1, 4):
        model.zero_grad()
        with Counted() as counted:
            for some_x, some_G in zip(x.chunk(parts), G.chunk(parts), strict=True):
                (layer(some_x) * some_G).sum().backward()
        gradients.append([p.grad.clone() for p in trained_parameters(layer, "default")])
    assert counted.calls == 0  # kept since the whole batch
    for whole, summed in zip(*gradients, strict=True):
        assert relative_error(summed, whole) < 1e-5


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


def other_start(model, layer):
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
    "the frozen start": other_start,
    "scaling": other_scaling,
    "to(double)": double_precision,
    "to(bfloat16) and back": there_and_back,
}


@pytest.mark.parametrize("keeps_whole_weight", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_change_a_layer_leaves_it_stale(way, training, keeps_whole_weight, monkeypatch):
    monkeypatch.setattr("dude_peft.autograd.pays", lambda *shape: keeps_whole_weight)
    monkeypatch.setattr("dude_peft.autograd.keeps", lambda entries: keeps_whole_weight)
    model, layer = make()
    model.train(training)
    with torch.no_grad():
        before = layer(x_for(layer))
    WAYS[way](model, layer)
    with torch.no_grad():
        after = layer(x_for(layer))
    assert not torch.equal(after, before)
    assert relative_error(after, fresh(layer)) < 1e-5


@pytest.mark.parametrize("way", ["in place", "fused AdamW", "load_state_dict", "load_state_dict, assigned", "eval()"])
def test_where_values_cannot_be_compared_steps_versions_and_modes_count(way):
    """As on a GPU: no copies to compare with. `.data` is the one write that then needs `eval()` after it."""
    model, layer = make()
    with mock.patch("dude_peft.cache.comparable", return_value=False), torch.no_grad():
        layer(x_for(layer))
        with Counted() as counted:
            layer(x_for(layer))
        assert counted.calls == 0
        if way == "eval()":
            data_step(model, layer)
            model.eval()
        else:
            with torch.enable_grad():
                WAYS[way](model, layer)
        assert relative_error(layer(x_for(layer)), fresh(layer)) < 1e-5
        model.train()
        with Counted() as counted:
            layer(x_for(layer)), layer(x_for(layer))
        assert counted.calls == 2  # in training nothing is used twice there


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
def test_a_copy_keeps_nothing_and_goes_its_own_way(copied):
    _, layer = make()
    with torch.no_grad():
        before = layer(x_for(layer))
        if copied == "torch.save":
            buffer = io.BytesIO()
            torch.save(layer, buffer)
            other = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
        else:
            other = copied(layer)
        assert other.lora_dude["default"]._kept.get((), (), (), False) is None
        assert torch.equal(other(x_for(layer)), before)
        no_grad_step(None, other)
        assert not torch.equal(other(x_for(layer)), before)
        assert torch.equal(layer(x_for(layer)), before)


def test_two_adapters_keep_their_own():
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
