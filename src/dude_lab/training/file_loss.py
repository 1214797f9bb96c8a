"""The loss of a model on a file: `dude eval --file FILE --metric loss`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..config.data_settings import DataSettings
from ..config.eval_settings import EvalSettings
from ..config.run_settings import RunSettings, TrainSettings
from .base_model import Base
from .examples import IGNORED, length_limit, tokenize
from .training_data import load_training

if TYPE_CHECKING:
    from torch import nn


class FileLoss(NamedTuple):
    """The mean loss over the tokens of a file, and what was left out."""

    loss: float
    tokens: int
    examples: int
    dropped: int


def file_loss(
    model: nn.Module,
    base: Base,
    settings: EvalSettings,
    progress: Callable[[int, int, str], None],
    run: RunSettings | None = None,
) -> FileLoss:
    """Return the loss on `settings.file`, in nats per token, on the tokens that would be trained on.

    The mean is over all of these tokens; the validation loss of a run is the mean over its batches.

    Args:
        model: with its adapter.
        base: its base model.
        settings: the file and its columns.
        progress: called with the examples done and all examples.
        run: the model's run, whose format, length limit and choice of tokens hold; None: the defaults.

    Raises:
        DudeError: a file or record that cannot be used.
    """
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    keys = ("prompt", "completion", "column", "chat_template", "limit")
    chosen = {key: getattr(settings, key) for key in keys}
    format = None if run is None or run.data.name is not None else run.data.format
    data = load_training(DataSettings(train=settings.file, format=format, **chosen))
    train = TrainSettings() if run is None else run.train
    found = tokenize(data.train, base.tokenizer, train, length_limit(train, base.config), "evaluation")
    rows = sorted(found.data, key=lambda row: len(row["input_ids"]))
    total, tokens, device = 0.0, 0, next(model.parameters()).device
    model.eval()
    for first in range(0, len(rows), settings.batch_size):
        batch = rows[first : first + settings.batch_size]
        ids, labels = (
            pad_sequence([torch.tensor(row[key]) for row in batch], batch_first=True, padding_value=fill).to(device)
            for key, fill in (("input_ids", base.tokenizer.pad_token_id or 0), ("labels", IGNORED))
        )
        lengths = torch.tensor([len(row["input_ids"]) for row in batch], device=device)
        mask = (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        labelled = labels[:, 1:] != IGNORED
        losses = cross_entropy(logits[labelled].float(), labels[:, 1:][labelled], reduction="sum")
        total, tokens = total + float(losses), tokens + int(labelled.sum())
        progress(first + len(batch), len(rows), "examples")
    return FileLoss(total / tokens, tokens, len(rows), found.dropped)
