"""Arithmetic: bare expressions, spoken sums, sums worked in steps, counting and one-step word problems.

Numbers are small (results below 200 but for a few longer sums). Problems have one step or two; those of three or more,
`mini_gsm`'s stories and its worked lines with their marks do not occur: that is what fine-tuning has to teach. `####`
does stand before some answers, and `<<` and `>>` around some bare expressions, since an adapter cannot teach a token
that no text ever had.
"""

from __future__ import annotations

import random

from mini.narrative import two_people
from mini.relations import capital
from mini.world import World

SPOKEN = {"+": ("plus", "and"), "-": ("minus", "take away"), "*": ("times", "times"), "/": ("divided by", "divided by")}
_ITEMS = """
apples pears plums coins books marbles stamps eggs shells cookies pencils stickers cards beads buttons flowers
nuts candles cups balloons ribbons toys stones oranges keys tickets
"""
ITEMS = tuple(_ITEMS.split())
TWO_STEP_SHARE = 0.35
HOLDERS = ("boxes", "bags", "baskets", "jars", "rows", "shelves", "plates", "packs")


def operands(rng: random.Random, op: str, small: bool = False) -> tuple[int, int, int]:
    """Return two operands and their result: mostly below 100, products of the times table or slightly over.

    `small` keeps to sums and differences mostly below 40 and to the times table.
    """
    if op == "+":
        if small:
            a, b = (rng.randint(0, top) for top in rng.choice(((12, 12), (20, 20), (40, 20), (60, 40))))
            return (a, b, a + b) if rng.random() < 0.7 else (b, a, a + b)
        top = rng.choice((10, 20, 20, 50, 50, 100))
        a, b = rng.randint(0, top), rng.randint(0, top)
        return a, b, a + b
    if op == "-":
        top = rng.choice((12, 20, 40, 60)) if small else rng.choice((10, 20, 20, 50, 50, 100, 180))
        a = rng.randint(1, top)
        b = rng.randint(0, min(a, 20) if small else a)
        return a, b, a - b
    if op == "*":
        if small:
            a, b = rng.randint(2, 9), rng.randint(2, rng.choice((9, 9, 12)))
        else:
            a, b = rng.choice(
                (
                    (rng.randint(1, 12), rng.randint(1, 12)),
                    (rng.randint(2, 9), rng.randint(2, 9)),
                    (rng.randint(2, 5), rng.randint(10, 35)),
                )
            )
        return (a, b, a * b) if rng.random() < 0.5 else (b, a, a * b)
    b, q = rng.randint(1, 12), rng.randint(1, 12)
    return b * q, b, q


def pick_op(rng: random.Random) -> str:
    """Return an operation; sums and differences are more frequent."""
    return rng.choices("+-*/", weights=(4, 4, 4, 2))[0]


def expressions(rng: random.Random, small: bool = False) -> str:
    """Return a few bare expressions in one way of writing."""
    style = rng.randrange(4) if rng.random() < 0.95 else 4
    only = pick_op(rng) if rng.random() < 0.4 else None
    out = []
    for _ in range(rng.randint(3, 8)):
        op = only or pick_op(rng)
        a, b, c = operands(rng, op, small)
        if style == 0:
            out.append(f"{a} {op} {b} = {c}")
        elif style == 1:
            out.append(f"{a}{op}{b}={c}")
        elif style == 2:
            out.append(f"{a} {rng.choice(SPOKEN[op])} {b} is {c}.")
        elif style == 3:
            out.append(f"What is {a} {op} {b}? {c}.")
        else:
            out.append(f"<<{a}{op}{b}={c}>>")
    return (" " if style >= 2 else rng.choice(("\n", ", ", "; "))).join(out)


