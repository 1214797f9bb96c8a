"""Promise: load_adapter takes exactly the adapter's own entries, every one checked, or leaves the base as it was."""

from __future__ import annotations

import json
from unittest import mock

import pytest
import tiny_models as models
import torch
from peft import get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from dude_peft import DudeConfig, DudeError, checkpoint, load_adapter
from dude_peft.checkpoint import check_same_base

PREFIX = "base_model.model."


def save(folder, **options):
    """Save a moved adapter of the tiny Llama; return the model."""
    model = get_peft_model(models.llama(), models.config_for("llama", **options)).eval()
    models.move(model, 0.05)
    model.save_pretrained(str(folder))
    return model


def rewrite(folder, change):
    """Change the entries of an adapter file and remove its hash, as someone who edits it on purpose would."""
    path = folder / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path, {"format": "pt"})
    config = folder / "dude_config.json"
    raw = json.loads(config.read_text())
    raw.pop("weights_sha256", None)
    config.write_text(json.dumps(raw))


def assert_refused(folder, message, adapter_name="default"):
    base = models.llama()
    before = {n: t.clone() for n, t in base.state_dict().items()}
    with pytest.raises(DudeError, match=message):
        load_adapter(base, folder, adapter_name)
    after = base.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)
    assert not any("lora" in name or "modules_to_save" in name for name, _ in base.named_modules())


FOREIGN = [
    "model.norm.weight",
    "model.layers.0.self_attn.q_proj.base_layer.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "lm_head.bias",
    "model.layers.0.self_attn.q_proj.lora_A.bias",
    "model.layers.0.self_attn.q_proj.lora_dude.lora_n0",
    "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
    "nothing",
]


@pytest.mark.parametrize("name", [PREFIX + name for name in FOREIGN] + ["model.norm.weight", ""])
def test_an_entry_that_is_not_the_adapters_is_refused_by_name(tmp_path, name):
    save(tmp_path)
    rewrite(tmp_path, lambda s: s.update({name: torch.zeros(48)}))
    assert_refused(tmp_path, f"entries '{name}' belong to no module")


def test_the_stock_route_into_a_dude_model_refuses_it_too(tmp_path):
    model = save(tmp_path)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    state = load_file(tmp_path / "adapter_model.safetensors")
    for name in FOREIGN:
        with pytest.raises(DudeError, match="belong to no module"):
            set_peft_model_state_dict(model, {**state, PREFIX + name: torch.zeros(48)})
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    set_peft_model_state_dict(model, state)


def test_modules_to_save_are_taken_whole_and_checked(tmp_path):
    model = save(tmp_path, target_modules=["q_proj"], modules_to_save=["lm_head"])
    assert torch.equal(models.logits(load_adapter(models.llama(), tmp_path)), models.logits(model))
    set_peft_model_state_dict(model, load_file(tmp_path / "adapter_model.safetensors"))
    key = PREFIX + "lm_head.weight"
    for value, message in [
        (torch.zeros(61, 47), r"'.*lm_head.weight' has shape \(61, 47\), expected \(61, 48\)"),
        (torch.full((61, 48), torch.nan), "'.*lm_head.weight' has values that are not finite"),
        (torch.zeros(61, 48, dtype=torch.int64), "'.*lm_head.weight' is of type torch.int64"),
    ]:
        rewrite(tmp_path, lambda s, value=value: s.update({key: value}))
        assert_refused(tmp_path, message)
    rewrite(tmp_path, lambda s: s.pop(key))
    assert_refused(tmp_path, "no entry '.*lm_head.weight'")


@pytest.mark.parametrize("axis", ["out", "in"])
@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(1.0),
        torch.zeros(0),
        torch.zeros(8),
        torch.zeros(8, 48, 1),
        torch.zeros(8, 48, dtype=torch.int32),
        torch.zeros(8, 48, dtype=torch.bool),
        torch.zeros(8, 48, dtype=torch.float8_e4m3fn),
        torch.zeros(8, 48, dtype=torch.complex64),
    ],
    ids=lambda t: f"{t.dtype}{tuple(t.shape)}",
)
def test_odd_shapes_and_types_of_every_part(tmp_path, axis, value):
    save(tmp_path, target_modules=["q_proj"], magnitude_axis=axis)
    state = load_file(tmp_path / "adapter_model.safetensors")
    for key in [k for k in state if "layers.0" in k]:
        rewrite(tmp_path, lambda s, key=key: s.update({key: value}))
        assert_refused(tmp_path, r"is of type|does not fit")
        rewrite(tmp_path, lambda s, key=key: s.update({key: state[key]}))


