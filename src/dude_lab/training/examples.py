"""Tokenize pairs, chats and texts and make the loss mask, before the weights are loaded.

The ids are TRL's (a test compares them). They are made here so that all lengths are known first, and everything that is
cut or dropped is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby, islice
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError, quote

from ..config.run_settings import TrainSettings
from ..data.formats import Chat
from .chat_template import ChatTemplate, never_ends
from .training_data import Columns

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

READ = 1_000_000
"""Characters of an example that are tokenised; more if `max_length` tokens can be longer."""
BATCH = 1_000  # texts that are tokenised at a time
IGNORED = -100  # label of a token without loss, as in torch and transformers
DEFAULT_MAX_LENGTH = 1024
Progress = Callable[[int, int], None]
"""Called with the number of examples that are done, and of all."""
Parts = list[tuple[str, bool]]
"""The consecutive parts of an example: text, and whether the loss is on it."""


@dataclass(frozen=True)
class Examples:
    """Tokenised examples, and how many were too long.

    Attributes:
        data: columns `input_ids` and `labels`, lists of ints of equal length; of packed examples also `seq_lengths`,
            the tokens of each example in the row. For a trainer see `as_dataset`.
        max_length: the limit, in tokens.
        longest: tokens of the longest example before the limit was applied; a lower bound above `READ` characters.
        dropped: examples above the limit that were dropped.
        truncated: examples above the limit that were cut.
        tokens: tokens of all examples after the limit was applied; of a sample, an estimate.
        merged: examples whose prompt ends inside a token of the whole text.
        endless: chats whose last turn has no end token, so that the model does not learn to end its answers.
        sample_of: number of examples of which `data` is a sample (`tokenize_sample`); None if it has all.
    """

    data: Columns | Dataset
    max_length: int
    longest: int
    dropped: int
    truncated: int
    tokens: int
    merged: int
    endless: int = 0
    sample_of: int | None = None

    @property
    def packed(self) -> bool:
        """Whether a row of `data` has several examples."""
        return "seq_lengths" in self.data.column_names

    @property
    def rows(self) -> int:
        """Number of rows that the trainer sees: examples, or packed sequences."""
        return self.sample_of or len(self.data)

    @property
    def count(self) -> int:
        """Number of examples."""
        if self.sample_of:
            return self.sample_of
        return sum(map(len, self.data["seq_lengths"])) if self.packed else len(self.data)

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of an example."""
        return self.tokens / self.count

    def as_dataset(self) -> Examples:
        """Return the examples with `data` as a `datasets.Dataset`, which takes less memory."""
        from datasets import Dataset

        return replace(self, data=Dataset.from_dict(self.data.columns)) if isinstance(self.data, Columns) else self


def length_limit(train: TrainSettings, config: PretrainedConfig) -> int:
    """Return `train.max_length`; if null, 1024 or the model's limit, whichever is smaller.

    Raises:
        DudeError: `max_length` is above the model's limit.
    """
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if train.max_length is None:
        return min(DEFAULT_MAX_LENGTH, window or DEFAULT_MAX_LENGTH)
    if window and train.max_length > window:
        raise DudeError(f"train.max_length: {train.max_length} is above {window}, the context length of this model.")
    return train.max_length