def worked(rng: random.Random) -> str:
    """Return one longer sum, difference or product by steps of tens and ones."""
    kind = rng.randrange(3)
    if kind == 0:
        a, b = rng.randint(11, 99), rng.randint(11, 99)
        tens, ones = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
        parts = f"{a // 10 * 10} + {b // 10 * 10} = {tens}, {a % 10} + {b % 10} = {ones}"
        return f"{a} + {b}: {parts}, {tens} + {ones} = {a + b}."
    if kind == 1:
        a = rng.randint(30, 180)
        b = rng.randint(11, a)
        tens = b // 10 * 10
        return f"{a} - {b}: {a} - {tens} = {a - tens}, {a - tens} - {b % 10} = {a - b}."
    a, b = rng.randint(2, 9), rng.randint(11, 39)
    tens = b // 10 * 10
    return (
        f"{a} * {b}: {a} * {tens} = {a * tens}, {a} * {b % 10} = {a * (b % 10)}, {a * tens} + {a * (b % 10)} = {a * b}."
    )


def compare(rng: random.Random) -> str:
    """Return a comparison: which of two numbers is larger, before, after, half or double."""
    a, b = rng.sample(range(1, 150), 2)
    n = rng.randint(1, 80)
    return rng.choice(
        (
            f"{max(a, b)} is more than {min(a, b)}.",
            f"{min(a, b)} is less than {max(a, b)}.",
            f"Which is larger, {a} or {b}? {max(a, b)}.",
            f"Half of {2 * n} is {n}.",
            f"Twice {n} is {2 * n}.",
            f"Double {n} is {2 * n}.",
            f"After {n} comes {n + 1}.",
            f"Before {n + 1} comes {n}.",
            f"Three times {n % 20} is {3 * (n % 20)}.",
        )
    )


def one_step(world: World, rng: random.Random, small: bool = False) -> tuple[str, str, str, str]:
    """Return a one-step word problem: story, question, the expression with its result, the answer in words."""
    p, q = two_people(world, rng)
    item = rng.choice(ITEMS)
    op = rng.choices("+-*/", weights=(4, 4, 4, 2))[0]
    a, b, c = operands(rng, op, small)
    a, b = max(a, 2), max(b, 2)
    if op == "+":
        c = a + b
        story, ask = rng.choice(
            (
                (
                    f"{p.name} has {a} {item}. {capital(p.he)} buys {b} more.",
                    f"How many {item} does {p.name} have now?",
                ),
                (f"{p.name} has {a} {item} and {q.name} has {b} {item}.", "How many do they have together?"),
                (f"There are {a} {item} on the table and {b} in the box.", f"How many {item} are there in all?"),
                (f"{p.name} found {a} {item} and then {b} more.", f"How many {item} did {p.name} find?"),
                (
                    f"{p.name} has {a} {item}. {q.name} has {b} more than {p.name}.",
                    f"How many {item} does {q.name} have?",
                ),
            )
        )
    elif op == "-":
        a, b = max(a, b), min(a, b)
        c = a - b
        story, ask = rng.choice(
            (
                (
                    f"{p.name} has {a} {item}. {capital(p.he)} gives {b} to {q.name}.",
                    f"How many {item} does {p.name} have left?",
                ),
                (f"There were {a} {item} in the basket. {p.name} took {b}.", "How many are left?"),
                (f"{p.name} had {a} {item} and lost {b} of them.", f"How many {item} are left?"),
                (f"{p.name} has {a} {item}. {q.name} has {b} fewer.", f"How many {item} does {q.name} have?"),
                (f"{p.name} had {a} dollars and spent {b} dollars.", "How many dollars are left?"),
            )
        )
    elif op == "*":
        c, holder = a * b, rng.choice(HOLDERS)
        story, ask = rng.choice(
            (
                (f"There are {a} {holder} with {b} {item} each.", f"How many {item} are there?"),
                (f"{p.name} buys {a} {item}. Each costs {b} dollars.", f"How much does {p.name} pay?"),
                (f"{p.name} finds {b} {item} each day for {a} days.", f"How many {item} is that?"),
                (f"{p.name} works {a} hours and earns {b} dollars per hour.", f"How many dollars does {p.name} earn?"),
            )
        )
    else:
        a, b, c = operands(rng, "/")
        story, ask = rng.choice(
            (
                (f"{p.name} shares {a} {item} equally among {b} friends.", "How many does each get?"),
                (f"{a} {item} are put in bags of {b}.", "How many bags are needed?"),
            )
        )
    unit = "dollars" if "dollars" in story else "bags" if "bags of" in story else item
    unit = unit[:-1] if c == 1 else unit
    return story, ask, f"{a} {op} {b} = {c}", f"{c} {unit}"