@pytest.mark.parametrize("part", ["A0", "B0", "n0", "P0"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_start_with_a_value_that_is_not_finite_is_no_agreement(part, value):
    """`NaN > 0.5` is False: the comparison with the base has to be written the other way round."""
    model = get_peft_model(models.llama(), models.config_for("llama", target_modules=["q_proj"]))
    start = next(iter(models.dude_layers(model).values())).lora_dude["default"].init
    start = type(start)(*(t.detach().clone() for t in start))
    check_same_base(start, "q_proj", 1.0, "out")
    getattr(start, part).view(-1)[0] = value
    with pytest.raises(DudeError, match="'q_proj' has values that are not finite"):
        check_same_base(start, "q_proj", 1.0, "out")


def test_a_base_with_nan_is_named_at_load(tmp_path):
    save(tmp_path)
    base = models.llama()
    with torch.no_grad():
        base.model.layers[1].self_attn.k_proj.weight[0, 0] = float("nan")
    with pytest.raises(DudeError, match=r"layers\.1\.self_attn\.k_proj' has values that are not finite"):
        load_adapter(base, tmp_path)


def test_modules_that_cannot_be_copied_are_named_before_anything_changes():
    base = models.llama()
    with pytest.raises(DudeError, match=r"'model\.layers' is a ModuleList"):
        get_peft_model(base, models.config_for("llama", target_modules=["q_proj"], modules_to_save=["layers"]))
    assert not any("lora" in name for name, _ in base.named_modules())
    names = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("score", "my_score")})  # PEFT copies both for "score"
    with pytest.raises(DudeError, match="'my_score' is named by target_modules too"):
        get_peft_model(names, DudeConfig(r=2, target_modules=["my_score"], modules_to_save=["score"]))
    assert list(names) == ["score", "my_score"] and type(names["my_score"]) is nn.Linear


@pytest.mark.parametrize("name", ["", "a.b", "train", "keys"])
def test_an_adapter_name_that_pytorch_cannot_take(tmp_path, name):
    save(tmp_path)
    assert_refused(tmp_path, f"adapter_name '{name}'", name)


def test_products_with_the_start_have_the_bits_of_aligned_memory(tmp_path):
    """In the file A0 lies at any address, and a product from there can differ in its last bit.

    The file is mapped, too: a parameter left in it would change, or crash the process, with the next save there.
    """
    model = get_peft_model(models.llama(), models.config_for("llama", r=2, target_modules=["q_proj"]))
    model.save_pretrained(str(tmp_path))
    rewrite(tmp_path, lambda s: s.update({k: v.clone() for k, v in s.items()}))
    again = load_adapter(models.llama(), tmp_path)
    for name, layer in models.dude_layers(again).items():
        start = layer.lora_dude["default"].init
        assert start.A0.data_ptr() % 64 == 0 and start.A0.untyped_storage().nbytes() == start.A0.nbytes, name
        assert torch.equal(start.P0, model.get_submodule(name).lora_dude["default"].lora_P0)


def test_a_file_is_checked_once(tmp_path):
    model = get_peft_model(models.llama(), models.config_for("llama", modules_to_save=["lm_head"]))
    model.save_pretrained(str(tmp_path))
    with (
        mock.patch.object(checkpoint, "split", side_effect=checkpoint.split) as split,
        mock.patch.object(checkpoint, "checked", side_effect=checkpoint.checked) as entries,
        mock.patch.object(checkpoint, "check_same_base", side_effect=checkpoint.check_same_base) as base,
    ):
        load_adapter(models.llama(), tmp_path)
    layers = len(models.dude_layers(model))
    assert (split.call_count, entries.call_count, base.call_count) == (layers, 3 * layers + 1, layers)
    assert checkpoint.LOADED.get() is None
