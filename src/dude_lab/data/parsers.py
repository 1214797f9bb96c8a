"""Parsers: functions from a raw record to a `Problem` or a `Question`, one for each record schema.

A record has the schema of the authors' files or of the Hugging Face hub. Prompts are those of lm-evaluation-harness,
character for character, if it has the task.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from dude_peft.errors import quote, some

from .question_types import Problem, Question

Record = dict[str, Any]

CALCULATOR_MARK = re.compile(r"<<[^<>]*>>")


def gsm8k(record: Record, number: int) -> Problem:
    """Parse GSM8K: a solution that ends in `#### <number>`."""
    return Problem(
        _id(record, number), f"Question: {_nonempty(record, 'question')}\nAnswer:", _nonempty(record, "answer")
    )


def metamathqa(record: Record, number: int) -> Problem:
    """Parse MetaMathQA, with the prompt of GSM8K, on which models trained on it are evaluated."""
    return Problem(
        _id(record, number), f"Question: {_nonempty(record, 'query')}\nAnswer:", _nonempty(record, "response")
    )


def commonsense_qa(record: Record, number: int) -> Question:
    """Parse CommonsenseQA. lm-evaluation-harness has the letter form only; the cloze form is ARC's."""
    stem, choices, gold = _stem_choices(record)
    return Question(
        _id(record, number), f"Question: {stem.strip()}\nAnswer:", f"Question: {stem.strip()}", choices, gold
    )


def arc(record: Record, number: int) -> Question:
    """Parse ARC: three to five choices, labelled with letters or digits."""
    stem, choices, gold = _stem_choices(record)
    return Question(_id(record, number), f"Question: {stem}\nAnswer:", f"Question: {stem}", choices, gold)


def openbookqa(record: Record, number: int) -> Question:
    """Parse OpenBookQA: the choice completes the sentence of the question."""
    stem, choices, gold = _stem_choices(record)
    return Question(_id(record, number), stem, f"Question: {stem}", choices, gold)


def boolq(record: Record, number: int) -> Question:
    """Parse BoolQ: `label` (on the hub `answer`) is 0/1, true/false or these words."""
    label = str(record["label"] if "label" in record else record["answer"]).lower()
    gold = {"false": 0, "0": 0, "true": 1, "1": 1}.get(label)
    if gold is None:
        raise ValueError(f"the label is {quote(label)}, not true or false")
    stem = f"{_text(record, 'passage')}\nQuestion: {_text(record, 'question')}?"
    return Question(str(record.get("idx", number)), f"{stem}\nAnswer:", stem, ("no", "yes"), gold)


def piqa(record: Record, number: int) -> Question:
    """Parse PIQA: two ways to reach a goal."""
    stem = f"Question: {_text(record, 'goal')}"
    choices = (_text(record, "sol1"), _text(record, "sol2"))
    return Question(_id(record, number), f"{stem}\nAnswer:", stem, choices, _integer(record, "label"))


def siqa(record: Record, number: int) -> Question:
    """Parse Social IQa: three answers; labels count from 1."""
    text = f"{_text(record, 'context')} {_text(record, 'question')}"
    choices = tuple(_text(record, f"answer{letter}") for letter in "ABC")
    return Question(_id(record, number), f"Q: {text}\nA:", f"Question: {text}", choices, _integer(record, "label") - 1)


def hellaswag(record: Record, number: int) -> Question:
    """Parse HellaSwag: four endings, without the tags of WikiHow, as in lm-evaluation-harness.

    The plain-text version of the set has only `ctx`; otherwise the second part of the context is capitalised.
    """
    has_parts = "ctx_a" in record
    context = f"{_text(record, 'ctx_a')} {record['ctx_b'].capitalize()}" if has_parts else _text(record, "ctx")
    query = _without_tags(f"{_text(record, 'activity_label')}: {context}")
    choices = tuple(_without_tags(one) for one in _texts(record["endings"], "endings"))
    return Question(str(record.get("ind", number)), query, query, choices, _integer(record, "label"))


def winogrande(record: Record, number: int) -> Question:
    """Parse WinoGrande: each option fills the blank; the likelihood of the rest of the sentence is compared."""
    sentence = _text(record, "sentence")
    blank = sentence.index("_")
    choices = (_text(record, "option1"), _text(record, "option2"))
    return Question(
        str(record.get("qID", number)),
        cloze=sentence,
        stem=f"Question: {sentence}",
        choices=choices,
        gold=_integer(record, "answer") - 1,
        prefixes=tuple(sentence[:blank] + one for one in choices),
        suffix=sentence[blank + 1 :].strip(),
    )


