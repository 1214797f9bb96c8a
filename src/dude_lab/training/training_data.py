"""From the `data:` section to prompt/completion data sets, every record checked before any model is loaded."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError

from ..config.data_settings import DataSettings
from ..data.catalogue import named_set
from ..data.data_files import Rows, read_rows
from ..data.parsers import CALCULATOR_MARK
from ..data.question_types import Problem, subject_heading
from ..data.sets import read_hub
from ..data.templates import pairs as pairs_of

if TYPE_CHECKING:
    import datasets

Pair = tuple[str, str]


@dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Attributes:
        train: columns `prompt` and `completion`. Their plain concatenation is the text; a space between the two
            belongs to the completion; no end-of-text token is added.
        validation: the same columns, or None.
        source: what was read, for a person.
        sha256: of all the training pairs in their order, in hexadecimal.
    """

    train: datasets.Dataset
    validation: datasets.Dataset | None
    source: str
    sha256: str


def load_training(settings: DataSettings) -> TrainingData:
    """Read and check what `settings` names.

    Raises:
        DudeError: whatever is wrong with it, with file and line, set and record, or key.
    """
    pairs, source = _training_pairs(settings)
    validation: list[Pair] | None = None
    if isinstance(settings.validation, float):
        pairs, validation = _set_aside(pairs, settings.validation, settings.seed)
    elif settings.validation is not None:
        validation = _validation_pairs(settings, settings.validation)
    if settings.sample is not None:
        pairs = _sample(pairs, settings.sample, settings.seed)
    if settings.limit is not None:
        pairs = pairs[: settings.limit]
    held_out = None if validation is None else _dataset(validation)
    return TrainingData(_dataset(pairs), held_out, source, _digest(pairs))


def _training_pairs(settings: DataSettings) -> tuple[list[Pair], str]:
    if settings.name is not None:
        split = settings.split or named_set(settings.name).train_split
        # A fraction to set aside and a sample are taken from the whole split, so only then must all of it be read.
        limit = None if isinstance(settings.validation, float) or settings.sample else settings.limit
        return _named_pairs(settings, split, limit), f"{settings.name}, split {split}"
    if settings.hub is not None:
        rows = _hub_rows(settings, settings.split or "train")
        return _own_pairs(settings, rows), rows.source
    files = [settings.train] if isinstance(settings.train, str) else list(settings.train or ())
    return [pair for file in files for pair in _own_pairs(settings, read_rows(file))], ", ".join(files)


def _validation_pairs(settings: DataSettings, name: str) -> list[Pair]:
    if settings.name is not None:
        return _named_pairs(settings, name)
    return _own_pairs(settings, _hub_rows(settings, name) if settings.hub is not None else read_rows(name))


def _named_pairs(settings: DataSettings, split: str, limit: int | None = None) -> list[Pair]:
    named = named_set(settings.name or "")
    protocol = settings.protocol or named.choice_protocol
    pairs = []
    for one in named.examples(split, settings.root, limit):
        if isinstance(one, Problem):
            pairs.append(one.pair)
        else:
            prompt, completion = one.ask(protocol).pair
            pairs.append((subject_heading(one, protocol) + prompt, completion))
    if settings.calculator_marks == "strip":
        pairs = [(prompt, CALCULATOR_MARK.sub("", completion)) for prompt, completion in pairs]
    return pairs


def _own_pairs(settings: DataSettings, rows: Rows) -> list[Pair]:
    return pairs_of(rows, settings.prompt or "prompt", settings.completion or "completion")


def _hub_rows(settings: DataSettings, split: str) -> Rows:
    remedy = "Check its name, 'subset' and 'split' and the network, or name a local file under 'train'."
    return read_hub(settings.hub or "", settings.subset, split, what=f"data.hub, split {split}", remedy=remedy)


def _set_aside(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """`pairs` without a random `fraction` of them, and that fraction; both in the order of the file."""
    count = round(fraction * len(pairs))
    if not 0 < count < len(pairs):
        raise DudeError(f"data.validation: {fraction} of {len(pairs)} records is {count}; give another fraction.")
    chosen = set(random.Random(seed).sample(range(len(pairs)), count))
    return [one for k, one in enumerate(pairs) if k not in chosen], [pairs[k] for k in sorted(chosen)]


def _sample(pairs: list[Pair], count: int, seed: int) -> list[Pair]:
    """`count` of `pairs` drawn at random, in the order of the file."""
    if count > len(pairs):
        raise DudeError(f"data.sample: {count:,} of {len(pairs):,} records. Lower it, or leave it out to use them all.")
    return [pairs[k] for k in sorted(random.Random(seed).sample(range(len(pairs)), count))]


def _dataset(pairs: list[Pair]) -> datasets.Dataset:
    import datasets

    return datasets.Dataset.from_dict(
        {"prompt": [prompt for prompt, _ in pairs], "completion": [completion for _, completion in pairs]}
    )


def _digest(pairs: Iterable[Pair]) -> str:
    digest = hashlib.sha256()
    for prompt, completion in pairs:
        for text in (prompt, completion):
            raw = text.encode("utf-8")
            digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
