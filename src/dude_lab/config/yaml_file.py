"""Read `RunSettings` from a YAML file and `key=value` overrides, and write them as YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dude_peft.errors import DudeError, quote, shorten
from dude_peft.files import json_sha256

from ..methods import parse_method
from ..settings import parse
from .aliases import translate, translate_pairs
from .run_settings import RunSettings
from .yaml_reader import MAX_DEPTH, dump_yaml, load_yaml, read_yaml

SHORT_FORMS = ("model", "method")  # sections that may be written as a name


def override(raw: Mapping[str, Any], pairs: Iterable[str], notes: list[str] | None = None) -> dict[str, Any]:
    """Return `raw` with each `dotted.key=value` applied; a value has the type that YAML gives it.

    Args:
        raw: the values of a YAML file.
        pairs: the overrides.
        notes: a note on each name of transformers that was replaced by its key (see `aliases`) is appended.

    Raises:
        DudeError: no `=`, a value that is not YAML, a key below something that is not a section, or one key twice.
    """
    result = translate({key: _long(key, value) for key, value in raw.items()}, notes)
    for pair in translate_pairs(pairs, notes):
        dotted, equals, text = pair.partition("=")
        said, key = shorten(pair), shorten(dotted)
        *path, last = dotted.strip().split(".")
        if not equals or not all([*path, last]) or len(path) >= MAX_DEPTH:
            raise DudeError(f"'{said}' is not an override: write key=value, such as train.learning_rate=1e-4.")
        try:
            value = load_yaml(text, key)
        except DudeError as error:
            raise DudeError(f"override '{said}': the value is not YAML; quote it: {key}='\"...\"'. ({error})") from None
        if value is None and text.strip().lower() not in ("null", "~"):  # as of an unset variable of the shell
            raise DudeError(f"override '{said}': no value. Write {key}=null to use the default.")
        section = result
        for depth, part in enumerate(path):
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
            if not isinstance(section, dict):
                raise DudeError(f"override '{said}': '{'.'.join(path[: depth + 1])}' is a value, not a section.")
        section[last] = _long(last, value) if not path else value
    return result


def _long(key: str, value: Any) -> Any:
    """Return the long form of a section, as a copy: an override must not change the caller's mapping."""
    if key in SHORT_FORMS and isinstance(value, str):
        return {"name": value}
    return json_copy(value) if isinstance(value, Mapping) else value


def json_copy(value: Any) -> Any:
    """Copy nested mappings and lists; leaves are shared."""
    if isinstance(value, Mapping):
        return {key: json_copy(item) for key, item in value.items()}
    return [json_copy(item) for item in value] if isinstance(value, list) else value


def parse_run(raw: Mapping[str, Any], source: str = "config") -> RunSettings:
    """Validate a config. The `method:` section is parsed first: its keys depend on the method.

    Raises:
        DudeError: lists every mistake, each with its key and remedy.
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


def load_config(path: str | Path, overrides: Iterable[str] = (), notes: list[str] | None = None) -> RunSettings:
    """Read, override and validate the config at `path`; `notes` as in `override`."""
    return parse_run(override(read_yaml(path), overrides, notes), str(path))


def to_yaml(settings: RunSettings) -> str:
    """Return the resolved config as YAML, which `load_config` reads back to equal settings."""
    return dump_yaml(settings.resolved())


# Keys that older runs do not have, with the value that those runs used. At that value a key is no part of the
# fingerprint, so that it is still the one of the older runs.
ADDED = {
    ("train", "group_by_length"): False,
    ("train", "packing"): False,
    ("train", "early_stopping_patience"): None,
    ("train", "load_best_model_at_end"): False,
    ("train", "metric_for_best_model"): None,
    ("model", "quantization"): None,
    ("model", "chat_template"): None,
    ("data", "sample"): None,
    ("method", "target_parameters"): None,
    ("eval", "file"): None,
    ("eval", "metric"): None,
    ("eval", "limit_before"): 50,  # older runs asked all questions; comparisons evaluate the base by itself
    ("eval", "lm_eval"): None,
    ("eval", "skip"): None,
    ("eval", "text"): None,
    ("eval", "text_limit"): None,
    ("eval", "prompt"): None,
    ("eval", "completion"): None,
    ("eval", "column"): None,
    ("eval", "chat_template"): None,
    ("data", "format"): None,
    ("data", "column"): None,
    ("data", "chat_template"): None,
}


def fingerprint(settings: RunSettings) -> str:
    """Return the SHA-256 of a config without `output`: runs with the same fingerprint have the same result."""
    values = fingerprinted(settings)
    del values["output"]
    return json_sha256(values)


def fingerprinted(settings: RunSettings) -> dict[str, Any]:
    """Return the resolved config without the keys of `ADDED` at their former values, and without trackers."""
    values = settings.resolved()
    del values["train"]["report_to"]
    for (section, key), former in ADDED.items():
        if key in (values[section] or ()) and values[section][key] == former:
            del values[section][key]
    return values


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys at which two resolved configs differ, with both values."""
    lines = []
    for key in dict.fromkeys([*one, *other]):
        left, right = one.get(key), other.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            lines.append(f"{prefix}{key}: {quote(left)} there, {quote(right)} here")
    return lines