def tokenize(
    data: Columns | Dataset,
    tokenizer: PreTrainedTokenizerBase,
    train: TrainSettings,
    max_length: int,
    what: str = "training",
    vocabulary: int | None = None,
    progress: Progress | None = None,
) -> Examples:
    """Return the token ids and labels of a data set.

    Prompt and completion are tokenised together and the end token is appended; the loss mask starts where the ids of
    the prompt alone and of the concatenation differ. A chat is rendered by the model's chat template, and the loss is
    on the assistant's turns. A plain text gets the end token, and the loss is on all of it.

    Args:
        data: the records, with the columns of `TrainingData`.
        tokenizer: the model's tokenizer.
        train: decides on long examples and on the loss mask.
        max_length: the limit, in tokens.
        what: name of the data in messages.
        vocabulary: rows of the model's embedding; None if unknown.
        progress: called as examples are tokenised.

    Raises:
        DudeError: every example is longer than `max_length`, a token has no row in the embedding, or a chat that the
            template does not take.
    """
    if not len(data):
        raise DudeError(f"the {what} data has no examples.")
    # Text that is beyond the limit in any case is not tokenised: 10 MB would take minutes.
    read = max(READ, (max_length + 1) * max(map(len, tokenizer.get_vocab())))
    chats = "chat" in data.column_names
    split = train.overlong == "split"
    if split and "text" not in data.column_names:
        raise DudeError(
            "train.overlong: split cuts plain text (data.format: text) into several examples; an answer without its "
            "question teaches nothing. Set it to drop or truncate."
        )
    tokens = _Tokens(tokenizer, max(map(len, data["text"])) if split else read, progress)
    made = tokens.of_chats(data["chat"]) if chats else tokens.of_texts(data)

    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    longest = dropped = truncated = endless = 0
    for ids, mask in _pieces(made, max_length) if split else made:
        longest = max(longest, len(ids))
        if vocabulary is not None and (highest := max(ids)) >= vocabulary:
            raise DudeError(
                f"the tokenizer gives token {highest} ({quote(tokenizer.decode([highest]))}), and the embedding of the "
                f"model has {vocabulary:,} rows: they are from different models. Copy the folder again, or resize the "
                "embedding."
            )
        endless += chats and never_ends(tokenizer, ids, mask)
        if len(ids) > max_length:
            if train.overlong == "drop" or True not in mask[:max_length]:
                dropped += 1
                continue
            truncated += 1
            ids, mask = ids[:max_length], mask[:max_length]
        rows["input_ids"].append(ids)
        labels = [token if trained else IGNORED for token, trained in zip(ids, mask, strict=True)]
        rows["labels"].append(labels if train.completion_only_loss else list(ids))
    if not rows["input_ids"]:
        at_least = "at least " if tokens.cut else ""
        raise DudeError(
            f"all {len(data)} {what} examples are longer than train.max_length: {max_length} tokens; the longest "
            f"has {at_least}{longest}. Set train.max_length={longest}, or shorten the data."
        )
    return Examples(
        data=Columns(rows),
        max_length=max_length,
        longest=longest,
        dropped=dropped,
        truncated=truncated,
        tokens=sum(map(len, rows["input_ids"])),
        merged=tokens.merged,
        endless=endless,
    )


