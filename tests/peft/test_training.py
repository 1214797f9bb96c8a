"""Promise: it trains as LoRA does under Trainer, TRL, checkpointing and autocast, repeats and resumes bit for bit."""

from __future__ import annotations

import copy
import re

import pytest
import tiny_models as models
import torch
from conftest import AXES, DTYPES, assert_close, relative_error
from datasets import Dataset
from peft import get_peft_model

from dude_peft import load_adapter


def adapter_state(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n}


def assert_same(got, want):
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)


def train(model, steps=3, lr=1e-2, ids=None):
    ids = models.tokens() if ids is None else ids
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0)
    losses = []
    for _ in range(steps):
        loss = model.train()(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.supports(base=["float32", "bfloat16", "float16"], engine="one process", method=["DuDe", "DuDe, axis in"])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_the_differences_and_the_magnitude_change(dtype, axis):
    model = get_peft_model(models.llama(dtype), models.config_for("llama", magnitude_axis=axis))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = train(model)
    assert losses[-1] < losses[0]
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n in before if re.search(r"lora_(A|B|magnitude_vector)\.", n)}


@pytest.mark.parametrize("lr", [2e-5, 1e-3])
def test_bf16_parameters_move_as_float32_ones_do(lr):
    """A sits at 0.1, where bfloat16 has steps of 5e-4: only differences can take steps of 2e-5."""
    moved = []
    for cast in (torch.float32, torch.bfloat16):
        model = get_peft_model(models.llama(), models.config_for("llama"))
        for name, parameter in model.named_parameters():
            if re.search(r"lora_(A|B)\.", name):
                parameter.data = parameter.data.to(cast)
        train(model, steps=4, lr=lr)
        moved.append({n: p.detach().double() for n, p in model.named_parameters() if re.search(r"lora_(A|B)\.", n)})
    assert moved[1] and all(p.abs().max() > 0 for p in moved[1].values())
    wide, narrow = (torch.cat([p.flatten() for p in side.values()]) for side in moved)
    assert float((narrow - wide).norm() / wide.norm()) < 0.1


def test_autocast_adapter_dtype_off_keeps_the_magnitude_in_float32():
    model = get_peft_model(models.llama(torch.bfloat16), models.config_for("llama"), autocast_adapter_dtype=False)
    dtypes = {re.search(r"lora_\w+", n).group(): p.dtype for n, p in model.named_parameters() if "lora_" in n}
    assert dtypes["lora_A"] == dtypes["lora_B"] == torch.bfloat16
    assert dtypes["lora_magnitude_vector"] == dtypes["lora_dude"] == torch.float32
    losses = train(model, steps=4)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("axis", AXES)
