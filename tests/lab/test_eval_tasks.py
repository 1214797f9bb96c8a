"""Promise: what a model is asked is what lm-evaluation-harness's own tasks ask, and its answers are scored right."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import datasets
import lm_eval
import pytest
from eval_tools import Oracle, byte_tokenizer, tiny_llama
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from dude_lab.config.data_settings import DataSettings
from dude_lab.config.eval_settings import EvalSettings
from dude_lab.data.catalogue import SETS, suites
from dude_lab.data.parsers import GROUP_OF
from dude_lab.evaluation.evaluator import evaluate
from dude_lab.evaluation.result import Metric, with_averages
from dude_lab.evaluation.tasks import build_units
from dude_lab.training.training_data import load_training
from dude_peft.errors import DudeError

HARNESS = Path(lm_eval.__file__).parent / "tasks"


def hub_choices(row, stem):
    listed = row["question"]["choices"]
    return {
        "id": row["id"],
        stem: row["question"]["stem"],
        "choices": {key: [one[key] for one in listed] for key in ("text", "label")},
        "answerKey": row["answerKey"],
    }


OWN = {
    # named set: the harness's task, our protocol, and how a raw record looks on the hub
    "gsm8k": ("gsm8k/gsm8k.yaml", None, lambda row: row),
    "commonsense_qa": ("commonsense_qa/default.yaml", "letter", lambda row: hub_choices(row, "question")),
    "boolq": ("super_glue/boolq/default.yaml", None, lambda row: {**row, "label": int(row["label"] == "true")}),
    "piqa": ("piqa/piqa.yaml", None, lambda row: {**row, "label": int(row["label"])}),
    "siqa": ("siqa/siqa.yaml", None, lambda row: row),
    "hellaswag": ("hellaswag/hellaswag.yaml", None, lambda row: row),
    "winogrande": ("winogrande/default.yaml", None, lambda row: row),
    "arc_easy": ("arc/arc_easy.yaml", None, lambda row: hub_choices(row, "question")),
    "arc_challenge": ("arc/arc_challenge.yaml", None, lambda row: hub_choices(row, "question")),
    "openbookqa": ("openbookqa/openbookqa.yaml", None, lambda row: hub_choices(row, "question_stem")),
}


@pytest.mark.parametrize("name", OWN)
def test_requests_are_the_harness_own(name, real_data, tmp_path):
    """Context and continuation of every request, and the gold, of the first 60 records."""
    file, protocol, to_hub = OWN[name]
    root = real_data
    if name == "hellaswag":  # the whole split is plain text; the harness needs the records with their fields
        root = tmp_path / "hellaswag"
        root.mkdir()
        part = real_data / "hellaswag" / "hellaswag_val_1000.jsonl.gz"
        (root / part.name).write_bytes(part.read_bytes())
    unit = build_units(EvalSettings(suite=name, root=str(root), protocol=protocol, limit=60))[0]
    rows = SETS[name].rows(unit.split, root, limit=60).rows
    config = load_yaml(str(HARNESS / file))
    for key in (
        "dataset_path",
        "dataset_name",
        "dataset_kwargs",
        "training_split",
        "fewshot_split",
        "validation_split",
    ):
        config.pop(key, None)
    split = datasets.Dataset.from_list([to_hub(row) for row in rows])
    theirs = ConfigurableTask(
        config={**config, "custom_dataset": lambda **_: {"test": split}, "test_split": "test", "num_fewshot": 0}
    )
    for task in (unit.task, theirs):
        task.build_all_requests(limit=None)
    assert len(unit.task.instances) == len(theirs.instances) >= 60
    for ours, wanted in zip(unit.task.instances, theirs.instances, strict=True):
        assert ours.args[0] == wanted.args[0]
        if name != "gsm8k":
            assert ours.args[1] == wanted.args[1]
    for k in range(len(rows)):
        mine, yours = unit.task.eval_docs[k], theirs.eval_docs[k]
        if name == "commonsense_qa":
            assert "ABCDE"[unit.task.doc_to_target(mine)] == theirs.doc_to_target(yours)
        else:
            assert unit.task.doc_to_target(mine) == theirs.doc_to_target(yours)
            assert name != "winogrande" or unit.task.doc_to_text(mine) == theirs.doc_to_text(yours)


def test_mmlu_requests_are_the_harness_own(real_data):
    """With five worked examples from the dev split, for two subjects."""
    units = {
        unit.name: unit for unit in build_units(EvalSettings(suite="mmlu", root=str(real_data), num_fewshot=5, limit=3))
    }
    assert len(units) == 57
    for subject in ("abstract_algebra", "high_school_european_history"):
        config = load_yaml(str(HARNESS / "mmlu" / "default" / f"mmlu_{subject}.yaml"))
        for key in ("dataset_path", "dataset_name", "dataset_kwargs"):
            config.pop(key, None)
        splits = {
            split: datasets.Dataset.from_list(
                [
                    {**row, "answer": "ABCD".index(row["answer"])}
                    for row in SETS["mmlu"].rows(split, real_data).rows
                    if row["subject"] == subject
                ]
            )
            for split in ("test", "dev")
        }
        theirs = ConfigurableTask(config={**config, "custom_dataset": lambda _s=splits, **_: _s, "num_fewshot": 5})
        ours = units[f"mmlu/{subject}"].task
        ours.build_all_requests(limit=None)
        theirs.build_all_requests(limit=3)
        assert [one.args for one in ours.instances] == [one.args for one in theirs.instances]


def pairs_of(settings):
    """Prompt and right completion of every question that `settings` asks."""
    out = []
    for unit in build_units(settings):
        heading = unit.task.config.description or ""
        out += [(heading + one.pair[0], one.pair[1]) for one in unit.questions]
    return out


LEARNABLE = [("gsm8k", None), ("commonsense_qa", None), ("commonsense_qa", "letter"), ("mmlu", None), ("mmlu", "cloze")]
LEARNABLE += [(name, protocol) for name in suites()["commonsense"] for protocol in (None, "letter")]


@pytest.mark.parametrize(("name", "protocol"), LEARNABLE)
def test_what_is_learnt_is_what_is_asked(name, protocol, real_data):
    """Prompt and completion of the training data are the context and the right continuation of the evaluation."""
    settings = EvalSettings(suite=name, root=str(real_data), protocol=protocol, limit=5)
    unit = build_units(settings)[0]
    unit.task.build_all_requests(limit=None)
    data = load_training(DataSettings(name=name, root=str(real_data), protocol=protocol, split=unit.split, limit=5))
    asked = {}
    for instance in unit.task.instances:
        asked.setdefault(instance.doc_id, []).append(instance.args)
    assert len(data.train) == len(asked) == 5
    for k, pair in enumerate(data.train):
        if name == "gsm8k":
            assert pair["prompt"] == asked[k][0][0]
        else:
            assert (pair["prompt"], pair["completion"]) == asked[k][unit.questions[k].question.gold]


@pytest.mark.parametrize(
    ("suite", "limit", "protocol"),
    [
        ("gsm8k", 60, None),
        ("commonsense_qa", 40, None),
        ("commonsense_qa", 40, "letter"),
        ("commonsense", 15, None),
        ("commonsense", 6, "letter"),
        ("mmlu", 2, "letter"),
    ],
)
def test_who_knows_the_answers_gets_all_and_who_shuns_them_none(suite, limit, protocol, real_data):
    settings = EvalSettings(suite=suite, root=str(real_data), limit=limit, protocol=protocol)
    tokenizer, pairs = byte_tokenizer(), pairs_of(settings)
    for shun in (False, True):
        result = evaluate(Oracle(tokenizer, pairs, shun=shun), tokenizer, settings)
        items = [item for items in result.samples.values() for item in items]
        assert len(items) == len(pairs)
        # A choice that begins or repeats another is as likely as it to who knows that one by heart; the data has some.
        doubtful = [item for item in items if protocol != "letter" and begins_another(item)]
        assert len(doubtful) <= len(items) / 10
        assert [item for item in items if item["correct"] is shun and item not in doubtful] == []
        if not doubtful:
            assert {row.value for row in result.table} == {float(not shun)}
            assert result.accuracy == float(not shun)


def begins_another(item):
    return any(one.startswith(other) for one, other in itertools.permutations(item.get("choices", []), 2))


def test_whole_gsm8k_test_split_is_scored_right(real_data):
    """Every one of the 1319 golds, commas and negatives included, is recognised in its own answer."""
    settings = EvalSettings(suite="gsm8k", root=str(real_data), batch_size=256)
    tokenizer = byte_tokenizer()
    result = evaluate(Oracle(tokenizer, pairs_of(settings)), tokenizer, settings)
    assert result.metrics["gsm8k"]["n"] == 1319 and result.accuracy == 1.0
    assert result.metrics["gsm8k"]["other"]["flexible_match"]["value"] == 1.0


def test_mmlu_averages(real_data):
    """Knowing one subject only moves each average by that subject's share."""
    units = build_units(EvalSettings(suite="mmlu", root=str(real_data), limit=120))
    sizes = {unit.name: len(unit.questions) for unit in units}
    known = "mmlu/anatomy"
    assert sizes[known] == 120 and min(sizes.values()) == 100
    rows = [
        Metric(name, "acc", value=float(name == known), stderr=0.1, n=n, shots=0, protocol="letter", split="test")
        for name, n in sizes.items()
    ]
    table, head = with_averages(rows, units, "mmlu")
    value = {row.task: row.value for row in table}
    error = {row.task: row.stderr for row in table}
    assert head == "mmlu" and len(table) == 57 + 6
    assert value["mmlu"] == pytest.approx(1 / 57) and error["mmlu"] == pytest.approx(0.1 / 57**0.5)
    assert value["mmlu_weighted"] == pytest.approx(120 / sum(sizes.values()))
    assert value["mmlu_stem"] == pytest.approx(1 / 19) and value["mmlu_humanities"] == 0
    assert sum(GROUP_OF[unit.name.split("/")[1]] == unit.group for unit in units) == 57


