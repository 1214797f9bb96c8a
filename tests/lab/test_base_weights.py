"""An incomplete base is refused by name, by `dude validate` from the headers alone and by everything that loads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from test_cli_train import dude
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.config.run_settings import ModelSettings
from dude_lab.mini import model_dir
from dude_lab.training.base_model import Base, check_base, load_base
from dude_lab.training.base_weights import load_weights, read_headers, weight_files
from dude_peft.errors import DudeError

SMALL: dict[str, Any] = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
MLP: dict[str, Any] = {**SMALL, "intermediate_size": 48}
MOE: dict[str, Any] = {**MLP, "num_key_value_heads": 2}
KINDS: dict[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**MLP, num_key_value_heads=2),
    "tied": transformers.LlamaConfig(**MLP, tie_word_embeddings=True),
    "gpt2": transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
    "phi3": transformers.Phi3Config(**MLP, pad_token_id=0),
    "qwen2": transformers.Qwen2Config(**MLP, num_key_value_heads=2),
    "mixtral": transformers.MixtralConfig(**MOE, num_local_experts=4),
    "qwen3_moe": transformers.Qwen3MoeConfig(**MOE, num_experts=4, moe_intermediate_size=16, head_dim=8),
}


def base_at(folder: Path) -> Base:
    """A base whose tokenizer nobody asks for."""
    config = transformers.AutoConfig.from_pretrained(folder)
    settings = ModelSettings(name=str(folder))
    return Base(str(folder), str(folder), settings, config, None, torch.float32, "cpu")  # type: ignore[arg-type]


def change(folder: Path, drop: str = "", add: str = "") -> None:
    """Save the weights again without a tensor, or with one more."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    if drop:
        del tensors[drop]
    if add:
        tensors[add] = torch.zeros(3)
    save_file(tensors, file, {"format": "pt"})


def both_refuse(folder: Path, *words: str) -> None:
    for check in (check_base, load_base):
        with pytest.raises(DudeError) as caught:
            check(base_at(folder))
        for word in words:
            assert word in str(caught.value), (check.__name__, word, str(caught.value))


@pytest.mark.parametrize("kind", KINDS)
def test_each_architecture_is_accepted_whole_and_refused_without_a_tensor(kind: str, tmp_path: Path) -> None:
    """Also where transformers renames, merges or ties: tensors are taken away one at a time."""
    model = transformers.AutoModelForCausalLM.from_config(KINDS[kind])
    model.save_pretrained(tmp_path / "whole")
    assert check_base(base_at(tmp_path / "whole")) is None
    load_base(base_at(tmp_path / "whole"))
    names = [n for n in load_file(tmp_path / "whole" / "model.safetensors") if ".1." not in n or "experts.1" in n]
    names = [n for n in names if "experts.2" not in n and "experts.3" not in n]
    assert len(names) > 8
    for name in [*names[::3], *(n for n in names[::2] if "experts" in n)]:
        shutil.rmtree(tmp_path / "cut", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        change(tmp_path / "cut", drop=name)
        words = ("experts",) if "experts" in name else (name.split(".")[-2],)
        both_refuse(tmp_path / "cut", *words)


def test_the_embedded_model_is_accepted() -> None:
    assert check_base(base_at(Path(model_dir()))) is None
    load_base(base_at(Path(model_dir())))


def test_buffers_of_older_files_and_missing_prefixes_are_accepted(tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(KINDS["gpt2"]).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    old = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
    old |= {"h.0.attn.bias": torch.ones(1, 1, 8, 8), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(old, file, {"format": "pt"})
    assert check_base(base_at(tmp_path)) is None
    load_base(base_at(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("num_hidden_layers", 3, ("9 tensors of the architecture missing", "model.layers.2.", "and 5 more")),
        ("num_hidden_layers", 1, ("9 tensors of the weights without a place", "model.layers.1.")),
        ("intermediate_size", 64, ("6 tensors of another shape", "down_proj.weight: (32, 48) in the file, (32, 64)")),
    ],
)
def test_a_config_of_another_model(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    key: str,
    value: int,
    words: tuple[str, ...],
) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    both_refuse(folder, *words)


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_config(KINDS["llama"])
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1 and weight_files(tmp_path) == shards
    assert check_base(base_at(tmp_path)) is None
    gone, *rest = load_file(shards[0]).items()
    save_file(dict(rest), shards[0], {"format": "pt"})
    both_refuse(tmp_path, gone[0])


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("[1]", "not a JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"weight_map": 3}', "not a mapping"),
        ('{"weight_map": {"a": 3}}', "not a mapping"),
        ('{"weight_map": {"a": "../other.safetensors"}}', "outside its folder"),
        ('{"weight_map": {"a": "/etc/passwd"}}', "outside its folder"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, index: str, words: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DudeError, match=words):
        weight_files(tmp_path)


def test_a_truncated_file_is_named_by_its_header(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(DudeError, match=r"model\.safetensors: not a complete safetensors file"):
        read_headers([weights])
    both_refuse(folder, "model.safetensors")


def test_every_command_refuses(tiny: Tiny, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """`validate` and `--dry-run` find it without loading a weight; nothing is written."""
    from dude_lab.training import base_model

    folder = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    change(folder, drop="model.layers.1.mlp.up_proj.weight", add="model.layers.1.mlp.extra.weight")
    tiny.raw["model"] = str(folder)
    config = tiny.write()
    loaded: list[int] = []
    monkeypatch.setattr(base_model, "load_weights", lambda *_, **__: loaded.append(1))
    for words in (("validate", config), ("train", config, "--dry-run"), ("train", config)):
        result = dude(*words)
        assert result.exit_code == 2, result.output
        assert "model.layers.1.mlp.up_proj.weight" in result.output
        assert "model.layers.1.mlp.extra.weight" in result.output
    assert not loaded and not tiny.output.exists()
    monkeypatch.undo()
    result = dude("eval", folder, "--suite", "mini_csqa", "--limit", "1", "-o", tmp_path / "answers")
    assert result.exit_code == 2 and "model.layers.1.mlp.up_proj.weight" in result.stderr
    assert not (tmp_path / "answers").exists()


def test_a_merged_model_that_lacks_a_tensor_is_not_read_back(tmp_path: Path) -> None:
    transformers.AutoModelForCausalLM.from_config(KINDS["llama"]).save_pretrained(tmp_path)
    change(tmp_path, drop="lm_head.weight")
    with pytest.raises(DudeError, match=r"1 tensor of the architecture missing from the weights \(lm_head\.weight\)"):
        load_weights(tmp_path)


def test_a_comparison_that_could_not_be_made_is_a_note(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    from dude_lab.training.run_plan import make_plan

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no kernel for meta tensors")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "from_pretrained", fails)
    notes = make_plan(tiny.settings()).notes
    assert any("when they are loaded" in note and "no kernel for meta tensors" in note for note in notes)
