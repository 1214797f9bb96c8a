"""Promise: pretraining is seeded and, cut and resumed, gives the same bits as uncut."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dude_lab.mini import model_dir
from dude_peft.errors import DudeError
from mini.model_shape import Packer, new_model
from mini.pretrain import LENGTH, learning_rate, main, pretrain

MICRO = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
RUN = {"tokens": 6 * 2 * LENGTH, "rows": 2, "shape": MICRO, "dtype": "float32", "warmup": 2, "progress": False}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(model_dir())


def test_resumed_run_is_bit_for_bit_the_uncut_one(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    whole = pretrain(tmp_path / "whole", tokenizer=tokenizer, **RUN)
    pretrain(tmp_path / "cut", tokenizer=tokenizer, stop_after=3, **RUN)
    torch.manual_seed(99)  # a resumed run depends on no global state
    rest = pretrain(tmp_path / "cut", tokenizer=tokenizer, resume=True, **RUN)
    for (name, a), (_, b) in zip(whole.state_dict().items(), rest.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "cut")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert losses[0][-1] < losses[0][0]
    assert json.loads((tmp_path / "whole" / "perplexity.json").read_text())["perplexity"]["arithmetic"] > 1


def test_another_seed_is_another_model() -> None:
    a, b, again = (new_model(seed, MICRO).state_dict() for seed in (0, 1, 0))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(a[name], again[name])
    assert not torch.equal(a[name], b[name])


def test_starting_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    new_model(0, MICRO)
    assert torch.equal(torch.rand(3), want)


def test_packer_goes_on_where_it_stopped(tokenizer: PreTrainedTokenizerFast) -> None:
    one = Packer(tokenizer, seed=0, length=64)
    one.batch(3)
    state = one.state()
    want = one.batch(4)
    other = Packer(tokenizer, seed=0, length=64)
    other.restore(state)
    assert torch.equal(other.batch(4), want)
    assert want.shape == (4, 64)


def test_rate_rises_stays_and_falls() -> None:
    rates = [learning_rate(step, 100, 1.0, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:60] == [1.0] * 51
    assert rates[-1] == pytest.approx(1 / 40)
    assert all(a >= b for a, b in pairwise(rates[60:]))


def test_a_longer_budget_changes_nothing_before_the_fall() -> None:
    assert [learning_rate(s, 100, 1.0, 10) for s in range(60)] == [learning_rate(s, 200, 1.0, 10) for s in range(60)]


def test_a_finished_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(DudeError, match="--resume"):
        pretrain(tmp_path, tokens=1000)
    assert main(["-o", str(tmp_path / "none"), "--resume", "--threads", "1"]) == 2
    assert "nothing to resume" in capsys.readouterr().out
