"""Promise: an evaluation leaves model and random states as they were, and its answers do not hang on batching."""

from __future__ import annotations

import json
import random
import re

import numpy as np
import pytest
import torch
from eval_tools import byte_tokenizer, tiny_llama
from peft import LoraConfig, get_peft_model

from dude_lab.config.eval_settings import EvalSettings
from dude_lab.evaluation.evaluator import evaluate
from dude_lab.evaluation.result import EvalResult, Metric


@pytest.fixture
def model():
    return tiny_llama()


def both(real_data, **more):
    """A task of each kind: likelihoods and generated text."""
    more = {"limit": 12, "max_new_tokens": 24, **more}
    return EvalSettings(tasks=["commonsense_qa", "winogrande", "gsm8k"], root=str(real_data), **more)


def test_model_tokenizer_and_random_states_are_left_as_they_were(model, real_data):
    model.train()
    model.model.layers[1].eval()  # a mixed state must survive, too
    model.config.tie_word_embeddings = True  # as in a model whose embeddings a method has untied
    flags = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    pointers = [value.data_ptr() for value in model.parameters()]
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = "right"
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    expected = random.random(), np.random.rand(), torch.rand(3)
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    evaluate(model, tokenizer, both(real_data, limit=2, num_fewshot=0))
    assert (random.random(), np.random.rand()) == expected[:2] and torch.equal(torch.rand(3), expected[2])
    assert [module.training for module in model.modules()] == flags
    assert [value.data_ptr() for value in model.parameters()] == pointers
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in model.parameters())
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", None)
    assert "tie_weights" not in vars(model)


def test_states_are_restored_after_an_error_too(model, real_data):
    model.train()
    torch.manual_seed(7)
    state = torch.get_rng_state()

    def progress(*_):
        torch.rand(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, byte_tokenizer(), both(real_data, limit=1), progress=progress)
    assert model.training and torch.equal(torch.get_rng_state(), state)


def test_dropout_is_off(model, real_data):
    wild = get_peft_model(model, LoraConfig(r=2, lora_dropout=0.9, target_modules=["q_proj"], init_lora_weights=False))
    wild.train()
    one, two = (evaluate(wild, byte_tokenizer(), both(real_data, limit=3)) for _ in range(2))
    assert one.samples == two.samples


def test_batch_size_changes_nothing_but_rounding(model, real_data):
    """Prompts of different lengths: generation pads on the left, scoring on the right."""
    tokenizer = byte_tokenizer()
    one, many = (evaluate(model, tokenizer, both(real_data, batch_size=size)) for size in (1, 7))
    said = [item["generated"] for item in one.samples["gsm8k"]]
    assert said == [item["generated"] for item in many.samples["gsm8k"]] and len(set(said)) > 1
    for task in ("commonsense_qa", "winogrande"):
        for a, b in zip(one.samples[task], many.samples[task], strict=True):
            assert a["id"] == b["id"] and a["prediction"] == b["prediction"]
            assert a["loglikelihoods"] == pytest.approx(b["loglikelihoods"], rel=1e-4)
    assert one.metrics == many.metrics


def test_likelihoods_are_those_of_the_model(model, real_data):
    """Against one plain forward per choice."""
    tokenizer = byte_tokenizer()
    result = evaluate(model, tokenizer, EvalSettings(suite="commonsense_qa", root=str(real_data), limit=4))
    for item in result.samples["commonsense_qa"]:
        for choice, score in zip(item["choices"], item["loglikelihoods"], strict=True):
            prompt, rest = tokenizer.encode(item["prompt"]), tokenizer.encode(" " + choice)
            with torch.no_grad():
                logits = model.eval()(torch.tensor([prompt + rest])).logits[0].log_softmax(-1)
            places = torch.arange(len(prompt) - 1, len(prompt) + len(rest) - 1)
            assert score == pytest.approx(float(logits[places, torch.tensor(rest)].sum()), rel=1e-4)


