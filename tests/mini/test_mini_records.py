"""Promise: the mini sets are the same everywhere, share no problem between splits, and their answers are right."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from dude_lab.data.catalogue import SETS
from dude_lab.mini import names, records
from dude_peft.errors import DudeError
from mini.arithmetic import ITEMS
from mini.gsm import LIMIT, STEPS
from mini.knowledge import SUBJECTS, TITLES
from mini.splits import SPLITS
from mini.world import the_world

NAMES = re.compile(r"\b(" + "|".join(person.name for person in the_world().people) + r")\b")
PRONOUNS = re.compile(r"\b(he|she|his|her|him)\b", re.IGNORECASE)
MARK = re.compile(r"<<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")
DIGEST = """
import hashlib
from dude_lab.mini import names, records
from mini.stream import document_at
text = "".join(repr(records(n, s, 20)) for n in names() for s in ("train", "test"))
text += "".join(document_at(0, i)[1] for i in range(200))
print(hashlib.sha256(text.encode()).hexdigest())
"""


def without_people(text: str) -> str:
    return PRONOUNS.sub("P", NAMES.sub("N", text))


def gold(record: dict[str, Any]) -> str:
    return next(c["text"] for c in record["question"]["choices"] if c["label"] == record["answerKey"])


def what_is_asked(name: str, record: dict[str, Any]) -> str:
    """A record with people, order of choices and running numbers left aside."""
    if name == "mini_gsm":
        masked = without_people(record["question"])
        for item in ITEMS:
            masked = re.sub(rf"\b{item}\b", "I", masked)
        return masked
    if name == "mini_metamath":
        return what_is_asked("mini_gsm", {"question": record["original_question"]})
    if name == "mini_boolq":
        return record["passage"] + record["question"]
    if name == "mini_piqa":
        return f"{record['goal']} {sorted((record['sol1'], record['sol2']))}"
    if name == "mini_siqa":
        first = record["context"].split()[0]
        return without_people((record["context"] + record["question"]).replace(first, "A"))
    if name == "mini_hellaswag":
        return (
            re.sub(r"(Then|Next|After that) P$", "", without_people(record["ctx"]).strip()) + record["activity_label"]
        )
    if name == "mini_winogrande":
        return record["sentence"]
    if name == "mini_mmlu":
        question = record["question"]  # a question on an inhabitant is about that one
        question = question if question.startswith("Which of these") else without_people(question)
        return question + record["choices"][record["answer"]]
    if name == "mini_gpqa":
        return record["Question"]
    return without_people(record["question"]["stem"]) + "/" + gold(record)


def test_names_are_those_of_the_catalogue() -> None:
    assert set(names()) == {one.name for one in SETS.values() if one.embedded}


def test_same_in_every_process() -> None:
    hash_seed = "7" if os.environ.get("PYTHONHASHSEED") != "7" else "0"
    run = subprocess.run(
        [sys.executable, "-c", DIGEST], env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    space: dict[str, Any] = {}
    exec(DIGEST.replace("print(", "digest = ("), space)
    assert run.stdout.strip() == space["digest"]


@pytest.mark.parametrize("name", names())
def test_splits_share_no_problem(name: str) -> None:
    asked = {split: {what_is_asked(name, record) for record in records(name, split)} for split in SPLITS}
    for split in SPLITS:
        assert asked[split], split
    assert not asked["train"] & asked["validation"]
    assert not asked["train"] & asked["test"]
    assert not asked["validation"] & asked["test"]


@pytest.mark.parametrize("name", names())
def test_sizes_and_no_record_twice(name: str) -> None:
    minimum = {"train": 3000, "validation": 200, "test": 1000}
    for split, least in minimum.items():
        texts = [
            repr({k: v for k, v in r.items() if k not in ("id", "idx", "ind", "qID")}) for r in records(name, split)
        ]
        assert len(texts) >= least
        if name != "mini_metamath":  # may augment one problem twice into the same words
            assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("name", names())
def test_read_by_the_loaders_of_the_real_sets(name: str) -> None:
    examples = SETS[name].examples("test", limit=50)
    assert len(examples) == 50
    for example in examples:
        if hasattr(example, "choices"):
            assert 0 <= example.gold < len(example.choices)
            assert len(set(example.choices)) == len(example.choices)


@pytest.mark.parametrize("split", SPLITS)
def test_gsm_solutions_are_right(split: str) -> None:
    for record in records("mini_gsm", split):
        *lines, last = record["answer"].split("\n")
        known = {int(n) for n in re.findall(r"\d+", record["question"])} | {2, 3}  # twice, three times, doubles
        marks = [MARK.search(line) for line in lines]
        assert STEPS[0] <= len(marks) <= STEPS[1]
        for mark in marks:
            assert mark is not None
            a, op, b, c, said = mark.groups()
            assert {int(a), int(b)} <= known, record
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}.get(op, int(a) / int(b)) == int(c)
            assert c == said
            assert 0 < int(c) < LIMIT
            known.add(int(c))
        assert marks[-1] is not None
        assert last == f"#### {marks[-1].group(4)}"


def test_metamath_keeps_the_answer_and_drops_the_marks() -> None:
    answer = {r["question"]: r["answer"].split("#### ")[1] for r in records("mini_gsm", "train")}
    for record in records("mini_metamath", "train", 3000):
        number = answer[record["original_question"]]
        assert record["response"].endswith(f"\n#### {number}\nThe answer is: {number}")
        assert "<<" not in record["response"]


def test_boolq_is_answered_by_its_passage() -> None:
    for record in records("mini_boolq", "test"):
        tail = re.search(
            r"live in (\w+)|is \w+ (?:a|an) (.+)|have (?:a|an) (\w+)|like (\w+) best|enjoy (\w+) in", record["question"]
        )
        assert tail, record["question"]
        thing = next(group for group in tail.groups() if group)
        assert bool(re.search(rf"\b{thing}\b", record["passage"])) == (record["label"] == "true"), record


def test_one_choice_is_true_in_the_world() -> None:
    world, asked = the_world(), 0
    for record in records("mini_mmlu", "test"):
        found = re.fullmatch(r"Which of these is the (.+?) of (.+)\?", record["question"])
        if not found or found[1] not in TITLES.values():
            continue
        subject = re.sub(r'^(?:an? |the |"when )|"$', "", found[2])
        relations = [r for r in SUBJECTS[record["subject"]][1] if TITLES[r] == found[1]]
        true = {answer for r in relations for answer in world.facts[r].get(subject, ())}
        assert true, record
        assert [choice in true for choice in record["choices"]].index(True) == record["answer"]
        assert sum(choice in true for choice in record["choices"]) == 1, record
        asked += 1
    assert asked > 1500


def test_csqa_has_one_right_choice() -> None:
    """In some relation the gold choice is true of the subject and the others are not, or the other way about."""
    facts = the_world().facts
    for record in records("mini_csqa", "test"):
        subject, stem = record["question"]["question_concept"], record["question"]["stem"]
        texts = [c["text"] for c in record["question"]["choices"]]
        right = gold(record)
        others = [t for t in texts if t != right]
        bare = re.sub(r"^an? ", "", right)
        forward = any(
            {right, bare} & set(by.get(subject, ()))
            and not any({t, re.sub(r"^an? ", "", t)} & set(by[subject]) for t in others)
            for by in facts.values()
        )
        backward = right == subject and any(
            answer.lower() in stem.lower() and not any(answer in by.get(t, ()) for t in others)
            for by in facts.values()
            for answer in by.get(subject, ())
        )
        assert forward or backward, record


def test_multiple_choice_gold_is_spread() -> None:
    for name in ("mini_csqa", "mini_arc_easy", "mini_openbookqa"):
        keys = [r["answerKey"] for r in records(name, "test")]
        for letter in set(keys):
            assert abs(keys.count(letter) / len(keys) - 1 / len(set(keys))) < 0.05


@pytest.mark.parametrize("name", names())
def test_a_limit_takes_the_first(name: str) -> None:
    assert records(name, "validation", 30) == records(name, "validation")[:30]


def test_limit_and_fresh_copies() -> None:
    first = records("mini_gsm", "test", 5)
    assert len(first) == 5
    first[0]["question"] = "changed"
    assert records("mini_gsm", "test", 1)[0]["question"] != "changed"


@pytest.mark.parametrize(
    ("name", "split", "limit", "said"),
    [
        ("mini_gsn", "train", None, "mini_gsm"),
        ("mini_gsm", "tests", None, "test"),
        ("mini_gsm", "test", 0, "below 1"),
    ],
)
def test_mistakes_are_named(name: str, split: str, limit: int | None, said: str) -> None:
    with pytest.raises(DudeError, match=said):
        records(name, split, limit)


def test_digest_is_what_it_was() -> None:
    """The first test problems, so that a change of the generators is seen as a change of the benchmark."""
    text = repr([r["question"] for r in records("mini_gsm", "test", 100)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "5245ca25cd35356b"