class TestSettingsAreHonoured:
    def test_limit_shots_split_and_protocol(self, real_data):
        unit = build_units(
            EvalSettings(suite="commonsense_qa", root=str(real_data), limit=7, num_fewshot=3, split="train")
        )[0]
        unit.task.build_all_requests(limit=None)
        context = unit.task.instances[0].args[0]
        assert len(unit.questions) == 7 and unit.split == "train" and context.count("Question: ") == 4

    def test_shots_are_seeded(self, real_data):
        def context(seed):
            unit = build_units(EvalSettings(suite="gsm8k", root=str(real_data), limit=1, num_fewshot=2, seed=seed))[0]
            unit.task.build_all_requests(limit=None)
            return unit.task.instances[0].args[0]

        assert context(1) == context(1) != context(2)
        assert context(1).count("####") == 2 and "<<" in context(1)

    def test_shots_that_are_not_there(self, real_data):
        with pytest.raises(DudeError, match=r"has no piqa/train.jsonl"):
            build_units(EvalSettings(suite="piqa", root=str(real_data), num_fewshot=1))
        with pytest.raises(DudeError, match=r"eval.num_fewshot is 6, but its split 'dev' has 5 examples"):
            build_units(EvalSettings(suite="mmlu", root=str(real_data), num_fewshot=6))

    def test_answer_longer_than_the_window(self, real_data):
        model, tokenizer = tiny_llama(window=64), byte_tokenizer()
        with pytest.raises(DudeError, match=r"max_new_tokens is 256, but the model's context is 64"):
            evaluate(model, tokenizer, EvalSettings(suite="gsm8k", root=str(real_data), limit=1))

    def test_tokenizer_without_an_end(self, real_data):
        tokenizer = byte_tokenizer()
        tokenizer.eos_token = None
        with pytest.raises(DudeError, match="no end-of-text token"):
            evaluate(tiny_llama(), tokenizer, EvalSettings(suite="gsm8k", root=str(real_data), limit=1))

    def test_task_of_the_harness_itself(self, monkeypatch, tmp_path):
        (tmp_path / "docs.jsonl").write_text('{"q": "one", "a": "two"}\n' * 5)
        (tmp_path / "own.yaml").write_text(
            f"task: own_task\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/docs.jsonl}}\n"
            'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_target: 1\n'
            'doc_to_choice: ["no", "{{a}}"]\nmetric_list:\n'
            "  - {metric: acc, aggregation: mean, higher_is_better: true}\n"
        )
        # The harness's own index takes seconds to read; this one holds a single task.
        fast = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False, include_path=str(tmp_path))
        monkeypatch.setattr(lm_eval.tasks, "TaskManager", fast)
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        with pytest.raises(DudeError, match="has no task 'no_such_task'"):
            build_units(EvalSettings(suite="lm_eval:no_such_task"))
        result = evaluate(tiny_llama(), byte_tokenizer(), EvalSettings(suite="lm_eval:own_task", limit=4))
        row = result.metrics["lm_eval:own_task"]
        assert (row["metric"], row["n"], row["protocol"]) == ("acc", 4, "lm_eval")
        assert len(result.samples["lm_eval:own_task"]) == 4 and result.headline == "lm_eval:own_task"


@pytest.mark.parametrize("suite", ["mini_csqa", "mini_mmlu"])
def test_skip_leaves_out_the_first_questions_of_each_set_or_subject(suite):
    def asked(**keys):
        return {
            unit.name: [one.question.id for one in unit.questions]
            for unit in build_units(EvalSettings(suite=suite, **keys))
        }

    every, rest = asked(limit=9), asked(skip=4, limit=5)
    assert rest.keys() == every.keys()
    for name, ids in every.items():
        assert rest[name] == ids[4:] and len(ids) == 9
    with pytest.raises(DudeError, match=r"no questions after the first 100,000 \(eval.skip\)"):
        asked(skip=100_000)


def test_mini_suite_goes_through_the_same_pipeline():
    settings = EvalSettings(suite="mini", split="validation", limit=2, max_new_tokens=200)
    tokenizer = byte_tokenizer()
    result = evaluate(Oracle(tokenizer, pairs_of(settings)), tokenizer, settings)
    assert result.headline == "mini" and result.accuracy == 1.0
    assert result.metrics["mini_mmlu"]["protocol"] == "cloze" and "mini_mmlu_stem" in result.metrics
