"""Promise: every named set's loader reads the published files right: counts, traps, gold answers."""

from __future__ import annotations

import gzip
import json
import random
import re
from decimal import Decimal

import pytest

from dude_lab.data.catalogue import _EMBEDDED, SETS
from dude_lab.data.parsers import GROUP_OF, MMLU_GROUPS
from dude_lab.evaluation.tasks import STOP, final_number
from dude_peft.errors import DudeError

COUNTS = {
    ("gsm8k", "train"): 7473,
    ("gsm8k", "test"): 1319,
    ("commonsense_qa", "train"): 9741,
    ("commonsense_qa", "validation"): 1221,
    ("boolq", "validation"): 3270,
    ("piqa", "validation"): 1838,
    ("siqa", "validation"): 1954,
    ("hellaswag", "validation"): 10042,
    ("winogrande", "validation"): 1267,
    ("arc_easy", "test"): 2376,
    ("arc_easy", "validation"): 570,
    ("arc_challenge", "test"): 1172,
    ("arc_challenge", "validation"): 299,
    ("openbookqa", "test"): 500,
    ("mmlu", "dev"): 285,
    ("mmlu", "validation"): 1531,
    ("mmlu", "test"): 14042,
    ("metamathqa", "train"): 2,
}


@pytest.mark.parametrize(("name", "split"), COUNTS)
def test_every_record_is_read(name, split, real_data):
    named = SETS[name]
    examples = named.examples(split, real_data)
    assert len(examples) == COUNTS[name, split]
    texts = [part for one in examples for part in _texts(one)]
    assert all(isinstance(text, str) for text in texts)
    assert sum(not text.strip() for text in texts) == 0
    if name != "mmlu":  # its questions repeat a few times across subjects
        assert len({one.id for one in examples}) == len(examples)


def _texts(one):
    if hasattr(one, "prompt"):
        return [one.prompt, one.answer]
    prompt, completion = one.ask("cloze").pair
    return [prompt, completion, one.ask("letter").pair[0], *one.choices]


@pytest.mark.parametrize(("split", "commas", "negative", "marks"), [("train", 79, 3, 7378), ("test", 14, 2, 1301)])
def test_gsm8k_answers(split, commas, negative, marks, real_data):
    answers = [row["answer"] for row in SETS["gsm8k"].rows(split, real_data).rows]
    tails = [answer.split("#### ")[1] for answer in answers]
    golds = [final_number(answer) for answer in answers]
    assert golds == [Decimal(tail.replace(",", "")) for tail in tails]
    assert all(gold == int(gold) for gold in golds)
    assert sum("," in tail for tail in tails) == commas and sum(gold < 0 for gold in golds) == negative
    assert sum("<<" in answer for answer in answers) == marks
    assert not any(stop in answer for answer in answers for stop in STOP)


def test_metamathqa_answers_can_be_scored(real_data):
    first, second = SETS["metamathqa"].examples("train", real_data)
    assert final_number(second.answer) is not None and "The answer is:" in first.answer
    assert second.prompt.startswith("Question: ") and second.prompt.endswith("\nAnswer:")


SAME_AS = {
    "boolq": ("boolq", "validation"),
    "piqa": ("piqa", "validation"),
    "social_i_qa": ("siqa", "validation"),
    "winogrande": ("winogrande", "validation"),
    "ARC-Easy": ("arc_easy", "test"),
    "ARC-Challenge": ("arc_challenge", "test"),
    "openbookqa": ("openbookqa", "test"),
}


@pytest.mark.parametrize("task", SAME_AS)
def test_gold_agrees_with_an_independent_copy(task, real_data):
    """The instruction-format release gives, in the same order, `answer2`, `solution1`, `option1` or true/false."""
    copy = json.loads(gzip.decompress((real_data / "llm_adapters" / task / "test.json.gz").read_bytes()))
    name, split = SAME_AS[task]
    questions = SETS[name].examples(split, real_data)
    assert len(copy) == len(questions)
    for theirs, ours in zip(copy, questions, strict=True):
        words = {"false": 0, "true": 1}
        gold = words[theirs["answer"]] if task == "boolq" else int(re.sub(r"\D", "", theirs["answer"])) - 1
        assert ours.gold == gold
        if task != "boolq":  # BoolQ's choices are not spelt out there
            assert all(choice.strip() in theirs["instruction"] for choice in ours.choices)


