"""A random Llama of 30,000 parameters with its own tokenizer, and a file of little sums: what training tests run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

TARGETS = ["q_proj", "v_proj"]


CHATML = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
"""A chat template without markers of the assistant's turns, as instruct models ship it."""


def write_instruct(folder: Path, template: str = CHATML, *, window: int = 256) -> Path:
    """Save the tiny base with a chat template and the tokens of ChatML, of which the second ends a turn."""
    return write_base(folder, window=window, chat_template=template)


def write_base(
    folder: Path, *, layers: int = 2, eos: bool = True, window: int = 128, chat_template: str | None = None
) -> Path:
    """Save a tiny Llama and a byte-level tokenizer; the same call gives the same files."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator([f"Question: what is {i} plus {i}?\nAnswer: {2 * i}" for i in range(50)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>" if eos else None)
    if chat_template is not None:
        fast.add_special_tokens({"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]})
        fast.chat_template = chat_template
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        bos_token_id=None,
        eos_token_id=0 if chat_template is None else fast.eos_token_id,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def write_sums(path: Path, count: int = 40) -> Path:
    """A JSONL file of prompts and completions."""
    rows = (
        {"prompt": f"Question: what is {i} plus {i + 3}?\nAnswer:", "completion": f" {2 * i + 3}"} for i in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Tiny:
    """A config on the tiny base, and the folder it lies in."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "run"
        self.raw: dict[str, Any] = {
            "model": str(base),
            "method": {"name": "lora", "r": 4, "lora_dropout": 0.1, "target_modules": list(TARGETS)},
            "data": {"train": str(write_sums(folder / "sums.jsonl"))},
            "train": {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "save_every": 2, "device": "cpu"},
            "output": str(self.output),
        }

    def settings(self, *overrides: str) -> Any:
        from dude_lab.config.yaml_file import override, parse_run

        return parse_run(override(self.raw, overrides))

    def write(self, name: str = "run.yaml") -> Path:
        path = self.folder / name
        path.write_text(yaml.safe_dump(self.raw), encoding="utf-8")
        return path


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny base model; read only."""
    import torch

    torch.set_num_threads(1)
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny_instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny instruct model; read only."""
    return write_instruct(tmp_path_factory.mktemp("instruct"))


@pytest.fixture
def tiny(tiny_base: Path, tmp_path: Path) -> Tiny:
    """A fresh config on the tiny base."""
    return Tiny(tiny_base, tmp_path)
