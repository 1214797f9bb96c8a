"""From prompt and completion to token ids and the loss mask, with every length known before the weights are loaded.

The ids are those that TRL would make (a test compares them); they are made here so that the length of every example
can be checked first, and so that nothing is cut or dropped without being counted.
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
"""Characters of one example that are tokenised at least; more are where `max_length` tokens could be longer."""
IGNORED = -100  # label of a token without loss, as in torch and transformers
DEFAULT_MAX_LENGTH = 1024


@dataclass(frozen=True)
class Examples:
    """Tokenised examples and what became of the long ones.

    Attributes:
        data: columns `input_ids` and `labels`, lists of ints of equal length.
        max_length: the limit, in tokens.
        longest: tokens of the longest example before the limit was applied; at least so many above `READ` characters.
        dropped: examples above the limit that were left out.
        truncated: examples above the limit that were cut.
        tokens: tokens kept, over all examples.
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
        """Tokens of an average example."""
        return self.tokens / len(self.data)


def length_limit(train: TrainSettings, config: PretrainedConfig) -> int:
    """`train.max_length`, or 1024, or less where the model takes less.

    Raises:
        DudeError: `max_length` above what the model takes.
    """
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    if train.max_length is None:
        return min(DEFAULT_MAX_LENGTH, window or DEFAULT_MAX_LENGTH)
    if window and train.max_length > window:
        raise DudeError(
            f"train.max_length: {train.max_length} is above {window}, the most tokens that this model takes."
        )
    return train.max_length


def tokenize(
    data: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    train: TrainSettings,
    max_length: int,
    what: str = "training",
    vocabulary: int | None = None,
) -> Examples:
    """Token ids and labels of a data set with the columns `prompt` and `completion`.

    Prompt and completion are tokenised together and the end token is appended; the loss mask starts where the ids of
    the prompt alone and of the whole part company.

    Args:
        data: the texts.
        tokenizer: makes the ids.
        train: what is done with long examples, and which tokens have a loss.
        max_length: the limit, in tokens.
        what: the data's name in messages.
        vocabulary: rows of the model's embedding; None where it is not known.

    Raises:
        DudeError: every example is longer than `max_length` (with count, longest and remedy), or a token has no row in
            the embedding.
    """
    from datasets import Dataset

    prompts, completions = list(data["prompt"]), list(data["completion"])
    if not prompts:
        raise DudeError(f"the {what} data holds no example.")
    eos = tokenizer.eos_token_id
    texts = [p + c for p, c in zip(prompts, completions, strict=True)]
    # What lies beyond the limit in any case is not tokenised: an example of 10 MB would take minutes.
    read = max(READ, (max_length + 1) * max(map(len, tokenizer.get_vocab())))
    at_least = "at least " if any(len(text) > read for text in texts) else ""
    prompts, texts = [p[:read] for p in prompts], [t[:read] for t in texts]
    alone = tokenizer(prompts, verbose=False, return_attention_mask=False)["input_ids"]
    whole = tokenizer(texts, verbose=False, return_attention_mask=False)["input_ids"]

    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    longest = dropped = truncated = merged = 0
    for prompt, text in zip(alone, whole, strict=True):
        ids = text if text and text[-1] == eos else [*text, eos]
        prompt = prompt[:-1] if len(prompt) > 1 and prompt[-1] == eos else prompt  # tokenizers that end every text
        start = common_prefix(prompt, ids)
        merged += start < len(prompt)
        longest = max(longest, len(ids))
        if vocabulary is not None and (highest := max(ids)) >= vocabulary:
            raise DudeError(
                f"the tokenizer gives token {highest} ({quote(tokenizer.decode([highest]))}), and the embedding of the "
                f"model has {vocabulary:,} rows: they are of two models. Copy its folder again, or resize it."
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
    """How many ids two lists share from the start."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def shown(examples: Examples, tokenizer: PreTrainedTokenizerBase, index: int = 0) -> tuple[str, str]:
    """One example decoded from its ids: the text without loss, and the text that is learnt, end token included."""
    row = examples.data[index]
    start = sum(label == IGNORED for label in row["labels"])
    return str(tokenizer.decode(row["input_ids"][:start])), str(tokenizer.decode(row["input_ids"][start:]))
