"""Promise: the embedded model loads offline like any other, is small, and its loss and spectrum show its training."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from dude_lab.mini import model_dir
from mini.model_shape import held_out, new_model
from mini.pretrain import next_token_loss
from mini.tokenizer import END, PAD, VOCAB_SIZE


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(model_dir())


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(model_dir(), dtype=torch.float32).eval()


def test_shape_and_size(model: LlamaForCausalLM) -> None:
    assert isinstance(model, LlamaForCausalLM)
    assert 4e6 <= model.num_parameters() <= 6e6
    assert (model_dir() / "model.safetensors").stat().st_size <= 12 * 2**20
    assert AutoModelForCausalLM.from_pretrained(model_dir()).dtype == torch.bfloat16


@torch.no_grad()
@pytest.mark.parametrize("genre", ["narrative", "encyclopedia", "questions", "arithmetic"])
def test_held_out_loss_is_far_below_a_random_models(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, genre: str
) -> None:
    x = held_out(tokenizer, genre, rows=2, length=256)
    trained, random = next_token_loss(model, x), next_token_loss(new_model(0).eval(), x)
    assert trained < 0.35 * random, (float(trained), float(random))


@pytest.mark.parametrize("kind", ["q_proj", "v_proj"])
def test_spectrum_is_far_from_the_random_start(model: LlamaForCausalLM, kind: str) -> None:
    """The top sixteen of 256 directions hold much more of the energy than those of a random matrix of that shape."""

    def share(weight: torch.Tensor) -> float:
        s = torch.linalg.svdvals(weight.detach()) ** 2
        return float(s[:16].sum() / s.sum())

    start = new_model(0)
    shares = [[share(layer.self_attn.get_submodule(kind).weight) for layer in m.model.layers] for m in (model, start)]
    assert sum(shares[0]) > 1.4 * sum(shares[1]), shares


@torch.no_grad()
def test_it_goes_on_with_a_known_text(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(f"{END}Question: What is the opposite of hot?\nAnswer:", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=6, do_sample=False)
    text = tokenizer.decode(out[0, ids.shape[1] :])
    assert text.startswith(" ") and text.strip()


def test_tokenizer_entries(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer) == VOCAB_SIZE == 2048
    assert tokenizer.eos_token == END and tokenizer.pad_token == PAD
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_every_digit_is_a_token_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("12345") == list("12345")
    assert [t for t in tokenizer.tokenize("cost 407 <<3*15=45>>45") if t.isdigit()] == list("4073154545")
    assert not [t for t in tokenizer.get_vocab() if len(t) > 1 and any(c.isdigit() for c in t)]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_any_text_comes_back(text: str) -> None:
    tokenizer = _tokenizer()
    if END not in text and PAD not in text:
        assert tokenizer.decode(tokenizer(text).input_ids) == text


_CACHE: list[PreTrainedTokenizerFast] = []


def _tokenizer() -> PreTrainedTokenizerFast:
    if not _CACHE:
        _CACHE.append(AutoTokenizer.from_pretrained(model_dir()))
    return _CACHE[0]
