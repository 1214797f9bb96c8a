"""Promise: the rivals of our own compute their papers' W', leave the base alone, and behave as PEFT's methods do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tiny_models as models
import torch
from conftest import assert_close
from peft import PeftModel, get_peft_model
from torch import Tensor

from dude_peft.baselines import BitfitConfig, BottleneckConfig, LoraXsConfig, SvftConfig, bitfit, lora_xs, svft
from dude_peft.baselines.tuner import BaselineLayer
from dude_peft.errors import DudeError

CONFIGS: dict[str, Any] = {
    "lora_xs": lambda **keys: LoraXsConfig(r=4, lora_alpha=6, **keys),
    "svft": lambda **keys: SvftConfig(off_diag=0, **keys),
    "svft_banded": lambda **keys: SvftConfig(off_diag=2, **keys),
    "bitfit": BitfitConfig,
    "adapter": lambda **keys: BottleneckConfig(r=5, **keys),
}
LINEAR = ["lora_xs", "svft", "svft_banded", "bitfit"]
FAMILIES = ["llama", "qwen2", "gpt2"]
TARGETS = {**models.TARGETS, "llama": ["q_proj", "v_proj", "down_proj"]}


def made(family: str, name: str, dtype: torch.dtype = torch.float32, size: float = 0.05) -> Any:
    """The model with the rival on it, its trained tensors moved at random."""
    config = CONFIGS[name](target_modules=TARGETS[family], task_type="CAUSAL_LM")
    torch.manual_seed(1)
    model = get_peft_model(models.FAMILIES[family](dtype), config).eval()
    return move(model, size)


def move(model: Any, size: float) -> Any:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)
    return model


def layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, BaselineLayer)]


def dense(layer: Any, name: str, x: Tensor) -> Tensor:
    """The paper's formula in float64, with the full SVD of numpy's order and an M that is written entry by entry."""
    base, parts = layer.get_base_layer(), [p.detach().double() for p in layer.parts("default")]
    W = base.weight.detach().double()
    W = W.T if type(base).__name__ == "Conv1D" else W
    b = 0 if base.bias is None else base.bias.detach().double()
    if name == "bitfit":
        return x @ W.T + b + parts[0]
    if name == "adapter":
        y = x @ W.T + b
        down, down_bias, up, up_bias = parts
        return y + torch.nn.functional.gelu(y @ down.T + down_bias) @ up.T + up_bias
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    sign = torch.sign(Vh.gather(1, Vh.abs().argmax(1, keepdim=True)))  # the largest entry of each row is positive
    U, Vh = U * sign.T, Vh * sign
    if name == "lora_xs":
        change = 6 / 4 * U[:, :4] @ parts[0] @ torch.diag(S[:4]) @ Vh[:4]
    else:
        M, off = torch.zeros(len(S), len(S), dtype=torch.float64), 2 if name == "svft_banded" else 0
        values = iter(parts[0])
        for offset in range(-off, off + 1):
            for i, j in itertools.product(range(len(S)), repeat=2):
                if j - i == offset:
                    M[i, j] = next(values)
        assert next(values, None) is None
        change = U @ M @ Vh
    return x @ (W + change).T + b


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_layer_is_the_papers_formula(name: str, family: str) -> None:
    for layer in layers(made(family, name))[:3]:
        base = layer.get_base_layer()
        k = base.weight.shape[0] if type(base).__name__ == "Conv1D" else base.weight.shape[1]
        x = torch.randn(3, k, generator=torch.Generator().manual_seed(3))
        assert (layer(x) - base(x)).abs().max() > 1e-3
        # singular vectors next to one another in a random spectrum are right to 1e-5 in float32
        assert (layer(x).double() - dense(layer, name, x.double())).abs().max() < 2e-5 * layer(x).abs().max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LINEAR)
def test_merging_is_the_same_function_and_unmerging_restores_every_bit(name: str, family: str) -> None:
    model = made(family, name)
    before = [(layer.get_base_layer().weight.clone(), layer.get_base_layer().bias) for layer in layers(model)]
    want = models.logits(model)
    model.merge_adapter(safe_merge=True)
    assert_close(models.logits(model), want)
    with model.disable_adapter():
        assert torch.equal(models.logits(model), models.logits(models.FAMILIES[family]()))
    model.unmerge_adapter()
    for layer, (weight, bias) in zip(layers(model), before, strict=True):
        assert torch.equal(layer.get_base_layer().weight, weight) and layer.get_base_layer().bias is bias
    assert torch.equal(models.logits(model), want)


@pytest.mark.parametrize("name", CONFIGS)
def test_only_the_trained_tensors_change(name: str) -> None:
    model = made("llama", name, size=0.0)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0)
    losses = []
    for _ in range(3):
        loss = model.train()(input_ids=models.tokens(), labels=models.tokens()).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    changed = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    trained = {key for key in before for layer in layers(model)[:1] if any(n in key for n in layer.adapter_layer_names)}
    assert changed == trained


@pytest.mark.parametrize("name", CONFIGS)
def test_on_a_half_precision_base_the_adapter_is_float32_and_its_factors_stay_frozen(name: str) -> None:
    model = made("llama", name, torch.bfloat16)
    for layer in layers(model):
        assert {p.dtype for p in layer.parts("default")} == {torch.float32}
        frozen = [getattr(layer, n)["default"] for n in layer.other_param_names]
        assert not any(p.requires_grad for p in (*frozen, *layer.get_base_layer().parameters()))
    assert models.logits(model).dtype == torch.bfloat16


@pytest.mark.parametrize("name", CONFIGS)
def test_loading_decomposes_nothing(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("llama", name)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(lora_xs, "cached_triplets", None)
    monkeypatch.setattr(svft, "top_singular_triplets", None)
    loaded = PeftModel.from_pretrained(models.llama(), tmp_path, is_trainable=True).eval()
    assert torch.equal(models.logits(loaded), models.logits(model))
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@pytest.mark.parametrize("name", CONFIGS)
def test_a_second_adapter_can_be_added_switched_to_and_deleted(name: str) -> None:
    model = made("llama", name)
    first = models.logits(model)
    model.add_adapter("other", CONFIGS[name](target_modules=["k_proj", "q_proj"], task_type="CAUSAL_LM"))
    assert torch.equal(models.logits(model), first)
    model.set_adapter("other")
    move(model, 0.05)
    second = models.logits(model)
    assert not torch.equal(second, first)
    model.set_adapter("default")
    assert torch.equal(models.logits(model), first)
    model.delete_adapter("default")
    assert torch.equal(models.logits(model), second)


@pytest.mark.parametrize("name", LINEAR)
def test_two_adapters_merged_are_two_adapters_active(name: str) -> None:
    model = made("llama", name)
    model.add_adapter("other", CONFIGS[name](target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model.set_adapter("other")
    move(model, 0.05)
    model.base_model.set_adapter(["default", "other"])
    want = models.logits(model)
    model.merge_adapter(adapter_names=["default", "other"])
    assert_close(models.logits(model), want)


def test_biases_find_their_place_in_the_config_or_are_refused() -> None:
    model = models.llama(bias=False)
    want = models.logits(move(get_peft_model(model, BitfitConfig(target_modules=["v_proj"])), 0.05))
    merged = model_with_biases(["v_proj"])
    assert merged.config.attention_bias is True and merged.config.mlp_bias is False
    again = type(merged)(merged.config).eval()
    again.load_state_dict(merged.state_dict())  # every name has its place, and none is left over
    assert_close(models.logits(again), want)
    with pytest.raises(DudeError, match=r"Qwen2ForCausalLM has no place for a bias of o_proj .2 layers"):
        get_peft_model(models.qwen2(), BitfitConfig(target_modules=["o_proj", "q_proj"])).merge_and_unload()


def model_with_biases(targets: list[str]) -> Any:
    return move(get_peft_model(models.llama(bias=False), BitfitConfig(target_modules=targets)), 0.05).merge_and_unload()


def test_where_the_base_has_biases_they_are_what_is_trained() -> None:
    """Qwen's q and v have one: merging moves it, and the architecture is not touched."""
    merged = made("qwen2", "bitfit").merge_and_unload()
    flags = [flag for flag in bitfit.BIAS_FLAGS if getattr(merged.config, flag, None)]
    assert flags == [flag for flag in bitfit.BIAS_FLAGS if getattr(models.qwen2().config, flag, None)]
    assert not torch.equal(
        merged.model.layers[0].self_attn.q_proj.bias, models.qwen2().model.layers[0].self_attn.q_proj.bias
    )


@pytest.mark.parametrize("method", ["merge_adapter", "merge_and_unload"])
def test_the_bottleneck_refuses_to_merge(method: str) -> None:
    model = made("llama", "adapter")
    want = models.logits(model)
    with pytest.raises(DudeError, match="nonlinearity"):
        getattr(model, method)()
    assert torch.equal(models.logits(model), want)


@pytest.mark.parametrize("name", ["lora_xs", "svft"])
def test_weights_that_are_not_finite_name_the_module(name: str) -> None:
    model = models.llama()
    model.model.layers[1].self_attn.v_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(DudeError, match=r"layers\.1\.self_attn\.v_proj' has 1 weights that are not finite"):
        get_peft_model(model, CONFIGS[name](target_modules=["v_proj"]))


def test_layers_that_are_not_linear_name_the_module() -> None:
    with pytest.raises(DudeError, match="embed_tokens"):
        get_peft_model(models.llama(), BitfitConfig(target_modules=["embed_tokens"]))
