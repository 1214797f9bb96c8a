"""From a YAML file and `key=value` overrides to `RunSettings`, and back to YAML."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import DudeError, did_you_mean
from ..methods import parse_method
from ..settings import parse
from .settings import RunSettings

SHORT_FORMS = ("model", "method")  # sections that may be a name alone


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes `2e-4` for a string and a repeated key for the last one; neither is what a person means."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other`
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.MarkedYAMLError(problem=f"the key '{key}' stands here twice", problem_mark=key_node.start_mark)
        seen.add(key)
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        DudeError: no such file, not UTF-8, broken YAML (with the line), or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        beside = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        what = "is a folder, not a config" if path.is_dir() else "no such config file"
        raise DudeError(f"{path}: {what}.{did_you_mean(path.name, beside)}")
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise DudeError(f"{path}{where}: broken YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DudeError(f"{path}: not a YAML text file: {error}") from None
    if not isinstance(raw, dict):
        raise DudeError(
            f"{path}: a config is a mapping with the keys {', '.join(RunSettings.model_fields)}, got {raw!r}"
        )
    return raw


def override(raw: Mapping[str, Any], pairs: Iterable[str]) -> dict[str, Any]:
    """`raw` with each `dotted.key=value` put in, values typed as YAML types them.

    Raises:
        DudeError: no `=`, a value that is broken YAML, or a path through something that is not a section.
    """
    result = {key: _long(key, value) for key, value in raw.items()}
    for pair in pairs:
        dotted, equals, text = pair.partition("=")
        if not equals or not dotted.strip("."):
            raise DudeError(f"'{pair}' is not an override: write key=value, for instance train.learning_rate=1e-4.")
        try:
            value = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError:
            raise DudeError(f"override '{pair}': the value is not YAML; quote it: {dotted}='\"...\"'.") from None
        *path, last = dotted.strip().split(".")
        here = result
        for depth, part in enumerate(path):
            if here.get(part) is None:
                here[part] = {}
            here = here[part]
            if not isinstance(here, dict):
                raise DudeError(f"override '{pair}': '{'.'.join(path[: depth + 1])}' is a value, not a section.")
        here[last] = _long(last, value) if not path else value
    return result


def _long(key: str, value: Any) -> Any:
    """Sections get a fresh dict, so that an override never reaches the caller's mapping."""
    if key in SHORT_FORMS and isinstance(value, str):
        return {"name": value}
    return json_copy(value) if isinstance(value, Mapping) else value


def json_copy(value: Any) -> Any:
    """Nested mappings and lists copied; leaves shared."""
    if isinstance(value, Mapping):
        return {key: json_copy(item) for key, item in value.items()}
    return [json_copy(item) for item in value] if isinstance(value, list) else value


def parse_run(raw: Mapping[str, Any], source: str = "config") -> RunSettings:
    """Validate a whole config; the method's section decides which keys it may hold, so it is read first.

    Raises:
        DudeError: every mistake that can be told at once, each with its key and remedy.
    """
    values = override(raw, ())
    problems: list[str] = []
    if "method" in values:
        try:
            values["method"] = parse_method(values["method"], source)
        except DudeError as error:
            problems.append(str(error))
            values["method"] = parse_method("full")  # a stand-in, so that the other sections are checked as well
    try:
        settings = parse(RunSettings, values, source)
    except DudeError as error:
        problems.append(str(error))
    if problems:
        raise DudeError("\n".join(problems))
    return settings


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunSettings:
    """Read, override and validate the config at `path`."""
    return parse_run(override(read_yaml(path), overrides), str(path))


def to_yaml(settings: RunSettings) -> str:
    """The resolved config as YAML that `load_config` reads back to equal settings."""
    return yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True, width=100)


# Settings that came after runs had been kept, each with the value that says what was done before there was a choice:
# at that value it is no part of a fingerprint, or every finished run would be taken for another one.
ADDED = {("train", "group_by_length"): False}


def fingerprint(settings: RunSettings) -> str:
    """SHA-256 of everything in the config but where it is written: two runs with the same one give the same result."""
    values = settings.resolved()
    del values["output"]
    for (section, key), former in ADDED.items():
        if values[section][key] == former:
            del values[section][key]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys at which two resolved configs differ, with both values."""
    lines = []
    for key in dict.fromkeys([*one, *other]):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {left!r} there, {right!r} here")
    return lines
