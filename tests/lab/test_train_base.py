"""Finding a base model: what is wrong with a name, a folder or a tokenizer is told before a weight is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_run import tiny_base, write_base  # noqa: F401

from dude_lab.config.run_settings import ModelSettings
from dude_lab.training.base_model import choose_dtype, find_base, identity, load_base
from dude_peft.errors import DudeError


def find(name: str | Path) -> object:
    return find_base(ModelSettings(name=str(name)), device="cpu")


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:  # noqa: F811
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def refused(name: str | Path, *words: str) -> None:
    with pytest.raises(DudeError) as caught:
        find(name)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_folder_suggests_its_neighbour(copy: Path) -> None:
    refused(copy.parent / "cpy", "no such folder", str(copy))


def test_a_folder_without_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    refused(copy, "no config.json", "save_pretrained")


def test_an_adapter_is_no_base(copy: Path) -> None:
    (copy / "config.json").rename(copy / "adapter_config.json")
    refused(copy, "holds an adapter")


def test_only_safetensors(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "no model.safetensors", "pytorch_model.bin", "can run code", "convert")


def test_a_missing_shard_is_named(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(copy, "model-00001-of-00002.safetensors", "missing")


def test_a_broken_config_is_named(copy: Path) -> None:
    (copy / "config.json").write_text("{")
    refused(copy, "the config in", str(copy))


def test_a_truncated_weight_file_is_named(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    base = find_base(ModelSettings(name=str(copy)), device="cpu")
    with pytest.raises(DudeError, match="not a complete safetensors file"):
        load_base(base)


def test_a_tokenizer_without_an_end(tmp_path: Path) -> None:
    refused(write_base(tmp_path / "endless", eos=False), "no end-of-sequence token", "tokenizer_config.json")


def test_no_tokenizer(copy: Path) -> None:
    for file in copy.glob("token*"):
        file.unlink()
    refused(copy, "the tokenizer in")


def test_an_unknown_hub_name() -> None:
    refused("nobody/no-such-model-here", "not a local folder", "from the hub", "mini")


def test_padding_is_the_end_where_there_is_none(copy: Path) -> None:
    tokenizer = find(copy).tokenizer  # type: ignore[attr-defined]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 0


def test_dtype_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_dtype("auto", "cpu") is torch.float32
    assert choose_dtype("bfloat16", "cpu") is torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert choose_dtype("auto", "cuda") is torch.bfloat16
    assert choose_dtype("auto", "cuda", full=True) is torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert choose_dtype("auto", "cuda") is torch.float32


def test_cuda_where_there_is_none(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DudeError, match="no CUDA device"):
        find_base(ModelSettings(name=str(tiny_base)), device="cuda")


def test_identity_follows_the_weights(copy: Path) -> None:
    first = identity(find(copy))  # type: ignore[arg-type]
    assert first == identity(find(copy))  # type: ignore[arg-type]
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(weights))
    assert identity(find(copy))["sha256"] != first["sha256"]  # type: ignore[arg-type]
