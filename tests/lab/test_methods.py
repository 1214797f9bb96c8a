"""Promise: what a method trains is what its formula says, it starts where it says, and what it cannot take is told."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tiny_models as models
import torch
from peft import get_peft_model
from tiny_run import tiny_base  # noqa: F401

from dude_lab.config.run_settings import ModelSettings
from dude_lab.methods import AS_PEFT, METHODS, Method, build, parse_method
from dude_lab.training.base_model import find_base, load_base, meta_model
from dude_lab.training.run_plan import trainable_part
from dude_peft.errors import DudeError
from dude_peft.targets import Target

Q, V, DOWN = (32, 32), (16, 32), (32, 48)  # (d, k) of q_proj, v_proj and down_proj on the tiny base

# Keys, and by hand: trained values of one module of each shape, and what is kept frozen beside the three together.
COUNTS: dict[str, tuple[dict[str, Any], tuple[int, int, int], int]] = {
    "dude": ({"r": 3}, (3 * 64 + 32, 3 * 48 + 16, 3 * 80 + 32), 3 * (96 + 64 + 112) + 80),
    "dude_random": ({"r": 3}, (3 * 64 + 32, 3 * 48 + 16, 3 * 80 + 32), 3 * (96 + 64 + 112) + 80),
    "pissa_random": ({"r": 3, "rank_pattern": {"v_proj": 5}}, (3 * 64, 5 * 48, 3 * 80), 3 * 64 + 5 * 48 + 3 * 80),
    "lora": ({"r": 3}, (3 * 64, 3 * 48, 3 * 80), 0),
    "dora": ({"r": 3}, (3 * 64 + 32, 3 * 48 + 16, 3 * 80 + 32), 0),
    "pissa": ({"r": 3}, (3 * 64, 3 * 48, 3 * 80), 0),
    "olora": ({"r": 3}, (3 * 64, 3 * 48, 3 * 80), 0),
    "vera": ({"r": 40}, (32 + 40, 16 + 40, 32 + 40), 40 * (32 + 48)),
    "oft": ({"oft_block_size": 8}, (32 * 7 // 2, 32 * 7 // 2, 48 * 7 // 2), 0),
    "krona": ({}, (4 * 4 + 8 * 8, 4 * 4 + 4 * 8, 4 * 6 + 8 * 8), 0),
    "krona 8": ({"decompose_factor": 8}, (64 + 4 * 4, 64 + 2 * 4, 64 + 4 * 6), 0),
    "krona r": ({"r": 1}, (4 * 4 + 8 + 8, 4 * 4 + 4 + 8, 4 * 6 + 8 + 8), 0),
    "delora": ({"r": 3}, (3 * 64 + 1, 3 * 48 + 1, 3 * 80 + 1), 32 + 32 + 48),
    "lora_xs": ({"r": 3, "rank_pattern": {"v_proj": 5}}, (9, 25, 9), 3 * 64 + 5 * 48 + 3 * 80),
    "svft": ({}, (32, 16, 32), 32 * 64 + 16 * 48 + 32 * 80),
    "svft 2": ({"off_diag": 2}, (5 * 32 - 6, 5 * 16 - 6, 5 * 32 - 6), 32 * 64 + 16 * 48 + 32 * 80),
    "bitfit": ({}, (32, 16, 32), 0),
    "adapter": ({"r": 5}, (2 * 32 * 5 + 37, 2 * 16 * 5 + 21, 2 * 32 * 5 + 37), 0),
}
LAYERS = 2  # of the tiny base
EXACT_STARTS = [
    "dude",
    "dude_random",
    "pissa_random",
    "lora",
    "dora",
    "vera",
    "oft",
    "krona",
    "delora",
    "svft",
    "bitfit",
    "adapter",
]


@pytest.fixture(scope="module")
def base(tiny_base: Any) -> Any:  # noqa: F811
    return find_base(ModelSettings(name=str(tiny_base)), device="cpu")


def adapted(family: str, seed: int = 0, **method: Any) -> Any:
    settings = parse_method(method)
    torch.manual_seed(seed)
    return get_peft_model(models.FAMILIES[family](), build(settings, seed)).eval()


def test_every_method_is_counted_below() -> None:
    counted = {case.split()[0] for case in COUNTS}
    assert set(METHODS) - counted == {"dude_a", "dude_b", "full"}  # dude_a and dude_b share dude's formula
    assert METHODS["dude_a"].count is METHODS["dude_b"].count is METHODS["dude"].count


@pytest.mark.parametrize("case", COUNTS)
def test_the_count_is_the_formula_and_the_real_model(base: Any, case: str) -> None:
    keys, sizes, kept = COUNTS[case]
    modules = ["q_proj", "v_proj", "down_proj"]
    whole = ["model.norm", "input_layernorm", "post_attention_layernorm"]
    settings = parse_method({"name": case.split()[0], "target_modules": modules, "modules_to_save": whole, **keys})
    part = trainable_part(meta_model(base), settings)
    assert sorted(part.sizes) == sorted(sizes * LAYERS)
    real = get_peft_model(load_base(base), build(settings))
    trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert part.trainable == trained == sum(sizes) * LAYERS + 5 * 32  # and five layer norms
    per_layer = 1 if settings.name == "vera" else LAYERS  # VeRA's are shared
    assert part.frozen == kept * per_layer == frozen_beside(real)


def ia3_count(settings: Any, target: Target) -> int:
    """One scale for each output, or for each input of a feed-forward module: d, or k."""
    return target.shape[1 if target.name.endswith(tuple(settings.feedforward_modules)) else 0]


def test_a_method_that_peft_has_is_one_entry(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """IA3 is not in the registry; with the entry alone it is read, checked, built, counted and described."""
    from dude_lab.config.yaml_keys import keys

    with pytest.raises(DudeError, match="unknown method 'ia3'"):
        parse_method("ia3")
    entry = Method(
        "ia3", "IA3", "IA3, arXiv 2205.05638", "peft.IA3Config", "ones", ia3_count, {"feedforward_modules": AS_PEFT}
    )
    monkeypatch.setitem(METHODS, "ia3", entry)
    raw = {"name": "ia3", "target_modules": ["q_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    settings = parse_method(raw)
    assert settings.model_dump() == {**raw, "layers_to_transform": None, "modules_to_save": None}
    config = build(settings)
    assert type(config).__name__ == "IA3Config" and config.feedforward_modules == {"down_proj"}
    part = trainable_part(meta_model(base), settings)
    assert sorted(part.sizes) == sorted((32, 16, 48) * LAYERS)
    real = get_peft_model(load_base(base), config)
    assert part.trainable == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert "feedforward" in next(key for key in keys() if key.section == "method: ia3").meaning
    with pytest.raises(DudeError, match="unknown key 'init_ia3_weights'"):
        parse_method({**raw, "init_ia3_weights": True})
    with pytest.raises(DudeError, match=r"layers_to_transform.*no such option for this method"):
        parse_method({**raw, "layers_to_transform": [0]})


def test_type_default_and_meaning_are_those_of_peft_where_the_entry_says_nothing() -> None:
    import dataclasses

    from dude_peft import DudeConfig

    field = METHODS["dude"].settings.model_fields["svd"]
    assert field.default == DudeConfig.svd and "krylov" in (field.description or "")
    lora = METHODS["lora"]
    assert lora.config_class is not None
    peft = {one.name: one for one in dataclasses.fields(lora.config_class)}
    ours = lora.settings.model_fields
    assert ours["use_rslora"].default is peft["use_rslora"].default and ours["use_rslora"].annotation is bool
    assert (ours["r"].default, ours["r"].annotation) == (16, int)


def frozen_beside(model: Any) -> int:
    """Values of the adapter that are not trained, each tensor once."""
    found = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        own = re.search(r"(lora_dude|vera_[AB]|delora_w_norm|lora_xs_[AB]|shifted_lora_[AB]0|svft_[UV])\.", name)
        if own and not tensor.requires_grad:
            found[tensor.data_ptr()] = tensor.numel()
    return sum(found.values())


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", EXACT_STARTS)
def test_it_starts_as_the_base_bit_for_bit(name: str, family: str) -> None:
    keys = {"oft": {"oft_block_size": 4}, "vera": {"r": 8}}.get(name, {"r": 4})
    keys = {key: value for key, value in keys.items() if key in METHODS[name].settings.model_fields}
    model = adapted(family, name=name, **keys)
    assert torch.equal(models.logits(model), models.logits(models.FAMILIES[family]()))


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_a_start_that_overwrites_the_base_is_near_it(name: str) -> None:
    want = models.logits(models.llama())
    assert (models.logits(adapted("llama", name=name, r=4)) - want).abs().max() < 1e-6 * want.abs().max()


def test_lora_xs_starts_as_near_as_its_spread() -> None:
    """The paper's 1e-5 is not the identity; a spread of zero is."""
    want = models.logits(models.llama())
    off = (models.logits(adapted("llama", name="lora_xs", r=4)) - want).abs().max()
    assert 0 < off < 1e-4 * want.abs().max()
    assert torch.equal(models.logits(adapted("llama", name="lora_xs", r=4, init_std=0)), want)


