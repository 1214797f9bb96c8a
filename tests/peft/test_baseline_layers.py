"""Promise: the rivals of our own compute their papers' W', leave the base alone, and behave as PEFT's methods do."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tiny_models as models
import torch
from conftest import assert_close, relative_error
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from dude_peft.baselines import (
    BitfitConfig,
    BottleneckConfig,
    LoraXsConfig,
    ShiftedLoraConfig,
    SvftConfig,
    bitfit,
    lora_xs,
    shifted_lora,
    svft,
)
from dude_peft.baselines.tuner import BaselineLayer
from dude_peft.errors import DudeError

CONFIGS: dict[str, Any] = {
    "lora_xs": lambda **keys: LoraXsConfig(r=4, lora_alpha=6, **keys),
    "shifted_lora": lambda **keys: ShiftedLoraConfig(r=4, lora_alpha=6, **keys),
    "shifted_random": lambda **keys: ShiftedLoraConfig(r=4, lora_alpha=6, vectors="random", **keys),
    "svft": lambda **keys: SvftConfig(off_diag=0, **keys),
    "svft_banded": lambda **keys: SvftConfig(off_diag=2, **keys),
    "bitfit": BitfitConfig,
    "adapter": lambda **keys: BottleneckConfig(r=5, **keys),
}
LINEAR = ["lora_xs", "shifted_lora", "shifted_random", "svft", "svft_banded", "bitfit"]
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
    if name.startswith("shifted"):
        A, B, A0, B0 = parts
        assert torch.allclose(torch.linalg.svdvals(6 / 4 * B0 @ A0)[:4], torch.linalg.svdvals(W)[:4], rtol=1e-5)
        return x @ (W + 6 / 4 * (B @ A - B0 @ A0)).T + b
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
    trained = {
        key for key in before for layer in layers(model)[:1] if any(f"{n}." in key for n in layer.adapter_layer_names)
    }
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
    monkeypatch.setattr(shifted_lora, "cached_triplets", None)
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


@pytest.mark.parametrize("name", ["lora_xs", "shifted_random", "svft"])
def test_weights_that_are_not_finite_name_the_module(name: str) -> None:
    model = models.llama()
    model.model.layers[1].self_attn.v_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(DudeError, match=r"layers\.1\.self_attn\.v_proj' has 1 weights that are not finite"):
        get_peft_model(model, CONFIGS[name](target_modules=["v_proj"]))


def test_layers_that_are_not_linear_name_the_module() -> None:
    with pytest.raises(DudeError, match="embed_tokens"):
        get_peft_model(models.llama(), BitfitConfig(target_modules=["embed_tokens"]))


def test_shifted_lora_is_pissa_without_writing_to_the_base() -> None:
    """Its initial direction is PEFT's PiSSA, and the same moves of A and B give the same model."""
    ours = get_peft_model(models.llama(), ShiftedLoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    pissa = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj"], init_lora_weights="pissa", task_type="CAUSAL_LM")
    theirs = get_peft_model(models.llama(), pissa)
    reference = dict(theirs.named_modules())
    for name, layer in ours.named_modules():
        if isinstance(layer, BaselineLayer):
            A, B = (p.detach() for p in layer.parts("default")[:2])
            own = reference[name]
            assert relative_error(B @ A, own.lora_B["default"].weight @ own.lora_A["default"].weight) < 2e-5
            own.lora_A["default"].weight.data = 1.5 * A
            own.lora_B["default"].weight.data = B - 0.01
            layer.shifted_lora_A["default"].data = 1.5 * A
            layer.shifted_lora_B["default"].data = B - 0.01
    # the product of PEFT's factors differs by 5e-6, as its singular vectors are those of another algorithm
    assert relative_error(models.logits(ours.eval()), models.logits(theirs.eval())) < 2e-5


def test_random_vectors_have_the_spectrum_and_other_directions() -> None:
    def product(seed: int, vectors: str) -> Tensor:
        config = ShiftedLoraConfig(r=4, target_modules=["q_proj"], vectors=vectors, svd_seed=seed)
        _, _, A0, B0 = layers(get_peft_model(models.llama(), config))[0].parts("default")
        return (B0.double() @ A0.double()).detach()  # so that only the layer's own rounding counts

    principal, one, again, other = (
        product(1, "principal"),
        product(1, "random"),
        product(1, "random"),
        product(2, "random"),
    )
    assert torch.equal(one, again)
    for found in (one, other):
        assert_close(torch.linalg.svdvals(found)[:4], torch.linalg.svdvals(principal)[:4])
    cosine = torch.nn.functional.cosine_similarity
    assert abs(float(cosine(one.flatten(), principal.flatten(), dim=0))) < 0.3
    assert abs(float(cosine(one.flatten(), other.flatten(), dim=0))) < 0.3
