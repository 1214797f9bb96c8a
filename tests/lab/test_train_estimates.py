"""Steps and memory are counted once: the plan of a run and the budget of the paper's experiments agree."""

from __future__ import annotations

import pytest
from conftest import ROOT
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.paper import budget
from dude_lab.training.estimates import ModelSize, step_count, training_bytes
from dude_lab.training.run_plan import make_plan


@pytest.mark.parametrize(
    ("settings", "examples", "wanted"),
    [
        ({"batch_size": 4, "gradient_accumulation": 2, "epochs": 1.0}, 17, (3, 3)),
        ({"batch_size": 4, "gradient_accumulation": 2, "epochs": 0.5}, 17, (2, 3)),
        ({"batch_size": 8, "steps": 50}, 17, (50, 3)),
        ({"batch_size": 8, "epochs": 0.01}, 8, (1, 1)),
    ],
)
def test_steps_round_up_batches_and_epochs(settings: dict, examples: int, wanted: tuple[int, int], tiny: Tiny) -> None:  # noqa: F811
    train = tiny.settings().train
    train = train.model_copy(update={"steps": None, "epochs": None, "gradient_accumulation": 1, **settings})
    assert step_count(train, examples) == wanted


def test_the_plan_and_the_budget_use_the_same_functions(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    asked = []

    def count(train, examples):
        asked.append(examples)
        return 7, 7

    monkeypatch.setattr("dude_lab.training.run_plan.step_count", count)
    monkeypatch.setattr(budget, "step_count", count)
    plan = make_plan(tiny.settings("train.warmup=0"))
    assert plan.steps == 7
    estimate = _estimate().model_copy(update={"examples": 11})
    assert budget._steps(plan.settings, estimate) == 7 and asked == [len(plan.train.data), 11]


def _estimate():
    from dude_lab.paper.experiments import chosen
    from dude_lab.paper.recipe import comparisons_of

    return comparisons_of(chosen("table1", "mini"), "mini", ROOT / "unused", (), [])[0].recipe.estimate


def test_full_fine_tuning_in_bfloat16_has_an_optimizer_in_bfloat16(tiny: Tiny) -> None:  # noqa: F811
    train = tiny.settings().train
    size = ModelSize(parameters=1000, hidden=8, layers=2, vocabulary=10, width=2)
    common = {"trainable": 1000, "frozen": 0, "batch": 2, "length": 3}
    weights, adapter, optimizer, _ = training_bytes(size, train, full=True, **common)
    assert (weights, adapter, optimizer) == (2000, 0, 6000)
    assert training_bytes(size, train, full=False, **common)[1:3] == (4000, 12000)


def test_the_logits_of_a_large_vocabulary_count(tiny: Tiny) -> None:  # noqa: F811
    train = tiny.settings().train
    sizes = [ModelSize(1000, 8, 2, words, 2) for words in (0, 150_000)]
    few, many = (training_bytes(s, train, trainable=1, frozen=0, full=False, batch=8, length=128)[3] for s in sizes)
    assert many - few == 8 * 8 * 128 * 150_000
