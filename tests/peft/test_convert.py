"""Promise: the adapter of `to_lora` is the closest LoRA of its rank, its error is right, and stock PEFT loads it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tiny_models as models
import torch
from conftest import AXES, assert_close
from peft import LoraConfig, PeftModel, get_peft_model

from dude_peft import DudeError
from dude_peft.convert import input_moments, layer_change, to_lora

MAGNITUDES = [
    *(pytest.param("dude", {"magnitude_axis": axis, "detach_norm": detach}, id=f"{axis}{'-detached' * detach}")
      for axis in AXES for detach in (False, True)),
    pytest.param("dora", {}, id="dora"),
]  # fmt: skip


def adapted(kind: str = "dude", family: str = "llama", dtype: torch.dtype = torch.float32, **options):
    base = models.FAMILIES[family](dtype)
    if kind == "dude":
        model = get_peft_model(base, models.config_for(family, **options))
    else:
        config = LoraConfig(
            r=4, lora_alpha=8, use_dora=True, target_modules=models.TARGETS[family], task_type="CAUSAL_LM", **options
        )
        model = get_peft_model(base, config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name or "magnitude" in name:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter += 0.02 * noise if "lora_B" in name else 0.05 * noise * parameter
    models.move(model, 0.05)
    return model.eval()


def dude_layers(model: PeftModel) -> dict[str, torch.nn.Module]:
    return models.dude_layers(model.get_base_model())


def differences(model: PeftModel, family: str = "llama") -> dict[str, torch.Tensor]:
    """W' - W0 of every layer, from PEFT's own merge in float64."""
    before = {name: p.detach().clone() for name, p in models.FAMILIES[family]().double().named_parameters()}
    merged = model.double().merge_and_unload()
    after = dict(merged.named_parameters())
    found = {name.removesuffix(".weight"): after[name] - before[name] for name in before if name.endswith(".weight")}
    return {name: change for name, change in found.items() if change.abs().max() > 0}


@pytest.mark.parametrize("rank", [2, 8, 24])
@pytest.mark.parametrize(("kind", "options"), MAGNITUDES)
def test_every_layer_has_the_smallest_error_of_its_rank(kind, options, rank):
    model = adapted(kind, **options)
    found = to_lora(model, rank=rank)
    wanted = differences(model)
    assert set(found.layers) == set(wanted)
    for name, change in wanted.items():
        key = f"base_model.model.{name}"
        product = found.state[f"{key}.lora_B.weight"].double() @ found.state[f"{key}.lora_A.weight"].double()
        optimum = float(torch.linalg.svdvals(change)[rank:].norm())
        error = float((change - product).norm())
        assert error == pytest.approx(optimum, rel=1e-3, abs=1e-6 * float(change.norm()))
        assert found.layers[name].error == pytest.approx(error, rel=1e-3, abs=1e-6 * float(change.norm()))
        assert found.layers[name].change == pytest.approx(float(change.norm()), rel=1e-5)


def test_a_transposed_base_layer_and_a_rank_above_the_smaller_side():
    model = adapted(family="gpt2")
    found = to_lora(model, rank=48)
    assert found.relative_error < 1e-5
    again = PeftModel(models.gpt2(), found.config)
    with torch.no_grad():
        for key, value in found.state.items():
            again.get_parameter(key.replace(".weight", ".default.weight")).copy_(value)
    assert_close(models.logits(again.eval()), models.logits(model), torch.float32)


def test_auto_takes_the_smallest_rank_within_the_tolerance():
    model = adapted()
    ranks = (2, 4, 8, 16, 32, 48)
    errors = {rank: to_lora(model, rank=rank).relative_error for rank in ranks}
    assert sorted(errors.values(), reverse=True) == list(errors.values())
    for tolerance in (0.9, 0.5, 0.3, 0.1, 0.02):
        best = next((rank for rank in ranks if errors[rank] <= tolerance), None)
        found = to_lora(model, tolerance=tolerance, ranks=ranks)
        assert found.rank == best
        assert found.relative_error == pytest.approx(errors[best], rel=1e-3)


def test_the_model_is_not_changed_and_the_result_is_the_same_again():
    model = adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = to_lora(model, rank=8), to_lora(model, rank=8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(value, second.state[name]) for name, value in first.state.items())


def test_stock_peft_loads_the_folder_in_a_process_without_this_package(tmp_path):
    model = adapted(modules_to_save=["lm_head"])
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.5)
    found = to_lora(model, rank=48)
    found.save(tmp_path / "lora")
    models.llama().save_pretrained(tmp_path / "base")
    script = f"""
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained({str(tmp_path / "base")!r})
model = PeftModel.from_pretrained(base, {str(tmp_path / "lora")!r}).eval()
assert not any(name.startswith("dude") for name in sys.modules)
torch.save(model(torch.tensor({models.tokens().tolist()})).logits, {str(tmp_path / "logits")!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "missing" not in done.stderr
    assert_close(torch.load(tmp_path / "logits"), models.logits(model))
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 48
    assert not config["use_dora"]
    assert config["target_modules"] == sorted(
        {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    )


def test_layers_that_share_a_name_with_others_are_named_in_full():
    model = adapted(target_modules=["layers.1.self_attn.q_proj"])
    assert list(to_lora(model, rank=2).config.target_modules) == ["model.layers.1.self_attn.q_proj"]


def test_with_moments_the_weighted_error_is_the_smallest():
    model = adapted()
    layers = {name: layer_change(module, "default") for name, module in dude_layers(model).items()}
    generator = torch.Generator().manual_seed(0)
    moments = {name: 10 ** (2 * torch.rand(len(change.T), generator=generator)) for name, change in layers.items()}
    found = to_lora(model, rank=8, moments=moments)
    for name, change in layers.items():
        key, root = f"base_model.model.{name}", moments[name].double().sqrt()
        A, B = (found.state[f"{key}.lora_{part}.weight"].double() for part in "AB")
        left = change.double() - B @ A
        optimum = torch.linalg.svdvals(change.double() * root)[8:].norm()
        assert float((left * root).norm()) == pytest.approx(float(optimum), rel=2e-3)


def test_padding_does_not_count_as_input():
    model = adapted(family="mini")
    ids = models.tokens(2, 6)
    padded = torch.cat([ids, torch.full((2, 3), 5)], dim=1)
    mask = torch.cat([torch.ones(2, 6, dtype=torch.long), torch.zeros(2, 3, dtype=torch.long)], dim=1)
    wanted = input_moments(model, [{"input_ids": ids}])
    got = input_moments(model, [{"input_ids": padded, "attention_mask": mask}])
    for name, moments in wanted.items():
        assert_close(got[name], moments, torch.float32)


def test_an_adapter_that_was_not_trained_is_zero():
    model = get_peft_model(models.llama(), models.config_for("llama"))
    found = to_lora(model)
    assert found.relative_error == 0
    assert found.rank == 8
    assert not any(value.abs().max() > 0 for name, value in found.state.items() if "lora_B" in name)


def merged():
    model = adapted()
    model.merge_adapter()
    return model


def plain_lora():
    return get_peft_model(models.llama(), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (adapted, {"adapter_name": "other"}, "no adapter 'other'; it has 'default'"),
        (merged, {}, "unmerge_adapter"),
        (plain_lora, {}, "no magnitude .* plain LoRA already"),
        (adapted, {"rank": 0}, "rank=0: give 1 to 48"),
        (adapted, {"rank": 49}, "rank=49: give 1 to 48"),
        (adapted, {"tolerance": 0.0}, "tolerance=0.0: give a share"),
        (adapted, {"tolerance": 1.0}, "tolerance=1.0: give a share"),
        (adapted, {"tolerance": 1e-4, "ranks": (2, 4)}, r"rank 4 leaves \d+\.\d% of the change"),
    ],
)
def test_what_cannot_be_converted_is_refused(make, options, message):
    with pytest.raises(DudeError, match=message):
        to_lora(make(), **options)
