"""A run that was killed or stopped goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_train_run import curves, steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.reporter import Reporter
from dude_lab.training.train_run import Interrupted, train
from dude_peft.errors import DudeError


def evaluations(folder: Path) -> list[dict[str, Any]]:
    return [r for r in curves(folder) if "loss" not in r]


class Killed(BaseException):
    """What no handler catches."""


class At(Reporter):
    """Does something when a step is logged."""

    def __init__(self, step: int, deed: Any) -> None:
        self.step, self.deed = step, deed

    def progress(self, step: int, loss: float, tokens_per_second: float) -> None:
        if step == self.step:
            self.deed()


def kill() -> None:
    raise Killed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def result(folder: Path) -> bytes:
    place = folder / "adapter" / "adapter_model.safetensors"
    return (place if place.is_file() else folder / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["dude", "lora", "pissa", "full"])
def test_killed_and_resumed_is_the_same_run(tiny: Tiny, name: str) -> None:  # noqa: F811
    """With dropout, gradient accumulation, more than one epoch, and validation in between."""
    tiny.raw["method"] = "full" if name == "full" else {**tiny.raw["method"], "name": name}
    common = [
        f"train.group_by_length={str(name == 'lora').lower()}",
        "train.gradient_accumulation=2",
        "train.steps=9",
        "train.save_every=4",
        "data.validation=0.2",
    ]
    if name == "dude":
        tiny.raw["eval"] = {"suite": "mini_csqa", "limit": 3, "every": 3}
    whole, parts = tiny.folder / "whole", tiny.folder / "parts"
    train(tiny.settings(*common, f"output={whole}"))
    settings = tiny.settings(*common, f"output={parts}")
    with pytest.raises(Killed):
        train(settings, reporter=At(7, kill))
    assert steps(parts)[-1]["step"] == 7  # further than the checkpoint: to be forgotten
    train(settings, resume="auto")
    assert result(parts) == result(whole)
    assert steps(parts) == steps(whole)
    one, two = (json.loads((f / "run.json").read_text()) for f in (whole, parts))
    assert one["metrics"] == two["metrics"] and one["metrics"]["before"] is not None
    assert evaluations(parts) == evaluations(whole)
    assert one["cost"]["tokens"] == two["cost"]["tokens"]


def test_ctrl_c_stops_with_a_checkpoint(tiny: Tiny) -> None:  # noqa: F811
    train(tiny.settings(f"output={tiny.folder / 'whole'}"))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        train(tiny.settings("train.save_every=100", f"output={tiny.output}"), reporter=At(3, interrupt))
    assert signal.getsignal(signal.SIGINT) is handler
    assert caught.value.steps == 6 and caught.value.step == 4  # the step that was running is finished
    assert not (tiny.output / "run.json").exists()
    train(tiny.settings("train.save_every=100"), resume="auto")
    assert result(tiny.output) == result(tiny.folder / "whole")


def test_a_finished_run_is_not_trained_further(tiny: Tiny) -> None:  # noqa: F811
    settings = tiny.settings()
    train(settings)
    before = {p: p.stat().st_mtime_ns for p in tiny.output.rglob("*")}
    again = train(settings, resume="auto")
    assert again.already and again.record["training"]["steps"] == 6
    assert {p: p.stat().st_mtime_ns for p in tiny.output.rglob("*")} == before


def test_killed_after_the_last_step_only_writes_the_result(tiny: Tiny) -> None:  # noqa: F811
    settings = tiny.settings()
    train(settings)
    wanted = result(tiny.output)
    shutil.rmtree(tiny.output / "adapter")
    (tiny.output / "run.json").unlink()
    train(settings, resume="auto")
    assert result(tiny.output) == wanted
    assert [r["step"] for r in steps(tiny.output)] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_cut_short_is_passed_over(tiny: Tiny) -> None:  # noqa: F811
    settings = tiny.settings()
    with pytest.raises(Killed):
        train(settings, reporter=At(5, kill))
    newest = tiny.output / "checkpoints" / "checkpoint-4"
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-10])
    (tiny.output / "checkpoints" / "checkpoint-5").mkdir()  # killed before the first file
    with pytest.raises(DudeError, match=r"checkpoint-4 is not a complete checkpoint"):
        train(settings, resume=str(newest))
    train(settings, resume="auto")
    whole = tiny.folder / "whole"
    train(tiny.settings(f"output={whole}"))
    assert result(tiny.output) == result(whole)
    assert steps(tiny.output) == steps(whole)


def test_a_named_checkpoint(tiny: Tiny) -> None:  # noqa: F811
    settings = tiny.settings()
    with pytest.raises(Killed):
        train(settings, reporter=At(6, kill))
    train(settings, resume=str(tiny.output / "checkpoints" / "checkpoint-2"))
    train(tiny.settings(f"output={tiny.folder / 'whole'}"))
    assert result(tiny.output) == result(tiny.folder / "whole")


def test_nothing_to_resume(tiny: Tiny) -> None:  # noqa: F811
    with pytest.raises(DudeError, match=r"--resume must: .*: not a run"):
        train(tiny.settings(), resume="must")
    assert not tiny.output.exists()
    with pytest.raises(Killed):
        train(tiny.settings(), reporter=At(1, kill))
    with pytest.raises(DudeError, match="no complete checkpoint"):
        train(tiny.settings(), resume="must")
    with pytest.raises(DudeError, match="no such folder"):
        train(tiny.settings(), resume=str(tiny.output / "checkpoints" / "checkpoint-9"))
    train(tiny.settings())  # nothing is lost by beginning again
    assert len(steps(tiny.output)) == 6


def test_resume_auto_is_one_command_for_every_start(tiny: Tiny) -> None:  # noqa: F811
    """Of a script that is queued again: it begins, begins again, resumes, and finds the run finished."""
    tiny.output.mkdir()
    for step in (1, 3):  # before and after the first checkpoint
        with pytest.raises(Killed):
            train(tiny.settings(), resume="auto", reporter=At(step, kill))
    train(tiny.settings(), resume="must")
    assert train(tiny.settings(), resume="auto").already
    train(tiny.settings(f"output={tiny.folder / 'whole'}"))
    assert result(tiny.output) == result(tiny.folder / "whole")
    assert steps(tiny.output) == steps(tiny.folder / "whole")


def test_a_checkpoint_of_another_run(tiny: Tiny) -> None:  # noqa: F811
    other = tiny.folder / "other"
    train(tiny.settings(f"output={other}"))
    with pytest.raises(Killed):
        train(tiny.settings(), reporter=At(3, kill))
    with pytest.raises(DudeError, match="not a checkpoint of"):
        train(tiny.settings(), resume=str(other / "checkpoints" / "checkpoint-4"))


def test_data_that_has_changed(tiny: Tiny) -> None:  # noqa: F811
    with pytest.raises(Killed):
        train(tiny.settings(), reporter=At(3, kill))
    data = Path(tiny.raw["data"]["train"])
    data.write_text(data.read_text().replace("what is 7", "what was 7"))
    with pytest.raises(DudeError, match=r"the training data .*sums\.jsonl.* is not what .*checkpoint-2 was trained on"):
        train(tiny.settings(), resume="auto")


def test_a_base_that_has_changed(tiny: Tiny) -> None:  # noqa: F811
    base = Path(shutil.copytree(tiny.raw["model"], tiny.folder / "base"))
    tiny.raw["model"] = str(base)
    with pytest.raises(Killed):
        train(tiny.settings(), reporter=At(3, kill))
    weights = bytearray((base / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (base / "model.safetensors").write_bytes(bytes(weights))
    with pytest.raises(DudeError, match=r"the base model .* is not what .*checkpoint-2 was trained on"):
        train(tiny.settings(), resume="auto")


def test_only_the_newest_checkpoints_are_kept(tiny: Tiny) -> None:  # noqa: F811
    train(tiny.settings("train.save_every=1", "train.keep_checkpoints=3"))
    assert sorted(p.name for p in (tiny.output / "checkpoints").iterdir()) == [f"checkpoint-{i}" for i in (4, 5, 6)]


def test_a_real_kill(tiny: Tiny) -> None:  # noqa: F811
    """SIGKILL from outside, at whatever moment after the first checkpoint it comes."""
    tiny.raw["train"] |= {"steps": 12, "save_every": 1}
    config = tiny.write()
    command = [sys.executable, "-m", "dude_lab.cli.app", "train", str(config)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        limit = time.monotonic() + 120
        while not (tiny.output / "checkpoints" / "checkpoint-3").exists():
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.kill()
    assert not (tiny.output / "run.json").exists()
    train(tiny.settings(), resume="auto")
    train(tiny.settings(f"output={tiny.folder / 'whole'}"))
    assert result(tiny.output) == result(tiny.folder / "whole")
    assert steps(tiny.output) == steps(tiny.folder / "whole")


def test_a_run_that_stops_at_a_step_resumes_to_the_same_bits(tiny: Tiny) -> None:  # noqa: F811
    train(tiny.settings("train.steps=4", "output=" + str(tiny.folder / "at_once")))
    parts = tiny.settings("train.steps=4", "output=" + str(tiny.folder / "parts"))
    for step in (1, 3):
        with pytest.raises(Interrupted) as stopped:
            train(parts, resume="auto", stop_at=step)
        assert stopped.value.step == step == len(steps(tiny.folder / "parts"))
    before = (tiny.folder / "parts" / "curves.jsonl").stat().st_mtime_ns
    with pytest.raises(Interrupted):  # it has reached the step: nothing is trained
        train(parts, resume="auto", stop_at=2)
    assert (tiny.folder / "parts" / "curves.jsonl").stat().st_mtime_ns == before
    assert train(parts, resume="auto", stop_at=9).record["training"]["steps"] == 4  # the run ends before
    assert result(tiny.folder / "parts") == result(tiny.folder / "at_once")
