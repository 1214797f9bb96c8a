"""What is adapted is known without weights, exactly as PEFT will do it; a name that matches nothing is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_base  # noqa: F401

from dude_lab.config.run_settings import ModelSettings
from dude_lab.methods import build, parse_method
from dude_lab.training.base_model import find_base, load_base, meta_model
from dude_lab.training.run_plan import TrainablePart, trainable_part
from dude_peft.errors import DudeError

METHODS = ("dude", "dude_a", "dude_b", "lora", "dora", "pissa")


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Any:  # noqa: F811
    return find_base(ModelSettings(name=str(tiny_base)), device="cpu")


def part(base: Any, **method: Any) -> TrainablePart:
    return trainable_part(meta_model(base), parse_method({"name": "dude", "r": 2, **method}))


CHOICES: list[dict[str, Any]] = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": "all-linear"},
    {"target_modules": r".*layers\.1\..*(q|down)_proj"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj", "k_proj"], "rank_pattern": {"k_proj": 5}, "modules_to_save": ["norm"]},
]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("choice", CHOICES)
def test_the_count_is_that_of_the_real_model(base: Any, name: str, choice: dict[str, Any]) -> None:
    from peft import get_peft_model

    method = parse_method({"name": name, "r": 3, **choice})
    found = trainable_part(meta_model(base), method)
    config = build(method)
    assert config is not None
    real = get_peft_model(load_base(base), config)
    assert found.trainable == sum(p.numel() for p in real.parameters() if p.requires_grad)
    prefix = "base_model.model."
    adapted = {n.removeprefix(prefix) for n, m in real.named_modules() if hasattr(m, "lora_A")}
    assert {t.name for t in found.targets} == adapted
    assert found.total == sum(p.numel() for p in load_base(base).parameters())


def test_magnitude_axis_in_counts_inputs(base: Any) -> None:
    out = part(base, target_modules=["v_proj"])
    inward = part(base, target_modules=["v_proj"], magnitude_axis="in")
    assert out.targets[0].shape == (16, 32)
    assert inward.sizes[0] - out.sizes[0] == 32 - 16


def test_conv1d_shapes_are_those_of_the_matrix() -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=40, n_positions=16))
    found = trainable_part(model, parse_method({"name": "dude", "r": 2, "target_modules": ["c_attn"]}))
    assert found.targets[0].shape == (48, 16)
    assert found.sizes[0] == 2 * (48 + 16) + 48


def test_full_trains_everything(base: Any) -> None:
    found = trainable_part(meta_model(base), parse_method("full"))
    assert found.trainable == found.total and found.targets == []


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"target_modules": ["q_prj", "v_proj"]}, ["'q_prj' matches no module", "nearest: q_proj"]),
        ({"target_modules": ["q_prj", "vproj"]}, ["'q_prj'", "'vproj'"]),
        ({"target_modules": ["query"]}, ["'query' matches no module"]),
        ({"target_modules": ".*q_prjo"}, ["'.*q_prjo' matches no module", "self_attn.q_proj"]),
        ({"target_modules": "q_proj["}, ["not a regular expression"]),
        ({"target_modules": ["q_proj"], "rank_pattern": {"v_prj": 2}}, ["rank_pattern", "'v_prj'", "v_proj"]),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_hed"]}, ["modules_to_save", "'lm_hed'", "lm_head"]),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 7]}, ["has no layer 7", "'model.layers' has 0 to"]),
        ({"target_modules": ["q_proj", "lm_head"]}, ["output layer 'lm_head'", "Remove"]),
        ({"target_modules": ["q_proj", "v_proj"], "r": 17}, ["rank 17", "16", "v_proj", "(16, 32)"]),
        ({"target_modules": ["v_proj"], "r": 2, "rank_pattern": {"v_proj": 40}}, ["rank 40", "v_proj"]),
        ({"target_modules": ["embed_tokens"]}, ["embed_tokens"]),
        ({"target_modules": ["input_layernorm"]}, ["input_layernorm"]),
    ],
)
def test_what_cannot_be_adapted_is_named(base: Any, method: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DudeError) as caught:
        part(base, **method)
    for word in words:
        assert word in str(caught.value)
