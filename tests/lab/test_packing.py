"""`dude pack` and `dude unpack`: nothing is lost that a packed study promises, whatever happens on the way."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from comparison_tools import finish, runs
from test_cli_train import dude
from test_compare_results import SHARES, answers, filled

from dude_lab.compare import packing
from dude_lab.compare.comparison import Plan, known_runs
from dude_lab.compare.comparison_folder import ComparisonFolder, claim
from dude_lab.compare.comparison_report import report
from dude_lab.compare.grid import Grid
from dude_lab.compare.packed import FILES, find_packed
from dude_lab.compare.packing import content, pack, unpack
from dude_lab.compare.run_store import FolderRun
from dude_lab.compare.worker import work_on
from dude_lab.config.compare_settings import parse_comparison
from dude_peft.errors import DudeError

PROMPTED = {"prompt": "Question: which?\nAnswer:", "choices": ["a", "b"]}
ODD: list[dict[str, Any]] = [
    {"gold": 1, "prediction": 0, "loglikelihoods": [-7.908116340637207, -1.0857917070388794], "acc": 0.0},
    {"gold": "2", "prediction": None, "generated": "none\u2028\n#### 2", "exact_match": 0.0, "acc": None},
    {"gold": ["x", "y"], "prediction": [["x"], ["y"]], "note": {"deep": [1, None]}, "acc": 1 / 3, "perplexity": 2**70},
]
LINES: list[dict[str, Any]] = [
    {"step": 1, "loss": 2.594615936279297, "learning_rate": 1e-3 / 7, "seconds": 0.51, "grad_norm": None},
    {"step": 1, "eval": "mini_csqa", "accuracy": 0.591},
    {"step": 2, "loss": 0.1, "tokens": 997},
]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finished runs with every kind of value, an evaluation of `dude eval`, and the table and picture of them."""
    folder = filled(tmp_path_factory.mktemp("study"), SHARES)
    cell = next(iter(runs(folder.grid()).values()))[0]
    place = folder.runs / cell.name
    samples = next((place / "eval" / "after" / "samples").iterdir())
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    changed = [{**line, **PROMPTED, **odd} for line, odd in zip(lines, ODD, strict=False)]
    samples.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in changed + lines[len(ODD) :]))
    (place / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in LINES))
    record = json.loads((place / "run.json").read_text())
    record |= {"files": {"adapter_model.safetensors": "f" * 64}, "started": None, "later": 3}
    (place / "run.json").write_text(json.dumps(record))
    for suite in ("after", "mini_gsm"):
        (place / "eval" / suite).mkdir(exist_ok=True)
        (place / "eval" / suite / "metrics.json").write_text(json.dumps({"headline": suite, "seconds": 1.5}))
    (place / "curves.png").write_bytes(b"a picture")
    report(folder)
    shutil.rmtree(folder.state)
    return folder.path


@pytest.fixture
def study(comparison: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(comparison, tmp_path / "study"))


def contents(folder: Path) -> dict[str, Any]:
    return {one.name: copy.deepcopy(content(one)) for one in ComparisonFolder(folder).store}


