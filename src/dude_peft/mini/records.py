"""The records of the mini suite by name and split, in the raw schemas of the real data sets that they stand for."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from dude_peft.errors import DudeError, did_you_mean
from dude_peft.mini import csqa, gsm
from dude_peft.mini.splits import SPLITS, split_of

Records = list[dict[str, Any]]

GSM_SIZES = {"train": 8000, "validation": 500, "test": 2500}
CSQA_ROUNDS = {"train": 3, "validation": 2, "test": 3}


def _gsm(split: str) -> Records:
    rng = random.Random(f"mini_gsm/{split}")
    records: Records = []
    seen: set[str] = set()
    while len(records) < GSM_SIZES[split]:
        identity, record = gsm.problem(rng)
        if identity not in seen and split_of("mini_gsm", identity, (70, 5, 25)) == split:
            seen.add(identity)
            records.append(record)
    return records


def _csqa(split: str) -> Records:
    return csqa.csqa_records(split, CSQA_ROUNDS[split])


SETS: dict[str, Callable[[str], Records]] = {"mini_gsm": _gsm, "mini_csqa": _csqa}


@lru_cache(maxsize=32)
def _all(name: str, split: str) -> Records:
    return SETS[name](split)


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
    return copy.deepcopy(_all(name, split)[:limit])
