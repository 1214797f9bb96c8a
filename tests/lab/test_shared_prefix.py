"""Promise: a prompt is computed once for all its choices, and every number is the harness's own but for rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from eval_tools import byte_tokenizer, tiny_llama

from dude_lab.config.eval_settings import EvalSettings
from dude_lab.evaluation import shared_prefix
from dude_lab.evaluation.evaluator import evaluate
from dude_lab.evaluation.language_model import ModelUnderTest


def gpt2() -> Any:
    """Absolute positions, which are learnt."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=48, n_layer=2, n_head=4, n_positions=2048, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


def mamba() -> Any:
    """A recurrent model: it has no mask between choices and no positions."""
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, state_size=4)
    return MambaForCausalLM(config).eval()


def settings(real_data: Any, **more: Any) -> EvalSettings:
    return EvalSettings(**{"tasks": ["commonsense_qa", "winogrande"], "root": str(real_data), "limit": 10, **more})


def scored(
    model: Any, chosen: EvalSettings, monkeypatch: pytest.MonkeyPatch, shares: bool | None
) -> tuple[Any, int, Any]:
    """Scores, tokens computed, and what the model was found to be."""
    tokens, seen = [], []
    build = ModelUnderTest.__init__

    def init(self: ModelUnderTest, *args: Any) -> None:
        build(self, *args)
        self._shares_prefix = shares
        seen.append(self)

    with monkeypatch.context() as patched:
        patched.setattr(ModelUnderTest, "__init__", init)
        hook = model.register_forward_pre_hook(
            lambda _, args, kwargs: tokens.append((args[0] if args else kwargs["input_ids"]).numel()), with_kwargs=True
        )
        result = evaluate(model, byte_tokenizer(), chosen)
        hook.remove()
    return result, sum(tokens), seen[0]._shares_prefix


@pytest.mark.parametrize("protocol", ["cloze", "letter"])
@pytest.mark.parametrize("make", [tiny_llama, gpt2])
def test_the_numbers_are_those_of_the_harness(
    make: Any, protocol: str, real_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, chosen = make(), settings(real_data, tasks=["commonsense_qa"], protocol=protocol)
    new, few, shares = scored(model, chosen, monkeypatch, None)
    old, many, _ = scored(model, chosen, monkeypatch, False)
    assert shares is True
    for a, b in zip(new.samples["commonsense_qa"], old.samples["commonsense_qa"], strict=True):
        assert a["loglikelihoods"] == pytest.approx(b["loglikelihoods"], rel=1e-5)
        assert a["prediction"] == b["prediction"]
    assert new.metrics == old.metrics
    if protocol == "cloze":  # of five choices, beside the questions that are scored in both ways
        assert few < 0.7 * many


def test_a_pack_is_as_good_as_its_questions_alone() -> None:
    model = tiny_llama()
    asked = [
        shared_prefix.Question((5, 6, 7), [(8,), (9, 10), (8, 11, 12)], [0, 1, 2]),
        shared_prefix.Question((5, 6, 7, 9), [(10,)], [3]),
        shared_prefix.Question((20,), [(21, 22), (21, 23)], [4, 5]),
    ]
    with torch.no_grad():
        together = shared_prefix.score(model, asked, "cpu")
        alone = [shared_prefix.score(model, [one], "cpu")[0] for one in asked]
        for one, scores in zip(asked, together, strict=True):
            for choice, (value, greedy) in zip(one.choices, scores, strict=True):
                logits = model(torch.tensor([[*one.prompt, *choice]])).logits[0].log_softmax(-1)
                rows = logits[len(one.prompt) - 1 : -1]
                assert value == pytest.approx(float(rows.gather(1, torch.tensor(choice)[:, None]).sum()), rel=1e-5)
                assert greedy == (rows.argmax(-1).tolist() == list(choice))
    for a, b in zip(together, alone, strict=True):
        assert [v for v, _ in a] == pytest.approx([v for v, _ in b], rel=1e-5)


def test_packs_hold_every_question_and_are_no_longer_than_they_may() -> None:
    asked = [shared_prefix.Question((1,) * n, [(2, 3)], [n]) for n in (9, 50, 3, 4, 20, 7)]
    packed = list(shared_prefix.packs(asked, 24))
    assert [one for pack in packed for one in pack] == asked
    assert all(len(pack) == 1 or sum(one.length for one in pack) <= 24 for pack in packed)
    assert len(packed) == 5


def test_a_recurrent_model_is_left_to_the_harness(real_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = settings(real_data, limit=3)
    new, _, shares = scored(mamba(), chosen, monkeypatch, None)
    old, _, _ = scored(mamba(), chosen, monkeypatch, False)
    assert shares is False
    for task, samples in old.samples.items():
        for a, b in zip(new.samples[task], samples, strict=True):
            assert a["loglikelihoods"] == pytest.approx(b["loglikelihoods"], rel=1e-4)


def test_half_precision_is_scored_alike(real_data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, chosen = tiny_llama().bfloat16(), settings(real_data, limit=6)
    new, _, shares = scored(model, chosen, monkeypatch, None)
    old, _, _ = scored(model, chosen, monkeypatch, False)
    assert shares is True
    for task, samples in old.samples.items():
        for a, b in zip(new.samples[task], samples, strict=True):
            assert a["loglikelihoods"] == pytest.approx(b["loglikelihoods"], rel=3e-2)
