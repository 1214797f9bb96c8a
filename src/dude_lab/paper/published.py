"""The paper's numbers, to stand beside ours."""

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
    """Which table or section of the paper a block is from."""
    return f"{PAPER}, {_blocks()[block]['source']}"


def rows(block: str, model: str | None = None) -> list[dict[str, Any]]:
    """The rows of a block, those of one model where it is named: `model`, `method`, `r`, and per cent by column."""
    return [row for row in _blocks()[block]["rows"] if model is None or row["model"] == model]


def models(block: str) -> list[str]:
    """The models of a block, in its order."""
    return list(dict.fromkeys(row["model"] for row in rows(block)))


def values(block: str, method: str, r: int | None, model: str | None = None) -> dict[str, dict[str, float]]:
    """Model -> column -> per cent, for one method and rank; of one model where it is named."""
    return {
        row["model"]: {key: value for key, value in row.items() if key not in ("model", "method", "r")}
        for row in rows(block, model)
        if (row["method"], row["r"]) == (method, r)
    }
