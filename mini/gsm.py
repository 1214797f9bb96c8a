"""`mini_gsm`, word problems of three or four steps with worked solutions as in GSM8K, and `mini_metamath` made of them.

Every number is a whole number below 100. A problem's identity is what has to be worked out (its family and its
numbers, names and things left aside); identities are dealt to the splits, so no split holds a problem of another
under other names.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mini.arithmetic import ITEMS
from mini.relations import capital
from mini.splits import split_of
from mini.world import Person, World, the_world

LIMIT = 100
STEPS = (3, 4)  # of the problems of the set, at least and at most
SHARES = (70, 5, 25)  # per cent of the identities for train, validation, test
WORKED_STEPS = 2  # of the problems in the pretraining text
MARK = re.compile(r"<<[^>]*>>")


class OutOfRangeError(Exception):
    """A drawn problem left the range of small positive whole numbers; draw again."""


@dataclass
class Draft:
    """A problem under construction: sentences of the story and of the solution."""

    story: list[str] = field(default_factory=list)
    solution: list[str] = field(default_factory=list)
    identity: list[object] = field(default_factory=list)

    def tell(self, *sentences: str) -> None:
        """Add sentences to the story."""
        self.story.extend(sentences)

    def work(self, before: str, a: int, op: str, b: int, after: str) -> int:
        """Add a solution line `before a op b = <<aopb=c>>c after.` and return c.

        Raises:
            OutOfRangeError: c is not a whole number from 1 to 99.
        """
        exact = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else -1}[op]
        if not 0 < exact < LIMIT:
            raise OutOfRangeError
        self.identity.append((a, op, b))
        self.solution.append(f"{capital(before)} {a} {op} {b} = <<{a}{op}{b}={exact}>>{exact} {after}.")
        return exact


def _some(rng: random.Random, low: int, high: int) -> int:
    return rng.randint(low, high)


def ledger(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on a count that goes up and down."""
    n = _some(rng, 5, 30)
    d.tell(f"{p.name} has {n} {item}.")
    for i in range(rng.randint(2, 4)):
        kind = rng.choice(("buy", "gift", "find", "give", "lose", "sell", "double"))
        k = _some(rng, 2, 12)
        more = "more " if i == 0 or rng.random() < 0.5 else ""
        start = capital(rng.choice((p.he, p.he, f"then {p.he}")))
        if kind == "double":
            d.tell(f"{start} doubles the number of {p.his} {item}.")
            n = d.work(f"{p.he} then has", n, "*", 2, item)
        elif kind in ("buy", "find"):
            d.tell(f"{start} {'buys' if kind == 'buy' else 'finds'} {k} {more}{item}.")
            n = d.work(f"{p.he} now has", n, "+", k, item)
        elif kind == "gift":
            d.tell(f"{q.name} gives {p.him} {k} {more}{item}.")
            n = d.work(f"with the gift {p.name} has", n, "+", k, item)
        else:
            verb = {"give": f"gives {k} {item} to {q.name}", "lose": f"loses {k} {item}", "sell": f"sells {k} {item}"}[
                kind
            ]
            d.tell(f"{start} {verb}.")
            n = d.work(f"{p.he} now has", n, "-", k, item)
    d.tell(f"How many {item} does {p.name} have {rng.choice(('now', 'in the end', 'at the end'))}?")
    return n