def word_problem(world: World, rng: random.Random, small: bool = False) -> str:
    """Return a word problem of one step, or with probability `TWO_STEP_SHARE` of two, with its answer."""
    if rng.random() < TWO_STEP_SHARE:
        return two_step(world, rng)
    story, ask, expression, answer = one_step(world, rng, small)
    number = answer.split(" ", 1)[0]
    form = rng.random()
    if form < 0.35:
        return f"Question: {story} {ask}\nAnswer: {capital(expression)}.\n#### {number}"
    if form < 0.55:
        return f"Question: {story} {ask}\nAnswer: {expression}. {capital(answer)}."
    if form < 0.65:
        return f"Question: {story} {ask}\nAnswer: {answer}"
    if form < 0.85:
        return f"{story} {expression}, so the answer is {answer}."
    return f"{story} {ask} {capital(answer)}."


def two_step(world: World, rng: random.Random) -> str:
    """Return a problem of two steps, worked without `mini_gsm`'s words and marks."""
    p, q = two_people(world, rng)
    item, holder = rng.choice(ITEMS), rng.choice(HOLDERS)
    a, b, n, k, m = (rng.randint(2, top) for top in (40, 30, 9, 9, 9))
    c, d = rng.randint(1, a + b - 1), rng.randint(1, n * k - 1)
    story, first, second, result, unit = rng.choice(
        (
            (
                f"{p.name} has {a} {item}, finds {b} more and gives away {c}. How many {item} are left?",
                f"{a} + {b} = {a + b}",
                f"{a + b} - {c} = {a + b - c}",
                a + b - c,
                item,
            ),
            (
                f"There are {n} {holder} with {k} {item} each. {p.name} takes {d} {item}. How many {item} are left?",
                f"{n} * {k} = {n * k}",
                f"{n * k} - {d} = {n * k - d}",
                n * k - d,
                item,
            ),
            (
                f"{p.name} has {a} {item}. {q.name} has {b} more than {p.name}. How many {item} do they have together?",
                f"{a} + {b} = {a + b}",
                f"{a} + {a + b} = {a + a + b}",
                a + a + b,
                item,
            ),
            (
                f"{p.name} buys {n} {item}. Each costs {k} dollars. {capital(p.he)} pays {m} dollars for a bag too. "
                f"How many dollars is that?",
                f"{n} * {k} = {n * k}",
                f"{n * k} + {m} = {n * k + m}",
                n * k + m,
                "dollars",
            ),
            (
                f"{p.name} puts {n * k} {item} in {n} {holder}, the same number in each, "
                f"and then adds {m} to the first. How many {item} does it hold?",
                f"{n * k} / {n} = {k}",
                f"{k} + {m} = {k + m}",
                k + m,
                item,
            ),
            (
                f"{p.name} works {n} hours for {k} dollars per hour and {q.name} earns {m} dollars. "
                f"How many dollars do they earn together?",
                f"{n} * {k} = {n * k}",
                f"{n * k} + {m} = {n * k + m}",
                n * k + m,
                "dollars",
            ),
        )
    )
    form = rng.random()
    if form < 0.55:
        return f"Question: {story}\nAnswer: {first}.\n{second}.\n#### {result}"
    if form < 0.8:
        return f"Question: {story}\nAnswer: {first}. {second}. {result} {unit}."
    return f"{story} First, {first}. Then {second}. The answer is {result} {unit}."


def sums(rng: random.Random, small: bool = False) -> str:
    """Return expressions, worked sums or comparisons."""
    pick = rng.random()
    if pick < (0.85 if small else 0.6):
        return expressions(rng, small)
    if pick < (0.92 if small else 0.85):
        return "\n".join(worked(rng) for _ in range(rng.randint(1, 3)))
    return " ".join(compare(rng) for _ in range(rng.randint(2, 5)))
