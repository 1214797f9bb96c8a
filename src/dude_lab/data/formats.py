"""The formats of a user's records: chats, pairs of prompt and completion, plain text; recognised from the columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from dude_peft.errors import DudeError, quote, shorten, some

from .data_files import Rows
from .templates import Column, join_pair, pairs, unusable

Format = Literal["messages", "sharegpt", "prompt_completion", "alpaca", "text"]
FORMATS: tuple[Format, ...] = get_args(Format)

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Chat:
    """A conversation, as chat templates take it.

    Attributes:
        messages: each with `role` and `content`, and what else the record has, such as `tool_calls`.
        trained: for each message whether it is trained on; only turns of the assistant are.
        tools: JSON schemas of the tools, for the template.
        place: file and line, for messages.
    """

    messages: list[dict[str, Any]]
    trained: list[bool]
    tools: list[Any] | None = None
    place: str = field(default="", compare=False)

    def to_json(self) -> str:
        """Return the chat as JSON, which `from_json` reads back."""
        return json.dumps([self.messages, self.trained, self.tools, self.place], ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Chat:
        """Return the chat that `to_json` wrote."""
        return cls(*json.loads(text))


Pair = tuple[str, str]
Record = Pair | Chat | str
"""A pair of prompt and completion, a chat, or a plain text."""


@dataclass(frozen=True)
class Records:
    """The records of a file or data set.

    Attributes:
        format: the format that they were read as.
        records: pairs, chats or texts, all of one kind.
        first: the first pair, and the same as a chat of two turns; None if the records are not pairs.
    """

    format: Format
    records: list[Record]
    first: tuple[Pair, Chat] | None = None

    @property
    def is_chats(self) -> bool:
        """Whether the records are chats."""
        return isinstance(self.records[0], Chat)


def recognise(
    rows: Rows, *, prompt: str | None = None, completion: str | None = None, column: str | None = None
) -> Format:
    """Return the format of records, judged by the first one.

    Args:
        rows: the records.
        prompt, completion: a column or template of each, if set; they make the records pairs.
        column: the column of the messages or of the text, if set.

    Raises:
        DudeError: the columns are those of no format.
    """
    row = rows.rows[0]
    if prompt is not None or completion is not None or (column is None and {"prompt", "completion"} <= row.keys()):
        return "prompt_completion"
    for name in ("messages", "conversations") if column is None else (column,):
        turns = _parsed(row.get(name))
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            return "sharegpt" if "from" in turns[0] else "messages"
    if column is None and "instruction" in row and "output" in row:
        return "alpaca"
    if isinstance(row.get(column or "text"), str):
        return "text"
    if column is None and {"prompt", "completion"} & row.keys():
        return "prompt_completion"  # whose error names the column that is missing
    if column is not None and column not in row:
        raise DudeError(f"{rows.source}: data.column: no column {quote(column)}. The columns are: {some(row)}.")
    raise DudeError(
        f"{rows.source}: no column 'prompt', 'messages', 'conversations', 'instruction' or 'text'. The columns are: "
        f"{some(row)}. Set data.prompt and data.completion to a column or a template of columns, such as "
        f"prompt: '{{{shorten(next(iter(row), 'question'))}}}', or data.column to that of the messages or of the text."
    )


def read_records(
    rows: Rows,
    format: Format | None = None,
    *,
    prompt: str | None = None,
    completion: str | None = None,
    column: str | None = None,
    as_chats: bool = False,
) -> Records:
    """Return the records of `rows`, all checked.

    Args:
        rows: the records.
        format: their format; recognised from the columns if None.
        prompt, completion: column or template of each.
        column: the column of the messages or of the text.
        as_chats: return pairs as chats of two turns.

    Raises:
        DudeError: names the first record that cannot be used.
    """
    format = format or recognise(rows, prompt=prompt, completion=completion, column=column)
    places = [rows.place(k) for k in range(len(rows.rows))]
    if format in ("messages", "sharegpt"):
        name = column or next((one for one in _COLUMNS[format] if one in rows.rows[0]), _COLUMNS[format][0])
        read = _sharegpt if format == "sharegpt" else _messages
        return Records(format, [read(row, name, place) for row, place in zip(rows.rows, places, strict=True)])
    if format == "text":
        text = Column("text", column or "text", (column or "text",))
        return Records(format, [text.text(row, place) for row, place in zip(rows.rows, places, strict=True)])
    if format == "alpaca":
        answers = Column("completion", "output", ("output",))
        chats = [
            two_turns(
                _request(row, "{instruction}", "{instruction}\n\n{input}", place), answers.text(row, place), place
            )
            for row, place in zip(rows.rows, places, strict=True)
        ]
        if as_chats:
            return Records(format, list(chats))
        made = [
            join_pair(_request(row, ALPACA, ALPACA_WITH_INPUT, place), answers.text(row, place))
            for row, place in zip(rows.rows, places, strict=True)
        ]
        return Records(format, list(made), (made[0], chats[0]))
    if prompt is None and completion is None and _is_messages(rows.rows[0].get("prompt")):
        both = zip(rows.rows, places, strict=True)
        return Records(format, [_prompt_and_completion(row, place) for row, place in both])
    texts = pairs(rows, prompt or "prompt", completion or "completion")
    if as_chats:
        return Records(format, [two_turns(*pair, place) for pair, place in zip(texts, places, strict=True)])
    return Records(format, list(texts), (texts[0], two_turns(*texts[0], places[0])))


_COLUMNS: dict[Format, tuple[str, ...]] = {
    "messages": ("messages", "conversations"),
    "sharegpt": ("conversations", "messages"),
}


def two_turns(prompt: str, completion: str, place: str = "") -> Chat:
    """Return prompt and completion as a chat; white space around them, which templates do not expect, is removed."""
    messages = [{"role": "user", "content": prompt.strip()}, {"role": "assistant", "content": completion.strip()}]
    return Chat(messages, [False, True], None, place)


def _request(row: Mapping[str, Any], without: str, with_input: str, place: str) -> str:
    instruction = Column("prompt", "instruction", ("instruction",)).text(dict(row), place)
    more = row.get("input")
    if more is None or (isinstance(more, str) and not more.strip()):
        return without.replace("{instruction}", instruction)
    more = Column("prompt", "input", ("input",)).text(dict(row), place)
    head, _, tail = with_input.partition("{input}")  # so that braces in the text are text
    return head.replace("{instruction}", instruction) + more + tail


def _messages(row: Mapping[str, Any], column: str, place: str) -> Chat:
    turns = _turns(row, column, place)
    return _chat(turns, row, place)


def _sharegpt(row: Mapping[str, Any], column: str, place: str) -> Chat:
    turns = []
    for number, turn in enumerate(_turns(row, column, place), 1):
        said = turn.get("from")
        if not isinstance(said, str) or said not in SHAREGPT_ROLES:
            raise DudeError(f"{place}: turn {number} is from {quote(said)}. Known: {', '.join(SHAREGPT_ROLES)}.")
        if said == "function_call":
            calls = _parsed(turn.get("value"))
            calls = calls if isinstance(calls, list) else [calls]
            if not all(isinstance(call, Mapping) and "name" in call for call in calls):
                raise DudeError(f"{place}: turn {number}, a function_call, is not JSON with 'name' and 'arguments'.")
            turns.append({"role": "assistant", "content": "", "tool_calls": calls})
            continue
        more = {"weight": turn["weight"]} if turn.get("weight") is not None else {}
        turns.append({"role": SHAREGPT_ROLES[said], "content": turn.get("value"), **more})
    return _chat(turns, row, place)


def _prompt_and_completion(row: Mapping[str, Any], place: str) -> Chat:
    prompt, completion = _turns(row, "prompt", place), _turns(row, "completion", place)
    return _chat([*prompt, *completion], row, place, first=len(prompt))


def _turns(row: Mapping[str, Any], column: str, place: str) -> list[Any]:
    if column not in row:
        raise DudeError(f"{place}: no column {quote(column)} in this record; it has: {some(row)}.")
    turns = _parsed(row[column])
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
        raise DudeError(f"{place}: column {quote(column)} has {quote(row[column])}, not a list of messages.")
    return turns


def _chat(turns: list[Any], row: Mapping[str, Any], place: str, first: int = 0) -> Chat:
    """Return a checked chat; the assistant's turns from `first` on are trained, but for those of weight 0."""
    messages, trained = [], []
    system = row.get("system")
    if isinstance(system, str) and system.strip() and turns[0].get("role") != "system":
        turns, first = [{"role": "system", "content": system}, *turns], first + 1 if first else 0
    for number, turn in enumerate(turns, 1):
        message = {key: value for key, value in turn.items() if value is not None}  # as parquet fills missing keys
        weight = message.pop("weight", 1)
        role = message.get("role")
        if role not in ROLES:
            raise DudeError(f"{place}: message {number} has the role {quote(role)}. Known: {', '.join(ROLES)}.")
        message["content"] = text_of(message.get("content", ""), f"{place}: message {number} ({role})")
        if message.get("tool_calls"):
            if not isinstance(message["tool_calls"], list):
                raise DudeError(f"{place}: message {number} has tool_calls {quote(message['tool_calls'])}, not a list.")
            message["tool_calls"] = [_call(call, f"{place}: message {number}") for call in message["tool_calls"]]
        elif role == "assistant" and not message["content"].strip():
            raise DudeError(f"{place}: message {number}, of the assistant, is empty.")
        messages.append(message)
        trained.append(role == "assistant" and number > first and weight != 0)
    if not any(trained):
        raise DudeError(f"{place}: no turn of the assistant to train on.")
    tools = _parsed(row.get("tools")) or None  # an empty cell of a CSV file is none
    if tools is not None and not isinstance(tools, list):
        raise DudeError(f"{place}: column 'tools' has {quote(row['tools'])}, not a list of JSON schemas.")
    return Chat(messages, trained, tools, place)


