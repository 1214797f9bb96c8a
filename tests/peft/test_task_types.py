"""Promise: the task types of PEFT work: the heads that PEFT adds to modules_to_save are trained, saved and loaded."""

from __future__ import annotations

import json

import pytest
import tiny_models as models
import torch
from conftest import assert_close
from peft import AutoPeftModelForSequenceClassification, PeftModel, get_peft_model

from dude_peft import DudeConfig, DudeError, load_adapter


def base(task):
    """A tiny GPT-2 or BERT with the head of the task."""
    from transformers import (
        BertConfig,
        BertForQuestionAnswering,
        BertForTokenClassification,
        GPT2Config,
        GPT2ForSequenceClassification,
    )

    torch.manual_seed(0)
    if task == "SEQ_CLS":
        config = GPT2Config(vocab_size=61, n_embd=24, n_layer=1, n_head=2, n_positions=32, pad_token_id=0, num_labels=3)
        return GPT2ForSequenceClassification(config).eval()
    config = BertConfig(
        vocab_size=61, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40, num_labels=2
    )
    return (BertForTokenClassification if task == "TOKEN_CLS" else BertForQuestionAnswering)(config).eval()


HEADS = {"SEQ_CLS": "score", "TOKEN_CLS": "classifier", "QUESTION_ANS": "qa_outputs"}


def outputs(model):
    with torch.no_grad():
        return torch.cat([t.flatten() for t in model(input_ids=models.tokens()).to_tuple() if torch.is_tensor(t)])


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("targets", ["all-linear", None])
def test_the_head_is_trained_saved_and_loaded(tmp_path, task, targets):
    names = targets or (["c_attn"] if task == "SEQ_CLS" else ["query", "value"])
    model = get_peft_model(base(task), DudeConfig(r=2, target_modules=names, task_type=task)).eval()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any(f"{HEADS[task]}.modules_to_save" in name for name in trained)
    models.move(model, 0.05)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter += 0.1
    model.save_pretrained(str(tmp_path))
    assert HEADS[task] in json.loads((tmp_path / "dude_config.json").read_text())["modules_to_save"]
    again = load_adapter(base(task), tmp_path)
    for _ in range(2):
        assert torch.equal(outputs(again), outputs(model))
        again.save_pretrained(str(tmp_path / "again"))  # a second round: the names do not pile up
        again = load_adapter(base(task), tmp_path / "again")
    saved, first = (json.loads((f / "dude_config.json").read_text()) for f in (tmp_path / "again", tmp_path))
    assert saved["modules_to_save"] == first["modules_to_save"]
    assert_close(outputs(PeftModel.from_pretrained(base(task), str(tmp_path)).eval()), outputs(model))


def test_a_second_adapter_and_the_auto_class(tmp_path):
    base("SEQ_CLS").save_pretrained(tmp_path / "base")
    model = get_peft_model(base("SEQ_CLS"), DudeConfig(r=2, target_modules=["c_attn"], task_type="SEQ_CLS"))
    model.add_adapter("second", DudeConfig(r=2, target_modules=["c_proj"], task_type="SEQ_CLS"))
    model.set_adapter("second")
    models.move(model, 0.05, adapter="second")
    model.eval().save_pretrained(str(tmp_path))
    want = outputs(model)
    again = load_adapter(base("SEQ_CLS"), tmp_path)
    load_adapter(again, tmp_path, "second", subfolder="second").set_adapter("second")
    assert torch.equal(outputs(again), want)
    config = tmp_path / "second" / "adapter_config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps({**raw, "base_model_name_or_path": str(tmp_path / "base")}))
    stock = AutoPeftModelForSequenceClassification.from_pretrained(str(tmp_path / "second"), num_labels=3).eval()
    assert_close(outputs(stock), want)


def test_a_name_of_ones_own_is_still_checked():
    config = DudeConfig(r=2, target_modules=["c_attn"], task_type="SEQ_CLS", modules_to_save=["scor"])
    with pytest.raises(DudeError, match="'scor' matches no module"):
        get_peft_model(base("SEQ_CLS"), config)
