"""Promise: pretraining from nothing repeats the shipped tokenizer, config and loss; the check tells another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from dude_lab.mini import model_dir
from mini import pretrain as pretraining
from mini.check import WINDOW, differences, keep, main, shipped_losses, window_losses
from mini.model_shape import new_model
from mini.pretrain import pretrain, save_pretrained
from mini.tokenizer import train_tokenizer


def write_log(folder: Path, losses: list[float]) -> Path:
    lines = [json.dumps({"step": i + 1, "loss": loss}) + "\n" for i, loss in enumerate(losses)]
    (folder / "log.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder / "log.jsonl"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer learned again from the text, which takes ten seconds."""
    return train_tokenizer()


def test_tokenizer_and_config_are_the_shipped_files(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save_pretrained(new_model(0), tokenizer, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in model_dir().iterdir()}
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        made, shipped = (json.loads((folder / name).read_text()) for folder in (tmp_path, model_dir()))
        for version in ("transformers_version", "version"):  # of the libraries that wrote them
            made.pop(version, None), shipped.pop(version, None)
        assert made == shipped, name


@pytest.mark.slow  # twenty seconds, and only a change of mini/ can break it
def test_from_nothing_to_the_first_window(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokenizer, text, initialisation, schedule and optimizer: a change of any of them shows in these steps."""
    monkeypatch.setattr(pretraining, "train_tokenizer", lambda: tokenizer)
    before = torch.get_num_threads()
    try:
        assert pretraining.main(["-o", str(tmp_path), "--threads", str(before), "--stop-after", str(WINDOW)]) == 0
    finally:
        torch.set_num_threads(before)
    (found,) = differences(window_losses(tmp_path / "log.jsonl"), shipped_losses())
    assert abs(found) < 0.01


@pytest.mark.slow  # the whole budget: forty minutes on two cores
def test_from_nothing_to_the_end(tmp_path: Path) -> None:
    pretrain(tmp_path, tokens=len(shipped_losses()) * WINDOW * 2048)
    found = differences(window_losses(tmp_path / "log.jsonl"), shipped_losses())
    assert len(found) == len(shipped_losses())
    assert abs(found[-1]) < 0.01


def test_windows_are_means_and_an_unfinished_one_is_left_out(tmp_path: Path) -> None:
    log = write_log(tmp_path, [1.0] * WINDOW + [2.0, 4.0] * (WINDOW // 2) + [3.0] + [9.0] * 3)
    assert window_losses(log) == pytest.approx([1.0, 3.0])


def test_the_check_tells_a_repetition_from_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = shipped_losses()[:3]
    write_log(tmp_path, [loss * 1.001 for loss in shipped for _ in range(WINDOW)])
    assert main([str(tmp_path)]) == 0
    assert "agrees" in capsys.readouterr().out
    write_log(tmp_path, [loss * 1.02 for loss in shipped for _ in range(WINDOW)])
    assert main([str(tmp_path)]) == 1
    assert "does not agree" in capsys.readouterr().out
    write_log(tmp_path, [1.0])
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "none")]) == 2


def test_a_run_can_be_kept(tmp_path: Path) -> None:
    write_log(tmp_path, [2.0] * WINDOW + [1.0] * WINDOW)
    keep(tmp_path, tmp_path / "loss.json")
    assert json.loads((tmp_path / "loss.json").read_text()) == {"window": WINDOW, "losses": [2.0, 1.0]}
