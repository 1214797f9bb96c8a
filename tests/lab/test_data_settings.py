"""Promise: a nonsense `data:` or `eval:` section is refused when it is parsed, with the key and the remedy."""

from __future__ import annotations

import pytest

from dude_lab.config.section import parse
from dude_lab.data import DataSettings
from dude_lab.evaluation import SUITES, EvalSettings
from dude_peft.errors import DudeError


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "exactly one of 'name', 'train' and 'hub'; given: none"),
        ({"name": "gsm8k", "train": "a.jsonl"}, "given: 'name' and 'train'"),
        ({"name": "gsm9k"}, "Did you mean 'gsm8k'"),
        ({"name": "gsm8k", "prompt": "question"}, "'prompt' has no meaning with 'name'"),
        ({"name": "gsm8k", "completion": "answer"}, "'completion' has no meaning with 'name'"),
        ({"name": "gsm8k", "protocol": "letter"}, "answered with free text"),
        ({"name": "piqa", "calculator_marks": "strip"}, "belongs to gsm8k"),
        ({"name": "gsm8k", "subset": "main"}, "'subset' has no meaning with 'name'"),
        ({"name": "mini_gsm", "root": "/data"}, "its records are generated, not read"),
        ({"train": "a.jsonl", "root": "/data"}, "'root' has no meaning with 'train'"),
        ({"train": "a.jsonl", "split": "train"}, "'split' has no meaning with 'train'"),
        ({"train": "a.jsonl", "protocol": "cloze"}, "'protocol' has no meaning with 'train'"),
        ({"train": []}, "name at least one file"),
        ({"train": ""}, "name at least one file"),
        ({"hub": "a/b", "root": "/data"}, "'root' has no meaning with 'hub'"),
        ({"train": "a.jsonl", "validation": 1.0}, "between 0 and 1"),
        ({"train": "a.jsonl", "validation": 0}, "between 0 and 1"),
        ({"train": "a.jsonl", "validation": True}, "give a fraction"),
        ({"train": "a.jsonl", "validation": ""}, "give a fraction"),
        ({"train": "a.jsonl", "limit": 0}, "'limit'"),
        ({"train": "a.jsonl", "seed": -1}, "'seed'"),
        ({"train": "a.jsonl", "promt": "x"}, "Did you mean 'prompt'"),
    ],
)
def test_data_section_refused(raw, said):
    with pytest.raises(DudeError) as caught:
        parse(DataSettings, raw)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "exactly one of 'suite' and 'tasks'"),
        ({"suite": "gsm8k", "tasks": ["piqa"]}, "exactly one of 'suite' and 'tasks'"),
        ({"suite": "comonsense"}, "Did you mean 'commonsense'"),
        ({"suite": "metamathqa"}, "no suite is called 'metamathqa'"),
        ({"suite": "lm_eval:"}, "no suite is called 'lm_eval:'"),
        ({"tasks": []}, "name at least one suite"),
        ({"tasks": ["gsm8k", "pica"]}, "Did you mean 'piqa'"),
        ({"suite": "gsm8k", "batch_size": 0}, "'batch_size'"),
        ({"suite": "gsm8k", "num_fewshot": -1}, "'num_fewshot'"),
        ({"suite": "gsm8k", "every": 0}, "'every'"),
        ({"suite": "gsm8k", "protocol": "chat"}, "'protocol'"),
    ],
)
def test_eval_section_refused(raw, said):
    with pytest.raises(DudeError) as caught:
        parse(EvalSettings, raw)
    assert said in str(caught.value)


def test_suites_are_made_of_known_sets():
    for suite in SUITES:
        assert EvalSettings(suite=suite).names == SUITES[suite]
    assert len(SUITES["commonsense"]) == 8
    assert EvalSettings(tasks=["commonsense", "piqa", "lm_eval:wikitext"]).names == (
        *SUITES["commonsense"],
        "lm_eval:wikitext",
    )
