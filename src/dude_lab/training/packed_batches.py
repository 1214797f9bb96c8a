"""Batches of packed sequences, and the check that a model keeps the examples of a sequence apart.

This module imports torch and TRL; import it only to train.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from dude_peft.errors import DudeError

from .examples import IGNORED

TOKENS = "num_tokens"
"""Key of a packed batch: the tokens of each row, without padding; the trainer removes it before the forward."""


class PackedCollator(DataCollatorForLanguageModeling):
    """TRL's collator; rows that have several examples get position ids in place of an attention mask.

    The position ids start at 0 in each example. Without an attention mask, transformers makes a mask of them that lets
    a token attend only to its own example; TRL joins the rows into one for FlashAttention, here they stay rows. The
    first token of each example has no label, since it would be predicted from the example before it.
    """

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch of rows, packed or not."""
        packed = "seq_lengths" in examples[0]
        self.return_position_ids = packed
        batch = super().torch_call(examples)
        if packed:
            batch[TOKENS] = batch.pop("attention_mask").sum(dim=1)
            batch["labels"][batch["position_ids"] == 0] = IGNORED
        return batch


@torch.no_grad()
def check_packing(model: torch.nn.Module) -> None:
    """Raise unless the examples of a packed sequence have no effect on each other.

    Two rows have the same second example after different first ones. Its logits must be equal; how much they differ
    where the model attends to all of a row says what is small.

    Raises:
        DudeError: the model ignores position ids, as some attention implementations do.
    """
    config: Any = model.config
    vocabulary = config.get_text_config().vocab_size
    device = next(model.parameters()).device
    first, other, second = (torch.arange(k, k + 8) % vocabulary for k in (1, 9, 17))
    ids = torch.stack([torch.cat([first, second]), torch.cat([other, second])]).to(device)
    apart = torch.arange(8).repeat(2).expand(2, -1).to(device)
    training = model.training
    model.eval()

    def difference(**options: torch.Tensor) -> float:
        rows = model(input_ids=ids, use_cache=False, **options).logits[:, 8:].float()
        return float((rows[0] - rows[1]).abs().max())

    try:
        attends = difference(position_ids=apart, attention_mask=torch.ones_like(ids))
        kept_apart = difference(position_ids=apart)
    finally:
        model.train(training)
    if kept_apart > 0.05 * attends:
        raise DudeError(
            f"train.packing: the attention of this model ({config.model_type}, {config._attn_implementation}) does not "
            "keep the examples of a sequence apart. Set train.packing=false, or use SDPA attention."
        )
