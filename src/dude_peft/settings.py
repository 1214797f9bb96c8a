"""What every section of a YAML config is made of: strict, frozen pydantic models whose errors name key and remedy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from .errors import DudeError, did_you_mean


class Settings(BaseModel):
    """A section of a config: unknown keys are refused, values are not coerced across types, instances are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, protected_namespaces=())


S = TypeVar("S", bound=Settings)


def parse(model: type[S], raw: Mapping[str, Any], source: str = "config") -> S:
    """Validate `raw` as `model`; every mistake in it is told at once.

    Args:
        model: the section's class.
        raw: what the YAML file held.
        source: file name for the message.

    Raises:
        DudeError: one line for each mistake, with the dotted key, the value received and the remedy.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_line(model, issue) for issue in error.errors(include_url=False)]
        raise DudeError(f"{source}: " + "; ".join(lines)) from None


def _line(model: type[BaseModel], issue: Any) -> str:
    loc = [str(part) for part in issue["loc"]]
    key = ".".join(loc)
    if issue["type"] == "extra_forbidden":
        known = _fields(model, loc[:-1])
        hint = did_you_mean(loc[-1], known) or f" Known keys: {', '.join(known)}."
        return f"unknown key '{key}'.{hint}"
    if issue["type"] == "missing":
        return f"'{key}' is required"
    message = issue["msg"].removeprefix("Value error, ")
    return f"'{key}': {message}, got {issue['input']!r}" if key else message


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the keys allowed at `path` below `model`; unions are searched for the first model they hold."""
    here: Any = model
    for part in path:
        field = getattr(here, "model_fields", {}).get(part)
        if field is None:
            continue  # pydantic puts the name of a union's member into the path
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        here = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), here)
    return sorted(getattr(here, "model_fields", {}))