def packed_bytes(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def plan_of(folder: Path, **changes: Any) -> Plan:
    made = ComparisonFolder(folder)
    settings = parse_comparison({**made.grid().settings.resolved(), **changes})
    made.runs.mkdir(exist_ok=True)
    made.state.mkdir(exist_ok=True)
    return Plan(settings, Grid(settings, "0" * 64, made.runs), made, {"name": "mini"})


def test_a_packed_study_holds_the_runs_and_unpacking_writes_them_again(study: Path) -> None:
    before = contents(study)
    tables = {name: (study / name).read_bytes() for name in ("table.json", "table.md", "curves.svg")}
    files = {p.relative_to(study): p.read_text() for p in study.rglob("run.json")}
    pack(study)
    assert not (study / "runs").exists() and not (study / "state").exists()
    assert contents(study) == before
    report(ComparisonFolder(study))
    assert {name: (study / name).read_bytes() for name in tables} == tables
    first = packed_bytes(study)
    unpack(study)
    assert not (study / FILES[0]).exists() and contents(study) == before
    assert {path: json.loads((study / path).read_text()) for path in files} == {
        path: json.loads(text) for path, text in files.items()
    }
    text = "".join(path.read_text() for path in study.rglob("*.jsonl"))
    assert "Question: which?" not in text and "\\u2028" not in text and "\u2028" in text
    pack(study)
    assert packed_bytes(study) == first


def test_a_run_without_questions_is_packed(study: Path) -> None:
    """A search that is chosen by validation loss has only the losses of the batches, and their mean in its record."""
    place = next(path.parent for path in sorted(study.rglob("run.json")))
    shutil.rmtree(place / "eval", ignore_errors=True)
    (place / "eval" / "after").mkdir(parents=True)
    (place / "eval" / "after" / "summary.json").write_text("{}")
    (place / "eval" / "after" / "validation_losses.json").write_text('{"losses": [1.0, 2.0]}')
    before = contents(study)
    pack(study)
    assert contents(study) == before and before[place.name]["answers"] == {}


def test_a_comparison_goes_on_from_packed_runs(study: Path) -> None:
    pack(study)
    plan = plan_of(study)
    assert all(plan.folder.is_done(cell) for cell in known_runs(plan)) and len(known_runs(plan)) == 10
    more = plan_of(study, seeds=[1, 2, 3, 4])
    left = [cell for cell in known_runs(more) if not more.folder.is_done(cell)]
    assert [cell.settings.train.seed for cell in left] == [4, 4, 4]
    finish(more.folder, left[0], {"mini_csqa": answers(0.5, 4)})
    assert more.folder.is_done(left[0]) and pack(study).runs == 11
    spec = {"name": left[0].name, "config": left[0].settings.resolved(), "folder": str(study), "kind": "run"}
    assert work_on(spec) == 0 and not (study / "runs").exists()  # a worker that comes late trains nothing


def test_a_run_folder_counts_before_the_packed_run(study: Path) -> None:
    whole = study.with_name("whole")
    shutil.copytree(study, whole)
    pack(study)
    plan = plan_of(study)
    cell = plan.grid.runs(plan.grid.rows[1], 1e-3)[0]
    finish(plan.folder, cell, {"mini_csqa": answers(0.1, 7)})
    run = plan.folder.finished(cell)
    assert run is not None and isinstance(run.source, FolderRun) and run.accuracy == pytest.approx(0.1, abs=0.08)
    assert len(plan.folder.store.names()) == 10
    pack(study)  # the new one takes the place of the old one
    again = plan.folder.finished(cell)
    assert again is not None and again.accuracy == run.accuracy and not isinstance(again.source, FolderRun)


@pytest.mark.parametrize("at", ["write", "replace", "remove", "removing"])
def test_a_kill_while_packing_loses_nothing(study: Path, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(study)
    pack(study, study.with_name("whole"))
    calls: Iterator[int] = iter(range(100))

    class Killed(BaseException):
        pass

    def killed(do: Any, after: int) -> Any:
        def once(*args: Any, **kwargs: Any) -> Any:
            if next(calls) == after:
                raise Killed
            return do(*args, **kwargs)

        return once

    def half(folder: Path) -> None:
        shutil.rmtree(folder / "eval")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if at == "write":
            patch.setattr(packing, "write_table", killed(packing.write_table, 1))
        elif at == "replace":
            patch.setattr(packing.os, "replace", killed(packing.os.replace, 2))
        elif at == "remove":
            patch.setattr(packing, "_remove", killed(packing._remove, 4))
        else:
            patch.setattr(packing.shutil, "rmtree", lambda p, **_: half(p) if (p / "eval").is_dir() else None)
        pack(study)
    assert contents(study) == before
    pack(study)
    assert packed_bytes(study) == packed_bytes(study.with_name("whole"))
    assert not (study / "runs").exists() and contents(study) == before


def test_what_reads_back_differently_removes_nothing(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(study)
    write = packing.write_table
    monkeypatch.setattr(packing, "write_table", lambda table, file: write(table.slice(0, max(1, len(table) - 1)), file))
    with pytest.raises(DudeError, match="differs when read back"):
        pack(study)
    monkeypatch.undo()
    assert contents(study) == before and not (study / "runs.parquet").exists()


def test_a_study_that_a_process_works_on_is_refused(study: Path) -> None:
    name = next((study / "runs").iterdir()).name
    (study / "state").mkdir()
    lock = claim(study / "state", name)
    with pytest.raises(DudeError, match=f"a process is working on {name}"):
        pack(study)
    lock.release()
    assert pack(study).runs == 10


def test_weights_and_unknown_files_are_not_removed_in_silence(study: Path, tmp_path: Path) -> None:
    place = sorted((study / "runs").iterdir())[0]
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    result = dude("pack", study)
    assert result.exit_code == 2 and "1 runs have trained weights" in result.output and place.is_dir()
    assert pack(study, tmp_path / "packed").runs == 10 and (place / "adapter").is_dir()
    (place / "notes.txt").write_text("mine")
    with pytest.raises(DudeError, match=r"notes\.txt: not a file of a run"):
        pack(study, discard_weights=True)
    (place / "notes.txt").unlink()
    result = dude("pack", study, "--discard-weights")
    assert result.exit_code == 0 and "10 runs packed" in result.output and not place.exists()
    assert packed_bytes(study) == packed_bytes(tmp_path / "packed")


def test_runs_with_folders_are_in_an_unpacked_copy_too(study: Path, tmp_path: Path, monkeypatch: Any) -> None:
    plan = plan_of(study)
    cells = plan.grid.runs(plan.grid.rows[0], 1e-3)
    kept = shutil.copytree(study / "runs" / cells[0].name, tmp_path / "kept")
    shutil.rmtree(study / "runs" / cells[0].name)
    pack(study)
    shutil.copytree(kept, study / "runs" / cells[0].name)  # one that was run after the others were packed
    monkeypatch.setenv("HOME", str(tmp_path))
    result = dude("unpack", study, "-o", "~/new")
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "new" / "runs").glob("*/run.json"))) == 10
    assert content(FolderRun(tmp_path / "new" / "runs" / cells[0].name)) == content(FolderRun(kept))


