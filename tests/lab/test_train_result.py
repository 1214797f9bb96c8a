"""The result of a run: on disk before the run counts as finished, verified when it is read, and fit to be published."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from bit_flips import flip_bit
from test_train_resume import Killed, result
from tiny_run import Tiny, tiny, tiny_base  # noqa: F401

from dude_lab.training.finished_run import load_run
from dude_lab.training.record import read_record
from dude_lab.training.run_folder import RunFolder
from dude_lab.training.train_run import train
from dude_peft import files
from dude_peft.errors import DudeError

METHODS = ("dude", "lora", "pissa", "full")


def method(name: str) -> Any:
    return "full" if name == "full" else {"name": name, "r": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # noqa: F811
    """Method -> the folder of a finished run, written under another umask than the usual one."""
    made = {}
    before = os.umask(0o027)
    try:
        for name in METHODS:
            one = Tiny(tiny_base, tmp_path_factory.mktemp(name))
            one.raw["method"] = method(name)
            if name == "lora":
                one.raw["eval"] = {"suite": "mini_csqa", "limit": 1}
            train(one.settings("train.steps=2"))
            made[name] = one.output
    finally:
        os.umask(before)
    return made


@pytest.mark.parametrize("name", METHODS)
def test_a_flipped_bit_in_the_result_is_refused_by_name(finished: dict[str, Path], tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(finished[name], tmp_path / "run"))
    for file in (run / ("model" if name == "full" else "adapter")).iterdir():
        whole = file.read_bytes()
        flip_bit(file, 8 * (len(whole) // 2) + 1)
        with pytest.raises(DudeError, match=rf"{file.name} is damaged.*train again"):
            load_run(run)
        file.write_bytes(whole)
    load_run(run)


def test_a_flipped_bit_in_what_the_report_reads(finished: dict[str, Path], tmp_path: Path) -> None:
    from dude_lab.report import write_page

    run = Path(shutil.copytree(finished["lora"], tmp_path / "run"))
    for name in ("curves.jsonl", "eval/after/samples/mini_csqa.jsonl", "run.json"):
        whole = (run / name).read_bytes()
        for position in (len(whole) // 3, len(whole) // 2):
            flip_bit(run / name, 8 * position)
            with pytest.raises(DudeError, match=str(Path(name).name)):
                write_page([run], tmp_path / "page")
        (run / name).write_bytes(whole)
    write_page([run], tmp_path / "page")


def test_a_record_without_checksums_is_accepted(finished: dict[str, Path], tmp_path: Path) -> None:
    """As version 0.1.0 wrote it."""
    run = Path(shutil.copytree(finished["lora"], tmp_path / "run"))
    values = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({k: v for k, v in values.items() if k not in ("files", files.CHECKSUM)}))
    load_run(run)


RECORD = {
    "schema": 1, "config": {}, "method": "lora", "title": "LoRA", "r": 4, "cost": {"peak_memory": {"bytes": 1}},
    "provenance": {"versions": {"torch": "2"}, "hardware": {}, "model": {"name": "mini"}},
    "metrics": {"before": None, "after": {"headline": "a", "accuracy": 0.5, "tasks": {"a": {"value": 0.5}}}},
}  # fmt: skip
DAMAGE = {
    "empty": lambda values: b"",
    "binary": lambda values: b"\xff\x00\x80" * 40,
    "list": lambda values: b"[]",
    "deep": lambda values: b"[" * 100_000,
    "NaN": lambda values: json.dumps(values | {"r": float("nan")}).encode(),
    "huge integer": lambda values: b'{"schema": 1' + b"0" * 5000 + b"}",
    "no metrics": lambda values: json.dumps({k: v for k, v in values.items() if k != "metrics"}).encode(),
    "metrics is a number": lambda values: json.dumps(values | {"metrics": 5}).encode(),
    "accuracy is a string": lambda values: json.dumps(
        values | {"metrics": {"before": None, "after": {"accuracy": "0.5"}}}
    ).encode(),
    "no model": lambda values: json.dumps(values | {"provenance": {"versions": {}, "hardware": {}}}).encode(),
    "config is a list": lambda values: json.dumps(values | {"config": []}).encode(),
    "rank is a string": lambda values: json.dumps(values | {"r": "4"}).encode(),
    "checksum": lambda values: json.dumps(values | {files.CHECKSUM: "0" * 64}).encode(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_record_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    values = RECORD
    (tmp_path / "run.json").write_text(json.dumps(values))
    assert read_record(RunFolder(tmp_path)) == values
    (tmp_path / "run.json").write_bytes(DAMAGE[kind](values))
    with pytest.raises(DudeError, match=r"run\.json.*Restore it from a copy"):
        read_record(RunFolder(tmp_path))


DAMAGED_BASES = [b"{", b"[]", b"\xff", b'{"schema": 1, "sha256": 5}', b'{"name": "mini", "x": NaN}']


@pytest.mark.parametrize("content", DAMAGED_BASES)
def test_a_damaged_base_of_a_comparison_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    from comparison_tools import begin

    folder, _ = begin(tmp_path)
    folder.base.write_bytes(content)
    with pytest.raises(DudeError, match=r"base\.json.*Restore it from a copy"):
        folder.grid()


def test_files_have_the_mode_of_the_umask(finished: dict[str, Path]) -> None:
    found = {oct(p.stat().st_mode & 0o777) for run in finished.values() for p in run.rglob("*") if p.is_file()}
    assert found == {"0o640"}


def test_a_merged_model_has_the_mode_of_the_umask(finished: dict[str, Path], tmp_path: Path) -> None:
    from dude_lab.training.merging import merge

    merge(finished["lora"], tmp_path / "merged")
    plain = tmp_path / "plain"
    plain.touch()
    assert {p.stat().st_mode for p in (tmp_path / "merged").iterdir()} == {plain.stat().st_mode}


@pytest.mark.parametrize("name", ["dude", "lora", "pissa"])
def test_a_published_adapter_names_no_absolute_path(finished: dict[str, Path], tiny_base: Path, name: str) -> None:  # noqa: F811
    for file in (finished[name] / "adapter").iterdir():
        assert str(tiny_base).encode() not in file.read_bytes(), file
    config = json.loads((finished[name] / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == tiny_base.name


def test_the_report_and_the_table_name_no_absolute_path(
    finished: dict[str, Path],
    tiny_base: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    from dude_lab.compare.results import collect_runs
    from dude_lab.compare.table import make_table
    from dude_lab.report import write_page

    runs = [finished["dude"], finished["pissa"]]
    page = write_page(runs, tmp_path).read_text()
    table = json.dumps(make_table(collect_runs(runs)))
    for path in (tiny_base, *runs):
        assert str(path.parent) not in page + table
    assert "sums.jsonl" in page and "sums.jsonl" in table and f"name: {tiny_base.name}" in page


def test_the_result_is_on_disk_before_the_record(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    flushed: set[int] = set()
    at_record: set[int] = set()
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor: int) -> None:
        flushed.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def spy_replace(source: Any, target: Any) -> None:
        if Path(target).name == "run.json":
            at_record.update(flushed)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    tiny.raw["eval"] = {"suite": "mini_csqa", "limit": 1}
    train(tiny.settings("train.steps=2"))
    needed = [tiny.output, tiny.output / "curves.jsonl", *(tiny.output / "adapter").rglob("*"), tiny.output / "adapter"]
    needed += (tiny.output / "eval").rglob("*")
    assert at_record and not [p for p in needed if p.stat().st_ino not in at_record]
    assert (tiny.output / "run.json").stat().st_ino in flushed


@pytest.mark.parametrize("name", ["pissa", "lora"])
def test_killed_at_each_operation_of_the_last_save(
    tiny: Tiny,  # noqa: F811
    finished: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """The run is either finished or resumes to the same result, wherever it is killed."""
    tiny.raw["method"] = method(name)
    if name == "lora":
        tiny.raw["eval"] = {"suite": "mini_csqa", "limit": 1}
    tiny.raw["data"]["train"] = str(finished[name].parent / "sums.jsonl")
    settings = tiny.settings("train.steps=2")
    shutil.copytree(finished[name], tiny.output)
    config = tiny.output / "config.yaml"
    config.write_text(config.read_text().replace(str(finished[name]), str(tiny.output)))
    wanted, kills = result(tiny.output), 0
    (tiny.output / "run.json").unlink()

    def killing(function: Any, operation: str) -> Any:
        def run(path: Any, *args: Any, **kwargs: Any) -> Any:
            if any(part in str(path) for part in (".adapter.part", "/adapter", "/start", "run.json")):
                if operation in done:
                    return function(path, *args, **kwargs)
                done.add(operation)
                raise Killed
            return function(path, *args, **kwargs)

        return run

    done: set[str] = set()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killing(shutil.rmtree, "rmtree"))
        patch.setattr(Path, "rename", killing(Path.rename, "rename"))
        patch.setattr(files, "sync", killing(files.sync, "sync"))
        patch.setattr(os, "replace", killing(os.replace, "replace"))
        for _ in range(8):
            try:
                train(settings, resume="auto")
                break
            except Killed:
                kills += 1
    assert kills >= 3
    assert result(tiny.output) == wanted
    assert not (tiny.output / "checkpoints" / "start").exists() and not list(tiny.output.glob(".*"))


def test_the_record_names_its_folder_without_the_path(finished: dict[str, Path]) -> None:
    """A study of runs with an absolute output is published as it is."""
    for folder in finished.values():
        assert folder.is_absolute()
        assert json.loads((folder / "run.json").read_text())["config"]["output"] == folder.name
