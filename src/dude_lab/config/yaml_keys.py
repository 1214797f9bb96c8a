"""Every key of the YAML files with its type, default and meaning, read from the pydantic classes."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ..methods import METHODS, Method, TargetSettings
from ..settings import meanings
from .aliases import accepted
from .compare_settings import ComparisonSettings, SearchSettings
from .data_settings import DataSettings
from .eval_settings import EvalSettings
from .run_settings import ModelSettings, RunSettings, TrainSettings

LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class Key(NamedTuple):
    """One key of a YAML section.

    Attributes:
        section: where it stands: `run` and `comparison` are the top level of the two kinds of file, `method` has the
            keys of all methods, `method: a, b` those that only the methods a and b have.
        key: its name.
        type: a Python type with the limits of the value, or the words that are allowed.
        default: as YAML; `required` if there is none.
        meaning: in words.
    """

    section: str
    key: str
    type: str
    default: str
    meaning: str


def keys() -> list[Key]:
    """Return every key of a run's and a comparison's YAML, section by section."""
    found = _of("run", RunSettings) + _of("model", ModelSettings)
    found += _of("method", TargetSettings)
    shared = set(TargetSettings.model_fields)
    by_keys: dict[int, list[Method]] = {}
    for method in METHODS.values():
        by_keys.setdefault(id(method.keys), []).append(method)  # variants of one method share the mapping
    for variants in by_keys.values():
        section = f"method: {', '.join(one.name for one in variants)}"
        found += [key for key in _of(section, variants[0].settings) if key.key not in shared]
    found += _of("data", DataSettings) + _of("train", TrainSettings) + _of("eval", EvalSettings)
    return found + _of("comparison", ComparisonSettings) + _of("search", SearchSettings)


def _of(section: str, settings: type[BaseModel]) -> list[Key]:
    documented, place = meanings(settings), () if section == "run" else (section,)
    return [
        Key(
            section,
            name,
            _type(field),
            _default(field),
            (field.description or documented.get(name, "")) + accepted(place, name),
        )
        for name, field in settings.model_fields.items()
    ]


def _type(field: FieldInfo) -> str:
    limits = [
        f"{sign} {value:,}"
        for name, sign in LIMITS.items()
        for one in field.metadata
        if (value := getattr(one, name, None)) is not None
    ]
    kind = _name(field.annotation)
    optional = " | null" if limits and kind.endswith(" | null") else ""
    return " ".join([kind.removesuffix(optional), " and ".join(limits)]).strip() + optional


def _name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(parts)
    if origin in (Union, types.UnionType):
        return " | ".join(map(_name, parts))
    if parts and origin in (list, dict):
        return f"{origin.__name__}[{', '.join(map(_name, parts))}]"
    if parts:  # Annotated and the like
        return _name(parts[0])
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {Path: "path", Any: "any", dict: "dict", str: "str"}.get(annotation) or annotation.__name__


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = {}
    return json.dumps(value).strip('"')  # one line, and what YAML reads back
