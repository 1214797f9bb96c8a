"""Promise: the tree is as CONTRIBUTING.md describes it, and each file is one concept of readable length."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from conftest import ROOT, real_data

from docs.hooks import SOURCES, modules, modules_page

MAX_LINES = 520
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DOCUMENTS = [
    *(ROOT / name for name in ("CONTRIBUTING.md", "README.md")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "dev"),
]


def python_files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def test_every_folder_of_code_is_in_the_table_of_contributing():
    described = re.findall(r"^\| `([\w/]+)` \|", CONTRIBUTING, re.MULTILINE)
    folders = {path.parent.relative_to(ROOT).as_posix() for path in python_files(*SOURCES, "tests")} - {"tests"}
    assert sorted(described) == sorted(folders)


def test_no_file_is_too_long():
    lengths = {path: len(path.read_text().splitlines()) for path in python_files(*SOURCES, "tests")}
    assert {path.relative_to(ROOT).as_posix(): n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_a_file_name_is_used_once():
    names = Counter(path.name for path in python_files(*SOURCES) if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []
    names = Counter(path.name for path in python_files("tests"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_page_of_modules_lists_every_module_with_its_first_line():
    page = modules_page()
    for path, text in modules():
        assert text.endswith((".", "?")), f"{path}: the first paragraph of its docstring is no sentence"
        assert f"| `{path.name}` | {text[:20]}" in page
    missing = {path for path in python_files(*SOURCES) if path.name != "__init__.py"} - {ROOT / p for p, _ in modules()}
    assert missing == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_files_that_a_document_names_exist(document):
    named = re.findall(
        r"`((?:src|tests|mini|docs|recipes|examples|studies|benchmarks)/[\w./-]*)`", document.read_text()
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_real_data_are_read_from_the_folder_of_the_variable_alone(monkeypatch, tmp_path):
    read = real_data._get_wrapped_function()
    monkeypatch.delenv("DUDE_DATA_DIR", raising=False)
    with pytest.raises(pytest.skip.Exception, match="set DUDE_DATA_DIR"):
        read()
    monkeypatch.setenv("DUDE_DATA_DIR", str(tmp_path))
    assert read() == tmp_path