def test_arc_labels_and_numbers_of_choices(real_data):
    for name, three, five, digits in [("arc_easy", 7, 4, 97), ("arc_challenge", 4, 3, 22)]:
        named = SETS[name]
        lengths = [len(one.choices) for one in named.examples("test", real_data)]
        assert (lengths.count(3), lengths.count(5)) == (three, five)
        assert sum(row["answerKey"] in "12345" for row in named.rows("test", real_data).rows) == digits


def test_hellaswag_text_agrees_with_the_records_that_keep_their_fields(real_data, tmp_path):
    whole = SETS["hellaswag"].examples("validation", real_data)
    (tmp_path / "hellaswag").mkdir()
    part_file = real_data / "hellaswag" / "hellaswag_val_1000.jsonl.gz"
    (tmp_path / "hellaswag" / part_file.name).write_bytes(part_file.read_bytes())
    part = SETS["hellaswag"].examples("validation", tmp_path)
    assert len(part) == 1000

    def key(one):
        # Tags and capitals are all that may differ.
        return re.sub(r"[\W_]+", "", "".join((one.cloze, *one.choices))).lower()

    golds = {key(one): one.gold for one in whole}
    same = [golds[key(one)] == one.gold for one in part if key(one) in golds]
    assert all(same) and len(same) > 990
    assert not any("[" in text and "]" in text for one in part for text in (one.cloze, *one.choices))


def test_mmlu_keeps_none_and_line_breaks(real_data):
    questions = SETS["mmlu"].examples("test", real_data)
    assert {one.subject for one in questions} == set(GROUP_OF) and len(GROUP_OF) == 57
    assert {group: len(subjects) for group, subjects in MMLU_GROUPS.items()} == {
        "humanities": 13,
        "social_sciences": 12,
        "stem": 19,
        "other": 13,
    }
    everything = [one for split in ("dev", "validation", "test") for one in SETS["mmlu"].examples(split, real_data)]
    assert sum(choice == "None" for one in everything for choice in one.choices) == 12
    assert sum("\n" in one.stem for one in everything) > 500
    assert all(len(one.choices) == 4 for one in everything)
    dev = SETS["mmlu"].examples("dev", real_data)
    assert all(sum(one.subject == subject for one in dev) == 5 for subject in GROUP_OF)


class TestHubLayout:
    """The same records as the hub holds them give the same questions."""

    def test_arc_openbookqa_commonsenseqa(self, real_data):
        for name, split, stem in [
            ("arc_easy", "test", "question"),
            ("arc_challenge", "test", "question"),
            ("openbookqa", "test", "question_stem"),
            ("commonsense_qa", "validation", "question"),
        ]:
            named = SETS[name]
            for k, row in enumerate(named.rows(split, real_data).rows):
                listed = row["question"]["choices"]
                hub = {
                    "id": row["id"],
                    stem: row["question"]["stem"],
                    "choices": {key: [one[key] for one in listed] for key in ("text", "label")},
                    "answerKey": row["answerKey"],
                }
                assert named.parser(hub, k) == named.parser(row, k)

    def test_boolq_mmlu_siqa(self, real_data):
        for name, split, change in [
            ("boolq", "validation", lambda r: {**r, "label": r["label"] == "true"}),
            ("mmlu", "test", lambda r: {**r, "answer": "ABCD".index(r["answer"])}),
            ("piqa", "validation", lambda r: {**r, "label": int(r["label"])}),
        ]:
            named = SETS[name]
            for k, row in enumerate(named.rows(split, real_data, limit=200).rows):
                assert named.parser(change(row), k) == named.parser(row, k)


class TestGpqa:
    def file(self, tmp_path, count=30):
        head = (
            "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Record ID,Explanation\n"
        )
        rows = "".join(f'"Why, {k}?\nSay.",right {k},a{k},b{k},c{k},rec{k},\n' for k in range(count))
        (tmp_path / "gpqa").mkdir(exist_ok=True)
        (tmp_path / "gpqa" / "gpqa_diamond.csv").write_text(head + rows)
        return tmp_path

    def test_permutation_is_that_of_one_seeded_shuffle_and_never_changes(self, tmp_path):
        root = self.file(tmp_path)
        random.seed(99)
        questions = SETS["gpqa_diamond"].examples("train", root)
        state = random.getstate()
        again = SETS["gpqa_diamond"].examples("train", root)
        assert questions == again and random.getstate() == state
        random.seed(0)
        for k, one in enumerate(questions):
            expected = [f"a{k}", f"b{k}", f"c{k}", f"right {k}"]
            random.shuffle(expected)
            assert list(one.choices) == expected and one.choices[one.gold] == f"right {k}" and one.id == f"rec{k}"
        assert {one.gold for one in questions} == {0, 1, 2, 3}

    def test_prompt(self, tmp_path):
        one = SETS["gpqa_diamond"].examples("train", self.file(tmp_path), limit=1)[0]
        assert one.ask("letter").pair == (
            "What is the correct answer to this question:Why, 0?\nSay.\nChoices:\n"
            + "".join(f"({letter}) {choice}\n" for letter, choice in zip("ABCD", one.choices, strict=True))
            + "Answer:",
            f" ({'ABCD'[one.gold]})",
        )


