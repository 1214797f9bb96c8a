"""SIGTERM in every phase of a run: exit code 130, one message, no half-written file, and `--resume auto` resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_cli_train import dude
from test_train_resume import evaluations, result
from test_train_run import curves, steps
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.cli.progress_bar import PlainReporter
from dude_lab.training import train_run as run_module
from dude_lab.training.train_run import train


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def when(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, moment: Callable[..., bool]) -> None:
    """Send SIGTERM in the first call of `owner.name` whose arguments `moment` accepts."""
    real, sent = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not sent and moment(*args, **kwargs):
            sent.append(True)
            terminate()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def in_stage(text: str) -> Callable[..., bool]:
    """While questions are answered in the stage that begins so."""
    return lambda reporter, *_: any(text in shown for shown in reporter.stages)


class Watching(PlainReporter):
    """Knows which stages are open."""

    def __init__(self, console: Any) -> None:
        super().__init__(console)
        self.stages: list[str] = []

    def stage(self, text: str) -> Any:
        self.stages.append(text)
        return super().stage(text)

    def begin(self, step: int, steps: int) -> None:
        self.stages.append("training")
        super().begin(step, steps)


def anything(*_: Any, **__: Any) -> bool:
    return True


# phase: what is patched, when, the message, and the step whose checkpoint is saved
PHASES: dict[str, tuple[Any, str, Callable[..., bool], str, int]] = {
    "checking": (Watching, "check", anything, "stopped while checking", 0),
    "loading": (run_module, "load_base", anything, "stopped while loading", 0),
    "decomposing": (Watching, "prepared", lambda *a: a[2] == 2, "stopped while preparing DuDe", 0),
    "evaluating before": (Watching, "asked", in_stage("evaluating before"), "stopped while evaluating before", 0),
    "training": (Watching, "progress", lambda *a: a[1] == 2, "stopped after step 3 of 6", 3),
    "evaluating at a step": (Watching, "asked", in_stage("evaluating at step 4"), "stopped after step 4 of 6", 4),
    "evaluating after": (Watching, "asked", in_stage("evaluating after"), "stopped while evaluating after", 6),
}


@pytest.fixture(scope="module")
def whole(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The same run, undisturbed."""
    undisturbed = Tiny(tiny_base, tmp_path_factory.mktemp("whole"))
    prepare(undisturbed)
    train(undisturbed.settings())
    return undisturbed.output


def prepare(run: Tiny) -> None:
    run.raw["method"]["name"] = "dude"
    run.raw["data"]["validation"] = 0.2
    run.raw["eval"] = {"suite": "mini_csqa", "limit": 2, "every": 2}
    run.raw["train"]["save_every"] = 50


@pytest.mark.parametrize("phase", PHASES)
def test_sigterm(tiny: Tiny, whole: Path, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:  # noqa: F811
    prepare(tiny)
    monkeypatch.setattr("dude_lab.cli.progress_bar.PlainReporter", Watching)
    config, (owner, name, moment, message, step) = tiny.write(), PHASES[phase]
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patched:
        when(patched, owner, name, moment)
        stopped = dude("train", config)
    assert stopped.exit_code == 130, stopped.output
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert message in stopped.stdout and not stopped.stderr and "Traceback" not in stopped.output
    assert f"dude train {config} --resume auto" in stopped.stdout
    assert ("no checkpoint is saved" in stopped.stdout) is (step == 0)
    assert tiny.output.exists() is (phase not in ("checking", "loading", "decomposing"))
    assert not list(tiny.output.rglob(".*")) and not (tiny.output / "run.json").exists()
    assert dude("train", config, "--resume", "auto").exit_code == 0
    assert result(tiny.output) == result(whole)
    assert steps(tiny.output) == steps(whole)
    if phase != "evaluating after":
        assert evaluations(tiny.output) == evaluations(whole)


def test_a_step_with_an_evaluation_is_logged_as_well(whole: Path) -> None:
    assert [r["step"] for r in steps(whole)] == [1, 2, 3, 4, 5, 6]


def test_sigterm_while_saving_finishes_the_run(
    tiny: Tiny,  # noqa: F811
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(tiny)
    when(monkeypatch, run_module, "save_result", anything)
    done = dude("train", tiny.write())
    assert done.exit_code == 0 and "the result is being written" in done.stdout
    assert (tiny.output / "run.json").is_file() and result(tiny.output) == result(whole)


def test_a_second_sigterm_stops_at_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    def twice(reporter: PlainReporter, step: int, loss: float, speed: float) -> None:
        if step == 3:
            terminate()
            terminate()

    monkeypatch.setattr(PlainReporter, "progress", twice)
    stopped = dude("train", tiny.write())
    assert stopped.exit_code == 130 and "stopped after step 2 of 6" in stopped.stdout  # the last checkpoint
    assert max(r["step"] for r in curves(tiny.output)) == 3


def test_sigterm_to_a_process_that_is_still_loading(tiny: Tiny) -> None:  # noqa: F811
    """From outside, while libraries are imported or the model is loaded: whenever it comes, nothing is left."""
    command = [sys.executable, "-m", "dude_lab.cli.app", "train", str(tiny.write())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        limit = time.monotonic() + 120
        while not (tiny.output / ".owner.json").exists():
            assert process.poll() is None and time.monotonic() < limit
            time.sleep(0.005)
        process.terminate()
        assert process.stdout is not None
        printed = process.stdout.read().decode()
    assert process.returncode == 130 and "stopped while" in printed and "Traceback" not in printed
    assert not list(tiny.output.rglob(".*"))
