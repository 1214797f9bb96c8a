"""A run that is not finite any more never succeeds: it stops at that step, says where, and keeps what is finite."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from test_cli_train import dude
from test_train_run import steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.finished_run import open_run
from dude_lab.training.nonfinite import all_finite, first_not_finite
from dude_lab.training.train_run import train
from dude_lab.training.trainer import RunTrainer
from dude_peft.errors import DudeError

MODULE = "base_model.model.model.layers.1.self_attn.v_proj.lora_A.default"
BAD = float("nan")


def poison(monkeypatch: pytest.MonkeyPatch, what: str, step: int, value: float) -> None:
    """Make the loss, one gradient or one parameter of a step (from 1) not finite."""
    compute, update = RunTrainer.compute_loss, torch.optim.AdamW.step

    def compute_loss(self: RunTrainer, model: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, model, *args, **kwargs)
        if self.state.global_step + 1 == step:
            weight = model.get_submodule(MODULE).weight
            if what == "loss":
                return loss * value
            if what == "gradient norm":
                handle = weight.register_hook(lambda grad: (handle.remove(), grad * value)[1])
            else:
                monkeypatch.setattr(
                    torch.optim.AdamW, "step", lambda *a, **k: (update(*a, **k), weight.data.fill_(value))
                )
        return loss

    monkeypatch.setattr(RunTrainer, "compute_loss", compute_loss)


@pytest.mark.parametrize("value", [BAD, float("inf")])
@pytest.mark.parametrize("what", ["loss", "gradient norm", "parameters"])
def test_a_run_stops_where_it_is_not_finite(
    tiny: Tiny,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    value: float,
) -> None:
    tiny.raw["train"] |= {"steps": 6, "save_every": 1, "keep_checkpoints": 1, "log_every": 50}
    with monkeypatch.context() as patched:
        poison(patched, what, 4, value)
        failed = dude("train", tiny.write())
    assert failed.exit_code == 2 and "Traceback" not in failed.output
    for word in (
        f"the {what} ",
        "not finite at step 4",
        "train.learning_rate",
        "output=DIR",
        "checkpoint-3 is the last",
    ):
        assert word in failed.stderr
    assert (MODULE in failed.stderr) or what == "loss"
    assert [p.name for p in (tiny.output / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert not (tiny.output / "run.json").exists() and not (tiny.output / "adapter").exists()
    marker = json.loads((tiny.output / "diverged.json").read_text())
    assert (marker["step"], marker["what"], marker["checkpoint"]) == (4, what, 3)

    # Everything says what it is; nothing goes on by itself.
    for words in (["train", tiny.write()], ["train", tiny.write(), "--resume", "auto"], ["validate", tiny.write()]):
        again = dude(*words)
        assert again.exit_code == 2 and "not finite at step 4" in again.output
    evaluated = dude("eval", tiny.output, "--suite", "mini_csqa")
    assert evaluated.exit_code == 2 and "this run diverged" in evaluated.stderr
    with pytest.raises(DudeError, match="this run diverged"):
        open_run(tiny.output)


def test_a_checkpoint_named_by_hand_is_tried_again(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """For what was not the recipe's fault, such as a fault of the hardware."""
    settings = tiny.settings("train.save_every=1")
    with monkeypatch.context() as patched, pytest.raises(DudeError, match="diverged"):
        poison(patched, "gradient norm", 4, BAD)
        train(settings)
    train(settings, resume=str(tiny.output / "checkpoints" / "checkpoint-3"))
    assert not (tiny.output / "diverged.json").exists()
    assert [r["step"] for r in steps(tiny.output)] == [1, 2, 3, 4, 5, 6]
    assert open_run(tiny.output)


def test_a_step_of_several_micro_steps(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    poison(monkeypatch, "loss", 3, BAD)
    with pytest.raises(DudeError, match=r"the loss was not finite at step 3.*There is no earlier checkpoint"):
        train(tiny.settings("train.gradient_accumulation=3", "train.save_every=50"))


def test_a_validation_loss_that_is_not_finite(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(RunTrainer, "evaluate", lambda *_: {"eval_loss": BAD})
    with pytest.raises(DudeError, match="the validation loss was not finite at step 0"):
        train(tiny.settings("data.validation=0.2"))


def test_the_first_module_is_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert first_not_finite(model) is None and all_finite(model.parameters()) and all_finite([])
    model[2].bias.grad = torch.tensor([0.0, BAD])
    assert first_not_finite(model) == "2" and all_finite(model.parameters())
    model[1].weight.data[0, 1] = -float("inf")
    assert first_not_finite(model) == "1" and not all_finite(model.parameters())
    model[1].weight.data.fill_(1e30)  # large, not infinite: its norm would be
    assert all_finite(model.parameters())


def test_a_loss_scaler_skips_steps_whose_gradient_is_infinite(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """As in float16 on a GPU: such a gradient is normal while the scale can be lowered, and an error when it cannot."""
    from types import SimpleNamespace

    from dude_lab.training.base_model import load_base
    from dude_lab.training.build_trainer import adapted_model, build_trainer
    from dude_lab.training.run_plan import make_plan

    plan = make_plan(tiny.settings())
    trainer = build_trainer(plan, adapted_model(plan, load_base(plan.base)), tiny.folder / "checkpoints")
    monkeypatch.setattr(trainer.accelerator, "unscale_gradients", lambda: None)
    for parameter in trainer._trained:
        parameter.grad = torch.full_like(parameter, float("inf"))
    scaler = SimpleNamespace(get_scale=lambda: 65536.0)
    monkeypatch.setattr(trainer.accelerator, "scaler", scaler)
    assert trainer._clip_grad_norm(trainer.model) == float("inf")
    scaler.get_scale = lambda: 1.0
    for parameter in trainer._trained:
        parameter.grad = torch.full_like(parameter, float("inf"))
    with pytest.raises(Exception, match="gradient norm not finite at step 1"):
        trainer._clip_grad_norm(trainer.model)