def mmlu(record: Record, number: int) -> Question:
    """Parse MMLU: four choices; the answer is a letter, on the hub its index. New subjects need a `group`."""
    answer = record["answer"]
    gold = answer if isinstance(answer, int) else "ABCD".index(answer.strip())
    stem = _text(record, "question").strip()
    return Question(
        f"{record['subject']}-{record.get('id', number)}",
        f"Question: {stem}\nAnswer:",
        stem,
        _texts(record["choices"], "choices"),
        gold,
        subject=record["subject"],
        group=record.get("group") or GROUP_OF.get(record["subject"]),
    )


def gpqa(record: Record, number: int) -> Question:
    """Parse GPQA. `order` is the permutation of [incorrect 1, incorrect 2, incorrect 3, correct]."""
    answers = [record[f"Incorrect Answer {k}"] for k in (1, 2, 3)] + [record["Correct Answer"]]
    cleaned = [_gpqa_text(one) for one in answers]
    order = record["order"]
    return Question(
        str(record.get("Record ID", number)),
        f"What is the correct answer to this question:{_text(record, 'Question')}\nAnswer:",
        f"What is the correct answer to this question:{_text(record, 'Question')}\nChoices:",
        tuple(cleaned[k] for k in order),
        order.index(3),
        labels=("(A)", "(B)", "(C)", "(D)"),
    )


Parser = Callable[[Record, int], "Problem | Question"]


def _stem_choices(record: Record) -> tuple[str, tuple[str, ...], int]:
    """Return stem, choices and index of the answer, of the authors' schema or the hub's (choices as two lists)."""
    question = record.get("question")
    if isinstance(question, dict):
        stem, listed = question["stem"], question["choices"]
        labels, texts = [one["label"] for one in listed], [one["text"] for one in listed]
    else:
        stem = record.get("question_stem", question)
        labels, texts = record["choices"]["label"], record["choices"]["text"]
    key = record["answerKey"].strip()
    if not isinstance(stem, str):
        raise ValueError(f"the question is {quote(stem)}, not text")
    if not isinstance(labels, list):
        raise ValueError(f"the labels are {quote(labels)}, not a list")
    if key not in labels:
        raise ValueError(f"the answer {quote(key)} is not one of the labels {some(map(str, labels))}")
    return stem, _texts(texts, "choices"), list(labels).index(key)


def _text(record: Record, key: str) -> str:
    """Return a field that must be text. It may be empty, as some choices of published sets are."""
    if not isinstance(value := record[key], str):
        raise ValueError(f"field '{key}' is {quote(value)}, not text")
    return value


def _nonempty(record: Record, key: str) -> str:
    if not (text := _text(record, key)).strip():
        raise ValueError(f"field '{key}' is empty")
    return text


def _texts(values: Any, key: str) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(one, str) for one in values):
        raise ValueError(f"field '{key}' is {quote(values)}, not a list of texts")
    return tuple(values)


def _integer(record: Record, key: str) -> int:
    """Return a label: an integer, or its digits as text."""
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"field '{key}' is {quote(value)}, not an integer")
    return int(value)


def _id(record: Record, number: int) -> str:
    return str(record.get("id", number))


def _without_tags(text: str) -> str:
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _gpqa_text(text: str | None) -> str:
    return " " if text is None else text.strip().replace(" [title]", ". ").replace("  ", " ")


MMLU_GROUPS = {
    "humanities": [
        "formal_logic",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "international_law",
        "jurisprudence",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "philosophy",
        "prehistory",
        "professional_law",
        "world_religions",
    ],
    "social_sciences": [
        "econometrics",
        "high_school_geography",
        "high_school_government_and_politics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "high_school_psychology",
        "human_sexuality",
        "professional_psychology",
        "public_relations",
        "security_studies",
        "sociology",
        "us_foreign_policy",
    ],
    "stem": [
        "abstract_algebra",
        "anatomy",
        "astronomy",
        "college_biology",
        "college_chemistry",
        "college_computer_science",
        "college_mathematics",
        "college_physics",
        "computer_security",
        "conceptual_physics",
        "electrical_engineering",
        "elementary_mathematics",
        "high_school_biology",
        "high_school_chemistry",
        "high_school_computer_science",
        "high_school_mathematics",
        "high_school_physics",
        "high_school_statistics",
        "machine_learning",
    ],
    "other": [
        "business_ethics",
        "clinical_knowledge",
        "college_medicine",
        "global_facts",
        "human_aging",
        "management",
        "marketing",
        "medical_genetics",
        "miscellaneous",
        "nutrition",
        "professional_accounting",
        "professional_medicine",
        "virology",
    ],
}
"""The subjects of MMLU in their four groups, as its authors and lm-evaluation-harness group them."""

GROUP_OF = {subject: group for group, subjects in MMLU_GROUPS.items() for subject in subjects}
"""Subject -> its group."""
