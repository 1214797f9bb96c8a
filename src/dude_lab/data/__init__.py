"""Training and evaluation data: the `data:` section, named sets, and checked reading of a user's own files.

Importing this package costs no more than pydantic; whatever reads data is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..config.data_settings import DataSettings, Protocol

if TYPE_CHECKING:
    from .load import TrainingData, load_training
    from .sets import NamedSet, named_sets

__all__ = ["DataSettings", "NamedSet", "Protocol", "TrainingData", "load_training", "named_sets"]

_ROOMS = {"TrainingData": "load", "load_training": "load", "NamedSet": "sets", "named_sets": "sets"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        from importlib import import_module

        return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
