"""Tokenize prompts and completions and make the loss mask, before the weights are loaded.

The ids are TRL's (a test compares them). They are made here so that all lengths are known first, and everything that is
cut or dropped is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dude_peft.errors import DudeError, quote

from ..config.run_settings import TrainSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

READ = 1_000_000
"""Characters of an example that are tokenised; more if `max_length` tokens can be longer."""
IGNORED = -100  # label of a token without loss, as in torch and transformers
DEFAULT_MAX_LENGTH = 1024


@dataclass(frozen=True)
class Examples:
    """Tokenised examples, and how many were too long.

    Attributes:
        data: columns `input_ids` and `labels`, lists of ints of equal length.
        max_length: the limit, in tokens.
        longest: tokens of the longest example before the limit was applied; a lower bound above `READ` characters.
        dropped: examples above the limit that were dropped.
        truncated: examples above the limit that were cut.
        tokens: tokens of all examples after the limit was applied.
        merged: examples whose prompt ends inside a token of the whole text.
    """

    data: Dataset
    max_length: int
    longest: int
    dropped: int
    truncated: int
    tokens: int
    merged: int

    @property
    def mean_length(self) -> float:
        """Mean number of tokens of an example."""
        return self.tokens / len(self.data)


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
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    train: TrainSettings,
    max_length: int,
    what: str = "training",
    vocabulary: int | None = None,
) -> Examples:
    """Return the token ids and labels of a data set with the columns `prompt` and `completion`.

    Prompt and completion are tokenised together and the end token is appended; the loss mask starts where the ids of
    the prompt alone and of the concatenation differ.

    Args:
        data: the texts.
        tokenizer: the model's tokenizer.
        train: decides on long examples and on the loss mask.
        max_length: the limit, in tokens.
        what: name of the data in messages.
        vocabulary: rows of the model's embedding; None if unknown.

    Raises:
        DudeError: every example is longer than `max_length`, or a token has no row in the embedding.
    """
    from datasets import Dataset

    prompts, completions = list(data["prompt"]), list(data["completion"])
    if not prompts:
        raise DudeError(f"the {what} data has no examples.")
    eos = tokenizer.eos_token_id
    texts = [p + c for p, c in zip(prompts, completions, strict=True)]
    # Text that is beyond the limit in any case is not tokenised: 10 MB would take minutes.
    read = max(READ, (max_length + 1) * max(map(len, tokenizer.get_vocab())))
    at_least = "at least " if any(len(text) > read for text in texts) else ""
    prompts, texts = [p[:read] for p in prompts], [t[:read] for t in texts]
    alone = tokenizer(prompts, verbose=False, return_attention_mask=False)["input_ids"]
    full = tokenizer(texts, verbose=False, return_attention_mask=False)["input_ids"]

    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    longest = dropped = truncated = merged = 0
    for prompt, text in zip(alone, full, strict=True):
        ids = text if text and text[-1] == eos else [*text, eos]
        prompt = prompt[:-1] if len(prompt) > 1 and prompt[-1] == eos else prompt  # tokenizers that end every text
        start = common_prefix(prompt, ids)
        merged += start < len(prompt)
        longest = max(longest, len(ids))
        if vocabulary is not None and (highest := max(ids)) >= vocabulary:
            raise DudeError(
                f"the tokenizer gives token {highest} ({quote(tokenizer.decode([highest]))}), and the embedding of the "
                f"model has {vocabulary:,} rows: they are from different models. Copy the folder again, or resize the "
                "embedding."
            )
        if len(ids) > max_length:
            if train.overlong == "drop" or start >= max_length:
                dropped += 1
                continue
            truncated += 1
            ids = ids[:max_length]
        rows["input_ids"].append(ids)
        rows["labels"].append([IGNORED] * start + ids[start:] if train.completion_only_loss else list(ids))
    if not rows["input_ids"]:
        raise DudeError(
            f"all {len(prompts)} {what} examples are longer than train.max_length: {max_length} tokens; the longest "
            f"has {at_least}{longest}. Set train.max_length={longest}, or shorten the data."
        )
    return Examples(
        data=Dataset.from_dict(rows),
        max_length=max_length,
        longest=longest,
        dropped=dropped,
        truncated=truncated,
        tokens=sum(map(len, rows["input_ids"])),
        merged=merged,
    )


def common_prefix(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix of two lists."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def shown(examples: Examples, tokenizer: PreTrainedTokenizerBase, index: int = 0) -> tuple[str, str]:
    """Return one example as text: the part without loss, and the part with loss, end token included."""
    row = examples.data[index]
    start = sum(label == IGNORED for label in row["labels"])
    return str(tokenizer.decode(row["input_ids"][:start])), str(tokenizer.decode(row["input_ids"][start:]))
