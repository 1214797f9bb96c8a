"""Promise: what the documents name exists, and what they show runs."""

from __future__ import annotations

import importlib
import json
import re

import pytest
from conftest import ROOT
from tiny_run import tiny_instruct  # noqa: F401

from docs import hooks

EQUATIONS = (ROOT / "docs" / "equations.md").read_text()


def names(kind: str) -> list[str]:
    return sorted(set(re.findall(rf"`({kind}\w*\.(?!py`)\w+)`", EQUATIONS)))


@pytest.mark.parametrize("name", names("(?:svd|functional|autograd|reference)"))
def test_every_function_in_the_equations_exists(name):
    module, function = name.split(".")
    assert callable(getattr(importlib.import_module(f"dude_peft.{module}"), function))


@pytest.mark.parametrize("name", names("test_"))
def test_every_test_in_the_equations_exists(name):
    module, function = name.split(".")
    [path] = (ROOT / "tests").rglob(f"{module}.py")
    assert f"def {function}(" in path.read_text()


def test_every_deviation_but_the_schedule_has_a_test():
    rows = EQUATIONS.split("## Deviations")[1].splitlines()
    rows = [row for row in rows if row.startswith("| ") and not row.startswith("| deviation")]
    assert len(rows) > 8
    assert [row for row in rows if "`test_" not in row] == [row for row in rows if "warm-up" in row]


PAGES = [ROOT / "README.md", *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "dev")]


GENERATED = {"reference/cli.md", "reference/yaml.md"}  # in the site alone, whose first page links them


@pytest.mark.parametrize("page", [pytest.param(path, id=path.name) for path in PAGES])
def test_the_files_that_a_page_links_are_in_the_repository(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists() or (page.name == "index.md" and target in GENERATED), target


def test_links_out_of_the_documentation_lead_to_the_copies_in_the_site():
    assert hooks.site_links("![a](../../studies/mini/rates.png) [b](tune.md)", "howto/x.md") == (
        "![a](../studies/mini/rates.png) [b](tune.md)"
    )
    assert hooks.site_links("[a](../CONTRIBUTING.md#layout)", "paper.md") == "[a](contributing.md#layout)"
    with pytest.raises(ValueError, match=r"paper\.md: the site has no copy of Makefile"):
        hooks.site_links("[a](../Makefile)", "paper.md")


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def with_blocks(language):
    return [pytest.param(path, id=path.name) for path in PAGES if blocks(path, language)]


HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("page", with_blocks("python"))
def test_python_of_a_page_runs(page, tmp_path, monkeypatch, tiny_instruct):  # noqa: F811
    """The blocks of a page in order, as they stand, on the embedded model or on a tiny one in place of the hub's."""
    monkeypatch.chdir(tmp_path)
    chat = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
    (tmp_path / "chats.jsonl").write_text(f"{json.dumps({'messages': chat})}\n" * 8)
    if "BitsAndBytesConfig" in page.read_text():
        pytest.importorskip("bitsandbytes", reason="make test-quantized runs this page")
    exec("\n".join(blocks(page, "python")).replace(HUB_MODEL, str(tiny_instruct)), {})
    assert (tmp_path / "adapter" / "dude_config.json").is_file()


def test_the_python_of_the_readme_is_short():
    [code] = blocks(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    assert "SFTTrainer(" in code and len(re.findall(r"DudeConfig\(.*# was: LoraConfig", code)) == 1


def test_the_readme_begins_with_pip_python_and_three_commands():
    first = (ROOT / "README.md").read_text().partition("\n## ")[0]
    assert len(first.splitlines()) < 45
    install, python, commands = re.findall(r"```(?:python)?\n(.*?)```", first, re.DOTALL)
    assert install.startswith("pip install") and "SFTTrainer" in python
    assert [line.split()[1] for line in commands.splitlines()] == ["init", "train", "chat"]


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_yaml_of_a_page_is_a_valid_config(page, tmp_path, monkeypatch):
    from dude_lab.config.compare_settings import load_comparison
    from dude_lab.config.yaml_file import load_config

    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "yaml"):
        (tmp_path / "config.yaml").write_text(block)
        load = load_comparison if block.startswith("run:") else load_config
        assert load(tmp_path / "config.yaml").output


@pytest.mark.parametrize("page", [pytest.param(path, id=path.name) for path in PAGES])
def test_commands_of_a_page_exist(page):
    import typer

    from dude_lab.cli.commands import app

    commands = typer.main.get_command(app).commands
    for name, rest in re.findall(r"^\s*(?:\$ )?dude ([a-z]+)\b(.*)$", page.read_text(), re.MULTILINE):
        assert name in commands
        options = {option for param in commands[name].params for option in (*param.opts, *param.secondary_opts)}
        assert set(re.findall(r"(?<=\s)--?[a-z][\w-]*", rest.partition("#")[0])) <= options, (name, rest)


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    missing = [
        path for path in (ROOT / "docs").rglob("*.md") if f": {path.relative_to(ROOT / 'docs')}" not in navigation
    ]
    assert missing == []


def test_the_reference_of_commands_has_every_command_and_option():
    import typer

    from dude_lab.cli.commands import app

    page = hooks.cli_page()
    for name, command in typer.main.get_command(app).commands.items():
        section = page.partition(f"\n## dude {name}\n")[2].partition("\n## ")[0]
        assert command.help in section
        for param in command.params:
            if not getattr(param, "hidden", False) and param.name != "help":
                assert param.help and " ".join(param.help.split()).replace("|", "\\|") in section


def test_the_reference_of_yaml_has_every_key():
    from dude_lab.config.yaml_keys import keys

    page = hooks.yaml_page()
    for key in keys():
        section = page.partition(f"\n## {key.section}\n")[2].partition("\n## ")[0]
        assert f"| `{key.key}` |" in section


def test_the_support_matrix_has_every_marker_and_each_entry_a_test():
    marked = sum(
        len(re.findall(r"^\s*@pytest\.mark\.(?:supports|rejects)\(", path.read_text(), re.MULTILINE))
        for path in (ROOT / "tests").rglob("test_*.py")
    )
    entries = hooks.support_entries()
    assert len({(one.marker, one.test) for one in entries}) <= marked <= len(entries)
    page = hooks.support_page()
    for one in entries:
        file, _, function = one.test.partition("::")
        assert re.search(rf"^ *def {function}\(", (ROOT / file).read_text(), re.MULTILINE)
        [section] = re.findall(rf"\n## {one.base}: {re.escape(one.engine)}\n(.*?)(?=\n## |\Z)", page, re.DOTALL)
        [row] = [line for line in section.splitlines() if f"`{one.test}`" in line and _result(one) in line]
        assert one.method in row.split("|")[2].strip().split("; ")
        [line] = [line for line in page.splitlines() if line.startswith(f"| {one.base} |")]
        assert line.count(f"](#{f'{one.base} {one.engine}'.lower().replace(' ', '-')})") == 1
    for base, engine in (("NF4", "one process"), ("float32", "FSDP1"), ("bfloat16", "files")):
        assert any((one.base, one.engine) == (base, engine) for one in entries)


def _result(entry):
    return "| works |" if entry.marker == "supports" else "| rejected |"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('@pytest.mark.supports(base="NF5", engine="DDP", method="DuDe")\ndef test_x(): ...', "NF5"),
        ('@pytest.mark.supports(base="NF4", engine="DDP")\ndef test_x(): ...', "has base=, engine= and method="),
        ('@pytest.mark.supports("NF4", "DDP", "DuDe")\ndef test_x(): ...', "has base=, engine= and method="),
        ('pytestmark = pytest.mark.rejects(base="NF4", engine="DDP", method="DuDe")', "mark test functions"),
        ('@pytest.mark.supports(base="NF4", engine="DDP", method="DuDe")\ndef helper(): ...', "mark test functions"),
    ],
)
def test_a_marker_that_the_support_matrix_cannot_use_is_an_error(code, message, tmp_path):
    (tmp_path / "test_new.py").write_text(code)
    with pytest.raises(ValueError, match=message):
        hooks.support_entries(tmp_path)


