"""Promise: a nonsense `data:` or `eval:` section is refused when it is parsed, with the key and the remedy."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dude_lab.config.data_settings import DataSettings
from dude_lab.config.eval_settings import EvalSettings
from dude_lab.data import parsers
from dude_lab.data.catalogue import SETS, suites
from dude_lab.data.sets import NamedSet
from dude_lab.settings import parse
from dude_lab.training.training_data import load_training
from dude_peft.errors import DudeError


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({}, "exactly one of 'name', 'train' and 'hub'; got none"),
        ({"name": "gsm8k", "train": "a.jsonl"}, "got 'name' and 'train'"),
        ({"name": "gsm9k"}, "Did you mean 'gsm8k'"),
        ({"name": "gsm8k", "prompt": "question"}, "'prompt' has no meaning with 'name'"),
        ({"name": "gsm8k", "completion": "answer"}, "'completion' has no meaning with 'name'"),
        ({"name": "gsm8k", "protocol": "letter"}, "answered with free text"),
        ({"name": "piqa", "calculator_marks": "strip"}, "is for gsm8k"),
        ({"name": "gsm8k", "subset": "main"}, "'subset' has no meaning with 'name'"),
        ({"name": "mini_gsm", "root": "/data"}, "its records ship with the package"),
        ({"train": "a.jsonl", "root": "/data"}, "'root' has no meaning with 'train'"),
        ({"train": "a.jsonl", "split": "train"}, "'split' has no meaning with 'train'"),
        ({"train": "a.jsonl", "protocol": "cloze"}, "'protocol' has no meaning with 'train'"),
        ({"train": []}, "name at least one file"),
        ({"train": ""}, "name at least one file"),
        ({"hub": "a/b", "root": "/data"}, "'root' has no meaning with 'hub'"),
        ({"train": "a.jsonl", "validation": 1.0}, "above 0 and below 1"),
        ({"train": "a.jsonl", "validation": 0}, "above 0 and below 1"),
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
        ({"limit": 3}, "'limit' has no meaning without questions"),
        ({"suite": "gsm8k", "tasks": ["piqa"]}, "set 'suite' or 'tasks', not both"),
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
    known = suites()
    for suite in known:
        assert EvalSettings(suite=suite).names == known[suite]
    assert len(known["commonsense"]) == len(known["mini_commonsense"]) == 8
    assert known["mini"] == ("mini_gsm", "mini_csqa", *known["mini_commonsense"], "mini_mmlu", "mini_gpqa")
    assert set(known) == {"commonsense", "mini_commonsense", "mini", *SETS} - {"metamathqa", "mini_metamath"}
    assert EvalSettings(tasks=["commonsense", "piqa", "lm_eval:wikitext"]).names == (
        *suites()["commonsense"],
        "lm_eval:wikitext",
    )


@pytest.fixture
def additions(monkeypatch, tmp_path):
    """A data set that is in the catalogue and nowhere else; its folder."""
    splits = {"train": ("train.jsonl",), "test": ("test.jsonl",)}
    options = {"eval_split": "test", "protocol": "generate", "metric": "exact_match", "suites": ("commonsense", "sums")}
    entry = NamedSet("additions", parsers.gsm8k, splits, None, **options)
    monkeypatch.setitem(SETS, "additions", entry)
    (tmp_path / "additions").mkdir()
    for split in splits:
        records = [{"question": f"What is {k} + 1?", "answer": f"#### {k + 1}"} for k in range(5)]
        (tmp_path / "additions" / f"{split}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return str(tmp_path)


class TestASetAddedToTheCatalogueAlone:
    def test_is_accepted_and_loaded_for_training(self, additions):
        settings = parse(DataSettings, {"name": "additions", "root": additions, "calculator_marks": "strip"})
        assert len(load_training(settings).train) == 5
        with pytest.raises(DudeError, match="answered with free text"):
            parse(DataSettings, {"name": "additions", "protocol": "letter"})

    def test_is_a_suite_and_part_of_its_groups(self, additions):
        from dude_lab.evaluation.tasks import build_units

        assert suites()["additions"] == suites()["sums"] == ("additions",)
        assert "additions" in EvalSettings(suite="commonsense").names
        for suite in ("additions", "sums"):
            (unit,) = build_units(parse(EvalSettings, {"suite": suite, "root": additions}))
            assert (unit.name, unit.metric, len(unit.questions)) == ("additions", "exact_match", 5)

    def test_is_an_argument_of_the_command(self, additions, monkeypatch):
        from dude_lab.cli import finished_runs
        from dude_lab.cli.commands import app

        evaluated = []
        monkeypatch.setattr(finished_runs, "evaluate_model", lambda *args, **_: evaluated.append(args[1]) or 0)
        result = CliRunner().invoke(app, ["eval", "mini", "--suite", "additions", "--root", additions])
        assert result.exit_code == 0, result.output
        assert evaluated[0].names == ("additions",)

    def test_is_listed_where_a_name_is_not_known(self, additions):
        for model, key in ((DataSettings, "name"), (EvalSettings, "suite")):
            with pytest.raises(DudeError, match="Did you mean 'additions'"):
                parse(model, {key: "addition"})
            with pytest.raises(DudeError, match=r"Known: .*\badditions\b"):
                parse(model, {key: "zzz"})


def test_the_catalogue_imports_nothing_heavy():
    code = (
        "import sys\nfrom dude_lab.data.catalogue import SETS\n"
        "assert SETS\nassert not {'torch', 'transformers', 'peft', 'datasets', 'pyarrow', 'lm_eval'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