def test_unfinished_runs_and_failures_stay(study: Path) -> None:
    plan = plan_of(study)
    cells = plan.grid.runs(plan.grid.rows[0], 1e-3)
    (study / "runs" / cells[0].name / "run.json").unlink()
    (study / "state" / f"{cells[0].name}.failed.json").write_text(json.dumps({"error": "out of memory"}))
    made = pack(study)
    assert made.runs == 9 and made.unfinished == (cells[0].name,)
    assert (study / "runs" / cells[0].name / "config.yaml").is_file()
    assert plan.folder.failure(cells[0]) == {"error": "out of memory"}
    text = dude("pack", study).output
    assert "1 run folders are not finished and were not packed" in text


def test_single_packed_runs_are_compared_and_reported(study: Path, tmp_path: Path) -> None:
    plan = plan_of(study)
    names = [plan.grid.runs(row, 1e-3)[1].name for row in plan.grid.rows]
    paths = [study / "runs" / name for name in names]
    before = dude("compare", *paths).stdout
    pack(study)
    assert dude("compare", *paths).stdout == before and "DoRA" in before
    assert dude("report", *paths, "-o", tmp_path / "page").exit_code == 0
    result = dude("compare", study / "runs" / "nothing")
    assert result.exit_code == 2 and "no such folder" in result.output


def test_prompts_come_from_the_data_set_where_it_is_at_hand(study: Path, tmp_path: Path) -> None:
    from dude_lab.config.eval_settings import EvalSettings
    from dude_lab.evaluation.tasks import stored_prompts

    found = stored_prompts(EvalSettings(suite="mini_csqa", limit=200))
    ids = [name for _, name in found]
    for file in study.rglob("samples/*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().split("\n") if line]
        for number, line in enumerate(lines):
            line |= {"id": ids[number], "gold": found["mini_csqa", ids[number]]["gold"] if number else -1}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pack(study)
    assert dude("report", study, "-o", tmp_path / "page").exit_code == 0
    text = (tmp_path / "page" / "index.html").read_text()
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    asked = {one["id"]: one["prompt"] for one in data["answers"]["questions"]}
    assert len(asked) > 20 and "Question" in next(iter(found.values()))["prompt"]
    for name, prompt in asked.items():
        if name == ids[0]:
            assert "not stored" in prompt
        else:
            assert prompt == found["mini_csqa", name]["prompt"]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_missing_file_is_named(study: Path, name: str) -> None:
    pack(study)
    whole = (study / name).read_bytes()
    (study / name).write_bytes(whole[: len(whole) // 2])
    result = dude("compare", study)
    assert result.exit_code == 2 and name in result.output and "Restore the file" in result.output
    (study / name).unlink()
    if name != "runs.parquet":
        result = dude("compare", study)
        assert result.exit_code == 2 and name in result.output


def test_what_is_no_study_is_refused(tmp_path: Path, study: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing"):
        assert dude("pack", path).exit_code == 2
    assert "no packed runs" in dude("unpack", study).output
    pack(study)
    assert find_packed(study) is not None
    result = dude("unpack", study, "-o", study)
    assert result.exit_code == 2 and "exists" in result.output and find_packed(study) is not None
