"""Make prompt and completion from the columns of a user's file, by name or by template."""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import Any

from dude_peft.errors import DudeError, did_you_mean, quote, shorten, some

from .data_files import Rows


def join_pair(prompt: str, completion: str) -> tuple[str, str]:
    """Return prompt and completion with one space between them, which belongs to the completion.

    Tokenizers join a space with the word that follows it. So trailing spaces of the prompt are removed and the
    completion begins with one, unless either side has a line break there.

    >>> join_pair("Answer: ", "42")
    ('Answer:', ' 42')
    """
    prompt = prompt.rstrip(" \t")
    if prompt.endswith("\n") or completion[:1].isspace():
        return prompt, completion
    return prompt, " " + completion


def unusable(text: str) -> str:
    """Return what makes a text unusable as training data, in words; empty if nothing does."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"{text[error.start]!r}, half of a surrogate pair"
    return ""


@dataclass(frozen=True)
class Column:
    """How a text is made from a record: a column, or a template.

    Attributes:
        key: `prompt` or `completion`, for messages.
        spec: the column's name, or the template.
        fields: the columns that it needs.
        template: pairs of literal text and column; empty for a plain column.
    """

    key: str
    spec: str
    fields: tuple[str, ...]
    template: tuple[tuple[str, str | None], ...] = ()

    @classmethod
    def parse(cls, key: str, spec: str, columns: list[str], source: str) -> Column:
        """Read `spec` against the columns that exist in `source`.

        Raises:
            DudeError: an unknown column, or a malformed template.
        """
        if spec in columns or "{" not in spec:
            column = cls(key, spec, (spec,))
        else:
            try:
                parsed = list(string.Formatter().parse(spec))
            except ValueError as error:
                raise DudeError(f"data.{key}: template {quote(spec)} is malformed ({error}).") from None
            pieces = tuple((literal, name) for literal, name, _, _ in parsed)
            if any(form or conversion for _, _, form, conversion in parsed):
                raise DudeError(f"data.{key}: template {quote(spec)} may have plain {{column}} fields only.")
            column = cls(key, spec, tuple(name for _, name in pieces if name is not None), pieces)
            if not column.fields:
                raise DudeError(f"data.{key}: template {quote(spec)} names no column; write a column as {{column}}.")
        for name in column.fields:
            if name not in columns:
                raise DudeError(
                    f"{source}: data.{key}: no column {quote(name)}.{did_you_mean(name, columns)} "
                    f"The columns are: {some(columns)}."
                )
        return column

    def text(self, row: dict[str, Any], place: str) -> str:
        """Return the text for one record; `place` is its file and line.

        Raises:
            DudeError: the text is null, missing or empty, or not text.
        """
        if not self.template:
            value = self._value(row, self.spec, place)
            if not isinstance(value, str):
                remedy = f"To convert it to text, set data.{self.key} to the template '{{{shorten(self.spec)}}}'."
                if isinstance(value, (list, dict)):
                    remedy = "A list of messages is read by data.format: messages, from data.column."
                raise DudeError(
                    f"{place}: column {quote(self.spec)} has {type(value).__name__} {quote(value)}, not text. {remedy}"
                )
            text = value
        else:
            text = "".join(
                literal if name is None else literal + self._field(row, name, place) for literal, name in self.template
            )
        if fault := unusable(text):
            raise DudeError(f"{place}: the {self.key} has {fault}.")
        if not text.strip():
            raise DudeError(f"{place}: the {self.key} is {'empty' if not text else 'white space only'}.")
        return text

    def _field(self, row: dict[str, Any], name: str, place: str) -> str:
        value = self._value(row, name, place)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise DudeError(
                f"{place}: column {quote(name)} has {type(value).__name__} {quote(value)}, not text or a number."
            )
        # Empty fields are common in prompts (Alpaca's `input`); an empty completion has nothing to learn.
        if self.key == "completion" and isinstance(value, str) and not value.strip():
            raise DudeError(f"{place}: column {quote(name)} is {'empty' if not value else 'white space only'}.")
        return str(value)

    def _value(self, row: dict[str, Any], name: str, place: str) -> Any:
        if name not in row:
            raise DudeError(f"{place}: no column {quote(name)} in this record; it has: {some(row)}.")
        if row[name] is None:
            raise DudeError(f"{place}: column {quote(name)} is null: the {self.key} is missing.")
        return row[name]


def pairs(rows: Rows, prompt: str, completion: str) -> list[tuple[str, str]]:
    """Return prompt and completion of every record of `rows`.

    Args:
        rows: the records.
        prompt: column or template.
        completion: column or template.

    Raises:
        DudeError: names the first record that cannot be used.
    """
    columns = list(rows.rows[0])
    ask = Column.parse("prompt", prompt, columns, rows.source)
    answer = Column.parse("completion", completion, columns, rows.source)
    return [join_pair(ask.text(row, rows.place(k)), answer.text(row, rows.place(k))) for k, row in enumerate(rows.rows)]
