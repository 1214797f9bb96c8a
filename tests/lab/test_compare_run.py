"""`dude compare` end to end on the tiny base: real processes, a failing method, a second start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli_train import dude
from test_train_resume import result as trained
from test_train_run import steps
from tiny_run import TARGETS, tiny_base, write_sums  # noqa: F401

from dude_lab.compare import processes
from dude_lab.compare.comparison import compare, plan_comparison
from dude_lab.compare.pool import Watcher
from dude_lab.training.train_run import train


def write(base: Path, folder: Path, **changes: Any) -> Path:
    run = {
        "model": str(base),
        "data": {"train": str(write_sums(folder / "sums.jsonl"))},
        "train": {"steps": 2, "batch_size": 2, "warmup": 0, "save_every": 1, "device": "cpu"},
        "eval": {"suite": "mini_csqa", "limit": 4},
    }
    values = {
        "run": run,
        "methods": [{"name": "lora", "r": 4}, {"name": "dora", "r": 64}],
        "shared": {"target_modules": TARGETS},
        "seeds": [1],
        "learning_rates": [1e-2],
        "threads": 1,
        "output": str(folder / "compare"),
    }
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


@pytest.fixture(scope="module")
def done(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:  # noqa: F811
    """A comparison in which DoRA's rank is larger than the modules allow, and what the first start printed."""
    folder = tmp_path_factory.mktemp("compare")
    config = write(tiny_base, folder)
    planned = dude("compare", config, "--dry-run")
    assert planned.exit_code == 0 and "3 runs: 0 done, 0 failed, 3 to do" in planned.stdout
    assert not (folder / "compare").exists()
    first = dude("compare", config)
    assert first.exit_code == 1, first.output  # not everything could be run
    return config, first.stdout


def test_a_failing_method_does_not_stop_the_rest(done: tuple[Path, str]) -> None:
    config, said = done
    made = json.loads((config.parent / "compare" / "table.json").read_text())
    base, lora, dora = made["rows"]
    assert base["n"] == lora["n"] == 4 and lora["seeds"] == [1] and lora["train_seconds"] > 0
    assert (dora["failed"], dora["accuracy"]) == (1, None)
    assert "dora-r64, seed 1" in said and "64" in said and "--retry-failed" in said
    failure = json.loads(next((config.parent / "compare" / "state").glob("*.failed.json")).read_text())
    assert "rank" in failure["error"] and failure["config"]["method"]["r"] == 64
    assert any("DudeError" in line for line in failure["output_tail"])


def test_the_run_is_the_one_that_dude_train_makes(done: tuple[Path, str], tiny_base: Path) -> None:  # noqa: F811
    config, _ = done
    plan = plan_comparison(config)
    cell = plan.grid.runs(plan.grid.rows[0], 1e-2)[0]
    alone = cell.settings.model_copy(update={"output": config.parent / "alone"})
    train(alone)
    assert trained(plan.folder.runs / cell.name) == trained(config.parent / "alone")
    assert not (plan.folder.runs / cell.name / "checkpoints").exists()
    record = plan.folder.record(cell)
    assert record is not None and record["metrics"]["before"] is None


def test_forked_processes_and_fresh_ones_give_the_same_bits(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(processes.FRESH, raising=False)
    if not processes.can_fork():
        pytest.skip("processes are not forked here: no Linux, or an accelerator")
    config = write(tiny_base, tmp_path, methods=[{"name": "dude", "r": 4}])
    places = {}
    for way, value in (("forked", "0"), ("fresh", "1")):
        monkeypatch.setenv(processes.FRESH, value)
        plan = plan_comparison(config, ["run.eval=null", f"output={tmp_path / way}"])
        compare(plan, Watcher())
        (places[way],) = plan.folder.runs.iterdir()
        assert (plan.folder.state / ".server.log").exists() == (way == "forked")
    assert trained(places["forked"]) == trained(places["fresh"])
    assert steps(places["forked"]) == steps(places["fresh"]) != []


def test_a_second_start_does_nothing(done: tuple[Path, str]) -> None:
    config, said = done
    folder = config.parent / "compare"
    runs = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")}
    tables = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    again = dude("compare", config)
    assert again.exit_code == 1 and "started" not in again.stdout and "started" in said
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")} == runs
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == tables
    assert "3 runs: 2 done, 1 failed, 0 to do" in dude("compare", config, "--dry-run").stdout
    files = sorted(folder.rglob("*"))
    assert "5 runs: 2 done, 1 failed, 2 to do" in dude("compare", config, "seeds=[1,2]", "--dry-run").stdout
    assert sorted(folder.rglob("*")) == files


def test_finished_runs_do_not_stand_for_a_file_that_has_changed(done: tuple[Path, str]) -> None:
    config, _ = done
    file = config.parent / "sums.jsonl"
    before, tables = file.read_text(), (config.parent / "compare" / "table.json").read_bytes()
    file.write_text("".join(before.splitlines(keepends=True)[1:]))
    refused = dude("compare", config)
    said = " ".join(refused.stderr.split())
    assert refused.exit_code == 2 and "has changed since runs of this comparison, such as lora-r4" in said
    file.unlink()  # the tables need no data
    assert dude("compare", config).exit_code in (1, 2)
    file.write_text(before)
    assert dude("compare", config).exit_code == 1
    assert (config.parent / "compare" / "table.json").read_bytes() == tables


def test_what_all_runs_share_is_checked_before_anything_is_written(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    config = write(tiny_base, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for change, word in ((f"run.data.train={tmp_path / 'sumz.jsonl'}", "sums.jsonl"), ("run.eval.split=tset", "tset")):
        refused = dude("compare", config, change)
        assert refused.exit_code == 2 and word in refused.stderr, refused.output
    assert sorted(tmp_path.rglob("*")) == before
