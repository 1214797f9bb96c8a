"""`dude reproduce` end to end on `mini`: real processes, two experiments that share runs, a second start."""

from __future__ import annotations

import json
from pathlib import Path

from test_cli_train import dude


def test_runs_are_made_once_and_a_second_start_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    small = [
        "run.train.steps=2",
        "run.train.batch_size=2",
        "run.data.limit=8",
        "run.eval.limit=3",
        "run.eval.every=1",
        "run.eval.max_new_tokens=4",
        "learning_rates=[1e-2]",
        "seeds=[1]",
        "jobs=1",
    ]
    words = ["--scale", "mini", "-o", out, "--row", "dude-r16", *small]
    first = dude("reproduce", "seeds", *words)
    assert first.exit_code == 0, first.output
    assert "started" in first.stdout and str(out / "README.md") in first.stdout
    runs = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    assert len(list((out / "runs").glob("dude-r16-*/run.json"))) == 2  # after mini_metamath and after mini_gsm

    pages = {path: path.read_bytes() for path in out.glob("*.*")}
    again = dude("reproduce", "seeds", *words)
    assert again.exit_code == 0 and "started" not in again.stdout and "3 done;" in again.stdout
    assert {path: path.read_bytes() for path in out.glob("*.*")} == pages

    figure = dude("reproduce", "figure2", *words)  # the same run, with its curves
    assert figure.exit_code == 0 and "started" not in figure.stdout, figure.output
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == runs
    assert (out / "figure2.png").is_file() and "figure2" in json.loads((out / "reproduction.json").read_text())[
        "experiments"
    ]
    assert "### [Section 4.5: five seeds](seeds.md)" in (out / "README.md").read_text()
