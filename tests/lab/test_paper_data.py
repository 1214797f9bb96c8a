"""The two ways of the paper to put training data together: GPQA main and extended, and a sample of MetaMathQA."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dude_lab.config.data_settings import DataSettings
from dude_lab.config.yaml_file import fingerprinted, parse_run
from dude_lab.data.catalogue import named_set
from dude_lab.training.training_data import load_training
from dude_peft.errors import DudeError

HEAD = "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Record ID\n"


def write_gpqa(root: Path, *parts: str) -> Path:
    (root / "gpqa").mkdir()
    for part in parts:
        rows = "".join(f"{part} {k}?,right,a,b,c,{part}{k}\n" for k in range(12))
        (root / "gpqa" / f"gpqa_{part}.csv").write_text(HEAD + rows)
    return root


def test_gpqa_main_and_extended_are_read_one_after_the_other(tmp_path: Path) -> None:
    root = write_gpqa(tmp_path, "main", "extended", "diamond")
    questions = named_set("gpqa_main_extended").examples("train", root)
    assert [one.id for one in questions] == [f"{part}{k}" for part in ("main", "extended") for k in range(12)]
    assert len({one.gold for one in questions}) == 4  # the order of the answers is shuffled in both
    assert named_set("gpqa_main_extended").examples("train", root) == questions
    data = load_training(DataSettings(name="gpqa_main_extended", root=str(root)))
    assert len(data.train) == 24 and "extended 0?" in data.train[12]["prompt"]


def test_a_missing_half_is_told(tmp_path: Path) -> None:
    root = write_gpqa(tmp_path, "main")
    with pytest.raises(DudeError, match=r"gpqa_extended\.csv"):
        load_training(DataSettings(name="gpqa_main_extended", root=str(root)))


def sums(folder: Path, count: int = 40) -> str:
    path = folder / "sums.jsonl"
    path.write_text("".join(f'{{"prompt": "{k} + 1 =", "completion": " {k + 1}"}}\n' for k in range(count)))
    return str(path)


def test_a_sample_is_random_seeded_and_in_the_order_of_the_file(tmp_path: Path) -> None:
    def drawn(seed: int, **more: int) -> list[int]:
        data = load_training(DataSettings(train=sums(tmp_path), sample=10, seed=seed, **more))  # type: ignore[arg-type]
        return [int(one["prompt"].split()[0]) for one in data.train]

    assert drawn(42) == sorted(random.Random(42).sample(range(40), 10)) != list(range(10))
    assert drawn(42) == drawn(42) != drawn(43)
    assert drawn(42, limit=3) == drawn(42)[:3]


def test_a_sample_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DudeError, match=r"data\.sample: 41 of 40"):
        load_training(DataSettings(train=sums(tmp_path), sample=41))


def test_a_config_without_a_sample_has_the_fingerprint_of_runs_before_there_were_any() -> None:
    raw = {"model": "mini", "data": {"name": "gsm8k"}, "method": "lora", "train": {"steps": 1}, "output": "x"}
    assert "sample" not in fingerprinted(parse_run(raw))["data"]
    assert fingerprinted(parse_run({**raw, "data": {"name": "gsm8k", "sample": 5}}))["data"]["sample"] == 5
