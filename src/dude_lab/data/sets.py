"""The named data sets: which splits each has, where its records come from, and how a record is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from dude_peft.errors import DudeError, did_you_mean, quote, shorten
from dude_peft.files import user_path

from . import parsers, readers
from .data_files import Rows, read_jsonl
from .hub import read_hub
from .question_types import Problem, Question

ROOT_VARIABLE = "DUDE_DATA_DIR"


@dataclass(frozen=True)
class Hub:
    """A data set of the Hugging Face hub: its name, its configuration, and its name for each of our splits."""

    path: str
    subset: str | None
    splits: Mapping[str, str]


@dataclass(frozen=True)
class NamedSet:
    """A data set known by name.

    Attributes:
        name: the name.
        family: reads one record.
        files: split -> names of its files under `<root>/<folder>`, the best first.
        reader: reads one of these files.
        hub: where it is on the Hugging Face hub; None for a generated set.
        train_split: trained on by default; None for a set made to evaluate.
        eval_split: evaluated on by default.
        fewshot_split: where worked examples are drawn from.
        protocol: how it is asked by default: `generate`, `cloze` or `letter`.
        metric: the metric that stands for it; lm-evaluation-harness's.
        folder: its folder under the root; its name, where it is empty.
        by_subject: made of subjects, each evaluated on its own (MMLU).
        generated: made by `dude_lab.mini`, not read.
        extra_splits: the splits of a generated set.
    """

    name: str
    family: parsers.Family
    files: Mapping[str, tuple[str, ...]]
    hub: Hub | None
    train_split: str | None
    eval_split: str
    fewshot_split: str | None
    reader: readers.Reader = read_jsonl
    protocol: Literal["generate", "cloze", "letter"] = "cloze"
    metric: str = "acc"
    folder: str = ""
    by_subject: bool = False
    generated: bool = False
    extra_splits: tuple[str, ...] = field(default=())

    @property
    def splits(self) -> tuple[str, ...]:
        """Every split it has somewhere."""
        return tuple(dict.fromkeys([*self.files, *(self.hub.splits if self.hub else ()), *self.extra_splits]))

    def rows(self, split: str, root: str | Path | None = None, limit: int | None = None) -> Rows:
        """The raw records of a split.

        Args:
            split: one of `splits`.
            root: the folder with the raw files. Where it is None, the environment's DUDE_DATA_DIR is looked at first
                and the hub then.
            limit: the first so many; all where it is None.

        Raises:
            DudeError: no such split, or it can be reached nowhere.
        """
        if split not in self.splits:
            raise DudeError(f"{self.name} has no split {quote(split)}. It has: {', '.join(self.splits)}.")
        if self.generated:
            from .. import mini

            records = mini.records(self.name, split, limit=limit)
            rows = Rows(f"{self.name}, split {split}", list(records))
            return readers.ordered(rows) if self.family is parsers.gpqa and "order" not in records[0] else rows
        rows = self._read(split, root)
        return rows if limit is None else replace(rows, rows=rows.rows[:limit], numbers=rows.numbers[:limit])

    def examples(
        self, split: str, root: str | Path | None = None, limit: int | None = None
    ) -> list[Problem] | list[Question]:
        """The questions of a split; `Problem`s where the protocol is `generate`, else `Question`s.

        Raises:
            DudeError: as `rows`, or a record that does not have the set's fields, with its place.
        """
        rows = self.rows(split, root, limit)
        out = []
        for number, row in enumerate(rows.rows):
            try:
                out.append(self.family(row, number))
            except (KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
                said = f"field {error} is missing" if isinstance(error, KeyError) else shorten(error, 300)
                raise DudeError(f"{rows.place(number)}: not a record of {self.name}: {said}.") from None
        return out  # type: ignore[return-value]

    def found(self, split: str, root: str | Path) -> Path | None:
        """The file or folder of `split` under `root`, which may also be the set's own folder."""
        for folder in (Path(root) / (self.folder or self.name), Path(root)):
            for name in self.files.get(split, ()):
                if name.endswith("/"):
                    if (folder / name).is_dir() and any((folder / name).iterdir()):
                        return folder / name.rstrip("/")
                elif (file := readers.find(folder, name)) is not None:
                    return file
        return None

    def _read(self, split: str, root: str | Path | None) -> Rows:
        given = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
        if given is not None:
            given = user_path(given)
            if (file := self.found(split, given)) is not None:
                return self.reader(file)
            if root is not None:
                here = [one for one in self.splits if self.found(one, given)]
                there = f" It holds the splits: {', '.join(here)}." if here else ""
                names = (
                    " or ".join(f"{self.folder or self.name}/{one}" for one in self.files.get(split, ())) or "nothing"
                )
                raise DudeError(f"{self.name}, split {split}: {given} has no {names}.{there}")
        return self._download(split, given)

    def _download(self, split: str, looked: Path | None) -> Rows:
        if self.hub is None or split not in self.hub.splits:
            raise DudeError(f"{self.name}, split {split}: it is not on the hub; {self._ways(split)}")
        seen = f"{looked} has no file of it. " if looked else ""
        rows = read_hub(
            self.hub.path,
            self.hub.subset,
            self.hub.splits[split],
            what=f"{self.name}, split {split}",
            remedy=seen + self._ways(split),
        )
        return readers.ordered(rows) if self.family is parsers.gpqa else rows

    def _ways(self, split: str) -> str:
        names = " or ".join(f"{self.folder or self.name}/{one}" for one in self.files.get(split, ()))
        return (
            "There are three ways: set 'root' to a folder that holds "
            f"{names or 'its files'}; set the environment variable {ROOT_VARIABLE} to such a folder; "
            "or connect to the Hugging Face hub."
        )


def named_set(name: str) -> NamedSet:
    """The set called `name`.

    Raises:
        DudeError: there is none.
    """
    known = named_sets()
    if name not in known:
        raise DudeError(f"no data set is called {quote(name)}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]


@cache
def named_sets() -> Mapping[str, NamedSet]:
    """Every named set, by name."""
    from .catalogue import all_sets

    return {one.name: one for one in all_sets()}