class TestBrokenRawFiles:
    """A raw file that is not what it should be is told with its place."""

    @pytest.mark.parametrize(
        ("name", "split", "file", "content", "said"),
        [
            ("gsm8k", "test", "test.jsonl", '{"question": "q"}\n', "line 1: not a record of gsm8k: field 'answer'"),
            ("piqa", "validation", "valid.jsonl", '{"goal": "g", "sol1": "a", "sol2": "b"}\n', "valid-labels.lst"),
            ("boolq", "validation", "val.jsonl", '{"question": "q", "passage": "p", "label": "maybe"}\n', "'maybe'"),
            (
                "arc_easy",
                "test",
                "ARC-Easy-Test.jsonl",
                '{"question": {"stem": "s", "choices": [{"text": "t", "label": "A"}]}, "answerKey": "B"}\n',
                "line 1: not a record of arc_easy: the answer 'B' is not one of the labels A",
            ),
            ("hellaswag", "validation", "hellaswag_val_full.txt", "a: b\n1\nx\ny\nz\n", "5 lines, not six"),
            (
                "hellaswag",
                "validation",
                "hellaswag_val_full.txt",
                "a: b\n7\nw\nx\ny\nz\n",
                "line 1: expected 'activity",
            ),
            ("mmlu", "test", "test/anatomy_test.csv", 'a,b,c,d,e,A\n"x\ny",b,c,d,e,F\n', "line 2: expected six cells"),
            ("mmlu", "test", "test/anatomy_test.csv", "a,b,c,d,A\n", "line 1: expected six cells"),
            ("winogrande", "validation", "dev.jsonl", '{"sentence": "no blank", "option1": "a"}\n', "dev-labels.lst"),
        ],
    )
    def test_told(self, name, split, file, content, said, tmp_path):
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_text(content)
        with pytest.raises(DudeError) as caught:
            SETS[name].examples(split, tmp_path)
        assert said in str(caught.value) and str(path.parent) in str(caught.value)

    def test_labels_that_do_not_fit(self, tmp_path):
        (tmp_path / "valid.jsonl").write_text('{"goal": "g", "sol1": "a", "sol2": "b"}\n' * 2)
        (tmp_path / "valid-labels.lst").write_text("0\n")
        with pytest.raises(DudeError, match="1 labels for the 2 records"):
            SETS["piqa"].examples("validation", tmp_path)
        (tmp_path / "valid-labels.lst").write_text("0\n7\n")
        with pytest.raises(DudeError, match=r"line 2: not a record of piqa: the answer is choice 8 of 2"):
            SETS["piqa"].examples("validation", tmp_path)


def test_each_embedded_set_goes_through_the_code_of_the_set_it_stands_for():
    for mini, real in _EMBEDDED.items():
        for attribute in ("parser", "metric", "by_subject"):
            assert getattr(SETS[mini], attribute) == getattr(SETS[real], attribute), (mini, attribute)
        assert SETS[mini].protocol == {"letter": "cloze"}.get(SETS[real].protocol, SETS[real].protocol), mini


@pytest.mark.parametrize("mini", _EMBEDDED)
def test_embedded_records_are_read_by_the_parser_of_the_published_set(mini):
    named = SETS[mini]
    examples = named.examples("validation", limit=20)
    assert len(examples) == 20 == len({one.id for one in examples})
    assert all(text.strip() for one in examples for text in _texts(one))
    if named.protocol == "generate":
        assert all(final_number(one.answer) is not None for one in examples)
    else:
        assert all(len(set(one.choices)) == len(one.choices) for one in examples)
        assert len({one.gold for one in examples}) > 1
    if named.by_subject:
        assert all(one.group in MMLU_GROUPS for one in named.examples("validation"))