def test_a_marker_on_one_of_several_values_is_found(tmp_path):
    call = 'pytest.mark.supports(base=["NF4", "float32"], engine="DDP", method="LoRA")'
    (tmp_path / "test_new.py").write_text(
        f'@pytest.mark.parametrize("x", [1, pytest.param(2, marks={call})])\ndef test_x(x): ...'
    )
    found = [(one.base, one.engine, one.method) for one in hooks.support_entries(tmp_path)]
    assert found == [("float32", "DDP", "LoRA"), ("NF4", "DDP", "LoRA")]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<script src="https://cdn.example/x.js"></script>', True),
        ("<script defer src=//cdn.example/x.js></script>", True),
        ('<link rel="stylesheet" href="http://fonts.example/css">', True),
        ('<img alt="a" src="https://example/x.png">', True),
        ("@import 'https://fonts.example/css';", True),
        ("a{background:url(https://example/x.png)}", True),
        ('<a href="https://arxiv.org/abs/2505.14367">paper</a><script src="assets/x.js"></script>', False),
        ('<link rel="canonical" href="https://example/">', False),
    ],
)
def test_a_page_that_loads_from_another_host_is_found(text, found, tmp_path):
    (tmp_path / "page.html").write_text(text)
    (tmp_path / "style.css").write_text("body{margin:0}")
    assert bool(hooks.loads_from_other_hosts(tmp_path)) == found


TOPICS = {  # what a user comes for, and words that its page must have
    "own_data.md": ("messages", "sharegpt", "alpaca", "chat_template", "dude init", "dude validate"),
    "watch.md": ("eval: {every:", "early_stopping_patience", "report_to", "tensorboard", "time left"),
    "evaluate.md": ("exact_match", "lm_eval", "dude eval"),
    "chat.md": ("dude chat", "--base", "dude generate"),
    "export.md": ("dude export", "gguf-lora", "vllm serve", "to_lora"),
    "publish.md": ("dude push", "HF_TOKEN", "card"),
}


@pytest.mark.parametrize("name", TOPICS)
def test_each_topic_has_a_short_page(name):
    text = (ROOT / "docs" / "howto" / name).read_text()
    assert [word for word in TOPICS[name] if word not in text] == []
    assert len(text.split()) < 1_200