def test_vera_draws_from_the_runs_seed_unless_told() -> None:
    def projection(**keys: Any) -> torch.Tensor:
        return adapted("llama", name="vera", r=8, **keys).base_model.vera_A["default"]

    assert not torch.equal(projection(seed=1), projection(seed=2))
    assert torch.equal(projection(seed=1, projection_prng_key=5), projection(seed=2, projection_prng_key=5))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "oft", "oft_block_size": 32}, ["oft_block_size", "32", "48 inputs", "down_proj", "24 or 48"]),
        ({"name": "svft", "off_diag": 16}, ["off_diag", "16", "(16, 32)", "15"]),
        ({"name": "lora_xs", "r": 17}, ["rank 17", "16"]),
        ({"name": "delora", "r": 17}, ["rank 17", "16"]),
        ({"name": "vera", "target_modules": ["q_prj"]}, ["'q_prj' matches no module", "q_proj"]),
        ({"name": "adapter", "target_modules": ["lm_head"]}, ["output layer"]),
        ({"name": "bitfit", "target_modules": ["norm"]}, ["norm"]),
    ],
)
def test_what_does_not_fit_the_model_is_named(base: Any, method: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DudeError) as caught:
        trainable_part(meta_model(base), parse_method(method))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["krona", "delora"])