def test_peft_model_is_evaluated_with_its_adapter(model, real_data):
    settings = both(real_data, limit=3)
    before = evaluate(model, byte_tokenizer(), settings)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    after = evaluate(adapted, byte_tokenizer(), settings)
    with adapted.disable_adapter():
        off = evaluate(adapted, byte_tokenizer(), settings)
    assert off.samples == before.samples != after.samples


def test_progress_counts_every_request_once(model, real_data):
    seen = []
    evaluate(model, byte_tokenizer(), both(real_data, limit=3), progress=lambda *told: seen.append(told))
    scored = [told for told in seen if told[2] == "scoring choices"]
    written = [told for told in seen if told[2] == "generating answers"]
    assert [told[0] for told in scored] == list(range(1, 3 * 5 + 3 * 2 + 1)) and scored[-1][1] == 21
    assert [told[:2] for told in written] == [(1, 3), (2, 3), (3, 3)]


def test_nothing_is_printed(model, real_data, capfd, caplog):
    evaluate(model, byte_tokenizer(), both(real_data, limit=2))
    assert capfd.readouterr() == ("", "") and caplog.text == ""


def test_what_the_window_cuts_off_is_counted(real_data):
    tokenizer = byte_tokenizer()
    long = evaluate(tiny_llama(), tokenizer, both(real_data, limit=5))
    short = evaluate(tiny_llama(window=110), tokenizer, both(real_data, limit=5))
    lengths = [
        len(tokenizer.encode(item["prompt"] + " " + choice)) - 1
        for item in short.samples["commonsense_qa"]
        for choice in item["choices"]
    ]
    assert [row.truncated for row in long.table] == [0] * 4 and "lost their beginning" not in long.markdown()
    cut = short.metrics["commonsense_qa"]["truncated"]
    assert cut == sum(length > 110 for length in lengths) and 0 < cut < 25
    assert short.metrics["gsm8k"]["truncated"] == 5
    assert re.search(r"\d+ requests were longer than the model's context", short.markdown())


def test_table_and_files(model, real_data, tmp_path):
    result = evaluate(model, byte_tokenizer(), both(real_data))
    table = result.markdown().splitlines()
    assert table[0].split("|")[1].strip() == "Task" and set(table[1]) <= set("|-:")
    assert len({len(line) for line in table}) == 1
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]
    value = result.metrics["commonsense_qa"]["value"]
    assert rows[0][:6] == ["commonsense_qa", "cloze", "0", "12", "acc", f"{value:.4f}"] and rows[1][4] == "acc_norm"
    assert rows[-1][:5] == ["average", "mixed", "0", "36", "average"]
    assert result.headline == "average" and result.accuracy == pytest.approx(
        sum(result.metrics[task]["value"] for task in ("commonsense_qa", "winogrande", "gsm8k")) / 3
    )
    files = result.write(tmp_path / "eval")
    assert sorted(str(one.relative_to(tmp_path / "eval")) for one in files) == [
        "metrics.json",
        "metrics.md",
        "samples/commonsense_qa.jsonl",
        "samples/gsm8k.jsonl",
        "samples/winogrande.jsonl",
    ]
    payload = json.loads(files[0].read_text())
    assert payload["metrics"] == json.loads(json.dumps(result.metrics)) and payload["headline"] == "average"
    kept = [
        json.loads(line) for line in (tmp_path / "eval" / "samples" / "commonsense_qa.jsonl").read_text().splitlines()
    ]
    assert len(kept) == 12 and sum(item["correct"] for item in kept) / 12 == value
    assert {"id", "prompt", "choices", "gold", "prediction", "loglikelihoods", "correct"} <= set(kept[0])
    assert all(len(item["loglikelihoods"]) == 5 for item in kept)
    text = json.loads(files[4].read_text().splitlines()[0])
    assert text["gold"] == "18" and {"generated", "prediction"} <= set(text)


def test_missing_error_is_a_dash_in_the_table_and_null_in_json():
    row = Metric("piqa", "acc", 0.5, float("nan"), 1, 0, "cloze", "test")
    result = EvalResult((row,), {}, 0.0, "piqa")
    assert result.markdown().splitlines()[2].split("|")[-2].strip() == "-"
    assert result.metrics["piqa"]["stderr"] is None
