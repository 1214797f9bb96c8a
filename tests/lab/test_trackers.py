"""`train.report_to`: the real TensorBoard and Trackio, where installed (`make test-trackers`); nothing by default."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from test_train_resume import At, Killed, kill, result
from test_train_run import curves
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.config.yaml_file import fingerprint
from dude_lab.training.run_plan import make_plan
from dude_lab.training.train_run import train
from dude_peft.errors import DudeError

EXPECTED = os.environ.get("EXPECTED_TRACKERS") == "1"  # then a missing package is a failure


def installed(name: str) -> bool:
    return EXPECTED or importlib.util.find_spec(name) is not None


@pytest.fixture
def run(tiny: Tiny) -> Tiny:  # noqa: F811
    tiny.raw["data"]["validation"] = 0.2
    tiny.raw["eval"] = {"every": 2, "suite": "mini_csqa", "limit": 2}
    return tiny


@pytest.mark.skipif(not installed("tensorboard"), reason="TensorBoard is not installed")
def test_tensorboard_has_the_values_of_the_curves_also_after_a_resume(run: Tiny) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(run.settings(f"output={run.folder / 'plain'}"))
    report = "train.report_to=tensorboard"
    with pytest.raises(Killed):
        train(run.settings(report), reporter=At(5, kill))
    train(run.settings(report), resume="auto")
    assert result(run.output) == result(run.folder / "plain")  # reporting changes nothing
    found = EventAccumulator(str(run.output / "tensorboard")).Reload()

    def values(key: str) -> dict[int, float]:
        return {event.step: event.value for event in found.Scalars(key)}

    written = curves(run.output)
    losses = {r["step"]: r["loss"] for r in written if "loss" in r}
    assert values("train/loss") == pytest.approx(losses)
    assert [event.step for event in found.Scalars("train/loss")] == sorted(losses)  # none twice
    assert values("eval/loss") == pytest.approx({r["step"]: r["eval_loss"] for r in written if "eval_loss" in r})
    assert values("eval/accuracy") == pytest.approx({r["step"]: r["accuracy"] for r in written if "accuracy" in r})
    assert set(values("eval/perplexity")) == {0, 2, 4, 6}


@pytest.mark.skipif(not installed("trackio"), reason="Trackio is not installed")
def test_trackio_stores_a_run_offline(run: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process: Trackio reads its folder when it is imported."""
    import subprocess
    import sys

    script = (
        "import sys; from dude_lab.config.yaml_file import load_config; from dude_lab.training.train_run import train;"
        "train(load_config(sys.argv[1]))"
    )
    run.raw["train"]["report_to"] = ["trackio"]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", script, str(run.write())], env=environment, check=True, timeout=300)
    read = (
        "import trackio; runs = trackio.Api().runs('dude'); run = next(iter(runs));"
        "rows = trackio.sqlite_storage.SQLiteStorage.get_logs('dude', run.name);"
        "print(run.name, sorted(r['train/loss'] for r in rows if 'train/loss' in r))"
    )
    done = subprocess.run(
        [sys.executable, "-c", read], env=environment, check=True, timeout=300, capture_output=True, text=True
    )
    losses = sorted(r["loss"] for r in curves(run.output) if "loss" in r)
    name, _, shown = done.stdout.strip().splitlines()[-1].partition(" ")
    assert name == "run" and eval(shown) == pytest.approx(losses)


def test_nothing_is_reported_by_default(run: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    made: list[Any] = []
    for callback in INTEGRATION_TO_CALLBACK.values():
        monkeypatch.setattr(callback, "__init__", lambda self, *args, **kwargs: made.append(self))
    train(run.settings("train.steps=1", "train.warmup=0", "eval=null"))
    assert not made and not (run.output / "tensorboard").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "transformers has no tracker 'tensorbord'.*tensorboard"),
        ("clearml", "clearml is not installed: pip install clearml"),
        ("comet_ml", "comet_ml is not installed: pip install comet-ml"),
        ("flyte", "flyte is not installed: pip install flytekit"),
    ],
)
def test_a_tracker_that_cannot_be_used_is_refused_before_training(run: Tiny, name: str, message: str) -> None:
    with pytest.raises(DudeError, match=message):
        make_plan(run.settings(f"train.report_to=[{name}]", "eval=null"))


def test_trackers_do_not_change_the_name_of_a_run(run: Tiny) -> None:
    assert fingerprint(run.settings()) == fingerprint(run.settings("train.report_to=[wandb, tensorboard]"))
    assert run.settings("train.report_to=none").train.trackers == ()
