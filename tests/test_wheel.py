"""Promise: the wheel has both packages with all their data files, and not the generator of mini."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The names of the files in a wheel that is built from a copy of the tree."""
    copy = tmp_path_factory.mktemp("tree")
    unused = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("src", "mini"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=unused)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    done = subprocess.run([sys.executable, "-c", BUILD, "dist"], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_every_file_of_the_packages_is_in_it(files):
    source = ROOT / "src"
    tree = {
        path.relative_to(source).as_posix()
        for package in ("dude_peft", "dude_lab")
        for path in (source / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert tree - set(files) == set()
    kinds = {name.rpartition(".")[2] for name in tree}
    assert {"py", "typed", "yaml", "html", "css", "js", "gz", "safetensors", "json", "png", "md"} <= kinds


def test_there_is_nothing_else_in_it(files):
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"dude_peft", "dude_lab"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files)
