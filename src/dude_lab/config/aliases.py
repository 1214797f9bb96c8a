"""Names of transformers' and TRL's arguments that are accepted in place of our keys, each with a note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dude_peft.errors import DudeError, quote

ALIASES: dict[tuple[str, ...], dict[str, str]] = {
    (): {"output_dir": "output"},
    ("model",): {"model_name_or_path": "name", "torch_dtype": "dtype"},
    ("data",): {"dataset_text_field": "column"},
    ("train",): {
        "lr": "learning_rate",
        "max_steps": "steps",
        "num_train_epochs": "epochs",
        "warmup_ratio": "warmup",
        "warmup_steps": "warmup",
        "lr_scheduler_type": "schedule",
        "per_device_train_batch_size": "batch_size",
        "gradient_accumulation_steps": "gradient_accumulation",
        "max_seq_length": "max_length",
        "logging_steps": "log_every",
        "save_steps": "save_every",
        "save_total_limit": "keep_checkpoints",
    },
}
"""Section -> accepted name -> key."""

_REMARKS = {
    "per_device_train_batch_size": ", which counts the examples of all processes",
    "warmup_ratio": ", a share of the steps below 1 and a number of steps from 1",
    "warmup_steps": ", a share of the steps below 1 and a number of steps from 1",
}


def accepted(section: tuple[str, ...], key: str) -> str:
    """Return a sentence that lists the names accepted in place of a key; empty if there are none."""
    names = [name for name, own in ALIASES.get(section, {}).items() if own == key]
    return f" Also accepted: {', '.join(f'`{name}`' for name in names)}." if names else ""


def translate(raw: Mapping[str, Any], notes: list[str] | None = None) -> dict[str, Any]:
    """Return a run's config with every accepted name replaced by the key; sections are copied.

    Args:
        raw: the values of the YAML file, `model` and `method` in their long form.
        notes: a note on each replaced name is appended.

    Raises:
        DudeError: a name and the key that it stands for are both given, or a value that has no counterpart.
    """
    result = _section((), raw, notes)
    for section in ALIASES:
        if section and isinstance(values := result.get(section[0]), Mapping):
            result[section[0]] = _section(section, values, notes)
    return result


def translate_pairs(pairs: Iterable[str], notes: list[str] | None = None) -> list[str]:
    """Return `key=value` overrides with every accepted name replaced by the key, also below a comparison's `run`."""
    result = []
    for pair in pairs:
        dotted, equals, text = pair.partition("=")
        path = dotted.strip().split(".")
        section = tuple(path[:-1])
        known = ALIASES.get(section[1:] if section[:1] == ("run",) else section, {})
        if equals and path[-1] in known:
            key = known[path[-1]]
            _note(notes, dotted.strip(), ".".join([*section, key]), path[-1])
            dotted, text = ".".join([*section, key]), _pair_value(path[-1], text)
        result.append(f"{dotted}{equals}{text}")
    return result


def _section(section: tuple[str, ...], values: Mapping[str, Any], notes: list[str] | None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    known = ALIASES[section]
    for name, value in values.items():
        key = known.get(name, name)
        if key in result or (key != name and key in values):
            other = next((one for one in values if one != name and known.get(one, one) == key), key)
            both = " and ".join(".".join([*section, one]) for one in (other, name))
            raise DudeError(f"{both} are the same key. Remove one of them.")
        if key != name:
            _note(notes, ".".join([*section, name]), ".".join([*section, key]), name)
            value = _value(name, value)
        result[key] = value
    return result


def _note(notes: list[str] | None, name: str, key: str, last: str) -> None:
    if notes is not None:
        notes.append(f"{name} is read as {key}{_REMARKS.get(last, '')}")


def _pair_value(name: str, text: str) -> str:
    given = {"-1": -1}.get(text.strip(), text.strip())
    value = _value(name, given)
    return "null" if value is None else text if value == given else str(value)


def _value(name: str, value: Any) -> Any:
    """Return the value of the key for that of transformers' argument."""
    if name == "max_steps" and value == -1:
        return None
    if name == "lr_scheduler_type" and value == "constant_with_warmup":
        return "constant"
    if name == "warmup_ratio" and isinstance(value, (int, float)) and value >= 1:
        raise DudeError(f"train.warmup_ratio: a share of the steps, below 1, got {quote(value)}.")
    return value
