"""`mini`: a small pretrained base model that ships with the package, and data sets for it.

Text and data sets were generated from seeds (`mini/` in the repository). `model_dir()` is the folder of the model for
`AutoModelForCausalLM.from_pretrained`; `records(name, split)` returns the records of a data set.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError, did_you_mean

ASSETS = Path(__file__).parent / "assets" / "mini"
SPLITS = ("train", "validation", "test")

Records = list[dict[str, Any]]


def model_dir() -> Path:
    """Return the folder of the embedded model: config, weights (`model.safetensors`, bfloat16) and tokenizer.

    Raises:
        DudeError: the weights are missing from the installation.
    """
    folder = ASSETS / "model"
    if not (folder / "model.safetensors").is_file():
        raise DudeError(f"the weights of `mini` are missing from {folder}. Reinstall dude-peft.")
    return folder


@cache
def names() -> tuple[str, ...]:
    """Return the names of the data sets, such as `mini_gsm`."""
    return tuple(sorted({path.name.split(".")[0] for path in (ASSETS / "data").glob("*.jsonl.gz")}))


@cache
def _lines(name: str, split: str) -> list[str]:
    with gzip.open(ASSETS / "data" / f"{name}.{split}.jsonl.gz", "rt", encoding="utf-8") as file:
        return file.read().split("\n")[:-1]


def records(name: str, split: str, limit: int | None = None) -> Records:
    """Return the records of one split of a data set. No two splits of a set share a problem.

    Args:
        name: one of `names()`.
        split: `train`, `validation` or `test`.
        limit: return only the first `limit` records.

    Returns:
        New dictionaries in the schema of the published set (`mini_gsm`: `question`, `answer` ending in `#### n`).

    Raises:
        DudeError: unknown name or split, or a limit below 1.
    """
    if name not in names():
        raise DudeError(
            f"no data set of mini is called {name!r}.{did_you_mean(name, names())} Known: {', '.join(names())}."
        )
    if split not in SPLITS:
        raise DudeError(
            f"{name} has no split {split!r}. Its splits are {', '.join(SPLITS)}.{did_you_mean(split, SPLITS)}"
        )
    if limit is not None and limit < 1:
        raise DudeError(f"limit: {limit} is below 1; leave it out for all records.")
    return [json.loads(line) for line in _lines(name, split)[:limit]]
