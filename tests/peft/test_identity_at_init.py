"""Promise: at the start the adapter changes nothing, bit for bit, in every dtype, axis, variant and architecture."""

from __future__ import annotations

import pytest
import tiny_models as models
import torch
from conftest import AXES, DTYPES, VARIANTS, relative_error
from peft import get_peft_model

from dude_peft.base_weight import dense_weight
from dude_peft.model import DudeVariant

pytestmark = pytest.mark.usefixtures("way")

EPS = {dtype: torch.finfo(dtype).eps for dtype in DTYPES}


@pytest.mark.supports(base=["float32", "bfloat16", "float16", "Conv1D"], engine="one process", method="DuDe")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", models.FAMILIES)
def test_logits_in_eval_mode_are_the_base_models_bit_for_bit(family, dtype):
    emulated = family == "mini" and dtype != torch.float32  # half-precision products are, on most CPUs
    ids = models.tokens(1, 3) if emulated else models.tokens()
    base = models.FAMILIES[family](dtype)
    before = models.logits(base, ids)
    model = get_peft_model(base, models.config_for(family)).eval()
    assert models.dude_layers(model)
    assert torch.equal(models.logits(model, ids), before)


@pytest.mark.supports(
    base=["float32", "bfloat16", "float16"], engine="one process", method=["DuDe", "DuDe, axis in", "DuDe-A", "DuDe-B"]
)
@pytest.mark.parametrize("variant", [*VARIANTS, "random"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_axis_and_variant(dtype, axis, variant):
    base = models.llama(dtype)
    before = models.logits(base)
    config = models.config_for("llama", magnitude_axis=axis, init_variant=variant, lora_alpha=3)
    model = get_peft_model(base, config).eval()
    assert torch.equal(models.logits(model), before)
    model.train()
    assert relative_error(models.logits(model), before) <= EPS[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("axis", AXES)
def test_the_composed_weight_is_the_base_weight_bit_for_bit(family, dtype, axis):
    model = get_peft_model(models.FAMILIES[family](dtype), models.config_for(family, magnitude_axis=axis))
    for name, layer in models.dude_layers(model).items():
        base = layer.get_base_layer()
        merged = DudeVariant.merge_safe(layer, "default", base.weight.data)
        assert merged.dtype == dtype and torch.equal(merged, base.weight), name


@pytest.mark.parametrize("axis", AXES)
def test_it_is_the_start_of_a_direction_that_matters(axis):
    """The identity is no accident of factors that do nothing: the start holds the top of the spectrum."""
    model = get_peft_model(models.llama(), models.config_for("llama", magnitude_axis=axis))
    for layer in models.dude_layers(model).values():
        start = layer.lora_dude["default"]
        spectrum = torch.linalg.svdvals(dense_weight(layer.get_base_layer()).detach())
        captured = torch.linalg.svdvals(start.lora_B0 @ start.lora_A0)[:4]
        assert relative_error(captured, spectrum[:4]) < 1e-4


@pytest.mark.parametrize("axis", AXES)
def test_a_zero_row_or_column_keeps_a_zero_output_and_a_finite_gradient(axis):
    base = models.llama()
    weight = base.model.layers[0].self_attn.q_proj.weight
    with torch.no_grad():
        weight[3], weight[:, 5] = 0, 0
    before = models.logits(base)
    model = get_peft_model(base, models.config_for("llama", magnitude_axis=axis))
    assert torch.equal(models.logits(model.eval()), before)
    model(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    merged = model.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    assert (merged[3] == 0).all() and torch.isfinite(merged).all()
