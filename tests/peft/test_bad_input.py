"""Promise: a wrong config or base is refused with the place and the remedy, before anything is changed."""

from __future__ import annotations

import dataclasses

import pytest
import tiny_models as models
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from dude_peft import DudeConfig, DudeError
from dude_peft.config import HONOURED
from dude_peft.targets import plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_modules": ["qproj"]}, r"'qproj' matches no module \(nearest: q_proj"),
        ({"target_modules": ["q_proj", "w_proj"]}, r"'w_proj' matches no module"),
        ({"target_modules": ["q_proj", "zzz"]}, r"'zzz' matches no module.*the model has .*q_proj"),
        ({"target_modules": r".*\.qq_proj"}, r"matches no module.*q_proj"),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [9]},
            r"layers_to_transform: the model has no layer 9 \('model\.layers' has 0 to 1\): leave it out",
        ),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
            r"has no layer 2 \('model\.layers' has 0 to 1\)",
        ),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [2], "layers_pattern": "layers"},
            r"has no layer 2 \('model\.layers' has 0 to 1\)",
        ),
        (
            {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"},
            r"with layers_to_transform=\[1\], layers_pattern='blocks' matches no module",
        ),
        ({"r": 30}, r"rank 30 is above 24, .* module '.*k_proj' of shape \(24, 48\).*rank_pattern: {k_proj: 24}"),
        ({"rank_pattern": {"v_proj": 25}}, r"rank 25 is above 24, .* module '.*layers\.0.*v_proj'"),
        ({"rank_pattern": {"qq_proj": 2}}, r"rank_pattern: 'qq_proj' matches no module"),
        ({"modules_to_save": ["lm_hed"]}, r"modules_to_save: 'lm_hed' matches no module \(nearest: lm_head"),
        ({"target_modules": "q_proj["}, "not a regular expression"),
        ({"target_modules": ["embed_tokens"]}, r"'model\.embed_tokens' is a Embedding: DuDe adapts nn\.Linear"),
        ({"target_modules": ["q_proj", "input_layernorm"]}, r"'.*input_layernorm' is a LlamaRMSNorm"),
    ],
)
def test_targets_and_ranks(options, message):
    base = models.llama()
    before = {n: p.clone() for n, p in base.named_parameters()}
    with pytest.raises(DudeError, match=message):
        get_peft_model(base, models.config_for("llama", **options))
    assert {n for n, _ in base.named_parameters()} == set(before)
    assert all(p.requires_grad and torch.equal(p, before[n]) for n, p in base.named_parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    base = models.llama()
    with torch.no_grad():
        base.model.layers[1].mlp.up_proj.weight[2, 3] = value
    with pytest.raises(DudeError, match=r"'model\.layers\.1\.mlp\.up_proj' has 1 weights that are not finite"):
        get_peft_model(base, models.config_for("llama"))
    assert not any("lora" in name for name, _ in base.named_modules())


def test_a_second_adapter_that_is_refused_leaves_the_first_working():
    model = get_peft_model(models.llama(), models.config_for("llama")).eval()
    models.move(model, 0.05)
    before = models.logits(model)
    with pytest.raises(DudeError):
        model.add_adapter("second", models.config_for("llama", target_modules=["nope"]))
    assert list(model.peft_config) == ["default"]
    assert torch.equal(models.logits(model), before)
    model.add_adapter("second", models.config_for("llama"))


def test_quantised_and_meta_weights():
    base = nn.Sequential(nn.Linear(8, 8))
    base[0].weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    config = DudeConfig(r=2, target_modules=["0"])
    with pytest.raises(DudeError, match=r"module '0' \(Linear\) holds torch.int8 weights"):
        get_peft_model(base, config)
    with torch.device("meta"):
        base = nn.Sequential(nn.Linear(8, 8))
    assert [t.shape for t in plan(base, config)] == [(8, 8)]
    with pytest.raises(DudeError, match="module '0' has no values"):
        get_peft_model(base, config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be an integer of at least 1, got 0"),
        ({"r": -3}, "got -3"),
        ({"r": 2.5}, r"got 2\.5"),
        ({"r": True}, "got True"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\['q_proj'\] must be"),
        ({"lora_alpha": 0}, "lora_alpha must be positive, got 0"),
        ({"alpha_pattern": {"q_proj": -1}}, r"alpha_pattern\['q_proj'\] must be positive"),
        ({"lora_dropout": 1.0}, r"lora_dropout must be in \[0, 1\), got 1\.0"),
        ({"init_variant": "dude_c"}, "init_variant must be one of .* got 'dude_c'. Did you mean"),
        ({"magnitude_axis": "rows"}, "magnitude_axis must be one of 'out', 'in', got 'rows'"),
        ({"svd": "exakt"}, "svd must be one of .* Did you mean 'exact'"),
        ({"use_dora": True}, "use_dora=True: DuDe has DoRA's magnitude already"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa': DuDe initialises from"),
        ({"init_lora_weights": False}, "init_lora_weights=False"),
        ({"bias": "lora_only"}, "bias='lora_only': DuDe never writes to the base"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"target_parameters": "experts.weight"}, "target_parameters must be a list of parameter names"),
        ({"use_qalora": True}, "use_qalora=True: it is an option of another LoRA variant"),
        ({"trainable_token_indices": [1]}, "modules_to_save"),
    ],
)
def test_options_are_checked_when_the_config_is_built(options, message):
    with pytest.raises(DudeError, match=message):
        DudeConfig(**options)


def test_every_option_of_lora_is_honoured_or_refused():
    """A value away from the default, whatever PEFT's version adds: it has an effect here or it is an error."""
    for field in dataclasses.fields(LoraConfig):
        if field.name not in HONOURED:
            with pytest.raises(DudeError, match=field.name):
                DudeConfig(**{field.name: "anything"})


def test_a_stock_layer_refuses_the_config_rather_than_train_lora():
    from peft.tuners.lora import LoraModel

    with pytest.raises(ValueError, match="use_dude"):
        LoraModel(models.llama(), models.config_for("llama"), "default")
