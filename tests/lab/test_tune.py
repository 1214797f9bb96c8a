"""`dude tune`: budgets, rungs and choices as pure functions; the command on the tiny base, stopped and resumed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_cli_train import dude
from tiny_run import TARGETS, tiny_base, write_sums  # noqa: F401

from dude_lab.compare.comparison_folder import find_comparison
from dude_lab.compare.grid import PlannedRun
from dude_lab.compare.pool import Stopped, Watcher
from dude_lab.config.yaml_file import load_config
from dude_lab.tune import tuning as tuner_module
from dude_lab.tune.candidates import TuneOptions, load_candidates
from dude_lab.tune.halving import (
    Cost,
    Rung,
    careful_choice,
    parse_budget,
    plan_rungs,
    promoted,
    recent_loss,
    seconds,
    shortened,
    shortest_rung,
)
from dude_lab.tune.ranking import rank, sentences
from dude_lab.tune.regret import Sweep, measure, read_sweep, replay
from dude_lab.tune.tuning import Tuner
from dude_peft.errors import DudeError

COSTS = st.builds(Cost, st.floats(0, 60), st.floats(1e-3, 10))


def test_a_budget_is_hours_minutes_and_seconds() -> None:
    found = [parse_budget(text) for text in ("90s", "30m", "2h", "1h30m", "1.5h", " 10S ")]
    assert found == [90, 1800, 7200, 5400, 5400, 10]


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "nan", "1d", "30m1h", "9s", "0h"])
def test_another_budget_is_an_error_that_says_how_to_write_it(text: str) -> None:
    with pytest.raises(DudeError, match=r"--budget: .*(Write 90s, 30m, 2h or 1h30m|less than 10s)"):
        parse_budget(text)


@given(st.integers(2, 60), st.integers(1, 400), COSTS, st.floats(1, 1e5), st.integers(1, 8), st.floats(0, 100))
def test_rungs_fit_the_budget_and_halve(
    count: int, steps: int, cost: Cost, budget: float, jobs: int, evaluation: float
) -> None:
    rungs = plan_rungs(count, steps, cost, budget, first=4, jobs=jobs, evaluation=evaluation)
    if not rungs:
        assert seconds([Rung(min(4, steps), count)], steps, cost, jobs, evaluation * (steps <= 4)) > budget
        return
    assert seconds(rungs, steps, cost, jobs, evaluation) <= budget
    assert rungs[0].candidates == count and rungs[0].steps >= min(4, steps) and rungs[-1].steps <= steps
    for before, after in pairwise(rungs):
        assert before.steps < after.steps and before.candidates >= after.candidates >= min(2, count)
    more = plan_rungs(count, steps, cost, 2 * budget, first=4, jobs=jobs, evaluation=evaluation)
    assert more[-1].steps >= rungs[-1].steps


@given(st.integers(2, 60), st.integers(8, 400), COSTS, st.floats(0, 1e4))
def test_what_remains_is_shortened_to_the_time_that_is_left(count: int, steps: int, cost: Cost, left: float) -> None:
    rungs = [*plan_rungs(count, steps, cost, math.inf, first=4)[:1], Rung(steps + 8, max(2, count // 2))]
    made = shortened(rungs[1:], steps, steps + 8, cost, left)
    assert seconds(made, steps + 8, cost, reached=steps) <= left
    assert [rung.steps for rung in made] == [rung.steps for rung in rungs[1:]][: len(made)]


def test_a_budget_for_everything_trains_everything_to_the_end() -> None:
    assert plan_rungs(20, 60, Cost(1, 0.3), 1e6, evaluation=9) == [Rung(60, 20)]
    tight = plan_rungs(20, 60, Cost(0, 1), 330, first=4, evaluation=10)
    assert tight[-1] == Rung(60, 3) and len(tight) == 5


@given(st.integers(0, 6), st.integers(0, 4))
def test_the_best_of_smooth_losses_is_found(best: int, seed: int) -> None:
    """A loss that falls with the steps to a level that depends on the distance from the best rate, in any order."""
    rates = {k: 10 ** (-4 + k / 2) for k in range(7)}
    level = {k: 1 + 0.3 * abs(k - best) for k in rates}
    losses = {k: {step: level[k] + 3 / (step + seed) for step in range(1, 65)} for k in rates}
    alive = list(rates)
    rungs = plan_rungs(7, 64, Cost(0, 1), 150, first=4)
    for before, rung in pairwise(rungs):
        alive = promoted({k: recent_loss(losses[k], before.steps) for k in alive}, rung.candidates)
    assert best in alive and len(alive) < 7


def test_losses_that_are_missing_or_infinite_are_never_promoted() -> None:
    assert recent_loss({}, 9) == math.inf and recent_loss({1: None, 2: 4.0, 9: 1.0}, 8) == 4.0
    assert recent_loss({step: float(step) for step in range(1, 10)}, 6) == 5.5  # of steps 5 and 6
    assert promoted({"a": 2.0, "b": math.inf, "c": 1.0, "d": 3.0}, 3) == ["a", "c", "d"]
    assert promoted({"a": math.inf}, 1) == []
    assert careful_choice({"a": 1.0, "b": 1.099, "c": 1.2}, {"a": 3.0, "b": 2.0, "c": 1.0}) == "b"
    assert (shortest_rung(1000, 0.03), shortest_rung(1000, 5), shortest_rung(3, 0.5)) == (32, 7, 3)


# --- the command, on the tiny base -----------------------------------------------------------------------------------


def write(base: Path, folder: Path, **changes: Any) -> Path:
    values = {
        "model": str(base),
        "method": {"name": "lora", "r": 4, "target_modules": TARGETS},
        "data": {"train": str(write_sums(folder / "sums.jsonl")), "validation": 0.2},
        "train": {"steps": 8, "batch_size": 2, "learning_rate": 5e-3, "warmup": 0, "device": "cpu"},
        "output": str(folder / "run"),
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def two_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner_module, "plan_rungs", lambda count, *_, **__: [Rung(4, count), Rung(8, 2)])


OPTIONS = ["--budget", "20m", "--methods", "lora,dude", "--rates", "1e-3,1e-2", "--threads", "1"]


class StopOnce(Watcher):
    """Sends this process SIGTERM when the first run has reached its rung."""

    def paused(self, run: PlannedRun, step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def tuned(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:  # noqa: F811
    """A tuning that was stopped in its first rung and resumed, and what the second start printed."""
    folder = tmp_path_factory.mktemp("tune")
    config = write(tiny_base, folder)
    with pytest.MonkeyPatch.context() as patch:
        two_rungs(patch)
        planned = dude("tune", config, *OPTIONS, "--dry-run")
        assert planned.exit_code == 0 and "4 candidates: lora-r4, dude-r4" in planned.stdout, planned.output
        assert not (folder / "run-tune").exists()
        made = load_candidates(config, options=TuneOptions(["lora", "dude"], rates=[1e-3, 1e-2], threads=1))
        with pytest.raises(Stopped):
            Tuner(made, 1200.0, "run.yaml").run(StopOnce())
        before = json.loads((folder / "run-tune" / "tune.json").read_text())
        assert before["done"] == [] and before["spent_seconds"] > 0
        said = dude("tune", config, *OPTIONS)
    assert said.exit_code == 0, said.output
    assert json.loads((folder / "run-tune" / "tune.json").read_text())["spent_seconds"] > before["spent_seconds"]
    return config, said.stdout


def test_the_rungs_continue_runs_and_the_last_is_evaluated(tuned: tuple[Path, str]) -> None:
    config, said = tuned
    folder = config.parent / "run-tune"
    state = json.loads((folder / "tune.json").read_text())
    assert [(steps, len(names)) for steps, names in state["done"]] == [(4, 4), (8, 2)]
    finished = sorted(path.parent.name for path in (folder / "runs").glob("*/run.json"))
    assert finished == sorted(state["done"][-1][1])
    for name in finished:
        assert "resuming after step 4" in (folder / "state" / f"{name}.log").read_text()
    assert not [p for p in (folder / "runs").glob("*/checkpoints") if p.parent.name not in finished]  # of the others
    ranking = json.loads((folder / "ranking.json").read_text())
    first, second = ranking["rows"][:2]
    assert ranking["basis"] == "validation loss" and len(ranking["rows"]) == 4
    assert first["value"] <= second["value"] and first["difference"] is None
    gap = second["difference"]
    assert gap["estimate"] == pytest.approx(second["value"] - first["value"], abs=1e-6) and gap["low"] < gap["high"]
    assert "Best: " in said and "next: dude train" in said and (folder / "tune.png").stat().st_size > 5000


def test_the_yaml_is_the_users_with_method_and_rate_of_the_choice(tuned: tuple[Path, str]) -> None:
    config, _ = tuned
    folder = config.parent / "run-tune"
    first = json.loads((folder / "ranking.json").read_text())["rows"][0]
    best, mine = load_config(folder / "best.yaml"), load_config(config)
    assert (best.method.name, best.train.learning_rate) == (first["method"], first["learning_rate"])
    changed = {"method": mine.method, "train": best.train.model_copy(update={"learning_rate": 5e-3})}
    assert best.model_copy(update=changed) == mine


def test_a_second_start_trains_nothing(tuned: tuple[Path, str]) -> None:
    config, _ = tuned
    runs = {p: p.stat().st_mtime_ns for p in (config.parent / "run-tune" / "runs").rglob("*")}
    again = dude("tune", config, *OPTIONS)
    assert again.exit_code == 0 and "started" not in again.stdout and "Best: " in again.stdout
    assert {p: p.stat().st_mtime_ns for p in (config.parent / "run-tune" / "runs").rglob("*")} == runs
    other = dude("tune", config, *OPTIONS[:-4], "--rates", "1e-3,1e-1")
    assert other.exit_code == 2 and "-o DIR" in other.stderr


def test_its_complete_runs_are_those_of_a_comparison(tuned: tuple[Path, str], tmp_path: Path) -> None:
    config, _ = tuned
    shutil.copytree(config.parent / "run-tune", tmp_path / "copy")
    shown = dude("compare", tmp_path / "copy" / "compare.yaml", f"output={tmp_path / 'copy'}", "--dry-run")
    assert shown.exit_code == 0 and "2 done" in shown.stdout, shown.output


def test_if_no_candidate_was_trained_to_the_end_the_choice_is_by_training_loss(tuned: tuple[Path, str]) -> None:
    config, _ = tuned
    made = load_candidates(config, options=TuneOptions(["lora", "dude"], rates=[1e-3, 1e-2], threads=1))
    tuner = Tuner(made, 1200.0, "run.yaml")
    tuner.state.done.pop()
    ranking = rank(tuner)
    assert ranking is not None and ranking.basis == "training loss" and ranking.steps == 4
    others = [row for row in ranking.rows if row.candidate is not ranking.choice]
    assert [row.loss for row in others] == sorted(row.loss for row in others)
    assert all(row.loss_difference is not None for row in others)


def test_a_first_rung_that_was_not_finished_ranks_the_candidates_that_reached_it(tuned: tuple[Path, str]) -> None:
    config, _ = tuned
    made = load_candidates(config, options=TuneOptions(["lora", "dude"], rates=[1e-3, 1e-2], threads=1))
    tuner = Tuner(made, 1200.0, "run.yaml")
    (_, names), (_, finished) = tuner.state.done
    tuner.state.done, tuner.state.running = [], (4, names)
    ranking = rank(tuner)
    assert ranking is not None and {row.candidate.name for row in ranking.rows} == set(finished)
    assert any("2 of 4 candidates were not reached" in text for text in sentences(tuner, ranking))
    tuner.state.running = (9, [name for name in names if name not in finished])
    assert rank(tuner) is None


@pytest.mark.slow
def test_a_killed_tuning_keeps_its_runs_and_its_time(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    config, folder = write(tiny_base, tmp_path), tmp_path / "run-tune"
    command = "from dude_lab.cli.app import main; main()"
    parent = subprocess.Popen([sys.executable, "-c", command, "tune", str(config), *OPTIONS])
    end = time.monotonic() + 240
    while not list(folder.glob("runs/*/run.json")):
        assert time.monotonic() < end and parent.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # the seconds are written once a second
    parent.kill()
    parent.wait()
    spent = float((folder / "state" / "tune.spent").read_text())
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/run.json")}
    again = dude("tune", config, *OPTIONS)
    assert again.exit_code == 0 and "Best: " in again.stdout, again.output
    assert {path: path.stat().st_mtime_ns for path in before} == before and spent > 0
    assert json.loads((folder / "tune.json").read_text())["spent_seconds"] > spent


@pytest.mark.slow
def test_a_larger_budget_continues_and_the_same_one_changes_nothing(
    tuned: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tuning that was ended by its budget in the last rung: its two candidates are trained to the end again."""
    config, _ = tuned
    shutil.copytree(config.parent / "run-tune", tmp_path / "copy")
    file = tmp_path / "copy" / "tune.json"
    state = json.loads(file.read_text())
    finished = state["done"].pop()[1]
    state |= {"ended": "the budget was used up", "budget_seconds": 60.0}
    file.write_text(json.dumps({key: value for key, value in state.items() if key != "sha256"}))
    for name in finished:
        shutil.rmtree(tmp_path / "copy" / "runs" / name)
    asked = TuneOptions(["lora", "dude"], rates=[1e-3, 1e-2], threads=1, output=tmp_path / "copy")
    made = load_candidates(config, options=asked)
    two_rungs(monkeypatch)
    Tuner(made, 60.0, "run.yaml").run(Watcher())
    assert not any((tmp_path / "copy" / "runs" / name).exists() for name in finished)
    more = Tuner(made, 1200.0, "run.yaml")
    monkeypatch.setattr(more, "loss", lambda one, steps: 1.0 if one.name in finished else 2.0)
    more.run(Watcher())
    assert [names for _, names in more.state.done][-1] == finished and more.state.ended == "all rungs are done"


