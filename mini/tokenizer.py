"""The tokenizer of `mini`: byte-level BPE of 2,048 entries, every digit a token of its own."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from mini.stream import documents

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 2048
END = "<|endoftext|>"
PAD = "<|pad|>"
CONTEXT = 1024
TRAINING_DOCUMENTS = 60_000


def train_tokenizer(seed: int = 0, n_documents: int = TRAINING_DOCUMENTS) -> PreTrainedTokenizerFast:
    """Return learn the tokenizer from the stream's own split `tokenizer` (no text is shared with training by index).

    Returns:
        A fast tokenizer whose end, begin and unknown token is `<|endoftext|>` (id 0) and whose pad token is
        `<|pad|>` (id 1).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (text for _, text in islice(documents(seed, split="tokenizer"), n_documents))
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
