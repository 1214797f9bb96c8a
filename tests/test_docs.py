"""Promise: what the documents name exists, and what they show runs."""

from __future__ import annotations

import importlib
import re

import pytest
from conftest import ROOT

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


def test_the_files_that_the_readme_links_exist():
    readme = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_readme_python_runs(tmp_path, monkeypatch):
    """The first Python block, as it stands, on the embedded model."""
    readme = (ROOT / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(code, scope)
    assert (tmp_path / "adapter" / "dude_config.json").is_file()


def test_readme_yaml_is_a_valid_config(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    block = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)[0]
    from dude_lab.config.yaml_file import load_config

    (tmp_path / "run.yaml").write_text(block)
    monkeypatch.chdir(tmp_path)
    assert load_config(tmp_path / "run.yaml").method.name == "dude"
