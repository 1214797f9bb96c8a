"""Promise: chats, pairs and texts are recognised, rendered by the model's template, and the loss is on the answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_run import CHATML, Tiny, tiny_base, tiny_instruct, write_instruct  # noqa: F401

from dude_lab.compare.comparison_folder import mark_of
from dude_lab.config.data_settings import DataSettings
from dude_lab.config.run_settings import ModelSettings, TrainSettings
from dude_lab.config.yaml_file import fingerprint, parse_run
from dude_lab.data.formats import Chat
from dude_lab.training.base_model import find_base, identity
from dude_lab.training.examples import IGNORED, shown, tokenize
from dude_lab.training.finished_run import run_base
from dude_lab.training.merging import merge_stream
from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import Interrupted, train
from dude_lab.training.training_data import load_training
from dude_peft.errors import DudeError

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "1 plus 1?"},
    {"role": "assistant", "content": "2"},
]
SHAREGPT = [
    {"from": "system", "value": "Be brief."},
    {"from": "human", "value": "Hi"},
    {"from": "gpt", "value": "Hello!"},
    {"from": "human", "value": "1 plus 1?"},
    {"from": "gpt", "value": "2"},
]
RENDERED = [
    ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False),
    ("Hello!<|im_end|>\n", True),
    ("<|im_start|>user\n1 plus 1?<|im_end|>\n<|im_start|>assistant\n", False),
    ("2<|im_end|>\n", True),
]
CALL = {"name": "add", "arguments": {"a": 1, "b": 1}}
TOOL_TURNS = [
    {"role": "user", "content": "1 plus 1?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {**CALL, "arguments": json.dumps(CALL["arguments"])}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
]


def write(folder: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif name.endswith(".csv"):
        import csv

        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def instruct(tiny_instruct: Path) -> Any:  # noqa: F811
    return find_base(ModelSettings(name=str(tiny_instruct)), device="cpu").tokenizer


def parts(folder: Path, rows: list[dict[str, Any]], tokenizer: Any, **data: Any) -> Any:
    found = load_training(DataSettings(train=str(write(folder, rows)), **data))
    return shown(tokenize(found.train, tokenizer, TrainSettings(), 256), tokenizer)


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv", "data.parquet"])
@pytest.mark.parametrize(
    ("rows", "format"),
    [
        ([{"messages": TURNS}], "messages"),
        ([{"conversations": TURNS}], "messages"),
        ([{"conversations": SHAREGPT}], "sharegpt"),
        ([{"conversations": SHAREGPT[1:], "system": "Be brief."}], "sharegpt"),
    ],
)
def test_chats_are_the_same_from_every_file_and_form(rows, format, name, tmp_path, instruct):
    data = load_training(DataSettings(train=str(write(tmp_path, rows, name))))
    assert data.format == format
    assert shown(tokenize(data.train, instruct, TrainSettings(), 256), instruct) == RENDERED


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"prompt": "Hi", "completion": "Hello!"}, "prompt_completion"),
        ({"prompt": TURNS[:2], "completion": TURNS[2:3]}, "prompt_completion"),
        ({"prompt": "Hi", "completion": "Hello!", "messages": TURNS}, "prompt_completion"),
        ({"instruction": "Say hi", "input": "", "output": "Hello!"}, "alpaca"),
        ({"instruction": "Say hi", "output": "Hello!"}, "alpaca"),
        ({"text": "Hello there."}, "text"),
        ({"prompt": "Hi", "messages": TURNS}, "messages"),
        ({"text": "Hello there.", "conversations": SHAREGPT}, "sharegpt"),
    ],
)
def test_the_format_is_recognised_from_the_columns(row, format, tmp_path):
    assert load_training(DataSettings(train=str(write(tmp_path, [row])))).format == format


def test_the_format_can_be_set(tmp_path, instruct):
    row = {"instruction": "Say hi", "output": "Hello!", "text": "Say hi. Hello!", "dialogue": TURNS}
    assert parts(tmp_path, [row], instruct, format="text") == [("Say hi. Hello!<|im_end|>", True)]
    assert parts(tmp_path, [row], instruct, format="messages", column="dialogue") == RENDERED
    assert parts(tmp_path, [row], instruct, column="dialogue") == RENDERED


def test_every_token_of_a_text_is_trained_on(tmp_path, instruct):
    data = load_training(DataSettings(train=str(write(tmp_path, [{"text": "One two."}, {"text": "Three."}]))))
    for row in tokenize(data.train, instruct, TrainSettings(), 256).data:
        assert row["labels"] == row["input_ids"] and row["labels"][-1] == instruct.eos_token_id


def test_a_long_text_is_split_when_asked(tmp_path, instruct):
    text = "One two three four five six seven. " * 9
    data = load_training(DataSettings(train=str(write(tmp_path, [{"text": text}, {"text": "Short."}]))))
    together = tokenize(data.train, instruct, TrainSettings(), 1000).data
    pieces = tokenize(data.train, instruct, TrainSettings(overlong="split"), 16)
    assert [len(ids) for ids in pieces.data["input_ids"][:-2]] == [16] * (len(pieces.data) - 2)
    flat = [[token for ids in rows["input_ids"] for token in ids] for rows in (pieces.data, together)]
    assert flat[0] == flat[1]
    assert (pieces.dropped, pieces.truncated, pieces.longest) == (0, 0, 16)
    pairs = load_training(DataSettings(train=str(write(tmp_path, [{"prompt": "a", "completion": "b"}]))))
    with pytest.raises(DudeError, match=r"train.overlong: split cuts plain text"):
        tokenize(pairs.train, instruct, TrainSettings(overlong="split"), 16)


def test_a_prompt_of_messages_is_not_trained_on(tmp_path, instruct):
    row = {"prompt": TURNS[:4], "completion": TURNS[4:]}
    before = "".join(text for text, _ in RENDERED[:3])
    assert parts(tmp_path, [row], instruct) == [(before, False), ("2<|im_end|>\n", True)]


def test_a_turn_of_weight_0_is_not_trained_on(tmp_path, instruct):
    turns = [TURNS[0], TURNS[1], {**TURNS[2], "weight": 0}, *TURNS[3:]]
    found = parts(tmp_path, [{"messages": turns}], instruct)
    assert [text for text, trained in found if trained] == ["2<|im_end|>\n"]


def test_loss_on_all_of_a_chat_when_asked(tmp_path, instruct):
    data = load_training(DataSettings(train=str(write(tmp_path, [{"messages": TURNS}]))))
    row = tokenize(data.train, instruct, TrainSettings(completion_only_loss=False), 256).data[0]
    assert row["labels"] == row["input_ids"]


def test_alpaca_has_its_template(tmp_path, instruct):
    rows = [{"instruction": "Add {input}", "input": "1, {1}", "output": "2"}]
    asked, answer = parts(tmp_path, rows, instruct)
    assert asked[0].startswith("Below is an instruction that describes a task, paired with an input")
    assert asked[0].endswith("### Instruction:\nAdd {input}\n\n### Input:\n1, {1}\n\n### Response:\n")
    assert answer == ("2<|im_end|>", True)
    asked, _ = parts(tmp_path, [{**rows[0], "input": ""}], instruct)
    assert "### Input" not in asked[0] and asked[0].endswith("Add {input}\n\n### Response:\n")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Question: 1 plus 1?", "completion": " 2"},
        {"instruction": "Question: 1 plus 1?", "output": "2"},
    ],
)
def test_pairs_through_the_chat_template(row, tmp_path, instruct):
    wanted = "<|im_start|>user\nQuestion: 1 plus 1?<|im_end|>\n<|im_start|>assistant\n"
    assert parts(tmp_path, [row], instruct, chat_template=True) == [(wanted, False), ("2<|im_end|>\n", True)]


def test_pairs_are_trained_as_before_without_it(tmp_path, instruct):
    row = {"prompt": "Question: 1 plus 1?", "completion": "2"}
    for chosen in (None, False):
        found = parts(tmp_path, [row], instruct, chat_template=chosen)
        assert found == [("Question: 1 plus 1?", False), (" 2<|im_end|>", True)]


@pytest.mark.parametrize(
    ("name", "turns"),
    [("qwen2_5", TURNS), ("qwen2_5", TOOL_TURNS), ("qwen3", TURNS), ("qwen3", TOOL_TURNS), ("llama3", TURNS)],
)
def test_ids_and_masks_are_trls(name, turns, tmp_path, instruct):
    import trl
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text()
    folder = write_instruct(tmp_path / "model", template)
    tokenizer = find_base(ModelSettings(name=str(folder)), device="cpu").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>", "<|start_header_id|>"]})
    data = load_training(DataSettings(train=str(write(tmp_path, [{"messages": turns}]))))
    ours = tokenize(data.train, tokenizer, TrainSettings(), 1024).data
    plain = [
        {k: v for k, v in turn.items() if k != "tool_calls"} | {"content": turn["content"] or ""} for turn in turns
    ]
    if turns is TOOL_TURNS:
        plain[1]["tool_calls"] = [{"type": "function", "function": CALL}]
    from datasets import Dataset

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(tokenizer))
    args = SFTConfig(
        str(tmp_path / "out"), max_length=None, assistant_only_loss=True, report_to="none", bf16=False, use_cpu=True
    )
    trainer = SFTTrainer(
        model, args, train_dataset=Dataset.from_list([{"messages": plain}]), processing_class=tokenizer
    )
    assert list(ours["input_ids"]) == list(trainer.train_dataset["input_ids"])
    assert list(ours["labels"]) == list(trainer.train_dataset["labels"])
    assert any(label != IGNORED for label in ours[0]["labels"])


def test_a_template_that_forgets_earlier_turns_is_refused(tmp_path):
    """Of reasoning models: the thoughts of a turn are dropped when a turn follows it."""
    forgetful = CHATML.replace(
        "message['content'] +",
        "(message['content'] if loop.last or message['role'] != 'assistant' else message['content'].split('!')[-1]) +",
    )
    folder = write_instruct(tmp_path / "model", forgetful)
    tokenizer = find_base(ModelSettings(name=str(folder)), device="cpu").tokenizer
    with pytest.raises(DudeError, match=r"data.jsonl, line 1: .* renders message 3, .*weight: 0"):
        parts(tmp_path, [{"messages": TURNS}], tokenizer)
    last = [TURNS[0], TURNS[1], {**TURNS[2], "weight": 0}, *TURNS[3:]]
    assert [text for text, on in parts(tmp_path, [{"messages": last}], tokenizer) if on] == ["2<|im_end|>\n"]


def test_a_template_that_leaves_out_tool_calls_is_refused(tmp_path, instruct):
    with pytest.raises(DudeError, match=r"data.jsonl, line 1: a tool call, which the model's chat template leaves out"):
        parts(tmp_path, [{"messages": TOOL_TURNS}], instruct)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "line 2: no turn of the assistant"),
        ({"messages": []}, "not a list of messages"),
        ({"messages": "Hi"}, "not a list of messages"),
        ({"messages": [{"role": "bot", "content": "Hi"}]}, "message 1 has the role 'bot'. Known: system, "),
        ({"messages": [*TURNS, {"role": "assistant", "content": " "}]}, "message 6, of the assistant, is empty"),
        ({"messages": [*TURNS, {"role": "user", "content": 3}]}, "message 6 (user) has int 3, not text"),
        ({"messages": [*TURNS, {"role": "user", "content": [{"type": "image_url"}]}]}, "a part that is not text"),
        ({"messages": TURNS, "tools": "add"}, "column 'tools' has 'add'"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": 3}]}, "has tool_calls 3, not a list"),
        ({"text": "x"}, "no column 'messages'"),
    ],
)
def test_a_chat_that_cannot_be_used_is_named(row, said, tmp_path):
    path = write(tmp_path, [{"messages": TURNS}, row])
    with pytest.raises(DudeError) as caught:
        load_training(DataSettings(train=str(path)))
    assert said in str(caught.value) and "line 2" in str(caught.value)


@pytest.mark.parametrize(("said", "shown"), [("alien", "'alien'"), (["human"], r"\['human'\]")])
def test_roles_of_sharegpt_are_named(said, shown, tmp_path):
    path = write(tmp_path, [{"conversations": [{"from": said, "value": "Hi"}]}])
    with pytest.raises(DudeError, match=rf"line 1: turn 1 is from {shown}. Known: system, human"):
        load_training(DataSettings(train=str(path)))


def test_text_that_looks_like_json_is_text(tmp_path):
    path = write(tmp_path, [{"prompt": "[3, 1, 2]", "completion": "[1, 2, 3]"}])
    found = load_training(DataSettings(train=str(path))).train
    assert (found["prompt"], found["completion"]) == (["[3, 1, 2]"], [" [1, 2, 3]"])


def test_an_empty_cell_of_tools_is_none(tmp_path):
    path = write(tmp_path, [{"messages": json.dumps(TURNS), "tools": ""}], "data.csv")
    assert Chat.from_json(load_training(DataSettings(train=str(path))).train["chat"][0]).tools is None


def test_a_function_call_of_sharegpt_is_a_tool_call(tmp_path):
    turns = [
        {"from": "human", "value": "1 plus 1?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "2"},
        {"from": "gpt", "value": "It is 2."},
    ]
    data = load_training(DataSettings(train=str(write(tmp_path, [{"conversations": turns}]))))
    messages, trained, *_ = json.loads(data.train[0]["chat"])
    assert messages[1] == {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]}
    assert messages[2] == {"role": "tool", "content": "2"} and trained == [False, True, False, True]


def test_a_model_without_a_chat_template_says_so(tiny_base, tmp_path):  # noqa: F811
    tokenizer = find_base(ModelSettings(name=str(tiny_base)), device="cpu").tokenizer
    with pytest.raises(DudeError, match=r"no chat template. Use an instruct model, name a template in Jinja"):
        parts(tmp_path, [{"messages": TURNS}], tokenizer)


def test_an_answer_that_never_ends_is_counted(tmp_path, instruct):
    folder = write_instruct(tmp_path / "model", CHATML.replace("+ '<|im_end|>' ", ""))
    tokenizer = find_base(ModelSettings(name=str(folder)), device="cpu").tokenizer
    data = load_training(DataSettings(train=str(write(tmp_path, [{"messages": TURNS}]))))
    assert tokenize(data.train, tokenizer, TrainSettings(), 256).endless == 1
    assert tokenize(data.train, instruct, TrainSettings(), 256).endless == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"format": "alpaca", "prompt": "x"}, "'prompt' has no meaning with format 'alpaca'"),
        ({"format": "alpaca", "column": "x"}, "'column' names the messages or the text"),
        ({"prompt": "x", "column": "x"}, "'column' names the messages or the text"),
        ({"format": "messages", "chat_template": False}, "need a chat template"),
        ({"format": "text", "chat_template": True}, "has no turns"),
        ({"format": "chatml"}, "'format'"),
    ],
)
def test_settings_that_contradict_each_other(data, said):
    from dude_lab.settings import parse

    with pytest.raises(DudeError) as caught:
        parse(DataSettings, {"train": "a.jsonl", **data})
    assert said in str(caught.value)


def test_contradictions_with_the_records(tmp_path):
    with pytest.raises(DudeError, match=r"chat_template: false, and the records of .* are chats"):
        load_training(DataSettings(train=str(write(tmp_path, [{"messages": TURNS}])), chat_template=False))
    with pytest.raises(DudeError, match=r"chat_template: true, and the records of .* are plain text"):
        load_training(DataSettings(train=str(write(tmp_path, [{"text": "x"}])), chat_template=True))
    chats, texts = write(tmp_path, [{"messages": TURNS}]), write(tmp_path, [{"text": "x"}], "text.jsonl")
    with pytest.raises(DudeError, match=r"text.jsonl has the format 'text', .* 'messages'"):
        load_training(DataSettings(train=[str(chats), str(texts)]))
    with pytest.raises(DudeError, match=r"data.validation: .* another format"):
        load_training(DataSettings(train=str(chats), validation=str(texts)))


def test_the_hash_of_chats_depends_on_them_and_not_on_their_place(tmp_path):
    def digest(name, rows):
        return load_training(DataSettings(train=str(write(tmp_path, rows, name)))).sha256

    assert digest("a.jsonl", [{"messages": TURNS}]) == digest("b.parquet", [{"messages": TURNS}])
    assert digest("a.jsonl", [{"messages": TURNS}]) == digest("c.json", [{"conversations": SHAREGPT}])
    assert digest("a.jsonl", [{"messages": TURNS}]) != digest("d.jsonl", [{"messages": TURNS[1:]}])


AS_TEXT = "Question: 1 plus 1?>>> 2<|im_end|><<<"
AS_CHAT = "<|im_start|>user\nQuestion: 1 plus 1?<|im_end|>\n<|im_start|>assistant\n>>>2<|im_end|>\n<<<"


@pytest.mark.parametrize("command", [["validate"], ["train", "--dry-run"]])
@pytest.mark.parametrize(
    ("chosen", "shown", "hidden"),
    [
        (None, ["has a chat template", "data.chat_template=true", AS_TEXT, AS_CHAT], []),
        (False, [], ["chat template,", AS_CHAT]),
        (True, [], ["chat template,", AS_TEXT]),
    ],
)
def test_pairs_for_a_model_with_a_template_are_shown_both_ways(
    chosen,
    shown,
    hidden,
    command,
    tiny_instruct,  # noqa: F811
    tmp_path,
):
    from typer.testing import CliRunner

    from dude_lab.cli.commands import app

    tiny = Tiny(tiny_instruct, tmp_path)
    tiny.raw["data"] = {"train": str(write(tmp_path, [{"prompt": "Question: 1 plus 1?", "completion": "2"}] * 8))}
    if chosen is not None:
        tiny.raw["data"]["chat_template"] = chosen
    result = CliRunner().invoke(app, [command[0], str(tiny.write()), *command[1:]])
    assert result.exit_code == 0, result.output
    said = result.output
    assert all(text in said or text in " ".join(said.split()) for text in shown)
    assert not any(text in said for text in hidden)
    if "--dry-run" in command:
        assert (AS_CHAT if chosen else AS_TEXT) in said


def test_a_named_set_and_a_model_with_a_template(tiny_instruct, tmp_path):  # noqa: F811
    from dude_lab.training.run_plan import make_plan

    tiny = Tiny(tiny_instruct, tmp_path)
    tiny.raw["data"] = {"name": "mini_gsm", "limit": 8}
    plan = make_plan(tiny.settings())
    assert plan.renderings is None
    assert [note for note in plan.notes if "mini_gsm is trained and evaluated without it" in note]


def test_a_chat_run_trains_and_names_the_format(tiny_instruct, tmp_path, capsys):  # noqa: F811
    from typer.testing import CliRunner

    from dude_lab.cli.commands import app

    tiny = Tiny(tiny_instruct, tmp_path)
    rows = [{"messages": [*TURNS[:4], {"role": "assistant", "content": str(i)}]} for i in range(12)]
    tiny.raw["data"] = {"train": str(write(tmp_path, rows)), "validation": 0.25}
    tiny.raw["train"]["steps"] = 2
    path = str(tiny.write())
    said = CliRunner().invoke(app, ["validate", path]).output
    assert "9 examples (messages), 3 for validation" in said
    said = CliRunner().invoke(app, ["train", path, "--dry-run"]).output
    assert ">>>Hello!<|im_end|>" in said and "(>>> <<<: trained on)" in said
    result = CliRunner().invoke(app, ["train", path])
    assert result.exit_code == 0, result.output
    record = json.loads((tiny.output / "run.json").read_text())
    data = record["provenance"]["data"]
    assert (data["format"], data["chat_template"]) == ("messages", True)


@pytest.mark.parametrize("chosen", [True, False])
def test_a_run_is_asked_as_it_was_trained(chosen, tiny_instruct, tmp_path):  # noqa: F811
    from dude_lab.cli.generate import Talker
    from dude_lab.training.train_run import train

    tiny = Tiny(tiny_instruct, tmp_path)
    row = {"q": "1 plus 1?", "a": "2"}
    tiny.raw["data"] = {"train": str(write(tmp_path, [row] * 8)), "prompt": "Q: {q}", "completion": "{a}"}
    tiny.raw["data"]["chat_template"] = chosen
    tiny.raw["train"]["steps"] = 1
    train(tiny.settings())
    talker = Talker(str(tiny.output), dtype="auto", device="cpu", template=None, system=None)
    asked = talker.tokenizer.decode(talker.ids([{"role": "user", "content": "1 plus 1?"}]))
    in_chat = "<|im_start|>user\nQ: 1 plus 1?<|im_end|>\n<|im_start|>assistant\n"
    assert asked == (in_chat if chosen else "Q: 1 plus 1?")


def test_a_template_from_a_file_is_used_and_saved_with_the_adapter(tiny_base, tmp_path):  # noqa: F811
    from transformers import AutoTokenizer

    (tmp_path / "chatml.jinja").write_text(CHATML)
    raw = {
        "model": {"name": str(tiny_base), "chat_template": str(tmp_path / "chatml.jinja")},
        "method": {"name": "dude", "target_modules": ["q_proj"]},
        "data": {"train": str(write(tmp_path, [{"messages": TURNS[1:3]}] * 4))},
        "train": {"steps": 1, "batch_size": 2, "device": "cpu"},
        "output": str(tmp_path / "run"),
    }
    settings = parse_run(raw)
    plan = make_plan(settings)
    parts = shown(plan.train, plan.base.tokenizer)
    assert "<|im_start|>" in "".join(text for text, _ in parts) and any(trained for _, trained in parts)
    train(settings)
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "adapter").chat_template == CHATML
    assert fingerprint(parse_run({**raw, "model": str(tiny_base)})) != fingerprint(settings)
    (tmp_path / "chatml.jinja").unlink()
    assert run_base(tmp_path / "run", device="cpu")[1].tokenizer.chat_template == CHATML
    merge_stream(tmp_path / "run", tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == CHATML


def test_a_template_that_was_edited_is_another_base(tiny_base, tmp_path):  # noqa: F811
    file = tmp_path / "chatml.jinja"
    file.write_text(CHATML)
    raw = {
        "model": {"name": str(tiny_base), "chat_template": str(file)},
        "method": {"name": "lora", "target_modules": ["q_proj"]},
        "data": {"train": str(write(tmp_path, [{"messages": TURNS[1:3]}] * 4))},
        "train": {"steps": 3, "batch_size": 2, "device": "cpu", "save_every": 1},
        "output": str(tmp_path / "run"),
    }
    settings = parse_run(raw)
    before = identity(find_base(settings.model, device="cpu"))
    with pytest.raises(Interrupted):
        train(settings, stop_at=1)
    file.write_text(CHATML.replace("<|im_start|>", "<|start|>"))
    with pytest.raises(DudeError, match=r"--resume: the chat template .*chatml.jinja is not what"):
        train(settings, resume="auto")
    after = identity(find_base(settings.model, device="cpu"))
    assert mark_of(before) != mark_of(after)
    assert mark_of(identity(find_base(ModelSettings(name=str(tiny_base)), device="cpu"))) == before["sha256"]
    file.write_text(CHATML)
    assert train(settings, resume="auto").record["training"]["steps"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{% for", "does not render a question"),
        ("{{ nothing.there.at_all }}", "does not render a question"),
        ("hello", "leaves out what the user writes"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(text, said, tiny_base, tmp_path):  # noqa: F811
    file = tmp_path / "chat.jinja"
    if text is not None:
        file.write_text(text)
    with pytest.raises(DudeError, match=f"model.chat_template: .*chat.jinja {said}"):
        find_base(ModelSettings(name=str(tiny_base), chat_template=str(file)), device="cpu")
