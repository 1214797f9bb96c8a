"""The fine-tuning methods of the comparison: the registry, and the two functions that read a `method:` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError, did_you_mean, quote

from ..settings import parse
from .method import AS_PEFT, FullSettings, Method, MethodSettings, TargetSettings
from .registry import METHODS

if TYPE_CHECKING:
    from peft import PeftConfig

__all__ = [
    "AS_PEFT",
    "METHODS",
    "FullSettings",
    "Method",
    "MethodSettings",
    "TargetSettings",
    "build",
    "parse_method",
]


def parse_method(raw: Any, source: str = "config") -> MethodSettings:
    """Return the settings of a `method:` section, which may be a name alone or a mapping.

    Raises:
        DudeError: unknown method, unknown key (saying which methods have it), or a value of the wrong kind.
    """
    if isinstance(raw, MethodSettings):
        return raw
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise DudeError(
            f"{source}: 'method' must be a name or a mapping with one, got {quote(raw)}. Known: {', '.join(METHODS)}."
        )
    method = METHODS.get(raw["name"])
    if method is None:
        hint = did_you_mean(raw["name"], METHODS) or f" Known methods: {', '.join(METHODS)}."
        raise DudeError(f"{source}: unknown method {quote(raw['name'])}.{hint}")
    for key in raw:
        if key not in method.settings.model_fields:
            owners = [m.name for m in METHODS.values() if key in m.settings.model_fields]
            if owners:
                raise DudeError(
                    f"{source}: method '{method.name}' has no key '{key}' (that is a key of {', '.join(owners)}). "
                    "Remove it, or choose one of those methods."
                )
    return parse(method.settings, raw, f"{source}: method")


def build(settings: MethodSettings, seed: int = 0) -> PeftConfig | None:
    """Return the PEFT config for `settings`, or None if the whole model is trained.

    Args:
        settings: of the method.
        seed: of the run, for a method that draws frozen numbers (VeRA).
    """
    return METHODS[settings.name].build(settings, seed)
