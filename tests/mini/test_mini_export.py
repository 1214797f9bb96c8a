"""Promise: what ships is what the generator writes, and the model card says what the shipped files show."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from dude_lab.mini import ASSETS, SPLITS, model_dir, names, records
from mini.check import shipped_losses
from mini.export import SHIPPED, main
from mini.model_shape import SHAPE, held_out, new_model
from mini.pretrain import LENGTH, next_token_loss
from mini.splits import SPLITS as GENERATED_SPLITS
from mini.stream import ANNEAL_AT, GENRES
from mini.world import the_world

CARD = (ASSETS / "MODEL_CARD.md").read_text(encoding="utf-8")


@pytest.mark.slow  # fifteen seconds, and only a change of mini/ can break it
def test_the_exported_sets_are_the_shipped_ones(tmp_path: Path) -> None:
    """Byte for byte, below the compression: another zlib may pack the same bytes in another way."""
    assert main(["-o", str(tmp_path)]) == 0
    assert SHIPPED == ASSETS / "data" and SPLITS == GENERATED_SPLITS
    made, shipped = ({path.name: path for path in folder.iterdir()} for folder in (tmp_path, SHIPPED))
    assert sorted(made) == sorted(shipped) == sorted(f"{n}.{s}.jsonl.gz" for n in names() for s in SPLITS)
    different = [n for n in made if gzip.decompress(made[n].read_bytes()) != gzip.decompress(shipped[n].read_bytes())]
    assert different == []


def table(title: str) -> list[list[str]]:
    """The cells of the rows of the card's first table after `title`, head included."""
    lines = CARD[CARD.index(title) :].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith("|"))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first:last]]


class TestModelCard:
    def test_its_pictures_and_modules_exist(self) -> None:
        assert {path for path in re.findall(r"\]\((\S+)\)", CARD) if not (ASSETS / path).is_file()} == set()
        modules = set(re.findall(r"\bmini\.([a-z_]+)\b", CARD))
        assert modules and {name for name in modules if not (ROOT / "mini" / f"{name}.py").is_file()} == set()
        assert (ROOT / "studies" / "mini").is_dir()

    def test_architecture_and_sizes(self) -> None:
        config = json.loads((model_dir() / "config.json").read_text())
        assert {key: config[key] for key in SHAPE} == SHAPE
        weights = (model_dir() / "model.safetensors").stat().st_size
        for said in (
            f"{config['num_hidden_layers']} layers, width {config['hidden_size']}, ",
            f"{config['num_attention_heads']} heads, feed-forward {config['intermediate_size']}, tied embeddings, ",
            f"{config['max_position_embeddings']:,} positions (trained on rows of {LENGTH})",
            f"{config['vocab_size']:,} entries",
            f"bfloat16 safetensors, {weights / 1e6:.1f} MB",
            f"{round(weights / 2 / 1e6, 1)} million parameters",
            f"From document {ANNEAL_AT:,} on",
            f"last 50 steps: {sum(shipped_losses()[-2:]) / 2:.3f} nats",
            f"{len(the_world().people)} people, {len(set(the_world().facts['town_river']))} towns",
        ):
            assert said in CARD, said
        facts = sum(len(answers) for by in the_world().facts.values() for answers in by.values())
        assert abs(facts - 1850) < 25

    def test_sizes_of_the_test_splits(self) -> None:
        others = {name: count for name in names() if (count := len(records(name, "test"))) != 2500}
        assert f"Test splits hold 2,500 questions (mini_csqa {others.pop('mini_csqa'):,})" in CARD
        assert others == {}

    @torch.no_grad()
    @pytest.mark.parametrize("genre", ["narrative", "word problems"])
    def test_perplexity(self, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, genre: str) -> None:
        rows = {row[0]: row[1] for row in table("## Training")[2:]}
        assert list(rows) == list(GENRES)
        parts = held_out(tokenizer, genre, 24, LENGTH).split(8)
        loss = sum(next_token_loss(model, part).item() for part in parts) / 3
        assert float(rows[genre]) == pytest.approx(torch.tensor(loss).exp().item(), abs=0.00501)

    def test_spectrum(self, model: LlamaForCausalLM) -> None:
        def shares(model: LlamaForCausalLM, kind: str) -> list[float]:
            weights = [layer.self_attn.get_submodule(kind).weight.detach() for layer in model.model.layers]
            squares = [torch.linalg.svdvals(weight) ** 2 for weight in weights]
            return [float(s[:16].sum() / s.sum()) for s in squares]

        random = new_model(0)
        for kind, trained, start in table("## Spectrum")[2:]:
            assert [float(value) for value in trained.split(",")] == pytest.approx(shares(model, kind), abs=0.00501)
            assert shares(random, kind) == pytest.approx([float(start)] * 5, abs=0.00501)

    def test_calibration_is_that_of_the_study(self) -> None:
        study = (ROOT / "studies" / "mini" / "calibration.md").read_text().splitlines()
        rows = table("## Calibration")[2:]
        assert len(rows) == 5
        for row in rows:
            values = [re.findall(r"-?\d+\.\d", cell) for cell in (row[3], row[4], row[5], row[7])]
            assert [len(one) for one in values] == [1, 3, 3, 3]
            for found in values:
                assert any(set(found) <= set(re.findall(r"-?\d+\.\d", line)) for line in study), (row[0], found)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(model_dir())


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(model_dir(), dtype=torch.float32).eval()
