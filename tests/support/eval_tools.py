"""Small things for the evaluation tests: a byte tokenizer, a random Llama, and a model that knows the answers."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END = "<|end|>"


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with an end-of-text token and no padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={sign: k for k, sign in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END)


def tiny_llama(window: int = 2048, seed: int = 0, tied: bool = False) -> LlamaForCausalLM:
    """A random Llama of two layers over 257 tokens, in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=window,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config)


class Oracle(torch.nn.Module):
    """A language model that has learnt `pairs` by heart: it goes on with the completion, or shuns it.

    Args:
        tokenizer: to encode the pairs.
        pairs: prompt and completion.
        shun: give the next token of a known completion the least probability instead of the greatest.
        window: tokens.
    """

    def __init__(self, tokenizer, pairs, *, shun: bool = False, window: int = 1 << 20) -> None:
        super().__init__()
        self.config = SimpleNamespace(model_type="llama", max_position_embeddings=window)
        self.device = torch.device("cpu")
        self.tokenizer, self.force = tokenizer, -40.0 if shun else 40.0
        self.answers = dict(pairs)
        self.next: dict[int, int] = {}
        for prompt, completion in pairs:
            head = tokenizer.encode(prompt)
            ids = [*head, *tokenizer.encode(completion), tokenizer.eos_token_id]
            state = 0
            for k, token in enumerate(ids[:-1]):
                state = hash((state, token))
                if k + 1 >= len(head):
                    self.next[state] = ids[k + 1]

    def tie_weights(self) -> None:
        raise AssertionError("an evaluation has no business tying weights")

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        logits = torch.zeros(*input_ids.shape, 257)
        for b, ids in enumerate(input_ids.tolist()):
            state = 0
            for k, token in enumerate(ids):
                state = hash((state, token))
                if state in self.next:
                    logits[b, k, self.next[state]] = self.force
        return SimpleNamespace(logits=logits)

    def generate(self, input_ids, attention_mask, pad_token_id, **_) -> torch.Tensor:
        tails = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            said = self.answers[self.tokenizer.decode(ids[mask.bool()])]
            said = "\n#### 0.5" if self.force < 0 else said
            tails.append([*self.tokenizer.encode(said), self.tokenizer.eos_token_id])
        longest = max(map(len, tails))
        padded = [[*tail, *[pad_token_id] * (longest - len(tail))] for tail in tails]
        return torch.cat([input_ids, torch.tensor(padded)], dim=1)
