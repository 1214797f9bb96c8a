"""Promise: merged = unmerged, unmerge restores the base bit for bit, disable_adapter is the base exactly."""

from __future__ import annotations

import copy

import pytest
import tiny_models as models
import torch
from conftest import AXES, DTYPES, VARIANTS, assert_close
from peft import LoraConfig, get_peft_model


def moved(family, dtype=torch.float32, size=0.05, **options):
    model = get_peft_model(models.FAMILIES[family](dtype), models.config_for(family, **options)).eval()
    models.move(model, size)
    return model


def bits(model) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" not in n}


def assert_bits(model, before) -> None:
    now = dict(model.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in before.items())


@pytest.mark.supports(base=["float32", "Conv1D"], engine="one process", method=["DuDe", "DuDe, axis in"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("family", models.FAMILIES)
def test_forward_equals_the_merged_model(family, axis):
    model = moved(family, magnitude_axis=axis)
    unmerged = models.logits(model)
    merged = model.merge_and_unload()
    assert not any("lora" in name for name, _ in merged.named_modules())
    assert_close(models.logits(merged), unmerged)


@pytest.mark.supports(
    base=["float32", "bfloat16", "float16"], engine="one process", method=["DuDe", "DuDe, axis in", "DuDe-A", "DuDe-B"]
)
@pytest.mark.parametrize("variant", [*VARIANTS, "random"])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_merge_and_unmerge_restore_the_base_bit_for_bit(dtype, axis, safe, variant):
    model = moved("llama", dtype, magnitude_axis=axis, init_variant=variant)
    before, unmerged = bits(model), models.logits(model)
    model.merge_adapter(safe_merge=safe)
    assert_close(models.logits(model), unmerged, dtype)
    changed = [n for n, p in model.named_parameters() if n in before and not torch.equal(p, before[n])]
    assert len(changed) == len(models.dude_layers(model))
    model.unmerge_adapter()
    assert_bits(model, before)
    assert torch.equal(models.logits(model), unmerged)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("axis", AXES)
def test_disable_adapter_is_the_base_exactly_also_while_merged(axis, family):
    base = models.FAMILIES[family]()
    plain = models.logits(base)
    model = get_peft_model(base, models.config_for(family, magnitude_axis=axis)).eval()
    models.move(model, 0.05)
    with model.disable_adapter():
        assert torch.equal(models.logits(model), plain)
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(models.logits(model), plain)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("order", [("default", "second"), ("second", "default")])
def test_two_adapters_merged_equal_two_adapters_active(axis, order):
    model = moved("llama", magnitude_axis=axis)
    model.add_adapter("second", models.config_for("llama", magnitude_axis=axis, r=2))
    models.move(model, 0.05, seed=1, adapter="second")
    before = bits(model)
    model.base_model.set_adapter(list(order))
    both = models.logits(model)
    model.merge_adapter()
    assert_close(models.logits(model), both)
    model.unmerge_adapter()
    assert_bits(model, before)


@pytest.mark.parametrize("first", ["lora", "dude"])
def test_beside_a_plain_lora_adapter(first):
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    dude = models.config_for("llama", target_modules=["q_proj", "v_proj"])
    configs = {"lora": lora, "dude": dude}
    second = "dude" if first == "lora" else "lora"
    torch.manual_seed(0)
    model = get_peft_model(models.llama(), configs[first], adapter_name=first).eval()
    model.add_adapter(second, configs[second])
    models.move(model, 0.05, adapter="dude")
    model.base_model.set_adapter([first, second])
    both = models.logits(model)
    model.merge_adapter()
    assert_close(models.logits(model), both)


def test_a_merge_does_not_write_into_tensors_that_others_hold():
    model = moved("llama")
    held = models.dude_layers(model)["base_model.model.model.layers.0.self_attn.q_proj"].get_base_layer().weight.data
    copy_of_it = held.clone()
    model.merge_adapter()
    assert torch.equal(held, copy_of_it)


def test_merging_a_damaged_adapter_safely_is_refused():
    model = moved("llama")
    next(iter(models.dude_layers(model).values())).lora_A["default"].weight.data[0, 0] = float("nan")
    before = copy.deepcopy(bits(model))
    with pytest.raises(ValueError, match="NaN"):
        model.merge_adapter(safe_merge=True)
    assert_bits(model, {n: v for n, v in before.items() if "layers.0.self_attn.q_proj" in n})
