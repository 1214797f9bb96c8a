"""The numbers that the paper prints."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..config.yaml_reader import read_yaml

TABLE = Path(__file__).parent / "published.yaml"
PAPER = "arXiv 2505.14367"


@cache
def _blocks() -> dict[str, Any]:
    return read_yaml(TABLE)


def source(block: str) -> str:
    """Return the table or section of the paper that a block is from."""
    return f"{PAPER}, {_blocks()[block]['source']}"


def rows(block: str, model: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of a block, or those of one model: `model`, `method`, `r`, and values in % by column."""
    return [row for row in _blocks()[block]["rows"] if model is None or row["model"] == model]


def models(block: str) -> list[str]:
    """Return the models of a block, in its order."""
    return list(dict.fromkeys(row["model"] for row in rows(block)))


def values(block: str, method: str, r: int | None, model: str | None = None) -> dict[str, dict[str, float]]:
    """Return model -> column -> value in %, for one method and rank; of all models, or of one."""
    return {
        row["model"]: {key: value for key, value in row.items() if key not in ("model", "method", "r")}
        for row in rows(block, model)
        if (row["method"], row["r"]) == (method, r)
    }
