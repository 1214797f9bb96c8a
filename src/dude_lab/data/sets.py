"""`NamedSet`: a data set with a name, its splits, where its records come from, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dude_peft.errors import DudeError, quote, shorten

from ..folders import user_path
from . import parsers, readers
from .data_files import Rows, read_jsonl
from .question_types import Problem, Protocol, Question

ROOT_VARIABLE = "DUDE_DATA_DIR"


def read_hub(path: str, subset: str | None, split: str, *, what: str, remedy: str) -> Rows:
    """Return every record of one split of a data set on the Hugging Face hub.

    Args:
        path: `owner/name`.
        subset: its configuration if it has several; `one+other` reads both, one after the other.
        split: the hub's name of the split.
        what: start of the error message.
        remedy: end of the error message.

    Raises:
        DudeError: the split cannot be read, or is empty.
    """
    import datasets

    where = path + (f" ({subset})" if subset else "")
    try:
        parts = [datasets.load_dataset(path, one, split=split) for one in (subset.split("+") if subset else [None])]
    except Exception as error:  # every network, cache and permission fault of the hub ends here
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DudeError(f"{what}: {where} cannot be read from the hub ({reason}). {remedy}") from None
    rows = [dict(row) for part in parts for row in part]
    if not rows:
        raise DudeError(f"{what}: {where} has no records on the hub. {remedy}")
    return Rows(f"{where}, split {split}", rows)


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face hub.

    Attributes:
        path: `owner/name`.
        subset: its configuration if it has several; `one+other` is both.
        splits: our name of a split -> the hub's.
    """

    path: str
    subset: str | None
    splits: Mapping[str, str]


@dataclass(frozen=True)
class NamedSet:
    """An entry of the catalogue.

    Attributes:
        name: what `data.name`, `eval.suite` and `eval.tasks` call it.
        parser: function from a record to a `Problem` or a `Question`.
        files: split -> names of its files under `<root>/<folder>`; the first that exists is read.
        hub: where it is on the Hugging Face hub; None for a set that ships with the package.
        train_split: default split for training.
        eval_split: default split for evaluation; empty for a set that is only trained on.
        fewshot_split: the split from which few-shot examples are drawn.
        reader: reads one of `files`.
        protocol: how its questions are asked by default: `generate`, `cloze` or `letter`.
        metric: its main metric, by lm-evaluation-harness's name.
        suites: the groups of sets that it belongs to, beside the suite of its own name.
        folder: its folder under the root. Its name if empty.
        by_subject: evaluate each subject on its own (MMLU).
        embedded: its records ship with the package (`dude_lab.mini`).
        extra_splits: the splits of an embedded set.
    """

    name: str
    parser: parsers.Parser
    files: Mapping[str, tuple[str, ...]]
    hub: Hub | None
    train_split: str = "train"
    eval_split: str = "validation"
    fewshot_split: str | None = "train"
    reader: readers.Reader = read_jsonl
    protocol: Literal["generate", "cloze", "letter"] = "cloze"
    metric: str = "acc"
    suites: tuple[str, ...] = ()
    folder: str = ""
    by_subject: bool = False
    embedded: bool = False
    extra_splits: tuple[str, ...] = ()

    @property
    def free_text(self) -> bool:
        """Whether its questions are answered with free text; all other sets are multiple choice."""
        return self.protocol == "generate"

    @property
    def choice_protocol(self) -> Protocol:
        """The default protocol of its multiple-choice questions."""
        return "letter" if self.protocol == "letter" else "cloze"

    @property
    def has_calculator_marks(self) -> bool:
        """Whether its answers have GSM8K's calculator annotations."""
        return self.parser is parsers.gsm8k

    @property
    def splits(self) -> tuple[str, ...]:
        """Its splits, in files, on the hub or in the package."""
        return tuple(dict.fromkeys([*self.files, *(self.hub.splits if self.hub else ()), *self.extra_splits]))

    def rows(self, split: str, root: str | Path | None = None, limit: int | None = None) -> Rows:
        """Return the raw records of a split.

        Args:
            split: one of `splits`.
            root: folder with the raw files. If None, the environment variable DUDE_DATA_DIR, then the hub.
            limit: return only the first `limit` records. All if None.

        Raises:
            DudeError: no such split, or it is found neither in the folder nor on the hub.
        """
        if split not in self.splits:
            raise DudeError(f"{self.name} has no split {quote(split)}. It has: {', '.join(self.splits)}.")
        if self.embedded:
            from .. import mini

            records = mini.records(self.name, split, limit=limit)
            rows = Rows(f"{self.name}, split {split}", list(records))
            return readers.ordered(rows) if self.parser is parsers.gpqa and "order" not in records[0] else rows
        rows = self._read(split, root)
        return rows if limit is None else replace(rows, rows=rows.rows[:limit], numbers=rows.numbers[:limit])

    def examples(
        self, split: str, root: str | Path | None = None, limit: int | None = None
    ) -> list[Problem] | list[Question]:
        """Return the questions of a split: `Problem`s if `free_text`, else `Question`s.

        Raises:
            DudeError: as `rows`, or a record without the fields that the parser needs, with its line.
        """
        rows = self.rows(split, root, limit)
        out = []
        for number, row in enumerate(rows.rows):
            try:
                out.append(self.parser(row, number))
            except (KeyError, ValueError, IndexError, TypeError, AttributeError, OverflowError) as error:
                reason = f"field {error} is missing" if isinstance(error, KeyError) else shorten(error, 300)
                raise DudeError(f"{rows.place(number)}: not a record of {self.name}: {reason}.") from None
        return out  # type: ignore[return-value]

    def find(self, split: str, root: str | Path) -> Path | None:
        """Return the file or folder of `split` under `root`, or in `root` itself; None if there is none."""
        for folder in (Path(root) / (self.folder or self.name), Path(root)):
            for name in self.files.get(split, ()):
                if name.endswith("/"):
                    if (folder / name).is_dir() and any((folder / name).iterdir()):
                        return folder / name.rstrip("/")
                elif (file := readers.find(folder, name)) is not None:
                    return file
        return None

    def _read(self, split: str, root: str | Path | None) -> Rows:
        name = root if root is not None else os.environ.get(ROOT_VARIABLE) or None
        base = None if name is None else user_path(name)
        if base is not None:
            if (file := self.find(split, base)) is not None:
                return self.reader(file)
            if root is not None:
                present = [one for one in self.splits if self.find(one, base)]
                hint = f" It has the splits: {', '.join(present)}." if present else ""
                names = (
                    " or ".join(f"{self.folder or self.name}/{one}" for one in self.files.get(split, ())) or "nothing"
                )
                raise DudeError(f"{self.name}, split {split}: {base} has no {names}.{hint}")
        return self._download(split, base)

    def _download(self, split: str, searched: Path | None) -> Rows:
        if self.hub is None or split not in self.hub.splits:
            raise DudeError(f"{self.name}, split {split}: not on the hub. {self._remedy(split)}")
        prefix = f"{searched} does not have it. " if searched else ""
        rows = read_hub(
            self.hub.path,
            self.hub.subset,
            self.hub.splits[split],
            what=f"{self.name}, split {split}",
            remedy=prefix + self._remedy(split),
        )
        return readers.ordered(rows) if self.parser is parsers.gpqa else rows

    def _remedy(self, split: str) -> str:
        names = " or ".join(f"{self.folder or self.name}/{one}" for one in self.files.get(split, ()))
        return (
            f"Set 'root' or the environment variable {ROOT_VARIABLE} to a folder with {names or 'its files'}, or "
            "connect to the Hugging Face hub."
        )
