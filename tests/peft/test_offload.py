"""Promise: adapters work on bases that accelerate offloads; on one without values they say what to do."""

from __future__ import annotations

import pytest
import tiny_models as models
import torch
from accelerate import cpu_offload, disk_offload
from conftest import AXES, assert_close
from peft import get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file

from dude_peft import DudeError, load_adapter

WIDE = torch.float64  # in which the order of sums, which differs, does not hide a mistake


@pytest.fixture(params=["cpu", "disk"])
def offloaded(request, tmp_path):
    """A function that builds the tiny Llama with every weight offloaded: on the meta device between forwards."""

    def build(dtype=torch.float32):
        device = torch.device("cpu")
        if request.param == "cpu":
            model = cpu_offload(models.llama(dtype), device)
        else:
            model = disk_offload(models.llama(dtype), str(tmp_path / "offload"), device)
        assert model.model.layers[0].self_attn.q_proj.weight.is_meta
        return model

    return build


@pytest.mark.supports(base="float64", engine="offload", method=["DuDe", "DuDe, axis in"])
@pytest.mark.parametrize("axis", AXES)
def test_start_training_saving_and_loading(tmp_path, offloaded, axis):
    config = {"target_modules": ["q_proj", "up_proj"], "magnitude_axis": axis}
    plain = get_peft_model(models.llama(WIDE), models.config_for("llama", **config)).eval()
    model = get_peft_model(offloaded(WIDE), models.config_for("llama", **config)).eval()
    names = [n for n, p in model.named_parameters() if "lora_" in n]
    assert names and not any(model.get_parameter(n).is_meta for n in names)
    assert all(torch.equal(model.get_parameter(n), plain.get_parameter(n)) for n in names)
    assert_close(models.logits(model), models.logits(plain), WIDE)
    for either in (plain, model):
        models.move(either, 0.05)
        either.train()(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None:
            assert_close(model.get_parameter(name).grad, parameter.grad, WIDE)
    model.save_pretrained(str(tmp_path / "adapter"))
    again = load_adapter(offloaded(WIDE), tmp_path / "adapter")
    assert_close(models.logits(again), models.logits(plain.eval()), WIDE)
    other = get_peft_model(offloaded(WIDE), models.config_for("llama", init_variant="dude_a", **config)).eval()
    set_peft_model_state_dict(other, load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert_close(models.logits(other), models.logits(plain), WIDE)
    assert model.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight.is_meta


def test_a_module_to_save_without_values_is_named_before_anything_changes(offloaded):
    base = offloaded()
    config = models.config_for("llama", target_modules=["q_proj"], modules_to_save=["lm_head"])
    with pytest.raises(DudeError, match=r"'lm_head' has no values in memory .*device_map"):
        get_peft_model(base, config)
    assert not any("lora" in name for name, _ in base.named_modules())


def test_a_base_on_the_meta_device_is_refused_when_an_adapter_is_made_and_when_it_is_loaded(tmp_path):
    get_peft_model(models.llama(), models.config_for("llama")).save_pretrained(str(tmp_path))
    base = models.llama().to("meta")
    for attempt in (
        lambda: get_peft_model(base, models.config_for("llama")),
        lambda: load_adapter(base, tmp_path),
    ):
        with pytest.raises(DudeError, match=r"q_proj' has no values \(meta device\): load the base model's weights"):
            attempt()
        assert not any("lora" in name for name, _ in base.named_modules())
