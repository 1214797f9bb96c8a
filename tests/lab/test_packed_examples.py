"""Promise: packed examples are trained as if each stood alone: the logits, the loss and the gradient are the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES, VOCAB, gpt2, llama
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.examples import IGNORED, Examples, pack
from dude_lab.training.packed_batches import TOKENS, PackedCollator, check_packing
from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError

LENGTHS = [5, 9, 3, 7, 12, 2, 6]


def examples(limit: int = 16) -> Examples:
    from datasets import Dataset

    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in LENGTHS]
    labels = [[IGNORED] * (len(one) // 3) + one[len(one) // 3 :] for one in ids]
    data = Dataset.from_dict({"input_ids": ids, "labels": labels})
    return Examples(data, limit, max(LENGTHS), 0, 0, sum(LENGTHS), 0)


def loss_sum(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    labels = batch.pop("labels")
    batch.pop(TOKENS, None)
    logits = model(**batch, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def test_every_example_is_packed_once() -> None:
    one = examples()
    packed = pack(one)
    assert packed.count == len(LENGTHS) and len(packed.data) < len(LENGTHS) and packed.packed and not one.packed
    rows = [
        row["input_ids"][sum(row["seq_lengths"][:k]) : sum(row["seq_lengths"][: k + 1])]
        for row in packed.data
        for k in range(len(row["seq_lengths"]))
    ]
    assert sorted(rows) == sorted(one.data["input_ids"])
    assert all(len(row["input_ids"]) <= 16 for row in packed.data)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_loss_and_its_gradient_are_those_of_single_examples(family: str, attention: str) -> None:
    model = FAMILIES[family]().double()
    model.set_attn_implementation(attention)
    collator = PackedCollator(0)
    alone, packed = examples().data, pack(examples()).data
    single = sum(loss_sum(model, collator([row])) for row in alone)
    (single / 10).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    together = loss_sum(model, collator(list(packed)))
    (together / 10).backward()
    assert together.item() == pytest.approx(single.item(), rel=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, p in model.named_parameters():
        assert float((p.grad - gradients[name]).abs().max()) <= 1e-6 * largest, name


def test_the_logits_are_those_of_single_examples() -> None:
    model = llama()
    collator = PackedCollator(0)
    packed = pack(examples()).data
    batch = collator(list(packed))
    assert batch[TOKENS].tolist() == [sum(row["seq_lengths"]) for row in packed]
    with torch.no_grad():
        together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        for row, logits in zip(packed, together, strict=True):
            start = 0
            for length in row["seq_lengths"]:
                alone = model(torch.tensor([row["input_ids"][start : start + length]])).logits[0]
                assert float((logits[start : start + length] - alone).abs().max()) <= 1e-6 * float(alone.abs().max())
                start += length


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_models_that_keep_examples_apart_pass_the_check(family: str) -> None:
    check_packing(FAMILIES[family]())


def test_a_model_that_does_not_is_refused() -> None:
    model = gpt2()
    forward = model.forward

    def causal(*args: Any, position_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        """As an attention implementation that knows nothing of packing."""
        mask = torch.ones_like(kwargs["input_ids"]) if attention_mask is None else attention_mask
        return forward(*args, position_ids=position_ids, attention_mask=mask, **kwargs)

    model.forward = causal
    with pytest.raises(DudeError, match=r"train.packing: the attention of this model \(gpt2, .* train.packing=false"):
        check_packing(model)


def test_a_packed_run_trains_on_every_token_of_an_epoch(tiny: Tiny) -> None:  # noqa: F811
    tiny.raw["train"] |= {"packing": True, "max_length": 64, "batch_size": 2, "steps": None, "epochs": 1}
    tiny.raw["data"]["validation"] = 0.1
    said: list[str] = []
    plan = make_plan(tiny.settings(), lambda name, found, error: said.append(found))
    assert plan.train.count == 36 and len(plan.train.data) < 36
    assert any("packed into" in one and "full" in one for one in said)
    assert any("sequences" in one for one in said)
    result = train(tiny.settings())
    assert result.record["cost"]["tokens"] == plan.train.tokens  # one epoch
    assert result.record["provenance"]["data"]["trained_on"] == 36
    assert result.record["training"]["steps"] == plan.steps


def test_the_first_loss_is_that_of_the_same_examples_unpacked(tiny: Tiny) -> None:  # noqa: F811
    """All examples in one batch, before the first update."""
    losses = []
    for packing in (False, True):
        tiny.raw["method"]["lora_dropout"] = 0.0
        tiny.raw["train"] |= {"packing": packing, "max_length": 64, "batch_size": 40, "steps": 1, "save_every": 9}
        folder = tiny.folder / f"run_{packing}"
        train(tiny.settings(f"output={folder}"))
        lines = (folder / "curves.jsonl").read_text().splitlines()
        losses.append(next(row["loss"] for row in map(json.loads, lines) if "loss" in row))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_packing_and_grouping_contradict_each_other(tiny: Tiny) -> None:  # noqa: F811
    with pytest.raises(DudeError, match="packing or group_by_length, not both"):
        tiny.settings("train.packing=true", "train.group_by_length=true")
