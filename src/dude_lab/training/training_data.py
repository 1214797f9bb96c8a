"""Load the data sets of a `data:` section and check every record before a model is loaded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, overload

from dude_peft.errors import DudeError

from ..config.data_settings import DataSettings
from ..data.catalogue import named_set
from ..data.data_files import Rows, read_rows
from ..data.formats import Chat, Format, Pair, Record, Records, read_records
from ..data.parsers import CALCULATOR_MARK
from ..data.question_types import Problem, subject_heading
from ..data.sets import read_hub


class Columns:
    """Records as columns of equal length, read as a `datasets.Dataset` is, without importing `datasets`.

    Args:
        columns: maps names to values.
    """

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.columns = columns

    @property
    def column_names(self) -> list[str]:
        """Names of the columns."""
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @overload
    def __getitem__(self, key: str) -> list[Any]: ...

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: values[key] for name, values in self.columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def select(self, indices: Iterable[int]) -> Columns:
        """Return the records at `indices`."""
        chosen = list(indices)
        return Columns({name: [values[k] for k in chosen] for name, values in self.columns.items()})


@dataclass(frozen=True)
class TrainingData:
    """Training and validation data.

    Attributes:
        train: columns `prompt` and `completion`, or `chat` (JSON of a `Chat`), or `text`. The text of a pair is the
            concatenation; a space between the two belongs to the completion. No end-of-text token is added.
        validation: the same columns, or None.
        source: description of the source for the run's record.
        sha256: SHA-256 of the training records in their order, hexadecimal.
        format: the format of the user's records; None for a named data set.
        both: the first of a user's pairs, as a pair and as a chat, in the columns of `train`; None if the records are
            no pairs, or those of a named data set.
    """

    train: Columns
    validation: Columns | None
    source: str
    sha256: str
    format: Format | None = None
    both: tuple[Columns, Columns] | None = None

    @property
    def chats(self) -> bool:
        """Whether the records are chats, which go through the model's chat template."""
        return "chat" in self.train.column_names


def load_training(settings: DataSettings) -> TrainingData:
    """Load and check the training data of `settings`.

    Raises:
        DudeError: a file, data set, record or key that cannot be used.
    """
    found, source = _training_records(settings)
    records = found.records
    validation: list[Record] | None = None
    if isinstance(settings.validation, float):
        records, validation = _split(records, settings.validation, settings.seed)
    elif settings.validation is not None:
        validation = _validation_records(settings, settings.validation)
        if type(validation[0]) is not type(records[0]):
            raise DudeError(f"data.validation: {settings.validation} has records of another format than data.train.")
    if settings.sample is not None:
        records = _sample(records, settings.sample, settings.seed)
    if settings.limit is not None:
        records = records[: settings.limit]
    held_out = None if validation is None else _columns(validation)
    format = found.format if settings.name is None else None
    both = (_columns([found.first[0]]), _columns([found.first[1]])) if found.first else None
    return TrainingData(_columns(records), held_out, source, _digest(records), format, both)


def _training_records(settings: DataSettings) -> tuple[Records, str]:
    if settings.name is not None:
        split = settings.split or named_set(settings.name).train_split
        # A validation fraction and a sample are drawn from the whole split; otherwise the limit suffices.
        limit = None if isinstance(settings.validation, float) or settings.sample else settings.limit
        records = list[Record](_named_pairs(settings, split, limit))
        return Records("prompt_completion", records), f"{settings.name}, split {split}"
    if settings.hub is not None:
        rows = _hub_rows(settings, settings.split or "train")
        return _own_records(settings, rows), rows.source
    files = [settings.train] if isinstance(settings.train, str) else list(settings.train or ())
    parts = [_own_records(settings, read_rows(file)) for file in files]
    for file, part in zip(files, parts, strict=True):
        if part.format != parts[0].format or type(part.records[0]) is not type(parts[0].records[0]):
            raise DudeError(f"data.train: {file} has the format '{part.format}', {files[0]} '{parts[0].format}'.")
    records = [record for part in parts for record in part.records]
    return Records(parts[0].format, records, parts[0].first), ", ".join(files)


def _validation_records(settings: DataSettings, name: str) -> list[Record]:
    if settings.name is not None:
        return list(_named_pairs(settings, name))
    return _own_records(settings, _hub_rows(settings, name) if settings.hub is not None else read_rows(name)).records


def _named_pairs(settings: DataSettings, split: str, limit: int | None = None) -> list[Pair]:
    named = named_set(settings.name or "")
    protocol = settings.protocol or named.choice_protocol
    pairs: list[Pair] = []
    for one in named.examples(split, settings.root, limit):
        if isinstance(one, Problem):
            pairs.append(one.pair)
        else:
            prompt, completion = one.ask(protocol).pair
            pairs.append((subject_heading(one, protocol) + prompt, completion))
    if settings.calculator_marks == "strip":
        pairs = [(prompt, CALCULATOR_MARK.sub("", completion)) for prompt, completion in pairs]
    return pairs


def _own_records(settings: DataSettings, rows: Rows) -> Records:
    found = read_records(
        rows,
        settings.format,
        prompt=settings.prompt,
        completion=settings.completion,
        column=settings.column,
        as_chats=bool(settings.chat_template),
    )
    if found.is_chats and settings.chat_template is False:
        raise DudeError(
            f"data.chat_template: false, and the records of {rows.source} are chats, which need a template."
        )
    if found.format == "text" and settings.chat_template:
        raise DudeError(f"data.chat_template: true, and the records of {rows.source} are plain text, without turns.")
    return found


def _hub_rows(settings: DataSettings, split: str) -> Rows:
    remedy = "Check its name, 'subset' and 'split' and the network, or name a local file under 'train'."
    return read_hub(settings.hub or "", settings.subset, split, what=f"data.hub, split {split}", remedy=remedy)


def _split(records: list[Record], fraction: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split `records` at random into training records and a `fraction` for validation; both keep their order."""
    count = round(fraction * len(records))
    if not 0 < count < len(records):
        raise DudeError(f"data.validation: {fraction} of {len(records)} records is {count}; set another fraction.")
    chosen = set(random.Random(seed).sample(range(len(records)), count))
    return [one for k, one in enumerate(records) if k not in chosen], [records[k] for k in sorted(chosen)]


def _sample(records: list[Record], count: int, seed: int) -> list[Record]:
    """Return `count` random records in their original order."""
    if count > len(records):
        raise DudeError(
            f"data.sample: {count:,} of {len(records):,} records. Lower it, or remove it to use all of them."
        )
    return [records[k] for k in sorted(random.Random(seed).sample(range(len(records)), count))]


def _columns(records: list[Record]) -> Columns:
    columns: dict[str, list[str]] = {}
    for record in records:
        for name, text in _texts(record).items():
            columns.setdefault(name, []).append(text)
    return Columns(columns)


def _texts(record: Record) -> dict[str, str]:
    if isinstance(record, Chat):
        return {"chat": record.to_json()}
    return {"text": record} if isinstance(record, str) else {"prompt": record[0], "completion": record[1]}


def _digest(records: Iterable[Record]) -> str:
    digest = hashlib.sha256()
    for record in records:
        # Where a chat came from is no part of it.
        texts = _texts(replace(record, place="") if isinstance(record, Chat) else record)
        for text in texts.values():
            raw = text.encode("utf-8")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
