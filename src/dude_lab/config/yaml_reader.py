"""Read and write YAML: plain values of bounded size, nesting and aliases; errors name the line.

Scalars are those of YAML 1.2's core schema, read by PyYAML: `2e-4` is a number, `2024-01-01` and `1:30` are text, and
`010` is ten. Numbers must be finite, integers must fit into 64 bits, and keys are text without duplicates.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from dude_peft.errors import DudeError, did_you_mean, quote, shorten

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_ALIASES = 1_000
MAX_VALUES = 20_000
"""Limit for the scalars, lists and mappings of a document, with every alias expanded."""

_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"^(?:[-+]?[0-9]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_NAMES = {"int": "an integer", "float": "a number", "bool": "true or false", "null": "null"}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the bounds and scalars of this module."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own way; a resolver is added to a copy
        first: [(tag, expression) for tag, expression in pairs if tag.removeprefix(_TAG) in ("bool", "null", "merge")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors = {  # noqa: RUF012
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("bool", "null", "str", "seq")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._aliases = self._values = 0
        self._sizes: dict[int, int] = {}  # of composed nodes, with every alias below them expanded

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node and check its size before anything is constructed from it."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            self._aliases += 1
            if self._aliases > MAX_ALIASES:
                raise _mistake(f"more than {MAX_ALIASES:,} aliases", event.start_mark)
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise _mistake(f"the alias '*{shorten(event.anchor)}' is inside its own value", event.start_mark)
            return node
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH:
            raise _mistake(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        if self._values > MAX_VALUES:
            raise _mistake(f"more than {MAX_VALUES:,} values", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [one for pair in children for one in pair] if isinstance(node, yaml.MappingNode) else children
        size = 1 + sum(self._sizes[id(one)] for one in flat)
        if size > MAX_VALUES:
            raise _mistake(f"more than {MAX_VALUES:,} values after expanding the aliases", event.start_mark)
        self._sizes[id(node)] = size
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a node; report a value that its tag does not allow with its line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError) as error:  # of int(), float() and the table of booleans
            what = _NAMES.get(node.tag.removeprefix(_TAG), node.tag)
            why = f" ({error})" if isinstance(error, _UnusableError) else ""
            raise _mistake(f"{quote(node.value)} is not {what}{why}", node.start_mark) from None

    def _integer(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        value = int(text, 16) if text.startswith("0x") else int(text) if len(text) < 100 else 1 << 64
        if not -(2**63) <= value < 2**63:
            raise _UnusableError("that fits into 64 bits")
        return value

    def _number(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node)).lower()
        value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(value):
            raise _UnusableError("it must be finite, at most 1.8e308")
        return value

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _mistake("expected a mapping", node.start_mark)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":  # `<<: *other`
                continue
            key = self.construct_object(key_node)
            if not isinstance(key, str):
                said = quote(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                raise _mistake(f"a key must be text, got {said}; quote it", key_node.start_mark)
            if key in seen:
                raise _mistake(f"duplicate key {quote(key)}", key_node.start_mark)
            seen.add(key)
        self.flatten_mapping(node)
        return {self.construct_object(k, deep=True): self.construct_object(v, deep=True) for k, v in node.value}

    def _undefined(self, node: yaml.Node) -> Any:
        tag = quote(node.tag.replace(_TAG, "!!"))
        raise _mistake(
            f"unsupported tag {tag}: values are text, numbers, true, false, null, lists and mappings",
            node.start_mark,
        )


class _UnusableError(ValueError):
    """A scalar of the right syntax whose value is out of range."""


def _mistake(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _Dumper(yaml.SafeDumper):
    """Dumper for `load_yaml`: quotes text that would be read as a number."""

    def _text(self, value: str) -> yaml.ScalarNode:
        # PyYAML takes these for line breaks when it reads, but not everywhere when it writes.
        style = '"' if any(mark in value for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar(f"{_TAG}str", value, style)


for _kind, _expression, _first in (("int", _INTEGER, "-+0123456789"), ("float", _FLOAT, "-+.0123456789")):
    _Loader.add_implicit_resolver(_TAG + _kind, _expression, list(_first))
    _Dumper.add_implicit_resolver(_TAG + _kind, _expression, list(_first))
_Dumper.add_representer(str, _Dumper._text)
_Loader.add_constructor(f"{_TAG}map", _Loader._mapping)
_Loader.add_constructor(f"{_TAG}int", _Loader._integer)
_Loader.add_constructor(f"{_TAG}float", _Loader._number)
_Loader.add_constructor(None, _Loader._undefined)  # type: ignore[type-var]  # any other tag


def load_yaml(text: str, source: str) -> Any:
    """Return the document in a text as dicts with text as keys, lists, str, int, float, bool and None.

    Args:
        text: YAML.
        source: file name for the error message, before line and column.

    Raises:
        DudeError: broken YAML, a tag, a value outside the bounds of this module, or several documents.
    """
    if len(text) > MAX_BYTES:
        raise DudeError(f"{source}: {len(text):,} characters of YAML; the limit is {MAX_BYTES:,}.")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = shorten(error.problem or error.context or "", 300)
        raise DudeError(f"{source}{where}: broken YAML: {problem}.") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise DudeError(f"{source}: not a YAML text: {' '.join(str(error).split())}") from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Args:
        path: the file; at most `MAX_BYTES` long.

    Raises:
        DudeError: no such file, too large, not UTF-8, broken YAML (with the line), or not a mapping.
    """
    path = Path(path)
    name = shorten(str(path), 300)
    try:
        if not path.is_file():
            beside = [p.name for p in path.parent.glob("*.y*ml") if p.is_file()] if path.parent.is_dir() else []
            if path.is_dir():
                raise DudeError(f"{name}: is a folder, not a config.")
            if path.exists():
                raise DudeError(f"{name}: is not a regular file.")
            raise DudeError(f"{name}: no such config file.{did_you_mean(path.name, beside)}")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if len(content) > MAX_BYTES:
            raise DudeError(f"{name}: larger than {MAX_BYTES:,} bytes, the limit for a config.") from None
        raise DudeError(f"{name}: not a YAML text file: {error}. Save it as UTF-8.") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, up to Python 3.12
        raise DudeError(f"{name}: cannot be read ({shorten(error)}).") from None
    if len(content) > MAX_BYTES:
        raise DudeError(f"{name}: larger than {MAX_BYTES:,} bytes, the limit for a config.")
    raw = load_yaml(text, name)
    if not isinstance(raw, dict):
        raise DudeError(f"{name}: a config is a mapping of keys to values, got {quote(raw)}")
    return raw


def dump_yaml(values: Any) -> str:
    """Return plain values as YAML, which `load_yaml` reads back to equal ones."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