def _is_messages(value: Any) -> bool:
    """Return whether a prompt is a list of messages, or JSON text of one; other text, such as "[3, 1]", is text."""
    turns = _parsed(value)
    return isinstance(turns, list) and (isinstance(value, list) or bool(turns and isinstance(turns[0], Mapping)))


def text_of(content: Any, where: str) -> str:
    """Return a message's text; OpenAI's lists of parts are joined."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) < len(parts):
            raise DudeError(f"{where} has a part that is not text: only text is trained on.")
        content = "".join(texts)
    if not isinstance(content, str):
        raise DudeError(f"{where} has {type(content).__name__} {quote(content)}, not text.")
    if fault := unusable(content):
        raise DudeError(f"{where} has {fault}.")
    return content


def _call(call: Any, where: str) -> dict[str, Any]:
    """Return a tool call as chat templates take it: `arguments` as a mapping, where OpenAI has JSON text."""
    if not isinstance(call, Mapping):
        raise DudeError(f"{where}: a tool call is {quote(call)}, not a mapping.")
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DudeError(f"{where}: a tool call has no function with a name.")
    function = {key: value for key, value in function.items() if value is not None}
    if "arguments" in function:
        function["arguments"] = _parsed(function["arguments"])
    more = {key: value for key, value in call.items() if key != "function" and value is not None}
    return {"type": "function", **(more if "function" in call else {}), "function": function}


def _parsed(value: Any) -> Any:
    """Return a value that may be JSON text, as in a CSV file; other text is returned as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
