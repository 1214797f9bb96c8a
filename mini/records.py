"""The records of the mini suite by name and split, in the raw schemas of the real data sets that they stand for."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from dude_peft.errors import DudeError, did_you_mean
from mini import commonsense, csqa, gsm, knowledge, metamath
from mini.splits import SPLITS, split_of
from mini.world import World, the_world

Records = list[dict[str, Any]]
Maker = Callable[[World, random.Random], tuple[str, dict[str, Any]]]

GSM_SIZES = {"train": 8000, "validation": 500, "test": 2500}
METAMATH_COPIES = 2
SIZES = {"train": 3000, "validation": 500, "test": 2500}  # at most, of every other set
SHARES = (62, 8, 30)  # per cent of their problems, likewise
CSQA_ROUNDS = {"train": 3, "validation": 2, "test": 3}


def _gsm(split: str, size: int) -> Records:
    rng = random.Random(f"mini_gsm/{split}")
    records: Records = []
    seen: set[str] = set()
    while len(records) < min(size, GSM_SIZES[split]):
        identity, record = gsm.problem(rng)
        if identity not in seen and split_of("mini_gsm", identity, gsm.SHARES) == split:
            seen.add(identity)
            records.append(record)
    return records


def _csqa(split: str, size: int) -> Records:
    return csqa.csqa_records(split, CSQA_ROUNDS[split])[:size]


def _metamath(split: str, size: int) -> Records:
    rng = random.Random(f"mini_metamath/{split}")
    copies = METAMATH_COPIES if split == "train" else 1
    problems = _all("mini_gsm", split, -(-size // copies))
    return [metamath.augment(record, rng) for record in problems for _ in range(copies)][:size]


def _drawn(name: str, make: Maker, split: str, size: int) -> Records:
    """Records drawn until the split is full, or until many draws in a row bring nothing new."""
    rng = random.Random(f"{name}/{split}")
    out: Records = []
    seen: set[str] = set()
    idle = 0
    while len(out) < min(size, SIZES[split]) and idle < 3000:
        identity, record = make(the_world(), rng)
        text = repr(sorted(record.items(), key=lambda pair: pair[0]))
        idle += 1
        if text not in seen and split_of(name, identity, SHARES) == split:
            seen.add(text)
            field = commonsense.ID_FIELDS.get(name, "Record ID" if name == "mini_gpqa" else "id")
            out.append(record | {field: len(out) if field in ("idx", "ind") else f"{name}-{split}-{len(out)}"})
            idle = 0
    return out


SETS: dict[str, Callable[[str, int], Records]] = {
    "mini_gsm": _gsm,
    "mini_metamath": _metamath,
    "mini_csqa": _csqa,
    **{name: partial(_drawn, name, make) for name, make in commonsense.MAKERS.items()},
    "mini_mmlu": partial(_drawn, "mini_mmlu", knowledge.mmlu),
    "mini_gpqa": partial(_drawn, "mini_gpqa", knowledge.gpqa),
}


@cache
def _all(name: str, split: str, size: int) -> Records:
    return SETS[name](split, size)


def names() -> tuple[str, ...]:
    """The sets of the mini suite."""
    return tuple(SETS)


def records(name: str, split: str, limit: int | None = None) -> Records:
    """The records of one split of a mini set, generated on the spot, the same on every machine.

    Args:
        name: one of `names()`, e.g. `mini_gsm`.
        split: `train`, `validation` or `test`; no two splits of a set share a problem.
        limit: only the first so many records.

    Returns:
        Fresh dictionaries in the schema of the real set (`mini_gsm`: `question`, `answer` ending in `#### n`).

    Raises:
        DudeError: no set or split of that name, or a limit below 1.
    """
    if name not in SETS:
        raise DudeError(
            f"no mini data set named {name!r}; there are {', '.join(names())}.{did_you_mean(name, names())}"
        )
    if split not in SPLITS:
        raise DudeError(
            f"{name} has no split {split!r}; its splits are {', '.join(SPLITS)}.{did_you_mean(split, SPLITS)}"
        )
    if limit is not None and limit < 1:
        raise DudeError(f"limit is {limit}; it must be at least 1, or left out for all records")
    return copy.deepcopy(_all(name, split, limit or sys.maxsize))
