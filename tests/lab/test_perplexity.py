"""`eval.text`: the perplexity of a text beside the questions, by the harness, and as computed by hand."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from eval_tools import byte_tokenizer, tiny_llama

from dude_lab.config.eval_settings import EvalSettings
from dude_lab.data.texts import passages
from dude_lab.evaluation.evaluator import evaluate
from dude_lab.evaluation.perplexity import PASSAGE
from dude_peft.errors import DudeError

TEXT = "".join(f"Line {k} of a text about {k * k} things , and some more words .\n" for k in range(90))
ASKED: dict[str, Any] = {"suite": "mini_csqa", "limit": 4}


def by_hand(model: Any, tokenizer: Any, text: str) -> float:
    """The log-likelihood of a text, token by token, after the end token."""
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        scores = model(ids).logits[0, :-1].double().log_softmax(-1)
    return float(scores.gather(1, ids[0, 1:, None]).sum())


def test_it_is_the_exponential_of_the_loss_of_a_word(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text(TEXT)
    model, tokenizer = tiny_llama(window=4096).eval(), byte_tokenizer()
    found = evaluate(model, tokenizer, EvalSettings(**ASKED, text=str(tmp_path / "book.txt")))
    parts = passages(str(tmp_path / "book.txt"), None, limit=None, length=PASSAGE)
    assert "".join(parts) == TEXT and len(parts) > 1
    total = sum(by_hand(model, tokenizer, part) for part in parts)
    metric = found.metrics["book"]
    assert metric["metric"] == "word_perplexity" and metric["n"] == len(TEXT.split())
    assert math.log(metric["value"]) == pytest.approx(-total / len(TEXT.split()), rel=1e-5)
    assert 0 < metric["stderr"] < metric["value"]
    plain = evaluate(model, tokenizer, EvalSettings(**ASKED))
    assert found.headline == plain.headline == "mini_csqa" and found.accuracy == plain.accuracy
    assert "book" not in found.samples and "word_perplexity" in found.markdown()


def test_a_limit_cuts_at_a_line_and_gz_is_read(tmp_path: Path) -> None:
    (tmp_path / "book.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    lines = TEXT.splitlines(keepends=True)
    [part] = passages(str(tmp_path / "book.txt.gz"), None, limit=len("".join(lines[:3])) + 5, length=PASSAGE)
    assert part == "".join(lines[:3])


def test_wikitext_is_read_from_the_folder_of_the_data(real_data: Path) -> None:
    found = passages("wikitext2", str(real_data), limit=20_000, length=PASSAGE)
    assert "Robert <unk>" in found[0] and 18_000 < sum(map(len, found)) <= 20_000
    assert all(len(one) >= PASSAGE for one in found[:-1])


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), (b"\n \n", "has no text"), (b"\xff\xfe\xfa", "UTF-8")]
)
def test_a_text_that_cannot_be_used(content: bytes | None, said: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(DudeError, match=said):
        passages(str(tmp_path / "book.txt"), None, limit=None, length=PASSAGE)
    with pytest.raises(DudeError, match="Did you mean 'wikitext2'"):
        passages("wikitext", None, limit=None, length=PASSAGE)


def test_a_limit_needs_a_text_and_a_text_needs_questions() -> None:
    with pytest.raises(ValueError, match="'text_limit' has no meaning without 'text'"):
        EvalSettings(**ASKED, text_limit=5)
    with pytest.raises(ValueError, match="'text' has no meaning without questions"):
        EvalSettings(text="wikitext2", every=5)
