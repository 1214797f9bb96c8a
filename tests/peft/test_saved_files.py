"""Promise: saved files have the umask's mode, name no absolute path, and are complete or do not load."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from pathlib import Path

import pytest
import tiny_models as models
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from dude_lab.folders import atomic_folder
from dude_peft import DudeError, load_adapter
from dude_peft.files import hash_file, json_sha256, json_values, public_name, sha256, write_json
from dude_peft.svd import cached_triplets


def adapted(base=None):
    return get_peft_model(base or models.llama(), models.config_for("llama", target_modules=["q_proj"]))


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077, 0o002])
def test_every_file_has_the_mode_that_the_umask_gives(tmp_path, umask):
    before = os.umask(umask)
    try:
        adapted().save_pretrained(str(tmp_path / "adapter"))
        cached_triplets(torch.randn(6, 5), 2, folder=tmp_path)
    finally:
        os.umask(before)
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert {p.name for p in files} >= {"adapter_model.safetensors", "adapter_config.json", "dude_config.json"}
    assert any(p.parent.name == "svd" for p in files)
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o666 & ~umask}


@pytest.mark.parametrize(
    ("base", "name"),
    [
        (None, None),
        ("", ""),
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("models/llama", "models/llama"),
        ("/home/someone/models/llama-2", "llama-2"),
        ("/home/someone/models/llama-2/", "llama-2"),
        (r"C:\Users\someone\llama-2", "llama-2"),
        ("/home/x/.cache/huggingface/hub/models--org--a--b/snapshots/0123/", "org/a--b"),
        ("/home/x/.cache/huggingface/hub/models--gpt2/snapshots/0123", "gpt2"),
        ("/usr/lib/python3/site-packages/dude_lab/assets/mini/model", "mini"),
        ("/", None),
    ],
)
def test_a_base_is_published_by_name(base, name):
    assert public_name(base) == name


def test_no_file_of_an_adapter_names_an_absolute_path(tmp_path, recwarn):
    models.llama().save_pretrained(tmp_path / "home" / "llama-tiny")
    for number, path in enumerate([tmp_path / "home" / "llama-tiny", None]):
        base = AutoModelForCausalLM.from_pretrained(path) if path else models.mini()
        model = adapted(base)
        model.add_adapter("math", models.config_for("llama", target_modules=["v_proj"]))
        folder = tmp_path / f"adapter{number}"
        model.save_pretrained(str(folder))
        place = os.fspath(Path(base.name_or_path))
        assert os.path.isabs(place) and model.peft_config["default"].base_model_name_or_path == place
        texts = {p: p.read_text() for p in folder.rglob("*") if p.suffix in (".json", ".md")}
        assert len(texts) == 5 and not any(place in text for text in texts.values())
        name = "llama-tiny" if path else "mini"
        for config in ("adapter_config.json", "dude_config.json", "math/dude_config.json"):
            assert json.loads(texts[folder / config])["base_model_name_or_path"] == name
        assert f"base_model: {name}\n" in texts[folder / "README.md"]
        load_adapter(models.mini() if path is None else AutoModelForCausalLM.from_pretrained(path), folder)
    assert not [w for w in recwarn if "renamed" in str(w.message)]


def test_a_card_that_is_not_pefts_is_left_alone(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("base_model: /home/x/llama\n")
    adapted().peft_config["default"].save_pretrained(str(tmp_path / "config"))
    assert card.read_text() == "base_model: /home/x/llama\n"


def test_a_full_disk_while_the_config_is_written_leaves_nothing_that_loads(tmp_path, monkeypatch):
    from dude_peft import files

    model = adapted()
    model.save_pretrained(str(tmp_path))
    models.move(model, 0.05)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for owner, name in ((Path, "write_text"), (files.os, "replace"), (Path, "chmod")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(DudeError, match="No space left on device"):
                model.save_pretrained(str(tmp_path))
        with pytest.raises(DudeError, match="SHA-256 differs"):
            load_adapter(models.llama(), tmp_path)
    model.save_pretrained(str(tmp_path))
    assert torch.equal(models.logits(load_adapter(models.llama(), tmp_path)), models.logits(model.eval()))


def test_a_pickled_adapter_is_refused(tmp_path):
    model = adapted()
    with pytest.raises(DudeError, match="safe_serialization"):
        model.save_pretrained(str(tmp_path), safe_serialization=False)


class TestAtomicFolder:
    def test_takes_its_place_when_it_is_complete(self, tmp_path):
        place = tmp_path / "new" / "adapter"
        with atomic_folder(place) as part:
            (part / "a").write_text("1")
            assert not place.exists()
        assert (place / "a").read_text() == "1" and sorted(p.name for p in place.parent.iterdir()) == ["adapter"]

    def test_an_error_leaves_what_was_there(self, tmp_path):
        place = tmp_path / "adapter"
        place.mkdir()
        (place / "old").touch()
        with pytest.raises(ZeroDivisionError), atomic_folder(place, overwrite=True) as part:
            (part / "new").touch()
            raise ZeroDivisionError
        assert [p.name for p in place.iterdir()] == ["old"] and [p.name for p in tmp_path.iterdir()] == ["adapter"]

    def test_files_are_only_replaced_on_request(self, tmp_path):
        place = tmp_path / "adapter"
        place.mkdir()
        with atomic_folder(place) as part:
            (part / "first").touch()
        with pytest.raises(OSError), atomic_folder(place) as part:
            (part / "second").touch()
        assert [p.name for p in place.iterdir()] == ["first"] and [p.name for p in tmp_path.iterdir()] == ["adapter"]
        with atomic_folder(place, overwrite=True) as part:
            (part / "second").touch()
        assert [p.name for p in place.iterdir()] == ["second"]

    def test_what_a_killed_process_left_is_removed(self, tmp_path):
        (tmp_path / ".adapter.part").mkdir()
        (tmp_path / ".adapter.part" / "stale").touch()
        with atomic_folder(tmp_path / "adapter"):
            pass
        assert list((tmp_path / "adapter").iterdir()) == [] and [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_json_has_no_nan_and_a_hash_depends_on_the_values_alone(tmp_path):
    value = {"a": (1.5, math.nan), "b": {"c": -math.inf}, "d": [True, "x", None]}
    assert json_values(value) == {"a": [1.5, None], "b": {"c": None}, "d": [True, "x", None]}
    assert json_sha256({"a": 1, "b": 2}) == json_sha256({"b": 2, "a": 1}) != json_sha256({"a": 1, "b": 3})
    write_json(tmp_path / "x.json", {"a": 1}, checksum=True)
    assert json.loads((tmp_path / "x.json").read_text())["content_sha256"] == json_sha256({"a": 1})
    digest = hashlib.sha256(b"before")
    hash_file(digest, tmp_path / "x.json")
    content = (tmp_path / "x.json").read_bytes()
    assert digest.hexdigest() == hashlib.sha256(b"before" + content).hexdigest()
    assert sha256(tmp_path / "x.json") == hashlib.sha256(content).hexdigest()
