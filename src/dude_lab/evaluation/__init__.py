"""Evaluation by lm-evaluation-harness: the `eval:` section, suites, and `evaluate`.

Importing this package costs no more than pydantic; lm-eval, torch and datasets are imported by `evaluate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config.eval_settings import SUITES, EvalSettings

if TYPE_CHECKING:
    from .evaluator import evaluate
    from .result import EvalResult

__all__ = ["SUITES", "EvalResult", "EvalSettings", "evaluate"]

_ROOMS = {"EvalResult": "result", "evaluate": "evaluator"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        from importlib import import_module

        return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