def test_a_candidate_whose_process_is_killed_is_left_out(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuner = Tuner(
        load_candidates(write(tiny_base, tmp_path), options=TuneOptions(rates=[1e-3, 1e-2])), 600.0, "run.yaml"
    )
    tuner.folder.begin(tuner.settings, tuner.base)
    one, other = tuner.candidates

    class Killed:
        killed = {one.name: "its process was killed by SIGKILL, perhaps out of memory; it resumes"}  # noqa: RUF012

        def work(self, todo: Any, *, last: bool) -> None:
            assert not last

    monkeypatch.setattr(tuner, "_pool", Killed(), raising=False)
    tuner._work([one.run, other.run], stop_at=4)
    assert tuner.loss(one, 4) == math.inf and Killed.killed == {}
    failure = tuner.folder.failure(one.run)
    assert failure is not None and failure["error"].endswith("perhaps out of memory")


def test_a_budget_that_is_too_small_names_what_is_needed(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tuner = Tuner(
        load_candidates(write(tiny_base, tmp_path), options=TuneOptions(rates=[1e-3, 1e-2])), 60.0, "run.yaml"
    )
    monkeypatch.setattr(tuner, "_work", lambda *_, **__: None)
    monkeypatch.setattr(tuner, "_measured", lambda row: ([2.0], [10.0]))
    with pytest.raises(DudeError, match=r"60 s, and 2 candidates need 2\d s for 2 steps.*Give --budget \d+s"):
        monkeypatch.setattr(tuner_module, "plan_rungs", lambda *_, **__: [])
        tuner.run(Watcher())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "lora,dudee"], "did you mean"),
        (["--rates", "1e-3,x"], "--rates: '1e-3,x': write numbers above 0"),
        (["--rates", "1e-3,1e-3"], "each once"),
        (["--ranks", "4.5"], "--ranks: '4.5': write whole numbers"),
        (["--rates", "1e-3"], "one candidate only"),
        (["--metric", "f1"], "accuracy or loss"),
        (["--metric", "accuracy"], "eval.suite"),
        (["data.validation=null"], "nothing to choose by"),
        (["--ranks", "4,4000"], "rank"),
        (["--budget", "soon"], "Write 90s"),
    ],
)
def test_a_mistake_is_an_error_before_anything_is_written(
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
    options: Sequence[str],
    message: str,
) -> None:
    config = write(tiny_base, tmp_path)
    made = dude("tune", config, *options)
    assert made.exit_code == 2 and message.lower() in made.stderr.lower(), made.output
    assert not (tmp_path / "run-tune").exists()


