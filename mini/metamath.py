"""`mini_metamath`: the training problems of `mini_gsm` augmented after MetaMathQA, in MetaMathQA's own format."""

from __future__ import annotations

import random
import re
from typing import Any

from mini.relations import capital
from mini.world import the_world

MARK = re.compile(r"<<[^>]*>>")
OPENERS = ("", "First, ", "To begin, ", "Let us see: ", "We start with this: ")
LINKED = {"First", "Then", "So", "After", "With", "In"}  # first words of lines that need no opener
NEXT = ("", "Then ", "Next, ", "So ", "After that, ")


def _names(question: str) -> list[str]:
    known = {person.name for person in the_world().people}
    return [word for word in dict.fromkeys(re.findall(r"[A-Z][a-z]+", question)) if word in known]


def rename(record: dict[str, str], rng: random.Random) -> dict[str, str]:
    """The same problem about other people of the same pronouns."""
    female = {person.name: person.female for person in the_world().people}
    old = _names(record["question"])
    new: dict[str, str] = {}
    for name in old:
        free = [n for n, f in female.items() if f == female[name] and n not in old and n not in new.values()]
        new[name] = rng.choice(free)
    swap = re.compile("|".join(rf"\b{name}\b" for name in old) or r"(?!)")
    return {key: swap.sub(lambda m: new[m.group()], text) for key, text in record.items()}


def augment(record: dict[str, str], rng: random.Random) -> dict[str, Any]:
    """One augmented example of a problem: another solution text, or the question told anew as well."""
    rephrase = rng.random() < 0.5
    told = rename(record, rng) if rephrase else record
    *lines, last = told["answer"].split("\n")
    names, spoken = _names(told["question"]), []
    for i, line in enumerate(lines):
        opener = rng.choice(OPENERS if i == 0 else NEXT)
        head = line.split(" ", 1)[0]
        if head in LINKED:
            opener = ""
        keep = head in names or not opener
        spoken.append(opener + (line if keep else line[0].lower() + line[1:]))
    number = last.removeprefix("#### ")
    query = told["question"]
    if rephrase:
        *story, ask = re.split(r"(?<=[.?]) ", query)
        query = " ".join([*story, rng.choice(("", "Now tell me: ", "The question is: ")) + capital(ask)])
    response = "\n".join([*(MARK.sub("", line) for line in spoken), f"#### {number}", f"The answer is: {number}"])
    kind = "GSM_Rephrased" if rephrase else "GSM_AnsAug"
    return {"query": query, "response": response, "type": kind, "original_question": record["question"]}
