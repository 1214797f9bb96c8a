"""The commands in a row, on chats and an instruct model: each one reads what the one before it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from test_cli_train import dude
from test_generate import talk
from tiny_run import tiny_instruct  # noqa: F401


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workflow")


def write_chats(path: Path, first: int, count: int) -> Path:
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"what is {n} plus {n}?"},
                {"role": "assistant", "content": str(2 * n)},
            ]
        }
        for n in range(first, first + count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_from_chats_to_a_served_adapter(
    tiny_instruct: Path,  # noqa: F811
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dude_lab.training.finished_run import load_run

    monkeypatch.chdir(work)
    write_chats(work / "chats.jsonl", 0, 40)
    write_chats(work / "asked.jsonl", 40, 4)

    begun = dude("init", "chats.jsonl", tiny_instruct, "-o", "run.yaml")
    assert begun.exit_code == 0, begun.output
    changes = [
        "output=run", "data.validation=0.2", "eval={every: 2}", "train.steps=8", "train.epochs=null",
        "train.batch_size=4", "train.learning_rate=0.05", "train.device=cpu", "train.early_stopping_patience=2",
        "train.load_best_model_at_end=true",
    ]  # fmt: skip
    checked = dude("validate", "run.yaml", *changes)
    assert checked.exit_code == 0, checked.output
    assert "messages" in checked.output
    assert not (work / "run").exists()
    planned = dude("train", "run.yaml", *changes, "--dry-run")
    assert planned.exit_code == 0 and "what is" in planned.output, planned.output

    trained = dude("train", "run.yaml", *changes)
    assert trained.exit_code == 0, trained.output
    record = json.loads((work / "run" / "run.json").read_text())
    before, after = record["metrics"]["before"], record["metrics"]["after"]
    assert after["validation_loss"] < before["validation_loss"]
    assert record["training"]["best_step"] > 0
    assert (work / "run" / "curves.png").stat().st_size > 10_000

    spoken = talk(["what is 3 plus 3?", "/quit"], "run", "--base", "--max-new-tokens", 4)
    assert spoken.exit_code == 0 and "tuned:" in spoken.output, spoken.output
    answered = dude("generate", "run", "asked.jsonl", "-o", "answers.jsonl", "--max-new-tokens", 4)
    assert answered.exit_code == 0, answered.output
    assert len((work / "answers.jsonl").read_text().splitlines()) == 4
    scored = dude("eval", "run", "--file", "asked.jsonl", "--metric", "loss")
    assert scored.exit_code == 0, scored.output

    ids = AutoTokenizer.from_pretrained(tiny_instruct)("what is 3 plus 3?", return_tensors="pt")["input_ids"]
    _, model = load_run("run")
    with torch.no_grad():
        wanted = model.eval()(ids).logits
    for form in ("lora", "gguf-lora", "merged"):
        options = [] if form == "merged" else ["--tolerance", "0.01", "--no-eval"]
        exported = dude("export", "run", "-o", form, "--as", form, *options)
        assert exported.exit_code == 0, exported.output
        assert AutoTokenizer.from_pretrained(form).chat_template
    for form, limit in (("lora", 0.02), ("gguf-lora", 0.02), ("merged", 1e-4)):
        served = AutoModelForCausalLM.from_pretrained("merged" if form == "merged" else tiny_instruct)
        served = served if form == "merged" else PeftModel.from_pretrained(served, form)
        with torch.no_grad():
            error = (served.eval()(ids).logits - wanted).abs().max() / wanted.abs().max()
        assert error < limit, form
    gguf = pytest.importorskip("gguf")
    names = {tensor.name for tensor in gguf.GGUFReader("gguf-lora/adapter.gguf").tensors}
    assert "blk.0.attn_q.weight.lora_a" in names