def test_a_run_with_questions_is_tuned_on_their_validation_split(tiny_base: Path, tmp_path: Path) -> None:  # noqa: F811
    asked = {"suite": "mini_csqa", "limit": 1000, "every": 2}
    config = write(tiny_base, tmp_path, eval=asked, method="lora")
    raw = load_candidates(
        config, ["train.early_stopping_patience=2", "train.log_every=5"], TuneOptions(["full", "dude"])
    ).comparison
    assert raw.search.eval == {"split": "validation", "limit": 300} and "every" not in raw.run["eval"]
    assert not {"early_stopping_patience", "log_every"} & raw.run["train"].keys()
    full, other = raw.methods
    assert isinstance(full, dict) and isinstance(other, dict)
    assert full["learning_rates"][0] == pytest.approx(other["learning_rates"][0] / 10)
    assert load_candidates(config, options=TuneOptions(metric="loss")).comparison.search.eval is None
    notes: list[str] = []
    for asked, count in (({"suite": "mini_csqa"}, 0), ({"suite": "commonsense_qa"}, 1), ({"suite": "mini_csqa", "split":
                         "validation"}, 2), ({"suite": "commonsense_qa", "skip": 300}, 2)):  # fmt: skip
        load_candidates(write(tiny_base, tmp_path, eval=asked, method="lora"), notes=notes)
        assert len(notes) == count, asked
    assert "set eval.skip=300" in notes[0]


