"""Evaluation on a user's own questions: a file with a metric, or a task's YAML file of lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from eval_tools import byte_tokenizer, tiny_llama
from test_train_run import curves
from tiny_run import Tiny, tiny, tiny_base, tiny_instruct  # noqa: F401

from dude_lab.config.eval_settings import EvalSettings
from dude_lab.evaluation.evaluator import evaluate
from dude_lab.evaluation.tasks import build_units
from dude_lab.training.finished_run import open_run
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def score(settings: EvalSettings, doc: int, said: str, tokenizer: Any = None) -> dict[str, float]:
    task = build_units(settings, tokenizer)[0].task
    return task.process_results(list(task.eval_docs)[doc], [said])


def test_a_choice_follows_its_prompt_after_one_space(tmp_path: Path) -> None:
    file = write(tmp_path / "v.jsonl", {"prompt": "which? ", "choices": ["a1", " b2"], "answer": 0})
    task = build_units(EvalSettings(file=file, metric="choice"))[0].task
    task.build_all_requests(rank=0, world_size=1)
    assert [request.args for request in task.instances] == [("which?", " a1"), ("which?", " b2")]


def test_exact_match_and_contains(tmp_path: Path) -> None:
    file = write(
        tmp_path / "val.jsonl", {"prompt": "2 + 2 =", "completion": "four"}, {"prompt": "b", "completion": "x"}
    )
    settings = EvalSettings(file=file, metric="contains")
    assert score(settings, 0, " four\n") == {"exact_match": 1.0, "contains": 1.0}
    assert score(settings, 0, "it is four.") == {"exact_match": 0.0, "contains": 1.0}
    assert score(settings, 1, " four") == {"exact_match": 0.0, "contains": 0.0}
    assert build_units(settings)[0].metric == "contains" and settings.names == ("val",)


@pytest.mark.parametrize("answer", [1, "B", "b2"])
def test_choice_takes_a_number_a_letter_or_a_text(tmp_path: Path, answer: Any) -> None:
    file = write(tmp_path / "v.jsonl", {"prompt": "which?", "choices": ["a1", "b2"], "answer": answer})
    task = build_units(EvalSettings(file=file, metric="choice"))[0].task
    likely = [(-3.0, False), (-1.0, False)]
    assert task.process_results(next(iter(task.eval_docs)), likely)["acc"] == 1.0
    assert task.process_results(next(iter(task.eval_docs)), likely[::-1])["acc"] == 0.0


@pytest.mark.parametrize(
    ("metric", "row", "message"),
    [
        (
            "choice",
            {"prompt": "x", "choices": ["a", "b"], "answer": "c"},
            "line 1: 'answer' must be one of the choices",
        ),
        ("choice", {"prompt": "x", "choices": ["a", "b"], "answer": 2}, "its letter or its number from 0, got 2"),
        ("choice", {"prompt": "x", "choices": ["a"], "answer": 0}, "'choices' must be a list of at least two texts"),
        ("choice", {"prompt": "x", "choices": ["a", " "], "answer": 0}, "'choices' must be a list of at least two"),
        (
            "choice",
            {"question": "x", "choices": ["a", "b"], "answer": 0},
            r"line 1: no text for eval.prompt \('prompt'\)",
        ),
        ("exact_match", {"text": "x"}, "is plain text, without answers. Set eval.metric=loss"),
        ("exact_match", {"messages": [{"role": "user", "content": "x"}]}, "line 1"),
    ],
)
def test_records_that_cannot_be_asked(tmp_path: Path, metric: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DudeError, match=message):
        build_units(EvalSettings(file=write(tmp_path / "v.jsonl", row), metric=metric))


def test_chats_are_asked_through_the_template(tmp_path: Path, tiny_instruct: Path) -> None:  # noqa: F811
    from transformers import AutoTokenizer

    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "there"}]
    settings = EvalSettings(file=write(tmp_path / "v.jsonl", {"messages": turns}))
    tokenizer = AutoTokenizer.from_pretrained(tiny_instruct)
    doc = next(iter(build_units(settings, tokenizer)[0].task.eval_docs))
    assert doc["prompt"] == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n" and doc["answer"] == "there"
    tokenizer.chat_template = None
    with pytest.raises(DudeError, match="the model has no chat template"):
        build_units(settings, tokenizer)


def test_a_run_evaluates_its_file_as_it_reads_the_training_data(tiny: Tiny) -> None:  # noqa: F811
    """With the template of `data`; the answers are stored, and the table names the file."""
    from dude_lab.compare.results import collect_runs
    from dude_lab.compare.table import columns, make_table

    rows = [{"a": k, "s": 2 * k} for k in range(8)]
    tiny.raw["data"] = {"train": write(tiny.folder / "t.jsonl", *rows), "prompt": "{a} + {a} =", "completion": "{s}"}
    tiny.raw["eval"] = {"file": write(tiny.folder / "own.v1.jsonl", *rows[:3]), "max_new_tokens": 3, "every": 1}
    tiny.raw["train"]["steps"] = 2
    settings = tiny.settings("train.warmup=0")
    assert settings.eval.prompt == "{a} + {a} =" and settings.eval.completion == "{s}"
    after = train(settings).record["metrics"]["after"]
    assert after["headline"] == "own" and after["tasks"]["own"]["n"] == 3
    lines = (tiny.output / "eval" / "after" / "samples" / "own.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["prompt"] == "0 + 0 =" and first["gold"] == "0" and isinstance(first["generated"], str)
    assert [r["eval"] for r in curves(tiny.output) if "accuracy" in r] == ["own"] * 3
    assert any(head == "accuracy, % (own)" for head in columns(make_table(collect_runs([tiny.output])))[0])


def test_the_metric_loss_makes_the_file_the_validation_data(tiny: Tiny) -> None:  # noqa: F811
    file = write(tiny.folder / "v.jsonl", {"prompt": "a", "completion": "b"})
    tiny.raw["eval"] = {"file": file, "metric": "loss", "every": 2}
    settings = tiny.settings()
    assert settings.data.validation == file and settings.eval == EvalSettings(every=2)
    with pytest.raises(DudeError, match="in place of eval"):
        tiny.settings("data.validation=0.1")
    for change in ("eval.limit=2", "eval.max_new_tokens=8", "eval.batch_size=4", "eval.prompt=prompt"):
        with pytest.raises(DudeError, match=rf"'{change.partition('=')[0]}' has no meaning with metric loss"):
            tiny.settings(change)
    train(settings)
    assert open_run(tiny.output)[1].eval == settings.eval


def test_a_task_of_the_harness_from_its_yaml_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs.jsonl").write_text('{"q": "one", "a": "two"}\n' * 5)
    (tmp_path / "my_task.yaml").write_text(
        f"task: own_task\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/docs.jsonl}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_target: 1\n'
        'doc_to_choice: ["no", "{{a}}"]\nmetric_list:\n'
        "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
    )
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    settings = EvalSettings(lm_eval=str(tmp_path / "my_task.yaml"), limit=4)
    result = evaluate(tiny_llama(), byte_tokenizer(), settings)
    assert result.headline == "my_task" and result.metrics["my_task"]["n"] == 4
    (tmp_path / "broken.yaml").write_text("output_type: multiple_choice\n")
    with pytest.raises(DudeError, match="names no task"):
        build_units(EvalSettings(lm_eval=str(tmp_path / "broken.yaml")))


def test_the_command_evaluates_a_model_on_a_file(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    from dude_lab.cli.finished_runs import evaluate_model

    file = write(tiny.folder / "v.jsonl", {"prompt": "which?", "choices": ["a1", "b2"], "answer": 0})
    settings = EvalSettings(file=file, metric="choice")
    out = tiny.folder / "out"
    evaluate_model(tiny.raw["model"], settings, out, overwrite=False, dtype="auto", device="cpu")
    [sample] = [json.loads(line) for line in (out / "samples" / "v.jsonl").read_text().splitlines()]
    assert (
        sample["choices"] == ["a1", "b2"] and sample["gold"] == 0 and sample["correct"] == (sample["prediction"] == 0)
    )
    assert "| v " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"file": "v.jsonl", "suite": "mini"}, "set 'suite' or 'file', not both"),
        ({"suite": "mini", "metric": "contains"}, "'metric' has no meaning without 'file'"),
        ({"file": "v.jsonl", "split": "test"}, "'split' has no meaning with 'file'"),
        ({"lm_eval": "t.yaml", "protocol": "cloze"}, "'protocol' has no meaning with 'lm_eval'"),
    ],
)
def test_keys_that_do_not_go_together(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvalSettings.model_validate(raw)


def test_the_command_computes_the_loss_on_a_file(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    """Of one batch it is the validation loss of a run."""
    from dude_lab.cli.finished_runs import evaluate_model

    rows = [{"prompt": f"{k} and", "completion": f" {k + 1}"} for k in range(4)]
    file = write(tiny.folder / "v.jsonl", *rows)
    tiny.raw["data"]["validation"] = file
    before = train(tiny.settings("train.steps=1", "train.warmup=0")).record["metrics"]["before"]
    settings, out = EvalSettings(file=file, metric="loss"), tiny.folder / "out"
    evaluate_model(tiny.raw["model"], settings, out, overwrite=False, dtype="auto", device="cpu")
    found = json.loads((out / "metrics.json").read_text())
    assert found["loss"] == pytest.approx(before["validation_loss"], rel=1e-5) and found["examples"] == 4
    assert f"loss {found['loss']:.4f}, perplexity" in capsys.readouterr().out


def test_the_loss_of_a_run_is_computed_as_it_was_trained(tiny: Tiny) -> None:  # noqa: F811
    """On all tokens, and without the records that are too long, as the run's validation loss is."""
    from dude_lab.cli.finished_runs import evaluate_model

    rows = [{"prompt": f"{k} and", "completion": f" {k + 1}"} for k in range(3)]
    file = write(tiny.folder / "v.jsonl", *rows, {"prompt": "1 and " * 30, "completion": " 2"})
    tiny.raw["data"]["validation"] = file
    changes = ("train.steps=1", "train.warmup=0", "train.completion_only_loss=false", "train.max_length=40")
    result = train(tiny.settings(*changes, "train.overlong=truncate")).record["metrics"]["after"]
    settings, out = EvalSettings(file=file, metric="loss"), tiny.folder / "out"
    evaluate_model(str(tiny.output), settings, out, overwrite=False, dtype="auto", device="cpu")
    found = json.loads((out / "metrics.json").read_text())
    assert found["loss"] == pytest.approx(result["validation_loss"], rel=1e-5) and found["examples"] == 3
