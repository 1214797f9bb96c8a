"""What each option of a `DudeConfig` may be: its type and range, and the words that an error message has for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from peft import PeftType, TaskType

from .errors import DudeError, did_you_mean, quote
from .expressions import check_expression
from .svd import A_EXPONENT

LARGEST_RANK = 1_000_000
SMALLEST_ALPHA, LARGEST_ALPHA = 1e-9, 1e9  # a float32 scaling that neither overflows nor underflows
LONGEST_TEXT = 4096
MOST_NAMES = 100_000
MOST_PATTERNS = 10_000
CHOICES = {
    "init_variant": tuple(A_EXPONENT),
    "magnitude_axis": ("out", "in"),
    "svd": ("krylov", "exact"),
}


def _is_integer(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= LONGEST_TEXT)


def _is_name_list(value: Any) -> bool:
    if not isinstance(value, list | set | frozenset | tuple) or len(value) > MOST_NAMES:
        return False
    return all(isinstance(name, str) and name for name in value)


def _is_layers(value: Any) -> bool:
    numbers = value if isinstance(value, list | set | tuple | range) else [value]
    return value is None or all(_is_integer(n, 0, MOST_NAMES) for n in numbers)


def _is_auto_mapping(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(_is_text(t) for pair in value.items() for t in pair))


Check = tuple[Callable[[Any], bool], str]
YES_NO: Check = (lambda v: isinstance(v, bool), "True or False")
TEXT: Check = (_is_text, f"a string of at most {LONGEST_TEXT} characters or None")
NAMES: Check = (lambda v: v is None or _is_name_list(v), "a list of module names or None")
NAMES_OR_EXPRESSION: Check = (
    lambda v: v is None or isinstance(v, str) or _is_name_list(v),
    "a list of module names, a regular expression or None",
)
PATTERNS: Check = (
    lambda v: v is None or (isinstance(v, dict) and len(v) <= MOST_PATTERNS and all(isinstance(k, str) for k in v)),
    f"a dict of at most {MOST_PATTERNS} module names or expressions, or None",
)
CHECKS: dict[str, Check] = {
    "task_type": (
        lambda v: v is None or (isinstance(v, str) and v in list(TaskType)),
        f"one of {[*map(str, TaskType)]}",
    ),
    "peft_type": (lambda v: v is None or v == PeftType.LORA, "'LORA' or None"),
    "auto_mapping": (_is_auto_mapping, "a dict of strings or None"),
    "peft_version": TEXT,
    "base_model_name_or_path": TEXT,
    "factors": TEXT,
    "revision": TEXT,
    "target_modules": NAMES_OR_EXPRESSION,
    "target_parameters": (lambda v: v is None or _is_name_list(v), "a list of parameter names or None"),
    "exclude_modules": NAMES_OR_EXPRESSION,
    "layers_to_transform": (_is_layers, f"a layer's index from 0 to {MOST_NAMES}, a list of them, or None"),
    "layers_pattern": NAMES_OR_EXPRESSION,
    "modules_to_save": NAMES,
    "rank_pattern": PATTERNS,
    "alpha_pattern": PATTERNS,
    "use_rslora": YES_NO,
    "fan_in_fan_out": YES_NO,
    "inference_mode": YES_NO,
    "detach_norm": YES_NO,
    "svd_seed": (lambda v: _is_integer(v, -(2**63), 2**63 - 1), "an integer from -2^63 to 2^63 - 1"),
    "lora_dropout": (lambda v: _is_number(v) and 0 <= v < 1, "in [0, 1)"),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Check the type and range of every option; expressions are checked for what they cost, too.

    Args:
        options: the fields of a `DudeConfig` by name; `lora_alpha` may be None.

    Raises:
        DudeError: names the option, the value and what is allowed.
    """
    for name, choices in CHOICES.items():
        value = options[name]
        if not isinstance(value, str) or value not in choices:
            hint = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise DudeError(f"{name} must be one of {', '.join(map(repr, choices))}, got {quote(value)}.{hint}")
    for name, (is_valid, allowed) in CHECKS.items():
        if not is_valid(options[name]):
            raise DudeError(f"{name} must be {allowed}, got {quote(options[name])}")
    for name, rank in _with_pattern(options, "r", "rank_pattern"):
        if not _is_integer(rank, 1, LARGEST_RANK):
            limit = "at least 1" if not _is_integer(rank, 1, 1 << 10000) else f"at most {LARGEST_RANK}"
            raise DudeError(f"{name} must be an integer of {limit}, got {quote(rank)}")
    for name, alpha in _with_pattern(options, "lora_alpha", "alpha_pattern"):
        if name == "lora_alpha" and alpha is None:
            continue
        if not _is_number(alpha) or not 0 < alpha < math.inf:
            raise DudeError(f"{name} must be positive, got {quote(alpha)}: the singular values are divided by it")
        if not SMALLEST_ALPHA <= alpha <= LARGEST_ALPHA:
            raise DudeError(f"{name} must be from {SMALLEST_ALPHA} to {LARGEST_ALPHA}, got {quote(alpha)}")
    for option, expression in _expressions(options):
        check_expression(option, expression)


def _with_pattern(options: Mapping[str, Any], name: str, pattern: str) -> Iterable[tuple[str, Any]]:
    yield name, options[name]
    for key, value in (options[pattern] or {}).items():
        yield f"{pattern}[{quote(key)}]", value


def _expressions(options: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for option in ("target_modules", "exclude_modules"):  # names in a list are compared, not matched
        if isinstance(options[option], str):
            yield option, options[option]
    for option in ("rank_pattern", "alpha_pattern", "layers_pattern", "modules_to_save"):
        values = options[option]
        for expression in [values] if isinstance(values, str) else values or ():
            yield option, expression