def test_the_yaml_of_a_comparison_gives_its_rows_and_rates(tmp_path: Path) -> None:
    run = {"model": "mini", "data": {"name": "mini_csqa"}, "train": {"log_every": 5}, "eval": {"suite": "mini_csqa"}}
    rows = ["lora", {"name": "dude", "r": 4, "learning_rates": [1e-3, 1e-2]}]
    values = {"run": run, "methods": rows, "learning_rates": [1e-4, 1e-3], "seeds": [7], "output": str(tmp_path / "c")}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    made = load_candidates(tmp_path / "c.yaml", options=TuneOptions(["dude", "pissa"], jobs=2))
    assert made.comparison.methods == [rows[1], "pissa"] and made.comparison.jobs == 2
    assert (made.comparison.output, made.run["train"]) == (tmp_path / "c", {"log_every": 5, "seed": 7})
    assert made.comparison.run["train"] == {}
    asked = TuneOptions(rates=[1.0, 2.0], ranks=[4, 8], metric="loss", output=tmp_path / "o")
    other = load_candidates(tmp_path / "c.yaml", options=asked)
    assert other.comparison.methods == ["lora", {"name": "dude", "r": 4}] and other.comparison.ranks == [4, 8]
    assert other.comparison.search.eval is None and other.comparison.output == tmp_path / "o"


# --- what it loses ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep() -> Sweep:
    folder = find_comparison(ROOT / "studies" / "mini" / "parts" / "gpqa")
    assert folder is not None
    return read_sweep(folder)


def test_with_the_time_of_the_sweep_nothing_is_lost(sweep: Sweep) -> None:
    found = replay(sweep, sweep.swept, 1.01)
    assert found is not None and found[0].value == max(one.value for one in sweep.swept)
    assert found[1] == [(60, 20)] and replay(sweep, sweep.swept, 0.01) is None


def test_the_study_is_what_the_code_finds(sweep: Sweep) -> None:
    study = ROOT / "studies" / "tune"
    stored = [row for row in json.loads((study / "regret.json").read_text())["rows"] if row["data"] == "mini_gpqa"]
    assert json.loads(json.dumps(measure(sweep))) == stored and all(row.get("regret", 0) >= 0 for row in stored)
    summary = (study / "regret.md").read_text().partition("\n\n")[0]
    assert summary in (study / "README.md").read_text()
