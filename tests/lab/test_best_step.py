"""Early stopping and the best checkpoint: decided, kept, loaded, recorded, and the same after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_train_resume import At, Killed, interrupt, kill, result
from test_train_run import curves
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.config.yaml_file import fingerprint
from dude_lab.training import train_run
from dude_lab.training.best_step import BestStep
from dude_lab.training.train_run import Interrupted, train
from dude_peft.errors import DudeError

LOSSES = {0: 5.0, 2: 3.0, 4: 2.0, 6: 2.5, 8: 2.4, 10: 1.0, 12: 0.5}
"""Validation losses that the runs are made to have: the best of a run with a patience of two is that of step 4."""


@pytest.fixture
def run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:  # noqa: F811
    """Twelve steps with a validation loss every two, of the values above; a loaded best model has its own."""
    tiny.raw["train"] |= {"steps": 12, "save_every": 100, "keep_checkpoints": 1}
    tiny.raw["data"]["validation"] = 0.2
    tiny.raw["eval"] = {"every": 2}
    original = train_run._Run._evaluate

    def evaluate(self: Any, trainer: Any, step: int, *args: Any, **kwargs: Any) -> Any:
        trainer.evaluate = lambda: {"eval_loss": LOSSES[step]}
        return original(self, trainer, step, *args, **kwargs)

    monkeypatch.setattr(train_run._Run, "_evaluate", evaluate)
    return tiny


STOP = ("train.early_stopping_patience=2", "train.load_best_model_at_end=true")


def points(folder: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["eval_loss"]) for r in curves(folder) if "eval_loss" in r]


def test_a_run_stops_early_and_its_result_is_the_best_checkpoint(run: Tiny) -> None:
    record = train(run.settings(*STOP)).record
    assert points(run.output) == [(step, LOSSES[step]) for step in (0, 2, 4, 6, 8)]
    training = record["training"]
    assert (training["steps"], training["best_step"], training["best_value"]) == (8, 4, 2.0)
    assert training["best_metric"] == "loss" and training["best_loaded"]
    assert training["ended"] == (
        "stopped early at step 8: 2 evaluations without a better validation loss than that of step 4"
    )
    assert record["metrics"]["after"] == {"validation_loss": 2.0}
    assert {p.name for p in (run.output / "checkpoints").iterdir()} == {"checkpoint-4", "checkpoint-8"}
    train(run.settings("train.early_stopping_patience=null", f"output={run.folder / 'whole'}", "train.save_every=4",
                       "train.keep_checkpoints=9"))  # fmt: skip
    best = run.folder / "whole" / "checkpoints" / "checkpoint-4" / "adapter_model.safetensors"
    assert result(run.output) == best.read_bytes()


def test_without_loading_the_result_is_that_of_the_last_step(run: Tiny) -> None:
    record = train(run.settings(STOP[0])).record
    assert record["training"]["best_step"] == 4 and record["training"]["best_loaded"] is False
    assert record["metrics"]["after"] == {"validation_loss": LOSSES[8]} and len(points(run.output)) == 5
    last = run.output / "checkpoints" / "checkpoint-8" / "adapter_model.safetensors"
    assert result(run.output) == last.read_bytes()


@pytest.mark.parametrize("last", [0.5, 1.5])
def test_the_last_step_can_be_the_best(run: Tiny, last: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, 12, last)
    record = train(run.settings(STOP[1])).record
    assert record["training"]["ended"] == "all 12 steps are done"
    assert record["training"]["best_step"] == (12 if last < 1 else 10)
    assert record["metrics"]["after"] == {"validation_loss": min(last, 1.0)}
    assert points(run.output)[-1] == (12, last)


@pytest.mark.parametrize("step", [5, 8])
@pytest.mark.parametrize("deed", [interrupt, kill])
def test_a_resumed_run_stops_at_the_same_step(run: Tiny, step: int, deed: Any) -> None:
    whole = train(run.settings(*STOP, f"output={run.folder / 'whole'}"))
    saves = "train.save_every=3"
    with pytest.raises((Interrupted, Killed)):
        train(run.settings(*STOP, saves), reporter=At(step, deed))
    record = train(run.settings(*STOP, saves), resume="auto").record
    assert record["training"] == whole.record["training"] and record["metrics"] == whole.record["metrics"]
    assert result(run.output) == result(whole.folder.path) and points(run.output) == points(whole.folder.path)


def test_an_evaluation_that_is_repeated_ends_the_run_at_its_step(run: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the evaluation of step 8: a checkpoint without it is written, and the resumed run does no step."""
    whole = train(run.settings(*STOP, f"output={run.folder / 'whole'}"))
    evaluate, done = train_run._Run._evaluate, []

    def once(self: Any, trainer: Any, step: int, *args: Any, **kwargs: Any) -> Any:
        if step == 8 and not done:
            done.append(step)
            self.stop.asked = True
            raise KeyboardInterrupt
        return evaluate(self, trainer, step, *args, **kwargs)

    monkeypatch.setattr(train_run._Run, "_evaluate", once)
    with pytest.raises(Interrupted):
        train(run.settings(*STOP))
    assert points(run.output)[-1] == (6, LOSSES[6])
    record = train(run.settings(*STOP), resume="auto").record
    assert record["training"] == whole.record["training"] and points(run.output) == points(whole.folder.path)
    assert result(run.output) == result(whole.folder.path)


