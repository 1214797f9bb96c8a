"""Load the data sets of a `data:` section and check every record before a model is loaded."""

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
    """Training and validation data.

    Attributes:
        train: columns `prompt` and `completion`. The text is their concatenation; a space between the two belongs to
            the completion. No end-of-text token is added.
        validation: the same columns, or None.
        source: description of the source for the run's record.
        sha256: SHA-256 of the training pairs in their order, hexadecimal.
    """

    train: datasets.Dataset
    validation: datasets.Dataset | None
    source: str
    sha256: str


def load_training(settings: DataSettings) -> TrainingData:
    """Load and check the training data of `settings`.

    Raises:
        DudeError: a file, data set, record or key that cannot be used.
    """
    pairs, source = _training_pairs(settings)
    validation: list[Pair] | None = None
    if isinstance(settings.validation, float):
        pairs, validation = _split(pairs, settings.validation, settings.seed)
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
        # A validation fraction and a sample are drawn from the whole split; otherwise the limit suffices.
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


def _split(pairs: list[Pair], fraction: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Split `pairs` at random into training pairs and a `fraction` for validation; both keep their order."""
    count = round(fraction * len(pairs))
    if not 0 < count < len(pairs):
        raise DudeError(f"data.validation: {fraction} of {len(pairs)} records is {count}; set another fraction.")
    chosen = set(random.Random(seed).sample(range(len(pairs)), count))
    return [one for k, one in enumerate(pairs) if k not in chosen], [pairs[k] for k in sorted(chosen)]


def _sample(pairs: list[Pair], count: int, seed: int) -> list[Pair]:
    """Return `count` random pairs in their original order."""
    if count > len(pairs):
        raise DudeError(f"data.sample: {count:,} of {len(pairs):,} records. Lower it, or remove it to use all of them.")
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
