"""`Settings`, the base class of YAML sections, and `parse`: strict and frozen; errors name the key and the remedy."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from dude_peft.errors import DudeError, did_you_mean, nearest, quote, shorten

from .folders import user_path

MAX_TEXT = 10_000  # characters of a value
MAX_MISTAKES = 20  # reported at once
UserPath = Annotated[Path, AfterValidator(user_path)]
"""A path in a config: `~` is the home folder."""


class Settings(BaseModel):
    """A section of a config: rejects unknown keys, does not coerce values to other types, and is immutable.

    Numbers are finite. Text is not empty, at most `MAX_TEXT` characters long, and can be written as UTF-8.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_type(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject what pydantic would coerce: true as the number 1, "5" as 5, 1 as true."""
        _check(value, _leaves(cls.model_fields[info.field_name or ""].annotation))
        return value


def meanings(cls: type) -> dict[str, str]:
    """Return what the `Attributes:` or `Args:` section of a class's docstring says of each name, base classes first."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        lines = inspect.cleandoc(base.__dict__.get("__doc__") or "").splitlines()
        name = None
        for line in lines[next((k for k, one in enumerate(lines, 1) if one in ("Attributes:", "Args:")), len(lines)) :]:
            if line.strip() and not line.startswith("    "):
                break  # the next section
            if entry := re.fullmatch(r"    ([A-Za-z]\w*): (.+)", line):
                name, found[entry[1]] = entry[1], entry[2]
            elif name and line.strip():
                found[name] += " " + line.strip()
    return found


def _leaves(annotation: Any) -> set[Any]:
    """Return the types of values that an annotation allows, those inside lists and mappings too."""
    parts = get_args(annotation)[1 if get_origin(annotation) is dict else 0 :]
    if not parts:
        return {annotation if isinstance(annotation, type) or annotation is Any else type(annotation)}
    return set().union(*(_leaves(part) for part in parts if part is not ...))


def _check(value: Any, kinds: set[Any]) -> None:
    if Any in kinds or any(issubclass(kind, BaseModel) for kind in kinds):
        return  # checked as a section of its own
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check(key, {str})
            _check(item, kinds)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, kinds)
    elif isinstance(value, str):
        if not kinds & {str, Path}:
            raise ValueError(f"{_expected(kinds)} expected, not text")
        _check_text(value)
    elif isinstance(value, bool):
        if bool not in kinds:
            raise ValueError(f"{_expected(kinds)} expected, not true or false")
    elif isinstance(value, (int, float)) and not kinds & {int, float}:
        raise ValueError(f"{_expected(kinds)} expected, not a number")


def _expected(kinds: set[Any]) -> str:
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return " or ".join(name for kind, name in names.items() if kind in kinds)


def _check_text(text: str) -> None:
    if not text.strip():
        raise ValueError("empty text: remove the key, or set a value")
    if len(text) > MAX_TEXT:
        raise ValueError(f"{len(text):,} characters; the limit is {MAX_TEXT:,}")
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("a NUL character or half of a surrogate pair, which no file can hold")


S = TypeVar("S", bound=Settings)


def parse(model: type[S], raw: Mapping[str, Any], source: str = "config") -> S:
    """Validate `raw` as `model` and report every mistake at once.

    Args:
        model: the section's class.
        raw: the values of the YAML file.
        source: file name for the message.

    Raises:
        DudeError: lists every mistake with the dotted key, the value and the remedy.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        issues = error.errors(include_url=False, include_context=False)
        lines = [_line(model, issue) for issue in issues[:MAX_MISTAKES]]
        if len(issues) > MAX_MISTAKES:
            lines.append(f"and {len(issues) - MAX_MISTAKES:,} more")
        raise DudeError(f"{source}: " + "; ".join(lines)) from None


def _line(model: type[BaseModel], issue: Any) -> str:
    loc = [shorten(str(part)) for part in issue["loc"]]
    key = ".".join(loc)
    if issue["type"] == "extra_forbidden":
        known = _fields(model, loc[:-1])
        closest = ", ".join(nearest(loc[-1], known, cutoff=0.0))
        hint = did_you_mean(loc[-1], known) or f" The nearest keys are {closest}; `dude keys` lists all."
        return f"unknown key '{key}'.{hint}"
    if issue["type"] == "missing":
        return f"'{key}' is required"
    message = issue["msg"].removeprefix("Value error, ")
    return f"'{key}': {message}, got {quote(issue['input'])}" if key else message


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Return the keys allowed at `path` below `model`; of a union, those of its first model."""
    found: Any = model
    for part in path:
        field = getattr(found, "model_fields", {}).get(part)
        if field is None:
            continue  # pydantic puts the name of a union's member into the path
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        found = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), found)
    return sorted(getattr(found, "model_fields", {}))
