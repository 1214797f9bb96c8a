"""Generate the data sets of `mini` by name and split, in the schemas of the published sets that they stand for."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from mini import commonsense, csqa, gsm, knowledge
from mini.splits import split_of
from mini.world import World, the_world

Records = list[dict[str, Any]]
Maker = Callable[[World, random.Random], tuple[str, dict[str, Any]]]

GSM_SIZES = {"train": 8000, "validation": 500, "test": 2500}
METAMATH_COPIES = 2
SIZES = {"train": 3000, "validation": 500, "test": 2500}  # at most, of every other set
SHARES = (62, 8, 30)  # per cent of their problems, likewise
CSQA_ROUNDS = {"train": 3, "validation": 2, "test": 3}


def _gsm(split: str) -> Records:
    rng = random.Random(f"mini_gsm/{split}")
    out: Records = []
    seen: set[str] = set()
    while len(out) < GSM_SIZES[split]:
        identity, record = gsm.problem(rng)
        if identity not in seen and split_of("mini_gsm", identity, gsm.SHARES) == split:
            seen.add(identity)
            out.append(record)
    return out


def _csqa(split: str) -> Records:
    return csqa.csqa_records(split, CSQA_ROUNDS[split])


def _metamath(split: str) -> Records:
    rng = random.Random(f"mini_metamath/{split}")
    copies = METAMATH_COPIES if split == "train" else 1
    return [gsm.augment(record, rng) for record in records("mini_gsm", split) for _ in range(copies)]


def _drawn(name: str, make: Maker, split: str) -> Records:
    """Return records drawn until the split is full, or until many draws in a row give nothing new."""
    rng = random.Random(f"{name}/{split}")
    out: Records = []
    seen: set[str] = set()
    idle = 0
    while len(out) < SIZES[split] and idle < 3000:
        identity, record = make(the_world(), rng)
        text = repr(sorted(record.items(), key=lambda pair: pair[0]))
        idle += 1
        if text not in seen and split_of(name, identity, SHARES) == split:
            seen.add(text)
            field = commonsense.ID_FIELDS.get(name, "Record ID" if name == "mini_gpqa" else "id")
            out.append(record | {field: len(out) if field in ("idx", "ind") else f"{name}-{split}-{len(out)}"})
            idle = 0
    return out


SETS: dict[str, Callable[[str], Records]] = {
    "mini_gsm": _gsm,
    "mini_metamath": _metamath,
    "mini_csqa": _csqa,
    **{name: partial(_drawn, name, make) for name, make in commonsense.MAKERS.items()},
    "mini_mmlu": partial(_drawn, "mini_mmlu", knowledge.mmlu),
    "mini_gpqa": partial(_drawn, "mini_gpqa", knowledge.gpqa),
}


@cache
def records(name: str, split: str) -> Records:
    """Return the records of one split of a set, generated now, the same on every machine.

    Args:
        name: a key of `SETS`, e.g. `mini_gsm`.
        split: `train`, `validation` or `test`; no two splits of a set share a problem.

    Returns:
        Dictionaries in the schema of the published set (`mini_gsm`: `question`, `answer` ending in `#### n`).
    """
    return SETS[name](split)