def test_gradient_checkpointing_gives_the_same_gradients(axis, use_reentrant):
    gradients = []
    for checkpointing in (False, True):
        model = get_peft_model(models.llama(), models.config_for("llama", magnitude_axis=axis)).train()
        models.move(model, 0.02)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        model(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert_same(gradients[1], gradients[0])


@pytest.mark.parametrize("axis", AXES)
def test_autocast_starts_exact_and_stays_close(axis):
    base = models.llama()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = models.logits(base)
    model = get_peft_model(base, models.config_for("llama", magnitude_axis=axis)).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(models.logits(model), before)
    models.move(model, 0.02)
    want = models.logits(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(models.logits(model), want, torch.bfloat16)
        model.train()(input_ids=models.tokens(), labels=models.tokens()).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("size", [2e-5, 2e-4])
@pytest.mark.parametrize("family", ["llama", "mini"])
def test_a_small_step_on_a_bf16_base_moves_the_output_by_what_float64_says(family, size):
    """One optimizer step of `size` on every parameter (Adam's first step): the change of each layer's output, to 1%."""
    from dude_peft import functional

    model = get_peft_model(models.FAMILIES[family](torch.bfloat16), models.config_for(family)).eval()
    generator = torch.Generator().manual_seed(0)
    errors = []
    for layer in models.dude_layers(model).values():
        start, base = layer.lora_dude["default"], layer.get_base_layer()
        parameters = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
        parameters.append(layer.lora_magnitude_vector["default"].weight)
        signs = [torch.randn(p.shape, generator=generator).sign() for p in parameters]
        x = torch.randn(16, layer.in_features, generator=generator).bfloat16()
        with torch.no_grad():
            for parameter, sign in zip(parameters, signs, strict=True):
                parameter += size * sign
            composition = start.compose(*parameters, base.weight, 1.0)
            # what is added to the base layer's output, in bfloat16, before the sum's own rounding hides it
            product = torch.nn.functional.linear(x, base.weight)
            factors = functional.forward_factors(composition, 1.0, "out", torch.bfloat16)
            got = functional.output_change(product, factors.gain, x @ factors.Ah.T, factors.outer).double()
            A0, B0, n0, W0 = (t.double() for t in (start.lora_A0, start.lora_B0, start.lora_n0, base.weight))
            dA, dB, dm = (size * s.double() for s in signs)
            V = W0 + (B0 + dB) @ (A0 + dA) - B0 @ A0
            W = (n0 + dm)[:, None] * V / V.norm(dim=1, keepdim=True)
            want = x.double() @ (W - W0).T
        errors.append(float((got - want).norm() / want.norm()))
    assert max(errors) < 0.01, f"largest relative error {max(errors):.2%}"


def tiny_dataset(rows=24):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, models.VOCAB, (rows, 8), generator=generator).tolist()
    return Dataset.from_list([{"input_ids": row, "labels": row, "attention_mask": [1] * 8} for row in ids])


def trainer(folder, model, steps=6, **options):
    from transformers import Trainer, TrainingArguments

    settings = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "save_steps": 3,
        "save_strategy": "steps",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 7,
        **options,
    }
    return Trainer(model=model, args=TrainingArguments(**settings), train_dataset=tiny_dataset())


def test_trainer_repeats_and_resumes_bit_for_bit(tmp_path):
    def fresh():
        return get_peft_model(models.llama(), models.config_for("llama", lora_dropout=0.1))

    whole = trainer(tmp_path / "a", fresh())
    whole.train()
    again = trainer(tmp_path / "b", fresh())
    again.train()
    assert_same(adapter_state(again.model), adapter_state(whole.model))
    resumed = trainer(tmp_path / "c", fresh())
    resumed.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert resumed.state.global_step == 6
    assert_same(adapter_state(resumed.model), adapter_state(whole.model))
    loaded = load_adapter(models.llama(), tmp_path / "a" / "checkpoint-6")
    assert_same(adapter_state(loaded), adapter_state(whole.model))


def test_resuming_a_checkpoint_of_another_start_takes_that_start(tmp_path):
    one = trainer(tmp_path / "a", get_peft_model(models.llama(), models.config_for("llama", init_variant="dude_a")))
    one.train()
    other = get_peft_model(models.llama(), models.config_for("llama", init_variant="dude_b"))
    other.load_adapter(str(tmp_path / "a" / "checkpoint-6"), "default", is_trainable=True)
    assert_same(adapter_state(other), adapter_state(one.model))


def test_trl_sft_trainer_takes_the_config(tmp_path):
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=1e-3,
        report_to="none",
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        dataset_kwargs={"skip_prepare_dataset": True},
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    sft = SFTTrainer(
        model=models.llama(),
        args=arguments,
        train_dataset=tiny_dataset(),
        peft_config=models.config_for("llama"),
        processing_class=word_tokenizer(),
    )
    before = adapter_state(sft.model)
    base = {n: p.detach().clone() for n, p in sft.model.named_parameters() if "lora_" not in n}
    sft.train()
    after = adapter_state(sft.model)
    assert models.dude_layers(sft.model)
    assert any(not torch.equal(after[n], before[n]) for n in after)
    assert all(torch.equal(p, base[n]) for n, p in sft.model.named_parameters() if n in base)


def word_tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocab = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, models.VOCAB)}}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def test_compile_traces_the_whole_layer_and_agrees():
    model = get_peft_model(models.llama(), models.config_for("llama"))
    models.move(model, 0.02)
    layer = next(iter(models.dude_layers(model).values()))
    twin = copy.deepcopy(layer)
    x = torch.randn(4, layer.in_features)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    layer(x).square().sum().backward()
    y = compiled(x)
    y.square().sum().backward()
    assert_close(y, layer(x))
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            assert relative_error(dict(twin.named_parameters())[name].grad, parameter.grad) < 1e-5