def shopping(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on two purchases, perhaps with change."""
    other = rng.choice([x for x in ITEMS if x != item])
    n, m, a, b = _some(rng, 2, 7), _some(rng, 2, 7), _some(rng, 2, 9), _some(rng, 2, 9)
    d.tell(f"{p.name} buys {n} {item} for {a} dollars each and {m} {other} for {b} dollars each.")
    x = d.work(f"the {item} cost", n, "*", a, "dollars")
    y = d.work(f"the {other} cost", m, "*", b, "dollars")
    t = d.work(f"together {p.he} pays", x, "+", y, "dollars")
    if rng.random() < 0.5:
        d.tell(f"How {rng.choice(('much does', 'many dollars does'))} {p.he} pay in all?")
        return t
    pay = t + _some(rng, 1, 20)
    if pay >= LIMIT:
        raise OutOfRangeError
    d.tell(f"{capital(p.he)} had {pay} dollars.", f"How many dollars does {p.he} have left?")
    return d.work(f"{p.he} has", pay, "-", t, "dollars left")


def wages(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on hours of work, then a bonus or an expense."""
    h, w = _some(rng, 2, 9), _some(rng, 3, 9)
    d.tell(f"{p.name} works {h} hours and earns {w} dollars per hour.")
    n = d.work(f"{p.he} earns", h, "*", w, "dollars")
    for kind in rng.sample(("bonus", "lunch", "gift"), rng.randint(1, 2)):
        k = _some(rng, 2, 15)
        if kind == "bonus":
            d.tell(f"{capital(p.he)} also gets {k} dollars from {q.name}.")
            n = d.work(f"then {p.he} has", n, "+", k, "dollars")
        elif kind == "lunch":
            d.tell(f"{capital(p.he)} spends {k} dollars on lunch.")
            n = d.work(f"after lunch {p.he} has", n, "-", k, "dollars")
        else:
            d.tell(f"{capital(p.he)} buys a gift for {k} dollars.")
            n = d.work(f"after the gift {p.he} has", n, "-", k, "dollars")
    d.tell(f"How many dollars does {p.name} have {rng.choice(('now', 'left'))}?")
    return n


def comparing(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on two or three people, each compared with the one before."""
    a, k = _some(rng, 4, 30), _some(rng, 2, 12)
    more = rng.random() < 0.6
    d.tell(f"{p.name} has {a} {item}.", f"{q.name} has {k} {item} {'more' if more else 'fewer'} than {p.name}.")
    b = d.work(f"{q.name} has", a, "+" if more else "-", k, item)
    if rng.random() < 0.5:
        d.tell(
            rng.choice(
                (f"How many {item} do they have together?", f"How many {item} do {p.name} and {q.name} have in all?")
            )
        )
        return d.work("together they have", a, "+", b, item)
    times = rng.randint(2, 3)
    d.tell(f"{r.name} has {'twice' if times == 2 else 'three times'} as many {item} as {q.name}.")
    c = d.work(f"{r.name} has", b, "*", times, item)
    end = rng.randrange(3)
    if end == 0:
        d.tell(f"How many {item} does {r.name} have?")
        return c
    if end == 1:
        d.tell(f"How many {item} do {p.name} and {r.name} have together?")
        return d.work("together they have", a, "+", c, item)
    d.tell(f"How many {item} do all three have together?")
    s = d.work(f"{p.name} and {q.name} have", a, "+", b, item)
    return d.work("all three have", s, "+", c, item)


def packing(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on boxes of things, some lost, the rest perhaps packed again."""
    holder, other = rng.sample(("boxes", "bags", "baskets", "packs", "jars"), 2)
    n, m = _some(rng, 2, 9), _some(rng, 3, 9)
    d.tell(f"{p.name} has {n} {holder} with {m} {item} in each.")
    t = d.work(f"{p.name} has", n, "*", m, item)
    k = _some(rng, 1, max(1, min(20, t // 2)))
    lost = rng.random() < 0.6
    d.tell(f"{capital(p.he)} {rng.choice(('loses', 'gives away', 'sells')) if lost else 'finds'} {k} {item}.")
    t = d.work("after that there are", t, "-" if lost else "+", k, item)
    if rng.random() < 0.5:
        d.tell(f"How many {item} does {p.name} have now?")
        return t
    sizes = [s for s in range(2, 13) if t % s == 0]
    if not sizes:
        raise OutOfRangeError
    s = rng.choice(sizes)
    d.tell(f"The {item} are then put in {other} of {s}.", f"How many {other} are needed?")
    return d.work(f"{p.he} needs", t, "/", s, other)


def sharing(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on things put together and shared equally."""
    a, b, s = _some(rng, 4, 25), _some(rng, 4, 25), _some(rng, 2, 8)
    d.tell(f"{p.name} picked {a} {item} and {q.name} picked {b} {item}.")
    t = d.work("together they have", a, "+", b, item)
    if rng.random() < 0.4:
        k = _some(rng, 1, 15)
        d.tell(
            f"They ate {k} of them."
            if item in ("apples", "pears", "plums", "eggs", "cookies", "nuts", "oranges")
            else f"They lost {k} of them."
        )
        t = d.work("after that they have", t, "-", k, item)
    if t % s:
        raise OutOfRangeError
    d.tell(
        f"They share the {rng.choice(('rest', item)) if len(d.solution) > 1 else item} equally among {s} friends.",
        f"How many {item} does each friend get?",
    )
    n = d.work("each friend gets", t, "/", s, item)
    return n


def habits(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on a number per day for some days, for one person or two."""
    a, b, n = _some(rng, 2, 9), _some(rng, 2, 9), _some(rng, 2, 7)
    verb, bare = rng.choice((("collects", "collect"), ("finds", "find"), ("makes", "make"), ("sells", "sell")))
    d.tell(f"{p.name} {verb} {a} {item} a day and {q.name} {verb} {b} {item} a day.")
    if rng.random() < 0.5:
        d.tell(f"How many {item} do they {bare} together in {n} days?")
        t = d.work(f"in one day they {bare}", a, "+", b, item)
        return d.work(f"in {n} days they {bare}", t, "*", n, item)
    if a <= b:
        raise OutOfRangeError
    d.tell(f"How many {item} more does {p.name} {bare} in {n} days?")
    x = d.work(f"{p.name} {verb}", a, "*", n, item)
    y = d.work(f"{q.name} {verb}", b, "*", n, item)
    return d.work("the difference is", x, "-", y, item)


def reading(d: Draft, rng: random.Random, p: Person, q: Person, r: Person, item: str) -> int:
    """Make a problem on a book read at one pace, then at another."""
    a, n, b, m = _some(rng, 3, 9), _some(rng, 2, 7), _some(rng, 3, 9), _some(rng, 2, 5)
    two = rng.random() < 0.5
    done = a * n + (b * m if two else 0)
    pages = done + _some(rng, 5, 20)
    if pages >= LIMIT:
        raise OutOfRangeError
    d.tell(f"A book has {pages} pages.", f"{p.name} reads {a} pages a day for {n} days.")
    t = d.work(f"first {p.he} reads", a, "*", n, "pages")
    if two:
        d.tell(f"Then {p.he} reads {b} pages a day for {m} days.")
        u = d.work(f"then {p.he} reads", b, "*", m, "pages")
        t = d.work(f"so {p.he} has read", t, "+", u, "pages")
    d.tell("How many pages are left?")
    return d.work("the book has", pages, "-", t, "pages left")


FAMILIES: tuple[Callable[..., int], ...] = (ledger, shopping, wages, comparing, packing, sharing, habits, reading)


def problem(rng: random.Random, steps: tuple[int, int] = STEPS) -> tuple[str, dict[str, str]]:
    """Return one problem of so many `steps`: its identity and its record (`question`, `answer` ending in `#### n`)."""
    while True:
        family, draft = rng.choice(FAMILIES), Draft()
        p, q, r = rng.sample(the_world().people, 3)
        try:
            result = family(draft, rng, p, q, r, rng.choice(ITEMS))
        except OutOfRangeError:
            continue
        if steps[0] <= len(draft.solution) <= steps[1]:
            identity = f"{family.__name__} {draft.identity}"
            answer = "\n".join([*draft.solution, f"#### {result}"])
            return identity, {"question": " ".join(draft.story), "answer": answer}


def _two_steps(rng: random.Random) -> dict[str, str]:
    """Return a record of `mini_gsm`'s kind with `WORKED_STEPS` steps, of an identity of its training split."""
    while True:
        identity, record = problem(rng, (WORKED_STEPS, WORKED_STEPS))
        if split_of("mini_gsm", identity, SHARES) == "train":
            return record


def worked_problem(world: World, rng: random.Random) -> str:
    """Return a problem of two steps with its solution in sentences.

    The pretraining text holds these, so that the model knows the manner of `mini_gsm`; longer problems, the marks and
    the line breaks of its solutions are left to fine-tuning. Only identities of the training split are used.
    """
    record = _two_steps(rng)
    *lines, last = record["answer"].split("\n")
    number = last.removeprefix("#### ")
    solution = " ".join(MARK.sub("", line) for line in lines)
    form = rng.random()
    if form < 0.35:
        return f"Question: {record['question']}\nAnswer: {solution}\n#### {number}"
    if form < 0.7:
        return f"Question: {record['question']}\nAnswer: {solution} The answer is {number}."
    return f"{record['question']} {solution}"


# --- mini_metamath: the training problems of mini_gsm augmented after MetaMathQA, in MetaMathQA's own format -------

OPENERS = ("", "First, ", "To begin, ", "Let us see: ", "We start with this: ")
LINKED = {"First", "Then", "So", "After", "With", "In"}  # first words of lines that need no opener
NEXT = ("", "Then ", "Next, ", "So ", "After that, ")


def _names(question: str) -> list[str]:
    known = {person.name for person in the_world().people}
    return [word for word in dict.fromkeys(re.findall(r"[A-Z][a-z]+", question)) if word in known]


def rename(record: dict[str, str], rng: random.Random) -> dict[str, str]:
    """Return the same problem about other people with the same pronouns."""
    female = {person.name: person.female for person in the_world().people}
    old = _names(record["question"])
    new: dict[str, str] = {}
    for name in old:
        free = [n for n, f in female.items() if f == female[name] and n not in old and n not in new.values()]
        new[name] = rng.choice(free)
    swap = re.compile("|".join(rf"\b{name}\b" for name in old) or r"(?!)")
    return {key: swap.sub(lambda m: new[m.group()], text) for key, text in record.items()}


def augment(record: dict[str, str], rng: random.Random) -> dict[str, Any]:
    """Return an augmented example of a problem: another text of the solution, sometimes also of the question."""
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
