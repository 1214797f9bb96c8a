"""Promise: whoever waits for a start sees how far it is, and nobody else sees anything."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_models as models
from peft import LoraConfig, get_peft_model
from rich.console import Console
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401
from transformers.utils import logging

from dude_lab.cli import progress_bar as screen
from dude_lab.cli.compare_progress import _facts
from dude_lab.cli.progress_bar import LiveReporter, PlainReporter
from dude_lab.compare.worker import Status
from dude_lab.training.reporter import Reporter
from dude_lab.training.train_run import train
from dude_peft import injection


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def seen(monkeypatch: pytest.MonkeyPatch, stderr: io.StringIO, *, patience: float = 0.0) -> str:
    """What `get_peft_model` writes to its standard error where no listener is set."""
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(injection, "PATIENCE", patience)
    get_peft_model(models.llama(), models.config_for("llama", target_modules=["q_proj", "v_proj"]))
    return stderr.getvalue()


def test_a_long_start_shows_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.enable_progress_bar()
    shown = seen(monkeypatch, Terminal())
    assert "Decomposing weights" in shown and "4/4" in shown


def test_a_short_start_a_file_another_rank_or_a_user_who_wants_no_bars_sees_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logging.enable_progress_bar()
    assert seen(monkeypatch, Terminal(), patience=1e6) == ""
    assert seen(monkeypatch, io.StringIO()) == ""
    logging.disable_progress_bar()
    try:
        assert seen(monkeypatch, Terminal()) == ""
    finally:
        logging.enable_progress_bar()
    with injection.on_init(lambda *_: None):
        assert seen(monkeypatch, Terminal()) == ""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert seen(monkeypatch, Terminal()) == ""


def test_the_starts_of_other_methods_are_told_as_peft_comes_to_them() -> None:
    heard: list[tuple[str, int, int]] = []
    with injection.on_init(lambda *news: heard.append(news), of=4):
        model = get_peft_model(
            models.llama(), LoraConfig(r=2, init_lora_weights="pissa", target_modules=["q_proj", "v_proj"])
        )
    assert [news[1:] for news in heard] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert all(hasattr(model.base_model.model.get_submodule(name), "lora_A") for name, *_ in heard)


class Heard(Reporter):
    def __init__(self) -> None:
        self.news: list[tuple[str, int, int, bool]] = []

    def prepared(self, what: str, done: int, total: int, left: float | None) -> None:
        self.news.append((what, done, total, left is not None))


@pytest.mark.parametrize(
    ("method", "what"),
    [("dude", "decomposing"), ("pissa", "decomposing"), ("lora_xs", "decomposing"), ("lora", "preparing")],
)
def test_a_run_tells_of_every_layer_and_of_the_time_left(tiny: Tiny, method: str, what: str) -> None:  # noqa: F811
    tiny.raw["method"] = {"name": method, "r": 2, "target_modules": ["q_proj", "v_proj"]}
    heard = Heard()
    train(tiny.settings("train.steps=1", "train.warmup=0"), reporter=heard)
    assert heard.news == [(what, number, 4, number > 0) for number in range(4)]


def test_plain_output_has_a_few_lines_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(screen.time, "perf_counter", lambda: now[0])
    out = io.StringIO()
    reporter = PlainReporter(Console(file=out, width=120, no_color=True))

    def start(seconds: float) -> list[str]:
        out.truncate(0)
        for done in range(200):
            reporter.prepared("decomposing", done, 200, seconds / 200 * (200 - done) if done else None)
            now[0] += seconds / 200
        return out.getvalue().replace("\0", "").splitlines()

    assert start(3.0) == []
    lines = start(1800.0)
    assert lines[0] == "decomposing: layer 1 of 200, 29 min 51 s left" and 4 <= len(lines) <= 6
    assert len(start(30.0)) == 2  # the waiting begins anew


def test_the_live_line_counts_layers() -> None:
    reporter = LiveReporter(Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None))
    paper = Console(file=io.StringIO(), width=80, color_system=None)

    def line() -> str:
        assert reporter._stage is not None
        with paper.capture() as captured:
            paper.print(reporter._stage[0].get_renderable())
        return captured.get()

    with reporter.stage("preparing DuDe"):
        assert "?" not in line()
        for done in range(13):
            reporter.prepared("decomposing", done, 42, 1.0)
        assert "preparing DuDe" in line() and "12/42" in line() and " s left" in line() and line().count("\n") == 1


def test_the_status_of_a_comparisons_run_says_decomposing(tmp_path: Path) -> None:
    status = Status(tmp_path / "status.json")

    def shown() -> tuple[int, Any, str]:
        return _facts(json.loads(status.path.read_text()))

    with status.stage("preparing DuDe"):
        status._written = 0.0  # half a second has passed
        status.prepared("decomposing", 12, 42, 41.0)
        assert shown() == (12, 42, "decomposing, 41.0 s left")
    status.begin(0, 100)
    assert shown() == (0, 100, "")
    with status.stage("evaluating after"):
        assert shown() == (0, None, "evaluating after")
