"""Promise: PEFT's hotswap_adapter puts another DuDe adapter into the same layers, or refuses and changes nothing."""

from __future__ import annotations

import pytest
import tiny_models as models
import torch
from conftest import assert_close
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import hotswap
from safetensors.torch import load_file, save_file

from dude_peft import DudeError, load_adapter


def save(folder, seed, **options):
    model = get_peft_model(models.llama(), models.config_for("llama", **options)).eval()
    models.move(model, 0.1, seed)
    model.save_pretrained(str(folder))
    return models.logits(model)


@pytest.mark.parametrize(
    "options",
    [{}, {"r": 2}, {"r": 8, "lora_alpha": 4}, {"init_variant": "dude_b"}, {"rank_pattern": {"q_proj": 2}, "r": 3}],
    ids=str,
)
def test_the_swapped_adapter_is_the_loaded_one_bit_for_bit(tmp_path, options):
    shared = {"modules_to_save": ["lm_head"], "lora_alpha": 4}
    patterns = {"alpha_pattern": {"q_proj": 2}} if "rank_pattern" in options else {}
    first = save(tmp_path / "a", 1, **shared, **patterns)
    second = save(tmp_path / "b", 2, **{**shared, **patterns, **options})
    model = load_adapter(models.llama(), tmp_path / "a")
    assert torch.equal(models.logits(model), first)
    hotswap.hotswap_adapter(model, str(tmp_path / "b"), adapter_name="default", torch_device="cpu")
    assert torch.equal(models.logits(model), second)
    want = load_adapter(models.llama(), tmp_path / "b").state_dict()
    assert all(torch.equal(t, want[n]) for n, t in model.state_dict().items())
    model.save_pretrained(str(tmp_path / "c"))
    assert torch.equal(models.logits(load_adapter(models.llama(), tmp_path / "c")), second)
    hotswap.hotswap_adapter(model, str(tmp_path / "a"), adapter_name="default", torch_device="cpu")
    assert torch.equal(models.logits(model), first)


def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path):
    first = save(tmp_path / "a", 1)
    save(tmp_path / "b", 2)
    save(tmp_path / "fewer", 2, target_modules=["q_proj"])
    get_peft_model(models.llama(), LoraConfig(r=8, target_modules="all-linear", use_dora=True)).save_pretrained(
        str(tmp_path / "dora")
    )
    model = load_adapter(models.llama(), tmp_path / "a")
    path = tmp_path / "b" / "adapter_model.safetensors"
    state = {k: v.clone() for k, v in load_file(path).items()}
    save_file({**state, "base_model.model.model.norm.weight": torch.zeros(48)}, path)
    for folder, message in [("b", "SHA-256 differs"), ("fewer", "no entry"), ("dora", "another base|no entry|not")]:
        with pytest.raises((DudeError, ValueError), match=message):
            hotswap.hotswap_adapter(model, str(tmp_path / folder), adapter_name="default", torch_device="cpu")
        assert torch.equal(models.logits(model), first)
    (tmp_path / "b" / "dude_config.json").unlink()
    with pytest.raises(DudeError, match="belong to no module"):
        hotswap.hotswap_adapter(model, str(tmp_path / "b"), adapter_name="default", torch_device="cpu")
    with pytest.raises(DudeError, match="pads LoRA factors"):
        hotswap.prepare_model_for_compiled_hotswap(model, target_rank=16)
    assert torch.equal(models.logits(model), first)
    model.merge_adapter()
    with pytest.raises(DudeError, match="is merged into"):
        hotswap.hotswap_adapter(model, str(tmp_path / "a"), adapter_name="default", torch_device="cpu")


def test_stock_adapters_go_pefts_way(tmp_path):
    save(tmp_path / "a", 1)
    second = save(tmp_path / "b", 2)
    stock = PeftModel.from_pretrained(models.llama(), str(tmp_path / "a")).eval()
    hotswap.hotswap_adapter(stock, str(tmp_path / "b"), adapter_name="default", torch_device="cpu")
    assert_close(models.logits(stock), second)