def test_a_damaged_best_checkpoint_is_refused(run: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original = train_run._Run._evaluate_result

    def damage(self: Any, trainer: Any) -> Any:
        file = run.output / "checkpoints" / "checkpoint-4" / "adapter_model.safetensors"
        raw = bytearray(file.read_bytes())
        raw[-1] ^= 1
        file.write_bytes(raw)
        return original(self, trainer)

    monkeypatch.setattr(train_run._Run, "_evaluate_result", damage)
    with pytest.raises(DudeError, match=r"checkpoint-4: .*adapter_model\.safetensors.* best checkpoint"):
        train(run.settings(*STOP))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.early_stopping_patience=2", "eval=null"], "needs evaluations during training: set eval.every"),
        (["train.load_best_model_at_end=true", "eval.every=null"], "needs evaluations during training: set eval.every"),
        (["train.metric_for_best_model=loss"], "has no meaning alone"),
        ([STOP[0], "train.metric_for_best_model=accuracy"], "is accuracy, and 'eval' has no questions"),
        ([STOP[0], "eval.suite=mini_csqa", "data.validation=null", "train.metric_for_best_model=loss"], "is loss, and"),
    ],
)
def test_settings_that_cannot_work_are_refused(run: Tiny, changes: list[str], message: str) -> None:
    with pytest.raises(DudeError, match=message):
        run.settings(*changes)


def test_runs_without_it_have_the_fingerprint_of_older_runs(run: Tiny) -> None:
    plain = run.settings()
    assert not {"early_stopping_patience", "load_best_model_at_end"} & set(json.loads(_values(plain))["train"])
    assert fingerprint(plain) != fingerprint(run.settings(STOP[0]))


def _values(settings: Any) -> str:
    from dude_lab.config.yaml_file import fingerprinted

    return json.dumps(fingerprinted(settings), default=str)


def test_a_choice_on_the_reported_questions_is_noted(run: Tiny) -> None:
    from dude_lab.training.run_plan import make_plan

    chosen = [STOP[1], "eval.suite=mini_csqa"]
    assert any("on the questions of the result" in note for note in make_plan(run.settings(*chosen)).notes)
    notes = make_plan(run.settings(*chosen, "train.metric_for_best_model=loss")).notes
    assert not any("on the questions of the result" in note for note in notes)


def test_the_highest_accuracy_is_best(run: Tiny) -> None:
    best = BestStep.of(run.settings(STOP[0], "eval.suite=mini_csqa"))
    assert best is not None and best.metric == "accuracy"
    assert [best.update(k, {"accuracy": v}) for k, v in enumerate([0.5, 0.7, 0.7], 1)] == [True, True, False]
    assert not best.exhausted and not best.update(4, {"accuracy": 0.6}) and best.exhausted and best.step == 2
