"""Problems of two steps worked in words: what the text holds of the manner of `mini_gsm`.

They come from the families of `mini_gsm`, which asks longer ones; those, and the marks and line breaks of its
solutions, are left to fine-tuning. Only identities that would be dealt to the training split are told.
"""

from __future__ import annotations

import random
import re

from mini import gsm
from mini.splits import split_of
from mini.world import World

STEPS = 2
MARK = re.compile(r"<<[^>]*>>")


def worked_problem(world: World, rng: random.Random) -> str:
    """A problem with its solution in sentences: asked with `####` or words at the end, or simply told."""
    record = draw(rng)
    *lines, last = record["answer"].split("\n")
    number = last.removeprefix("#### ")
    solution = " ".join(MARK.sub("", line) for line in lines)
    form = rng.random()
    if form < 0.35:
        return f"Question: {record['question']}\nAnswer: {solution}\n#### {number}"
    if form < 0.7:
        return f"Question: {record['question']}\nAnswer: {solution} The answer is {number}."
    return f"{record['question']} {solution}"


def draw(rng: random.Random) -> dict[str, str]:
    """A record of `mini_gsm`'s kind with `STEPS` steps, of an identity of its training split."""
    while True:
        identity, record = gsm.problem(rng, (STEPS, STEPS))
        if split_of("mini_gsm", identity, gsm.SHARES) == "train":
            return record
