"""Promise: all of PEFT's life cycle, with the base never touched and adapters that do not touch each other."""

from __future__ import annotations

import copy
import re

import pytest
import tiny_models as models
import torch
from conftest import AXES, assert_close, relative_error
from peft import LoraConfig, get_peft_model, inject_adapter_in_model

from dude_peft import DudeConfig, DudeError
from dude_peft.targets import plan


def with_dude(family="llama", **options):
    return get_peft_model(models.FAMILIES[family](), models.config_for(family, **options)).eval()


def module_names(model):
    return {re.sub(r"^base_model\.model\.", "", name) for name in models.dude_layers(model)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"target_modules": ["q_proj", "v_proj"]}, r".*\.(q|v)_proj"),
        ({"target_modules": r".*layers\.1\..*\.(up|down)_proj"}, r".*layers\.1\..*\.(up|down)_proj"),
        ({"target_modules": "all-linear"}, r".*_proj"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, r".*layers\.1\..*q_proj"),
        ({"target_modules": "all-linear", "exclude_modules": ["down_proj"]}, r".*(?<!down)_proj"),
        ({"target_modules": None}, r".*\.(q|v)_proj"),
    ],
)
def test_targets_by_list_regex_and_shorthand(options, expected):
    model = with_dude(**options)
    linear = {n for n, m in models.llama().named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    assert module_names(model) == {name for name in linear if re.fullmatch(expected, name)} != set()


def test_a_layer_without_a_target_may_be_named():
    """In hybrid models some layers have no attention."""
    base = models.llama()
    del base.model.layers[1].self_attn.q_proj
    targets = plan(base, models.config_for("llama", target_modules=["q_proj"], layers_to_transform=[0, 1]))
    assert [target.name for target in targets] == ["model.layers.0.self_attn.q_proj"]


def test_fused_qkv_of_phi_is_one_target():
    model = with_dude("phi3", target_modules=["qkv_proj"])
    assert len(module_names(model)) == 2
    layer = next(iter(models.dude_layers(model).values()))
    assert layer.lora_magnitude_vector["default"].weight.shape == (48 + 2 * 24,)


@pytest.mark.parametrize("axis", AXES)
def test_only_the_differences_and_the_magnitude_are_trainable(axis):
    model = with_dude(magnitude_axis=axis)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    kinds = {re.search(r"lora_\w+", name).group() for name in trainable}
    assert kinds == {"lora_A", "lora_B", "lora_magnitude_vector"}
    d_and_k = [(m.out_features, m.in_features) for m in models.dude_layers(model).values()]
    count = sum(4 * (d + k) + (d if axis == "out" else k) for d, k in d_and_k)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    assert model.get_nb_trainable_parameters()[0] == count


def test_add_switch_and_delete_adapters():
    model = with_dude(target_modules=["q_proj", "v_proj"])
    base = models.logits(models.llama())
    models.move(model, 0.05)
    first = models.logits(model)
    model.add_adapter("second", models.config_for("llama", target_modules="all-linear", r=2, magnitude_axis="in"))
    assert torch.equal(models.logits(model), first)  # added, not active
    model.set_adapter("second")
    assert torch.equal(models.logits(model), base)
    models.move(model, 0.05, seed=1, adapter="second")
    second = models.logits(model)
    assert relative_error(second, base) > 1e-3
    model.set_adapter("default")
    assert torch.equal(models.logits(model), first)
    frozen = [n for n, p in model.named_parameters() if ".second." in n and p.requires_grad]
    assert not frozen
    model.delete_adapter("default")
    assert model.active_adapter in ("second", ["second"])
    assert not [n for n, _ in model.named_parameters() if ".default." in n]
    model.set_adapter("second")
    assert torch.equal(models.logits(model), second)


def test_training_one_adapter_leaves_the_other_and_the_base_alone():
    model = with_dude()
    model.add_adapter("second", models.config_for("llama", r=2))
    model.set_adapter("second")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
    optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all(".second." in name for name in changed)
    assert all(re.search(r"lora_(A|B|magnitude_vector)\.second", name) for name in changed)


@pytest.mark.parametrize("axis", AXES)
def test_two_active_adapters_of_stock_reload_equal_ours(tmp_path, axis):
    if axis == "in":
        # no stock form: active together they add what each does to the weight
        model = with_dude(magnitude_axis="in", target_modules=["lm_head"])
        model.add_adapter("second", models.config_for("llama", magnitude_axis="in", target_modules=["lm_head"]))
        models.move(model, 0.05)
        models.move(model, 0.05, 1, "second")
        base = models.logits(models.llama())
        parts = []
        for names in (["default"], ["second"], ["default", "second"]):
            model.base_model.set_adapter(names)
            parts.append(models.logits(model) - base)
        assert relative_error(parts[2], parts[0] + parts[1]) < 1e-4
        return
    from peft import PeftModel

    model = with_dude()
    model.add_adapter("second", models.config_for("llama", r=3))
    models.move(model, 0.05)
    models.move(model, 0.05, 1, "second")
    model.save_pretrained(str(tmp_path))
    stock = PeftModel.from_pretrained(models.llama(), str(tmp_path))
    stock.load_adapter(str(tmp_path / "second"), "second")
    for each in (model, stock.eval()):
        each.base_model.set_adapter(["default", "second"])
    assert_close(models.logits(model), models.logits(stock))


def test_one_batch_with_several_adapters():
    model = with_dude()
    model.add_adapter("second", models.config_for("llama", r=2))
    models.move(model, 0.05)
    models.move(model, 0.05, 1, "second")
    ids = models.tokens(3)
    with torch.no_grad():
        mixed = model(ids, adapter_names=["second", "__base__", "default"]).logits
    for row, name in enumerate(["second", None, "default"]):
        if name is None:
            with model.disable_adapter():
                want = models.logits(model, ids)
        else:
            model.set_adapter(name)
            want = models.logits(model, ids)
        assert_close(mixed[row], want[row])


def test_modules_to_save_and_unload():
    base = models.llama()
    before = models.logits(base)
    model = get_peft_model(base, models.config_for("llama", target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert model.base_model.model.lm_head.modules_to_save["default"].weight.requires_grad
    models.move(model, 0.05)
    assert torch.equal(models.logits(model.unload()), before)


def test_transformers_own_add_adapter_and_inject():
    base = models.llama()
    before = models.logits(base)
    base.add_adapter(DudeConfig(r=4, target_modules=["q_proj", "v_proj"]))
    assert torch.equal(models.logits(base), before)
    assert len(models.dude_layers(base)) == 4
    injected = inject_adapter_in_model(models.config_for("llama"), models.llama())
    assert torch.equal(models.logits(injected), before)


def test_the_same_seed_is_the_same_adapter_and_another_process_state_does_not_matter():
    def factors(seed):
        torch.manual_seed(seed)
        model = get_peft_model(models.mini(), models.config_for("mini", r=2))
        return {n: p for n, p in model.named_parameters() if "lora_" in n}

    one, two = factors(1), factors(2)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_deepcopy_and_state_dict_round_trip():
    model = with_dude()
    models.move(model, 0.05)
    twin = copy.deepcopy(model)
    assert torch.equal(models.logits(twin), models.logits(model))
    fresh = with_dude()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(models.logits(fresh), models.logits(model))


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_starts_that_overwrite_the_base_are_refused_beside_it(start):
    overwriting = LoraConfig(target_modules=["q_proj"], init_lora_weights=start)
    model = with_dude()
    with pytest.raises(DudeError, match="overwrites the base weights"):
        model.add_adapter("other", overwriting)
    other = get_peft_model(models.llama(), overwriting)
    with pytest.raises(DudeError, match="overwrites the base weights"):
        other.add_adapter("dude", models.config_for("llama"))


def test_what_cannot_be_right_is_refused():
    model = with_dude()
    model.add_adapter("second", models.config_for("llama"))
    with pytest.raises(DudeError, match="do not add"):
        model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "sum")
    model.merge_adapter()
    with pytest.raises(DudeError, match="merged adapter: call unmerge_adapter"):
        model.add_adapter("third", models.config_for("llama"))
    model.unmerge_adapter()
    model.add_adapter("third", models.config_for("llama"))