def test_conv1d_is_refused_where_peft_cannot(name: str) -> None:
    with pytest.raises(DudeError, match=r"'transformer\.h\.0\.attn\.c_attn' is a Conv1D, and method"):
        trainable_part(models.gpt2(), parse_method({"name": name, "target_modules": ["c_attn"]}))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "bitfit", "r": 4}, "method 'bitfit' has no key 'r'"),
        ({"name": "lora", "layers_to_transform": 1}, "layers_to_transform goes with a list of target_modules"),
        ({"name": "oft", "oft_block_size": 1}, "oft_block_size"),
        ({"name": "delora", "modules_to_save": ["norm"]}, r"'norm' is also the end of .* model\.norm"),
        ({"name": "lora_sx"}, "lora_xs"),
    ],
)
def test_wrong_keys_are_told(method: dict[str, Any], words: str) -> None:
    with pytest.raises(DudeError, match=words):
        parse_method(method)


def test_every_source_names_a_paper() -> None:
    for method in METHODS.values():
        assert method.name == "full" or re.search(r"\w.*arXiv \d{4}\.\d{5}", method.source), method.name
        assert method.count.__doc__, method.name  # the formula


def test_the_command_lists_keys_and_papers() -> None:
    from typer.testing import CliRunner

    from dude_lab.cli.commands import app

    shown = CliRunner().invoke(app, ["methods"]).stdout
    for method in METHODS.values():
        for number in re.findall(r"\d{4}\.\d{5}", method.source):
            assert number in shown, method.name
    for key in ("oft_block_size", "projection_prng_key", "decompose_factor", "off_diag", "init_std", "target_modules"):
        assert key in shown
