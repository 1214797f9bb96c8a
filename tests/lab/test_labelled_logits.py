"""Logits are computed only where the next token has a label: the loss and the gradients stay, the product shrinks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training import trainer as trainer_module
from dude_lab.training.base_model import load_base
from dude_lab.training.build_trainer import adapted_model, build_trainer
from dude_lab.training.run_plan import make_plan
from dude_lab.training.trainer import RunTrainer

pytestmark = pytest.mark.skipif(not trainer_module.FUSED, reason="this TRL computes the loss from all logits")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of positions whose logits were computed."""
    from trl.trainer import utils

    seen: list[int] = []
    original = utils._ChunkedLogProbFunction.apply

    def apply(hidden: torch.Tensor, *rest: Any) -> Any:
        seen.append(len(hidden))
        return original(hidden, *rest)

    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", apply)
    return seen


def made(tiny: Tiny, *changes: str) -> tuple[RunTrainer, dict[str, Any]]:  # noqa: F811
    plan = make_plan(tiny.settings("method.name=dude", "method.lora_dropout=0", *changes))
    model = adapted_model(plan, load_base(plan.base))
    trainer = build_trainer(plan, model, tiny.folder / "checkpoints")
    batch = next(iter(trainer.get_train_dataloader()))
    return trainer, {k: v for k, v in batch.items() if k != trainer_module.TOKENS}


def loss_and_gradients(trainer: RunTrainer, batch: dict[str, Any]) -> tuple[float, list[torch.Tensor]]:
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    return loss.item(), [p.grad.clone() for p in trainer.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("changes", [(), ("train.packing=true", "train.max_length=100"), ("method=full",)])
def test_loss_and_gradients_are_those_of_all_logits(
    tiny: Tiny,  # noqa: F811
    rows: list[int],
    changes: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "method=full" in changes:
        tiny.raw["method"] = "full"
        changes = ()
        trainer, batch = _full(tiny)
    else:
        trainer, batch = made(tiny, *changes)
    loss, gradients = loss_and_gradients(trainer, batch)
    monkeypatch.setattr(trainer_module, "FUSED", False)
    expected, reference = loss_and_gradients(trainer, batch)
    assert loss == pytest.approx(expected, abs=1e-6)
    for one, other in zip(gradients, reference, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    labels = int((batch["labels"][:, 1:] != -100).sum())
    assert rows == [labels, batch["labels"][:, 1:].numel()] and rows[0] < rows[1] / 2


def _full(tiny: Tiny) -> tuple[RunTrainer, dict[str, Any]]:  # noqa: F811
    plan = make_plan(tiny.settings())
    trainer = build_trainer(plan, adapted_model(plan, load_base(plan.base)), tiny.folder / "checkpoints")
    return trainer, next(iter(trainer.get_train_dataloader()))


def test_a_batch_without_labels_has_a_loss_of_zero(tiny: Tiny) -> None:  # noqa: F811
    """As the part of a short batch that a process has, beside others."""
    trainer, batch = made(tiny)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    assert loss_and_gradients(trainer, batch)[0] == 0.0


def test_the_validation_loss_is_computed_in_the_same_way(tiny: Tiny, rows: list[int]) -> None:  # noqa: F811
    trainer, _ = made(tiny, "data.validation=0.2")
    trainer.evaluate()
    assert trainer.eval_dataset is not None
    assert sum(rows) == sum(label != -100 for row in trainer.eval_dataset["labels"] for label in row[1:])
