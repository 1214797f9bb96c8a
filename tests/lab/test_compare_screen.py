"""What `dude compare` shows on a terminal: whole numbers in whole cells, and lines that fit."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from comparison_tools import begin, finish, runs
from rich.console import Console

from dude_lab.cli.compare import blocks
from dude_lab.cli.compare_progress import LiveWatcher
from dude_lab.compare.results import collect, seed_series


def test_a_table_that_is_too_wide_is_shown_in_parts_with_whole_cells() -> None:
    heads = ["method", "r", "lr", "accuracy, % (mini_gsm)", "n", "loss", "memory"]
    body = [["Full fine-tuning", "-", "0.005", "**37.5** [13.7, 69.4]", "1,000", "3.253", "0.80 GiB"]]
    assert blocks(heads, body, None) == [list(range(7))] == blocks(heads, body, 200)
    parts = blocks(heads, body, 60)
    assert len(parts) > 1 and all(part[:2] == [0, 1] for part in parts)
    assert [k for part in parts for k in part[2:]] == [2, 3, 4, 5, 6]
    room = [max(len(head), len(cell.replace("**", ""))) + 2 for head, cell in zip(heads, body[0], strict=True)]
    assert all(sum(room[k] for k in part) <= 60 for part in parts)


@pytest.mark.parametrize("width", [80, 120])
def test_the_live_lines_fit_and_forget_the_last_stage(tmp_path: Path, width: int) -> None:
    _, grid = begin(tmp_path)
    cell = runs(grid)["full-fine-tuning"][0]
    out = io.StringIO()
    watcher = LiveWatcher(Console(file=out, force_terminal=True, width=width, height=20, color_system=None))
    screen = Console(file=io.StringIO(), width=width, color_system=None)

    def shown(status: dict[str, object]) -> str:
        watcher.running([(cell, status)], 0)
        with screen.capture() as captured:
            screen.print(watcher._bars.get_renderable())
        return captured.get()

    watcher.begin(0, 9)
    try:
        watcher.started(cell)
        training = shown({"stage": "training", "step": 20, "steps": 200, "loss": 2.34567, "left": 61.0})
        assert "20/200" in training and "loss 2.3457, 1 min 01 s left" in training and cell.title in training
        asking = shown({"stage": "evaluating after training"})
        assert "/200" not in asking and "evaluating after training" in asking and "?" not in asking
    finally:
        watcher.end()


def test_smoothed_curves_end_where_the_window_no_longer_fits(tmp_path: Path) -> None:
    folder, grid = begin(tmp_path, methods=["lora"], seeds=[1])
    place = finish(folder, runs(grid)["lora-r16"][0], {"mini_csqa": [1]})
    losses = [2.0 + (k % 2) + 5 * (k == 60) for k in range(1, 61)]  # the last step is an outlier
    (place / "curves.jsonl").write_text(
        "".join(json.dumps({"step": k, "loss": v}) + "\n" for k, v in enumerate(losses, 1))
    )
    series = seed_series(collect(folder).rows[0], "loss")
    assert series is not None and series.steps == tuple(range(1, 61))
    smooth = series.smoothed()  # a window of five steps
    assert smooth.steps == tuple(range(3, 59))
    assert smooth.mean == pytest.approx([np.mean(losses[k - 3 : k + 2]) for k in smooth.steps])
