"""The commands in a row, on chats and an instruct model: each one reads what the one before it wrote."""

from __future__ import annotations

import importlib.util
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli_train import dude
from test_generate import talk
from tiny_run import tiny_instruct  # noqa: F401

from dude_lab.config.run_settings import ModelSettings
from dude_lab.smollm2 import gguf_file
from dude_lab.training.base_model import find_base


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


QUESTIONS = ("what is 3 plus 3?", "what is 21 plus 21?", "Name a colour.", "What is the capital of France?")


@pytest.mark.slow
@pytest.mark.timeout(3_000)
@pytest.mark.skipif(gguf_file() is None, reason="needs SmolLM2-135M-Instruct: `dude fetch smollm2`, or make test-gguf")
def test_the_same_on_smollm2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock PEFT, transformers and, where it is installed, llama.cpp give the answers of the run."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dude_lab.training.finished_run import load_run

    base = find_base(ModelSettings(name="smollm2"), device="cpu").source
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / "chats.jsonl", 0, 60)
    assert dude("init", "chats.jsonl", base, "-o", "run.yaml").exit_code == 0
    boards = importlib.util.find_spec("tensorboard") is not None
    changes = [
        "output=run", "data.validation=0.2", "eval={every: 2}", "train.steps=8", "train.epochs=null",
        "train.batch_size=4", "train.learning_rate=1e-3", "train.device=cpu", "train.early_stopping_patience=2",
        "train.load_best_model_at_end=true", "method={name: dude, r: 8, target_modules: [q_proj, v_proj]}",
        f"train.report_to={'tensorboard' if boards else 'null'}",
    ]  # fmt: skip
    checked = dude("validate", "run.yaml", *changes)
    assert checked.exit_code == 0 and "all checks passed" in checked.output, checked.output
    trained = dude("train", "run.yaml", *changes)
    assert trained.exit_code == 0, trained.output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    before, after = record["metrics"]["before"], record["metrics"]["after"]
    assert after["validation_loss"] < 0.8 * before["validation_loss"]
    if boards:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
        assert len(found.Scalars("train/loss")) == record["training"]["steps"]
        assert found.Scalars("eval/loss")[-1].value == pytest.approx(after["validation_loss"], rel=1e-4)

    spoken = talk([QUESTIONS[0], "/quit"], "run", "--base", "--max-new-tokens", 4)
    assert spoken.exit_code == 0 and "tuned:" in spoken.output, spoken.output
    exported = dude("export", "run", "-o", "gguf", "--as", "gguf-lora", "--rank", "64", "--no-eval")
    assert exported.exit_code == 0, exported.output

    tokenizer = AutoTokenizer.from_pretrained("gguf")
    asked = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        for text in QUESTIONS
    ]

    def answers(model: Any) -> list[list[int]]:
        options = {"max_new_tokens": 6, "do_sample": False}
        return [model.generate(ids, **options)[0, ids.shape[1] :].tolist() for ids in asked]

    wanted = answers(load_run("run")[1].eval())
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), "gguf")
    assert answers(plain.eval()) == wanted
    assert answers(plain.unload()) != wanted
    exported = dude("export", "run", "-o", "merged", "--as", "merged")
    assert exported.exit_code == 0, exported.output
    assert answers(AutoModelForCausalLM.from_pretrained("merged").eval()) == wanted
    llama_cpp = pytest.importorskip("llama_cpp", reason="make test-gguf builds it")
    # One thread: those of llama.cpp spin while they wait, which takes minutes where another process computes.
    options = {"n_ctx": 256, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
    served = llama_cpp.Llama(str(gguf_file()), lora_path="gguf/adapter.gguf", **options)
    same = 0
    for ids, answer in zip(asked, wanted, strict=True):
        served.reset()
        tokens = served.generate(ids[0].tolist(), top_k=1, temp=0.0, repeat_penalty=1.0)
        same += list(islice(tokens, len(answer))) == answer
    assert same >= 3  # the same 4-bit weights, but llama.cpp rounds the activations, too
