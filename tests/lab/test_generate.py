"""`dude chat` and `dude generate`: the prompts that the model sees, its answers, and what a killed call leaves."""

from __future__ import annotations

import json
import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from test_cli_train import dude
from tiny_run import Tiny, tiny_base, write_base  # noqa: F401
from typer.testing import CliRunner

from dude_lab.cli import generate as module
from dude_lab.cli.commands import app
from dude_lab.training.train_run import train

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a chat template."""
    from transformers import AutoTokenizer

    folder = write_base(tmp_path_factory.mktemp("chatty"), window=256)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    made = Tiny(tiny_base, tmp_path_factory.mktemp("run"))
    made.raw["data"]["prompt"] = "Say: {prompt}"
    train(made.settings("method.name=dude", "train.learning_rate=0.3"))
    return made.output


def answers(path: Path) -> list[str]:
    return [json.loads(line)["answer"] for line in path.read_text().splitlines()]


def talk(lines: list[str], *arguments: object) -> Any:
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], input="\n".join(lines) + "\n")


def expected(folder: Path, text: str, count: int) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    out = model.generate(**ids, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def test_the_chat_template_sees_the_whole_conversation(chatty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    ids = module.Talker.ids
    monkeypatch.setattr(
        module.Talker, "ids", lambda self, messages: seen.append(json.dumps(messages)) or ids(self, messages)
    )
    result = talk(["one", "two", "/reset", "three", "/quit"], chatty, "--max-new-tokens", 4, "--system", "Be brief.")
    assert result.exit_code == 0, result.output
    first, second, third = map(json.loads, seen)
    assert [m["role"] for m in second] == ["user", "assistant", "user"]
    assert first[0] == second[0] and second[2]["content"] == "two"
    assert third == [{"role": "user", "content": "three"}]
    assert second[1]["content"] == expected(chatty, "<system> Be brief.\n<user> one\n<assistant>", 4)
    assert second[1]["content"] in result.output


def test_a_run_answers_in_its_own_template_beside_its_base(run: Path, tiny_base: Path) -> None:  # noqa: F811
    result = talk(["4 + 4"], run, "--base", "--max-new-tokens", 6)
    assert result.exit_code == 0, result.output
    tuned, base = result.output.split("tuned:")[1].split("base:")
    assert base.strip().startswith(expected(tiny_base, "Say: 4 + 4", 6).splitlines()[0])
    assert tuned.strip() != base.strip().removesuffix(">").strip()


def test_a_file_of_prompts_and_messages_is_answered(chatty: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "what is 1 plus 2?", "id": 7},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "left out"}]},
        {"prompt": "a longer prompt, so that the others are padded to its length"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.jsonl"
    result = dude("generate", chatty, tmp_path / "in.jsonl", "-o", out, "--max-new-tokens", 5)
    assert result.exit_code == 0, result.output
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k != "answer"} for row in written] == rows
    texts = [rows[0]["prompt"], "hi", rows[2]["prompt"]]
    assert answers(out) == [expected(chatty, f"<user> {text}\n<assistant>", 5) for text in texts]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_killed_call_is_resumed(chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": f"number {n}"}) + "\n" for n in range(6)))
    arguments = ["generate", chatty, tmp_path / "in.jsonl", "--max-new-tokens", 4, "--batch-size", 2]
    assert dude(*arguments, "-o", tmp_path / "whole.jsonl").exit_code == 0
    calls, generate = [], module.Talker.generate

    def killed(self: Any, prompts: Any, *rest: Any) -> Any:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(self, prompts, *rest)

    monkeypatch.setattr(module.Talker, "generate", killed)
    assert dude(*arguments, "-o", tmp_path / "parts.jsonl").exit_code != 0
    [part] = tmp_path.glob(".parts*")
    with part.open("a") as file:
        file.write('{"prompt": "numb')  # a line that was not finished
    assert dude(*arguments, "-o", tmp_path / "parts.jsonl").exit_code == 0
    assert calls == [2, 2, 2, 2]
    assert (tmp_path / "parts.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_sampling_is_reproducible(chatty: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "once"}) + "\n")
    arguments = ["generate", chatty, tmp_path / "in.jsonl", "--max-new-tokens", 8, "--temperature", 1.5]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert dude(*arguments, "--seed", seed, "-o", tmp_path / f"{name}.jsonl").exit_code == 0
    a, b, c = (answers(tmp_path / f"{name}.jsonl") for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IN", "-o", "out.txt"], "ends in .jsonl"),
        (["IN", "-o", "IN"], "this file exists"),
        (["nothing.jsonl", "-o", "out.jsonl"], "nothing.jsonl"),
        (["IN", "-o", "out.jsonl", "--prompt", "question"], "no prompt in column 'question' and no 'messages'. It has"),
        (["IN", "-o", "out.jsonl", "--template", "{a} {b}"], "has 2 fields; give one"),
        (["IN", "-o", "out.jsonl", "--template", "{0} {0.x}"], "has 2 fields; give one"),
        (["IN", "-o", "out.jsonl", "--template", "{a"], "Write a literal brace"),
        (["IN", "-o", "out.jsonl", "--system", "Be brief."], "--system needs a model with a chat template"),
    ],
)  # fmt: skip
def test_wrong_calls_write_nothing(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "once"}) + "\n")
    result = dude("generate", tiny_base, *[word.replace("IN", "in.jsonl") for word in arguments])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_base_wants_an_adapter(tiny_base: Path) -> None:  # noqa: F811
    result = talk(["hi"], tiny_base, "--base")
    assert result.exit_code == 2
    assert "--base needs a run with an adapter" in " ".join(result.output.split())


def test_a_prompt_ends_as_in_training(run: Path, tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    """Training moves a space at the end of a prompt to the completion."""
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "4 + 4"}) + "\n")
    written = []
    for name, template in (("a", "Say: {}"), ("b", "Say: {} "), ("c", "Say: {0}")):
        out = tmp_path / f"{name}.jsonl"
        arguments = (tiny_base, tmp_path / "in.jsonl", "-o", out, "--template", template, "--max-new-tokens", 6)
        assert dude("generate", *arguments).exit_code == 0
        written.append(answers(out))
    assert written[0] == written[1] == written[2] == [expected(tiny_base, "Say: 4 + 4", 6)]


def test_a_column_answer_and_values_without_json_stay(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"prompt": "one", "answer": "two", "day": date(2026, 1, 2), "score": math.nan}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    out = tmp_path / "out.jsonl"
    result = dude("generate", tiny_base, tmp_path / "in.parquet", "-o", out, "--max-new-tokens", 3)
    assert result.exit_code == 0, result.output
    [written] = map(json.loads, out.read_text().splitlines())
    kept = {"prompt": "one", "answer": "two", "day": "2026-01-02", "score": None}
    assert written == {**kept, "generated_answer": expected(tiny_base, "one", 3)}
    assert "the model's are in generated_answer" in " ".join(result.output.split())


def test_an_answer_ends_with_the_context(chatty: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "1 " * 100}) + "\n")
    out = tmp_path / "out.jsonl"
    result = dude("generate", chatty, tmp_path / "in.jsonl", "-o", out, "--max-new-tokens", 10_000)
    assert result.exit_code == 0, result.output
    text = "<user> " + "1 " * 100 + "\n<assistant>"
    length = len(AutoTokenizer.from_pretrained(chatty)(text)["input_ids"])
    assert length < 256 and answers(out) == [expected(chatty, text, 256 - length)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"messages": ["hi"]}, "is not a list of messages with 'role' and 'content'"),
        ({"messages": [{"role": "user", "content": None}]}, "message 1 has NoneType None, not text"),
        ({"prompt": ["hi"]}, "is not a list of messages"),
        ({"prompt": "\ud800"}, "half of a surrogate pair"),
        ({"prompt": "  "}, "no prompt in column 'prompt'"),
        ({"prompt": "1 " * 400}, "tokens, and the model's context is 256. Shorten it"),
        ({"messages": [{"role": "user", "content": [{"image": "x"}]}]}, "has a part that is not text"),
    ],
)
def test_a_record_that_cannot_be_asked_is_named_before_the_first_answer(
    chatty: Path, tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    lines = [json.dumps({"prompt": "fine"}), json.dumps(record)]
    (tmp_path / "in.jsonl").write_text("".join(line + "\n" for line in lines))
    result = dude("generate", chatty, tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl")
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert message in said and "in.jsonl, line 2" in said
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_two_processes_do_not_mix_their_answers(chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": f"number {n}"}) + "\n" for n in range(3)))
    arguments = ["generate", chatty, tmp_path / "in.jsonl", "--max-new-tokens", 3, "-o", tmp_path / "out.jsonl"]
    second: list[Any] = []
    generate = module.Talker.generate

    def meanwhile(self: Any, *rest: Any) -> Any:
        if not second:
            second.append(None)
            second[0] = dude(*arguments)
        return generate(self, *rest)

    monkeypatch.setattr(module.Talker, "generate", meanwhile)
    assert dude(*arguments).exit_code == 0
    assert second[0].exit_code == 2 and "another process is answering this file" in " ".join(second[0].output.split())
    assert len(answers(tmp_path / "out.jsonl")) == 3 and not list(tmp_path.glob(".*"))
