"""The shape of `mini` and the batches that it is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mini.stream import document_at
from mini.tokenizer import CONTEXT, VOCAB_SIZE

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SHAPE: dict[str, Any] = {"hidden_size": 256, "num_hidden_layers": 5, "num_attention_heads": 4, "intermediate_size": 704}


def new_model(seed: int, shape: dict[str, Any] | None = None) -> LlamaForCausalLM:
    """Return a randomly initialised float32 model of a shape (`SHAPE` by default), the same for the same seed.

    The projections that write into the residual stream start smaller, by the square root of twice the depth.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = shape or SHAPE
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        num_key_value_heads=shape["num_attention_heads"],
        initializer_range=0.04,
        **shape,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_((2 * shape["num_hidden_layers"]) ** -0.5)
    return model


@dataclass
class Packer:
    """Documents of the stream end to end, cut into rows of `length` tokens; its state is an index and a remainder."""

    tokenizer: PreTrainedTokenizerFast
    seed: int
    length: int
    split: str = "train"
    genre: str | None = None
    index: int = 0
    rest: list[int] | None = None
    chunk: int = 512

    def batch(self, rows: int) -> torch.Tensor:
        """Return the next `rows` rows, int64 of shape (rows, length); every document is preceded by the end token."""
        import torch

        need = rows * self.length
        tokens = self.rest or []
        while len(tokens) < need:
            texts = [
                document_at(self.seed, i, genre=self.genre, split=self.split)[1]
                for i in range(self.index, self.index + self.chunk)
            ]
            self.index += self.chunk
            for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]:
                tokens.append(0)
                tokens.extend(ids)
        self.rest = tokens[need:]
        return torch.tensor(tokens[:need]).view(rows, self.length)

    def state(self) -> dict[str, Any]:
        """Return what `restore` needs to continue with the next row."""
        return {"index": self.index, "rest": list(self.rest or [])}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.index, self.rest = state["index"], list(state["rest"])


def held_out(tokenizer: PreTrainedTokenizerFast, genre: str, rows: int, length: int) -> torch.Tensor:
    """Return held-out rows of one genre, (rows, length), from a split of the stream that training never reads."""
    return Packer(tokenizer, seed=0, length=length, split="held-out", genre=genre, chunk=64).batch(rows)


def batches(packer: Packer, rows: int) -> Iterator[torch.Tensor]:
    """Yield batches without end."""
    while True:
        yield packer.batch(rows)
