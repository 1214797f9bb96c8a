"""Every fine-tuning method of the comparison, by name.

A method is one `Method(...)`: the keys that its `method:` section allows (a `Settings` class), its source, a function
that turns those settings into a PEFT config, and one that counts what is trained. To add one that PEFT has, write these
in `library`; for one that it has not, in `own`, and its layer in a file of `dude_peft.baselines`.

The functions import PEFT when they are called, so that a config can be checked without importing torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dude_peft.errors import DudeError, did_you_mean, quote

from ..config.section import parse
from . import baseline_methods, low_rank, peft_methods
from .low_rank import DudeSettings, FullSettings, LoraSettings
from .method import Method, MethodSettings, RankSettings, TargetSettings

if TYPE_CHECKING:
    from peft import PeftConfig

__all__ = [
    "METHODS",
    "DudeSettings",
    "FullSettings",
    "LoraSettings",
    "Method",
    "MethodSettings",
    "RankSettings",
    "TargetSettings",
    "build",
    "parse_method",
]

_ENTRIES = (*low_rank.ENTRIES, *peft_methods.ENTRIES, *baseline_methods.ENTRIES)
METHODS: dict[str, Method] = {method.name: method for method in _ENTRIES}


def parse_method(raw: Any, source: str = "config") -> MethodSettings:
    """The settings of a `method:` section, which may be a name alone or a mapping.

    Raises:
        DudeError: unknown method, unknown key (saying which methods have it), or a value of the wrong kind.
    """
    if isinstance(raw, MethodSettings):
        return raw
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise DudeError(
            f"{source}: 'method' must be a name or a mapping with one, got {quote(raw)}. Known: {_names()}."
        )
    method = METHODS.get(raw["name"])
    if method is None:
        hint = did_you_mean(raw["name"], METHODS) or f" Known methods: {_names()}."
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
    """The PEFT config for `settings`, or None where the whole model is trained.

    Args:
        settings: of the method.
        seed: of the run, for a method that draws frozen numbers of its own (VeRA).
    """
    make = METHODS[settings.name].config
    return None if make is None else make(settings, seed)


def _names() -> str:
    return ", ".join(METHODS)
