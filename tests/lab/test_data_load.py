"""Promise: prompt and completion join without surprises, and splits, limits and sources are what the config says."""

from __future__ import annotations

import json
import sys

import pytest

from dude_lab.config.data_settings import DataSettings
from dude_lab.data.catalogue import SETS
from dude_lab.data.templates import join_pair
from dude_lab.training.training_data import load_training
from dude_peft.errors import DudeError


@pytest.fixture
def own_file(tmp_path):
    file = tmp_path / "own.jsonl"
    rows = [{"instruction": f"Add {k}.", "input": "" if k % 2 else "x", "output": f"sum {k}"} for k in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("prompt", "completion", "joined"),
    [
        ("Answer:", "42", ("Answer:", " 42")),
        ("Answer: ", "42", ("Answer:", " 42")),
        ("Answer:", " 42", ("Answer:", " 42")),
        ("### Response:\n", "42", ("### Response:\n", "42")),
        ("Code:", "\n  x = 1", ("Code:", "\n  x = 1")),
        ("Answer:", "42\n", ("Answer:", " 42\n")),
    ],
)
def test_space_belongs_to_the_completion(prompt, completion, joined):
    assert join_pair(prompt, completion) == joined


def test_templates_take_several_columns_and_empty_ones(own_file):
    data = load_training(
        DataSettings(train=str(own_file), prompt="{instruction}\n{input}\nResult {{}}:", completion="output")
    )
    assert data.train[0] == {"prompt": "Add 0.\nx\nResult {}:", "completion": " sum 0"}
    assert data.train[1]["prompt"] == "Add 1.\n\nResult {}:"


def test_fraction_is_seeded_disjoint_and_complete(own_file):
    def load(seed, **more):
        settings = DataSettings(
            train=str(own_file), prompt="instruction", completion="output", validation=0.25, seed=seed, **more
        )
        return load_training(settings)

    one, again, other = load(1), load(1), load(2)
    assert len(one.train) == 15 and len(one.validation) == 5
    assert sorted([*one.train["prompt"], *one.validation["prompt"]]) == sorted(f"Add {k}." for k in range(20))
    assert list(one.validation) == list(again.validation) != list(other.validation)
    assert one.sha256 == again.sha256 != other.sha256
    short = load(1, limit=4)
    assert list(short.train) == list(one.train)[:4] and list(short.validation) == list(one.validation)


def test_fraction_that_takes_nothing_is_refused(own_file):
    with pytest.raises(DudeError, match=r"0.01 of 20 records is 0"):
        load_training(DataSettings(train=str(own_file), prompt="instruction", completion="output", validation=0.01))


def test_validation_file_is_checked_too(own_file, tmp_path):
    bad = tmp_path / "val.jsonl"
    bad.write_text('{"instruction": "x", "output": null}\n')
    settings = DataSettings(train=str(own_file), prompt="instruction", completion="output", validation=str(bad))
    with pytest.raises(DudeError, match=r"val.jsonl, line 1: column 'output' is null"):
        load_training(settings)
    bad.write_text('{"instruction": "x", "output": "y"}\n')
    assert load_training(settings).validation[0] == {"prompt": "x", "completion": " y"}


def test_calculator_marks(real_data):
    kept = load_training(DataSettings(name="gsm8k", root=str(real_data)))
    stripped = load_training(DataSettings(name="gsm8k", root=str(real_data), calculator_marks="strip"))
    assert sum("<<" in one for one in kept.train["completion"]) == 7378
    assert not any("<<" in one or ">>" in one for one in stripped.train["completion"])
    assert stripped.train[0]["completion"] == (
        " Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips altogether in April and May.\n#### 72"
    )


def test_named_pairs_need_no_separator(real_data):
    for name in ("gsm8k", "commonsense_qa", "metamathqa"):
        data = load_training(DataSettings(name=name, root=str(real_data), limit=500))
        for prompt, completion in zip(data.train["prompt"], data.train["completion"], strict=True):
            assert prompt == prompt.rstrip() and prompt.endswith("Answer:")
            assert completion[0] == " " and not completion[1].isspace()


def test_letter_protocol_trains_on_the_letter(real_data):
    data = load_training(DataSettings(name="commonsense_qa", root=str(real_data), protocol="letter", limit=1))
    assert data.train[0] == {
        "prompt": "Question: The sanctions against the school were a punishing blow, and they seemed to what the "
        "efforts the school had made to change?"
        "\nA. ignore\nB. enforce\nC. authoritarian\nD. yell at\nE. avoid\nAnswer:",
        "completion": " A",
    }


def test_named_validation_split_is_not_cut_by_the_limit(real_data):
    data = load_training(DataSettings(name="commonsense_qa", root=str(real_data), limit=10, validation="validation"))
    assert (len(data.train), len(data.validation)) == (10, 1221)


class TestWhereASetIsFound:
    def test_root_then_environment_then_hub(self, real_data, monkeypatch, tmp_path):
        asked = []
        fake = type(sys)("datasets")
        fake.load_dataset = lambda *a, **k: asked.append((a, k)) or [{"question": "q", "answer": "#### 1"}]
        gsm8k = SETS["gsm8k"]
        monkeypatch.setitem(sys.modules, "datasets", fake)
        monkeypatch.delenv("DUDE_DATA_DIR", raising=False)
        assert len(gsm8k.rows("test", real_data).rows) == 1319
        assert len(gsm8k.rows("test", real_data / "gsm8k").rows) == 1319  # the set's own folder does too
        monkeypatch.setenv("DUDE_DATA_DIR", str(real_data))
        assert len(gsm8k.rows("test").rows) == 1319
        assert asked == []
        monkeypatch.setenv("DUDE_DATA_DIR", str(tmp_path))
        assert gsm8k.rows("test").rows == [{"question": "q", "answer": "#### 1"}]
        assert asked == [(("openai/gsm8k", "main"), {"split": "test"})]

    def test_root_without_the_split_is_an_error_even_where_the_hub_has_it(self, tmp_path, real_data):
        with pytest.raises(DudeError, match=r"has no boolq/train.jsonl. It has the splits: validation"):
            SETS["boolq"].rows("train", real_data)
        with pytest.raises(DudeError, match=r"has no gsm8k/test.jsonl"):
            SETS["gsm8k"].rows("test", tmp_path)

    def test_unreachable_names_the_three_ways(self, monkeypatch):
        fake = type(sys)("datasets")

        def load_dataset(*_, **__):
            raise ConnectionError("no network")

        fake.load_dataset = load_dataset
        monkeypatch.setitem(sys.modules, "datasets", fake)
        monkeypatch.delenv("DUDE_DATA_DIR", raising=False)
        with pytest.raises(DudeError) as caught:
            SETS["gsm8k"].rows("test")
        said = str(caught.value)
        assert "openai/gsm8k (main)" in said and "no network" in said
        assert "'root'" in said and "DUDE_DATA_DIR" in said and "hub" in said and "gsm8k/test.jsonl" in said

    def test_unknown_split(self):
        with pytest.raises(DudeError, match=r"gsm8k has no split 'validation'. It has: train, test"):
            SETS["gsm8k"].rows("validation")

    def test_own_hub_set(self, monkeypatch):
        import datasets

        table = datasets.Dataset.from_list([{"q": "a", "a": "b"}])
        calls = []
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: calls.append((a, k)) or table)
        data = load_training(DataSettings(hub="o/n", subset="s", split="dev", prompt="q", completion="a"))
        assert data.train[0] == {"prompt": "a", "completion": " b"}
        assert calls == [(("o/n", "s"), {"split": "dev"})]
