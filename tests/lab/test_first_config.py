"""Promise: `dude init` writes a valid config, `dude keys` lists every key, `dude schema` describes the files."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from tiny_run import tiny_base, tiny_instruct  # noqa: F401
from typer.testing import CliRunner

from dude_lab.cli.commands import app
from dude_lab.config.json_schema import comparison_schema, run_schema
from dude_lab.config.yaml_file import load_config
from dude_lab.config.yaml_keys import keys
from dude_lab.methods import METHODS

CHAT = {"messages": [{"role": "user", "content": "1 plus 1?"}, {"role": "assistant", "content": "2"}]}


def dude(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def written(folder: Path, row: dict[str, Any], count: int = 50) -> Path:
    path = folder / "data.jsonl"
    path.write_text((json.dumps(row) + "\n") * count)
    return path


@pytest.mark.parametrize(
    ("row", "instruct", "data"),
    [
        (CHAT, True, {}),
        ({"conversations": [{"from": "human", "value": "1 plus 1?"}, {"from": "gpt", "value": "2"}]}, True, {}),
        ({"prompt": "1 plus 1?", "completion": "2"}, False, {}),
        ({"prompt": "1 plus 1?", "completion": "2"}, True, {"chat_template": True}),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, True, {"chat_template": True}),
        ({"text": "1 plus 1 is 2."}, False, {}),
        ({"question": "1 plus 1?", "answer": "2"}, False, {"prompt": "{question}", "completion": "{answer}"}),
    ],
)
def test_the_config_is_valid_and_says_what_it_found(
    row: dict[str, Any],
    instruct: bool,
    data: dict[str, Any],
    tiny_base: Path,  # noqa: F811
    tiny_instruct: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    file, path = written(tmp_path, row), tmp_path / "run.yaml"
    made = dude("init", file, tiny_instruct if instruct else tiny_base, "-o", path)
    assert made.exit_code == 0, made.output
    assert f"next: dude validate {path}" in made.output
    text = path.read_text()
    assert "50 records of the format " in text and f"with{'' if instruct else 'out'} a chat template" in text
    settings = load_config(path)
    assert settings.data.model_dump(exclude_defaults=True) == {"train": str(file), "validation": 0.05, **data}
    assert settings.eval is not None and settings.eval.every == 1 and not settings.eval.has_tasks  # of 18 steps
    assert valid(yaml.safe_load(text), run_schema())
    checked = dude("validate", path, f"output={tmp_path / 'x'}")
    assert checked.exit_code == 0 and "all checks passed" in checked.output, checked.output


def test_a_named_set_and_few_records(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    assert dude("init", "mini_gsm", tiny_base, "-o", tmp_path / "a.yaml", "--method", "lora").exit_code == 0
    settings = load_config(tmp_path / "a.yaml")
    assert (settings.data.name, settings.method.name) == ("mini_gsm", "lora")
    assert settings.train.learning_rate == 2e-4
    written(tmp_path, {"text": "x"}, 3)
    assert dude("init", tmp_path / "data.jsonl", tiny_base, "-o", tmp_path / "b.yaml").exit_code == 0
    few = load_config(tmp_path / "b.yaml")
    assert few.train.learning_rate == 5e-5  # of DuDe
    assert few.data.validation is None and few.eval is None
    assert settings.eval is not None and settings.eval.every == 285  # a tenth of 7,600 x 3 / 8 steps


def test_nothing_is_overwritten_or_guessed(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "run.yaml"
    path.write_text("mine")
    made = dude("init", "mini_gsm", tiny_base, "-o", path)
    assert made.exit_code == 2 and "exists" in made.output and path.read_text() == "mine"
    made = dude("init", "nothing.txt", tiny_base, "-o", tmp_path / "b.yaml")
    assert made.exit_code == 2 and "neither a file" in made.output
    made = dude("init", written(tmp_path, {"a": "x", "b": "y"}), tiny_base, "-o", tmp_path / "b.yaml")
    assert made.exit_code == 2 and "The columns are: a, b" in made.output
    assert not (tmp_path / "b.yaml").exists()


def test_an_unknown_method_is_named(tmp_path: Path) -> None:
    made = dude("init", "mini_gsm", "mini", "-o", tmp_path / "a.yaml", "--method", "lroa")
    assert made.exit_code == 2 and "unknown method 'lroa'" in made.output and not (tmp_path / "a.yaml").exists()


def test_keys_lists_every_key() -> None:
    said = dude("keys").output
    assert set(re.findall(r"^ (\w+)", said, re.MULTILINE)) >= {key.key for key in keys()}
    assert "learning_rate" in dude("keys", "train").output and "lora_alpha" not in dude("keys", "train").output
    said = dude("keys", "lora").output
    assert "lora_alpha" in said and "target_modules" in said and "learning_rate" not in said
    said = dude("keys", "trian")
    assert said.exit_code == 2 and "Did you mean 'train'" in said.output


def test_the_names_of_other_libraries_are_listed_with_the_keys() -> None:
    meaning = {(key.section, key.key): key.meaning for key in keys()}
    assert meaning["train", "warmup"].endswith("Also accepted: `warmup_ratio`, `warmup_steps`.")
    assert meaning["run", "output"].endswith("Also accepted: `output_dir`.")
    assert "Also accepted" not in meaning["train", "seed"] + meaning["eval", "every"]
    schema = run_schema()
    train = schema["$defs"]["TrainSettings"]["properties"]
    assert train["learning_rate"]["description"].endswith("Also accepted: `lr`.")
    assert schema["properties"]["output"]["description"].endswith("Also accepted: `output_dir`.")


def valid(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None) -> bool:
    """What the schemas use of JSON Schema, without a library."""
    root = root or schema
    if "$ref" in schema:
        return valid(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    if "anyOf" in schema and not any(valid(value, one, root) for one in schema["anyOf"]):
        return False
    if ("enum" in schema and value not in schema["enum"]) or ("const" in schema and value != schema["const"]):
        return False
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    kind = schema.get("type")
    if kind in kinds and not isinstance(value, kinds[kind]):
        return False
    if kind in ("integer", "number"):
        number = int if kind == "integer" else (int, float)
        if isinstance(value, bool) or not isinstance(value, number):
            return False
        below = value < schema.get("minimum", value) or value <= schema.get("exclusiveMinimum", value - 1)
        if below or value > schema.get("maximum", value) or value >= schema.get("exclusiveMaximum", value + 1):
            return False
    if isinstance(value, dict):
        properties, more = schema.get("properties", {}), schema.get("additionalProperties", True)
        if set(schema.get("required", ())) - set(value) or (more is False and set(value) - set(properties)):
            return False
        return all(valid(one, properties[key], root) for key, one in value.items() if key in properties)
    return not isinstance(value, list) or all(valid(one, schema.get("items", {}), root) for one in value)


def test_the_schemas_take_what_the_classes_take() -> None:
    for path in (ROOT / "recipes").glob("*.yaml"):
        raw = yaml.safe_load(path.read_text())
        assert valid(raw, comparison_schema() if "methods" in raw else run_schema()), path
    run = run_schema()
    for name in METHODS:
        full = {"model": "mini", "method": {"name": name}, "data": {"name": "mini_gsm"}, "output": "x"}
        assert valid(full, run) and valid({**full, "method": name}, run)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train", {"learning_rate": 0}),
        ("train", {"lr": 1e-4}),
        ("train", {"steps": "5"}),
        ("train", {"schedule": "cosin"}),
        ("method", "dud"),
        ("method", {"name": "lora", "magnitude_axis": "out"}),
        ("data", {"format": "chatml"}),
        ("output", None),
        ("extra", 1),
    ],
)
def test_the_schema_marks_mistakes(key: str, value: Any) -> None:
    right = {"model": "mini", "method": "dude", "data": {"name": "mini_gsm"}, "output": "x"}
    assert valid(right, run_schema()) and not valid({**right, key: value}, run_schema())


def test_every_key_of_the_schema_has_a_meaning() -> None:
    described = [
        (name, key, value.get("description"))
        for name, part in [("run", run_schema()), *run_schema()["$defs"].items()]
        for key, value in part["properties"].items()
    ]
    assert len(described) > 100 and not [one for one in described if not one[2]]


@pytest.mark.parametrize(("options", "wanted"), [([], run_schema), (["--comparison"], comparison_schema)])
def test_the_command_prints_it(options: list[str], wanted: Any) -> None:
    assert json.loads(dude("schema", *options).output) == wanted()