def tokenize_sample(
    data: Columns,
    tokenizer: PreTrainedTokenizerBase,
    train: TrainSettings,
    max_length: int,
    what: str = "training",
    vocabulary: int | None = None,
    progress: Progress | None = None,
    *,
    size: int,
) -> Examples:
    """Tokenize `size` examples of a larger data set: a fifth are those of the most characters, the others spread.

    If there is anything to report about them (an error, an example above the limit, a prompt that ends inside a
    token), or if sequences are packed or cut into pieces, all examples are tokenised, as by `tokenize`.
    """
    if len(data) <= size or train.packing or train.overlong == "split":
        return tokenize(data, tokenizer, train, max_length, what, vocabulary, progress)
    texts = [data[name] for name in data.column_names]
    characters = [sum(map(len, parts)) for parts in zip(*texts, strict=True)]
    order = sorted(range(len(data)), key=characters.__getitem__, reverse=True)
    longest, others = order[: size // 5], sorted(order[size // 5 :])
    count = size - len(longest)
    chosen = sorted(longest + [others[k * len(others) // count] for k in range(count)])
    with suppress(DudeError):  # raised again with the numbers of all
        found = tokenize(data.select(chosen), tokenizer, train, max_length, what, vocabulary)
        if not (found.dropped or found.truncated or found.merged or found.endless):
            share = found.tokens / sum(characters[k] for k in chosen)
            return replace(found, tokens=round(share * sum(characters)), sample_of=len(data))
    return tokenize(data, tokenizer, train, max_length, what, vocabulary, progress)


def _pieces(made: Iterable[tuple[list[int], list[bool]]], max_length: int) -> Iterator[tuple[list[int], list[bool]]]:
    """Cut examples into pieces of at most `max_length` tokens; a single token, which predicts nothing, is left out."""
    for ids, mask in made:
        for start in range(0, len(ids), max_length):
            if len(ids) - start > 1:
                yield ids[start : start + max_length], mask[start : start + max_length]


class _Tokens:
    """Token ids and masks of records.

    Attributes:
        read: characters of a text that are tokenised.
        cut: whether a text is longer than that.
        merged: pairs so far whose prompt ends inside a token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, read: int, progress: Progress | None) -> None:
        self.tokenizer, self.read, self.cut, self.merged = tokenizer, read, False, 0
        self.progress: Progress = progress or (lambda done, total: None)

    def of_chats(self, chats: Sequence[str]) -> Iterator[tuple[list[int], list[bool]]]:
        """Yield ids and mask of each chat."""
        template = ChatTemplate.of(self.tokenizer)
        for done, chat in enumerate(chats, 1):
            yield template.tokens(Chat.from_json(chat))
            if done % (BATCH // 10) == 0:
                self.progress(done, len(chats))

    def of_texts(self, data: Columns | Dataset) -> Iterator[tuple[list[int], list[bool]]]:
        """Yield ids, with the end token, and mask of each pair or text."""
        eos = self.tokenizer.eos_token_id
        prompts = list(data["prompt"]) if "prompt" in data.column_names else [""] * len(data)
        texts = list(data["text"]) if "text" in data.column_names else list(data["completion"])
        texts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        self.cut = any(len(text) > self.read for text in texts)
        for first in range(0, len(texts), BATCH):
            batch = slice(first, first + BATCH)
            full = self._ids(texts[batch])
            alone = self._ids(prompts[batch]) if "prompt" in data.column_names else [[]] * len(full)
            for prompt, text in zip(alone, full, strict=True):
                ids = text if text and text[-1] == eos else [*text, eos]
                # Some tokenizers end every text.
                prompt = prompt[:-1] if len(prompt) > 1 and prompt[-1] == eos else prompt
                start = common_prefix(prompt, ids)
                self.merged += start < len(prompt)
                yield ids, [k >= start for k in range(len(ids))]
            self.progress(min(first + BATCH, len(texts)), len(texts))

    def _ids(self, texts: list[str]) -> list[list[int]]:
        found = self.tokenizer([text[: self.read] for text in texts], verbose=False, return_attention_mask=False)
        return found["input_ids"]  # type: ignore[return-value]


def pack(examples: Examples) -> Examples:
    """Pack examples into rows of at most `max_length` tokens, by TRL's best-fit decreasing packing."""
    from datasets import disable_progress_bars, enable_progress_bars
    from datasets.utils import are_progress_bars_disabled
    from trl import pack_dataset

    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        packed = pack_dataset(examples.as_dataset().data, examples.max_length, "bfd", {"keep_in_memory": True})
    finally:
        if not hidden:
            enable_progress_bars()
    return replace(examples, data=packed)


def common_prefix(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix of two lists."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def shown(examples: Examples, tokenizer: PreTrainedTokenizerBase, index: int = 0) -> Parts:
    """Return one example as text; of a packed row the first."""
    row = examples.data[index]
    tokens = islice(
        zip(row["input_ids"], row["labels"], strict=True), row["seq_lengths"][0] if examples.packed else None
    )
    return [
        (str(tokenizer.decode([token for token, _ in part])), trained)
        for trained, part in groupby(tokens, key=lambda pair: pair[1] != IGNORED)
    ]
