"""Token ids, loss mask and lengths: TRL's ids, nothing dropped or cut without being counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tiny_run import tiny_base  # noqa: F401

from dude_lab.config.run_settings import ModelSettings, TrainSettings
from dude_lab.training.base_model import find_base
from dude_lab.training.examples import IGNORED, length_limit, shown, tokenize
from dude_peft.errors import DudeError

ROWS = {
    "prompt": ["Question: what is 1 plus 2?\nAnswer:", "Say", "Question: what is 20 plus 30?\nAnswer:"],
    "completion": [" 3", " a b c d e f g h i j", " 50<|end|>"],
}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Any:  # noqa: F811
    return find_base(ModelSettings(name=str(tiny_base)), device="cpu")


def made(base: Any, limit: int = 128, rows: dict[str, list[str]] = ROWS, **train: Any) -> Any:
    return tokenize(Dataset.from_dict(rows), base.tokenizer, TrainSettings(**train), limit)


def test_ids_and_labels_are_trls(base: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = {key: [*values, values[0]] for key, values in ROWS.items()}
    rows["completion"][-1] = "3"  # joins the prompt's last token
    args = SFTConfig(
        str(tmp_path), max_length=None, completion_only_loss=True, report_to="none", bf16=False, use_cpu=True
    )
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(base.source),
        args,
        train_dataset=Dataset.from_dict(rows),
        processing_class=base.tokenizer,
    )
    ours = made(base, rows=rows).data
    assert trainer.train_dataset is not None
    assert list(ours["input_ids"]) == list(trainer.train_dataset["input_ids"])
    assert list(ours["labels"]) == list(trainer.train_dataset["labels"])


def test_the_loss_is_on_the_completion_and_the_end(base: Any) -> None:
    examples = made(base)
    assert shown(examples, base.tokenizer, 0) == [("Question: what is 1 plus 2?\nAnswer:", False), (" 3<|end|>", True)]
    assert shown(examples, base.tokenizer, 2)[1] == (" 50<|end|>", True)  # one end, not two
    assert examples.data[0]["labels"][-1] == base.tokenizer.eos_token_id


def test_loss_on_everything_when_asked(base: Any) -> None:
    row = made(base, completion_only_loss=False).data[0]
    assert row["labels"] == row["input_ids"] and IGNORED not in row["labels"]


def test_long_examples_are_dropped_and_counted(base: Any) -> None:
    whole = made(base)
    lengths = [len(ids) for ids in whole.data["input_ids"]]
    limit = max(lengths) - 1
    examples = made(base, limit)
    assert (examples.dropped, examples.truncated, examples.longest) == (1, 0, max(lengths))
    assert len(examples.data) == 2
    assert examples.tokens == sum(lengths) - max(lengths)


def test_long_examples_are_cut_when_asked(base: Any) -> None:
    whole = made(base)
    longest = max(whole.data["input_ids"], key=len)
    examples = made(base, len(longest) - 1, overlong="truncate")
    assert (examples.dropped, examples.truncated) == (0, 1)
    assert longest[:-1] in list(examples.data["input_ids"])


def test_a_prompt_that_fills_the_limit_cannot_be_cut(base: Any) -> None:
    prompt = len(base.tokenizer(ROWS["prompt"][0])["input_ids"])
    rows = {key: [values[0], values[1][:5]] for key, values in ROWS.items()}
    examples = made(base, prompt, rows=rows, overlong="truncate")
    assert (examples.dropped, len(examples.data)) == (1, 1)


def test_all_too_long_says_how_long(base: Any) -> None:
    longest = made(base).longest
    with pytest.raises(DudeError) as caught:
        made(base, 3)
    for word in ("all 3 training examples", "max_length: 3", f"train.max_length={longest}"):
        assert word in str(caught.value)


def test_prompts_that_merge_into_the_completion_are_counted(base: Any) -> None:
    assert made(base).merged == 0
    assert made(base, rows={"prompt": ["Question: what is 1 plus 2?\nAnswe"], "completion": ["r: 3"]}).merged == 1


def test_length_limit_follows_the_model(base: Any) -> None:
    assert length_limit(TrainSettings(), base.config) == 128
    assert length_limit(TrainSettings(max_length=50), base.config) == 50
    with pytest.raises(DudeError, match="max_length: 129 is above 128"):
        length_limit(TrainSettings(max_length=129), base.config)


def test_of_a_huge_example_only_what_could_fit_is_tokenised(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dude_lab.training.examples.READ", 1_000)
    seen: list[int] = []
    original = type(base.tokenizer).__call__

    def counted(self: Any, texts: list[str], **options: Any) -> Any:
        seen.extend(map(len, texts))
        return original(self, texts, **options)

    monkeypatch.setattr(type(base.tokenizer), "__call__", counted)
    rows = {"prompt": ["a", "word " * 4_000], "completion": [" b", " c"]}
    examples = made(base, 16, rows)
    assert (examples.dropped, len(examples.data), max(seen)) == (1, 1, 1_000)
    assert examples.longest > 16
    with pytest.raises(DudeError, match="the longest has at least"):
        made(base, 16, {key: values[1:] for key, values in rows.items()})


def test_a_token_without_a_row_in_the_embedding_is_named(base: Any) -> None:
    data = Dataset.from_dict(ROWS)
    highest = max(max(ids) for ids in made(base).data["input_ids"])
    tokenize(data, base.tokenizer, TrainSettings(), 128, vocabulary=highest + 1)
    with pytest.raises(DudeError, match=rf"token {highest} .* has {highest} rows"):
        tokenize(data, base.tokenizer, TrainSettings(), 128, vocabulary=highest)
